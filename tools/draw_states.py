"""Draws the states of a task into ``docs/design.md``, from the scheduler's own transition table.

``python tools/draw_states.py`` writes the page; with ``--check`` it says whether the page is up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from handout.scheduler.states import ENDED, TRANSITIONS, State

PAGE = Path(__file__).parent.parent / "docs" / "design.md"
BEGIN, END = "<!-- states: begin -->\n", "<!-- states: end -->\n"


def diagram() -> Iterator[str]:
    """Every transition as an arrow; states that a task ends in are drawn apart."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"  [*] --> {State(0).name}"
    for old, moves in TRANSITIONS.items():
        yield from (f"  {old.name} --> {new.name}" for new in moves)
    yield "  classDef ended stroke-dasharray: 4"
    yield f"  class {','.join(state.name for state in State if state in ENDED)} ended"
    yield "```"


def table() -> Iterator[str]:
    """The same transitions with what brings each of them about."""
    yield "| from | to | when |"
    yield "|---|---|---|"
    for old, moves in TRANSITIONS.items():
        yield from (f"| {old.name} | {new.name} | {when} |" for new, when in moves.items())


def drawn(page: str) -> str:
    """The page with a fresh drawing between its markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} has lost its markers {BEGIN.strip()} and {END.strip()}")
    return "\n".join([before + begin, *diagram(), "", *table(), "", end + after])


def main() -> None:
    """Write the page, or with ``--check`` fail when that would change it."""
    page = PAGE.read_text(encoding="utf-8")
    fresh = drawn(page)
    if "--check" in sys.argv[1:]:
        if page != fresh:
            raise SystemExit("docs/design.md is older than handout/scheduler/states.py: python tools/draw_states.py")
    else:
        PAGE.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
