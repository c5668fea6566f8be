"""Draw the imports between the rooms of ``handout/`` into ``docs/design.md``, from a table that a test enforces.

A room is a folder or a module at the top of ``handout/``. ``python tools/draw_layers.py`` writes the page. With
``--check``, it fails if the page is out of date.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from marked_page import redraw

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "design.md"
TABLE = ROOT / "tests" / "test_layers.py"


def arrows() -> dict[str, set[str]]:
    """Return ``ARROWS`` of the test: for each room, the rooms that it may import. The lowest room comes first."""
    for node in ast.parse(TABLE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "ARROWS":
            pairs = zip(node.value.keys, node.value.values, strict=True) if isinstance(node.value, ast.Dict) else ()
            # An empty set is written as the call set(), which literal_eval refuses.
            return {
                ast.literal_eval(room): set() if isinstance(below, ast.Call) else ast.literal_eval(below)
                for room, below in pairs
                if room is not None
            }
    raise SystemExit(f"{TABLE} does not define ARROWS, from which this tool draws. Declare this table there.")


def reachable(room: str, below: dict[str, set[str]]) -> set[str]:
    """Return all rooms that a room imports, directly or through other rooms."""
    return below[room].union(*(reachable(each, below) for each in below[room]))


def diagram(below: dict[str, set[str]]) -> Iterator[str]:
    """Yield the lines of a diagram, which leaves out each arrow that follows from other arrows."""
    yield "```mermaid"
    yield "flowchart TD"
    for room, direct in below.items():
        implied = set().union(*(reachable(each, below) for each in direct))
        yield from (f"  {room} --> {each}" for each in below if each in direct - implied)
    yield "```"


def table(below: dict[str, set[str]]) -> Iterator[str]:
    """Yield the lines of a table with all arrows."""
    yield "| room | may import |"
    yield "|---|---|"
    for room, direct in below.items():
        yield f"| `{room}` | {', '.join(f'`{each}`' for each in sorted(direct)) or 'the standard library alone'} |"


def main() -> None:
    """Write the page. With ``--check``, fail instead if the page is out of date."""
    listed = arrows()
    rooms = {room: {each.partition(".")[0] for each in direct} for room, direct in listed.items()}
    redraw(PAGE, "layers", [*diagram(rooms), "", *table(listed)], "ARROWS in tests/test_layers.py")


if __name__ == "__main__":
    main()
