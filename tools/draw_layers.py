"""Draws the rooms of ``handout/`` and their imports into ``docs/design.md``, from the table that a test enforces.

``python tools/draw_layers.py`` writes the page; with ``--check`` it fails if the page is out of date.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "design.md"
TABLE = ROOT / "tests" / "test_layers.py"
BEGIN, END = "<!-- layers: begin -->\n", "<!-- layers: end -->\n"


def arrows() -> dict[str, set[str]]:
    """Read ``ARROWS``: for each room, lowest first, the rooms that it may import."""
    for node in ast.parse(TABLE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "ARROWS":
            pairs = zip(node.value.keys, node.value.values, strict=True) if isinstance(node.value, ast.Dict) else ()
            # An empty set is written as a call, which literal_eval does not take.
            return {
                ast.literal_eval(room): set() if isinstance(below, ast.Call) else ast.literal_eval(below)
                for room, below in pairs
                if room is not None
            }
    raise SystemExit(f"{TABLE} has no ARROWS")


def reachable(room: str, below: dict[str, set[str]]) -> set[str]:
    """Return all rooms that a room imports, directly or through others."""
    return below[room].union(*(reachable(each, below) for each in below[room]))


def diagram(below: dict[str, set[str]]) -> Iterator[str]:
    """Draw each arrow that does not follow from others."""
    yield "```mermaid"
    yield "flowchart TD"
    for room, direct in below.items():
        implied = set().union(*(reachable(each, below) for each in direct))
        yield from (f"  {room} --> {each}" for each in below if each in direct - implied)
    yield "```"


def table(below: dict[str, set[str]]) -> Iterator[str]:
    """List all arrows."""
    yield "| room | may import |"
    yield "|---|---|"
    for room, direct in below.items():
        yield f"| `{room}` | {', '.join(f'`{each}`' for each in sorted(direct)) or 'the standard library alone'} |"


def drawn(page: str) -> str:
    """Return the page with a fresh drawing between its markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} has lost its markers {BEGIN.strip()} and {END.strip()}")
    listed = arrows()
    rooms = {room: {each.partition(".")[0] for each in direct} for room, direct in listed.items()}
    return "\n".join([before + begin, *diagram(rooms), "", *table(listed), "", end + after])


def main() -> None:
    """Write the page, or with ``--check`` fail if that would change it."""
    page = PAGE.read_text(encoding="utf-8")
    fresh = drawn(page)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(fresh, encoding="utf-8")
    elif page != fresh:
        raise SystemExit("docs/design.md is older than ARROWS in tests/test_layers.py: python tools/draw_layers.py")


if __name__ == "__main__":
    main()
