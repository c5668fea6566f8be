"""Draws the rooms of ``handout/`` and their imports into ``docs/design.md``, from the table that a test enforces.

``python tools/draw_layers.py`` writes the page; with ``--check`` it fails if the page is out of date.
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


def main() -> None:
    """Write the page; with ``--check``, fail if that would change it."""
    listed = arrows()
    rooms = {room: {each.partition(".")[0] for each in direct} for room, direct in listed.items()}
    redraw(PAGE, "layers", [*diagram(rooms), "", *table(listed)], "ARROWS in tests/test_layers.py")


if __name__ == "__main__":
    main()
