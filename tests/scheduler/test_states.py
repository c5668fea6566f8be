"""The transition table is complete, and what the core does is in it."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from handout.scheduler.state.runs import Run
from handout.scheduler.states import ENDED, TRANSITIONS, State
from tests.scheduler.test_walks import Walk


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    reached = {State.WAITING} | {after for moves in TRANSITIONS.values() for after in moves}
    assert reached == set(State)


def test_ended_states_are_left_only_to_make_a_lost_result_again() -> None:
    left = {state for state in ENDED if TRANSITIONS[state]}
    assert left == {State.DONE}


def test_every_move_says_what_brings_it_about() -> None:
    assert all(why for moves in TRANSITIONS.values() for why in moves.values())


class Watched(bytearray):
    """A state column that notes every move."""

    moves: set[tuple[State, State]]

    def __setitem__(self, key: Any, value: Any) -> None:
        before = State(self[key])
        if before != value:
            self.moves.add((before, State(value)))
        super().__setitem__(key, value)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> set[tuple[State, State]]:
    """All moves of all runs."""
    seen: set[tuple[State, State]] = set()
    made = Run.__init__

    def watch(self: Run, *arguments: object) -> None:
        made(self, *arguments)  # type: ignore[arg-type]
        self.state = Watched(self.state)
        self.state.moves = seen

    monkeypatch.setattr(Run, "__init__", watch)
    return seen


def test_the_core_makes_no_move_that_is_not_in_the_table(moves: set[tuple[State, State]]) -> None:
    rng = Random(5)
    for _ in range(25):
        Walk(rng.randrange(10**6)).go(300)
    allowed = {(before, after) for before, afters in TRANSITIONS.items() for after in afters}
    assert moves <= allowed
    assert len(moves) > len(allowed) / 2
