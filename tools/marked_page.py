"""Write the part of a documentation page that a tool generates. The part lies between two markers."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path


def redraw(page: Path, name: str, lines: Iterable[str], source: str) -> None:
    """Replace the generated part of a page. With ``--check`` on the command line, only check the page.

    Args:
        page: The path of the page.
        name: The name of the part. Its markers are ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
        lines: The new lines of the part.
        source: The file from which the lines are made. The error message names it.

    Raises:
        SystemExit: The page has no such markers, or is out of date and ``--check`` was given.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    old = page.read_text(encoding="utf-8")
    before, has_begin, rest = old.partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise SystemExit(
            f"{page} lacks the markers {begin.strip()} and {end.strip()}: put them around the part that is generated."
        )
    drawing = "\n".join(lines).strip("\n")
    fresh = f"{before}{begin}\n{drawing}\n\n{end}{after}"
    if "--check" not in sys.argv[1:]:
        page.write_text(fresh, encoding="utf-8")
    elif fresh != old:
        raise SystemExit(f"{page.name} does not match {source}: run `python {sys.argv[0]}` to write it again.")
