"""A page of the documentation with a part that a tool draws, between two markers."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path


def redraw(page: Path, name: str, lines: Iterable[str], source: str) -> None:
    """Write the drawn part of a page anew. With ``--check`` on the command line, fail if that would change the page.

    Args:
        page: The page.
        name: The name of the part. Its markers are ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
        lines: The drawing.
        source: The file that the drawing is made from, for the message.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    old = page.read_text(encoding="utf-8")
    before, has_begin, rest = old.partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise SystemExit(f"{page} has lost its markers {begin.strip()} and {end.strip()}")
    drawing = "\n".join(lines).strip("\n")
    fresh = f"{before}{begin}\n{drawing}\n\n{end}{after}"
    if "--check" not in sys.argv[1:]:
        page.write_text(fresh, encoding="utf-8")
    elif fresh != old:
        raise SystemExit(f"{page.name} is older than {source}: run python {sys.argv[0]}")
