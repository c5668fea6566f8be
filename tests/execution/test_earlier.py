"""What is taken up of what a lost controller left behind."""

from __future__ import annotations

from handout.execution.earlier import latest_attempts


def test_an_attempt_whose_end_was_not_confirmed_says_nothing_of_the_one_after_it() -> None:
    identities = [b"once", b"often", b"other"]
    started = {b"once": ("h3", 3)}
    assert latest_attempts([0, 1], [2, 2], identities, started) == ([1], [2])
    assert latest_attempts([0, 1], [3, 2], identities, started) == ([0, 1], [3, 2])
    assert latest_attempts([], [], identities, started) == ([], [])
