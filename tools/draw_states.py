"""Draw the states of a task into ``docs/design.md``, from the scheduler's own transition table.

``python tools/draw_states.py`` writes the page. With ``--check``, it fails if the page is out of date.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marked_page import redraw

from handout.scheduler.task_states import ENDED, TRANSITIONS, State

PAGE = Path(__file__).parent.parent / "docs" / "design.md"


def diagram() -> Iterator[str]:
    """Yield the lines of a diagram with an arrow for each transition. States in which a task has ended are dashed."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"  [*] --> {State(0).name}"
    for old, moves in TRANSITIONS.items():
        yield from (f"  {old.name} --> {new.name}" for new in moves)
    yield "  classDef ended stroke-dasharray: 4"
    yield f"  class {','.join(state.name for state in State if state in ENDED)} ended"
    yield "```"


def table() -> Iterator[str]:
    """Yield the lines of a table with the cause of each transition."""
    yield "| from | to | when |"
    yield "|---|---|---|"
    for old, moves in TRANSITIONS.items():
        yield from (f"| {old.name} | {new.name} | {when} |" for new, when in moves.items())


def main() -> None:
    """Write the page. With ``--check``, fail instead if the page is out of date."""
    redraw(PAGE, "states", [*diagram(), "", *table()], "task_states.py")


if __name__ == "__main__":
    main()
