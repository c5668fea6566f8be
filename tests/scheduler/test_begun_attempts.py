"""Tests of the numbers by which users know attempts."""

from __future__ import annotations

from handout.scheduler.state.begun_attempts import BegunAttempts


def test_attempts_that_never_began_do_not_count() -> None:
    begun = BegunAttempts()
    assert not begun
    assert begun.shown(0, 3) == 3
    begun.note_unbegun(0, 1)
    begun.note_unbegun(0, 2)
    assert begun.shown(0, 3) == 1
    assert begun.shown(1, 3) == 3


def test_the_number_of_an_attempt_does_not_change_when_a_later_one_never_begins() -> None:
    """With ``speculate=True``, the first attempt goes on while the second one is recalled."""
    begun = BegunAttempts()
    begun.note_unbegun(0, 2)
    assert [begun.shown(0, attempt) for attempt in (1, 3)] == [1, 2]


def test_the_number_that_an_earlier_controller_has_told_stays() -> None:
    begun = BegunAttempts()
    begun.take_over(0, 5, 2)
    assert [begun.shown(0, attempt) for attempt in (5, 6)] == [2, 3]
    begun.take_over(1, 4, 0)
    assert begun.shown(1, 4) == 4


def test_a_high_number_that_an_agent_reports_takes_no_memory() -> None:
    begun = BegunAttempts()
    begun.take_over(0, 1 << 35, 1)
    assert [begun.shown(0, attempt) for attempt in (1, 1 << 35, (1 << 35) + 1)] == [1, 1, 2]
