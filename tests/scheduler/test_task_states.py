"""The transition table is complete, and a run refuses every move that is not in it."""

from __future__ import annotations

import pytest

from handout.errors import InternalError
from handout.scheduler import events as ev
from handout.scheduler.handlers import attempt_reports
from handout.scheduler.state.run_preparation import prepare_run
from handout.scheduler.state.runs import Run
from handout.scheduler.task_states import ENDED, TRANSITIONS, State
from handout.slices import at_once
from tests.scheduler.rig import Scene, graph


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    reached = {State.WAITING} | {after for moves in TRANSITIONS.values() for after in moves}
    assert reached == set(State)


def test_ended_states_are_left_only_to_make_a_lost_result_again() -> None:
    left = {state for state in ENDED if TRANSITIONS[state]}
    assert left == {State.DONE}


def test_every_move_says_what_brings_it_about() -> None:
    assert all(why for moves in TRANSITIONS.values() for why in moves.values())


def moved(*states: State) -> Run:
    """Return a run of one task, ``a``, that was moved through these states."""
    run = at_once(prepare_run(1, graph("a")))
    for state in states:
        run.move(0, state)
    return run


def test_a_legal_move_keeps_the_counts() -> None:
    run = moved(State.HANDED)
    assert (run.active, run.unended) == (1, 1)
    run.move(0, State.DONE)
    assert (run.active, run.unended) == (0, 0)
    run.move(0, State.READY)
    assert (run.active, run.unended) == (0, 1)


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_a_move_that_the_table_does_not_have_raises_with_the_story(old: State, new: State) -> None:
    run = at_once(prepare_run(7, graph("a")))
    run.state[0] = old
    if new in TRANSITIONS[old]:
        run.move(0, new)
        assert run.state[0] == new
        return
    with pytest.raises(
        InternalError, match=f"task 'a' .* of run 7 cannot move from {old.name} to {new.name}"
    ) as raised:
        run.move(0, new)
    assert all(f"{state.name} ({why})" in str(raised.value) for state, why in TRANSITIONS[old].items())
    assert run.state[0] == old


def test_the_error_says_what_the_core_was_handling(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene("h1")
    scene.submit(graph("a"))
    monkeypatch.setattr(attempt_reports, "_is_present", lambda *arguments: True)
    event = ev.TaskFailed("h1", 1, 0, 1, "raised", False, "it failed")
    scene.tell(event)
    with pytest.raises(InternalError, match=r"from FAILED to DONE.* was handling TaskFailed of host 'h1' and run 1"):
        scene.core.handle([event], 1.0)
