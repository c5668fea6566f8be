"""Draws the states of a task into ``docs/design.md``, from the scheduler's own transition table.

``python tools/draw_states.py`` writes the page. With ``--check`` it fails if the page is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from handout.scheduler.task_states import ENDED, TRANSITIONS, State

PAGE = Path(__file__).parent.parent / "docs" / "design.md"
BEGIN, END = "<!-- states: begin -->\n", "<!-- states: end -->\n"


def diagram() -> Iterator[str]:
    """Yield every transition as an arrow. The states in which a task ends are dashed."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"  [*] --> {State(0).name}"
    for old, moves in TRANSITIONS.items():
        yield from (f"  {old.name} --> {new.name}" for new in moves)
    yield "  classDef ended stroke-dasharray: 4"
    yield f"  class {','.join(state.name for state in State if state in ENDED)} ended"
    yield "```"


def table() -> Iterator[str]:
    """Yield a table of the transitions and the cause of each."""
    yield "| from | to | when |"
    yield "|---|---|---|"
    for old, moves in TRANSITIONS.items():
        yield from (f"| {old.name} | {new.name} | {when} |" for new, when in moves.items())


def drawn(page: str) -> str:
    """Return the page with a fresh drawing between its markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} has lost its markers {BEGIN.strip()} and {END.strip()}")
    return "\n".join([before + begin, *diagram(), "", *table(), "", end + after])


def main() -> None:
    """Write the page; with ``--check``, fail if that would change it."""
    page = PAGE.read_text(encoding="utf-8")
    fresh = drawn(page)
    if "--check" in sys.argv[1:]:
        if page != fresh:
            raise SystemExit("docs/design.md is older than task_states.py: run python tools/draw_states.py")
    else:
        PAGE.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
