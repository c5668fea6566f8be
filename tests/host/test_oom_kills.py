"""Whose death a kill for lack of memory explains."""

from __future__ import annotations

import pytest

from handout.host.system import oom_kills


class Counter:
    """What the kernel says."""

    def __init__(self, kills: int | None) -> None:
        self.kills = kills

    def __call__(self, workers: str | None) -> int | None:
        return self.kills


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    made = Counter(5)
    monkeypatch.setattr(oom_kills, "count_kills", made)
    return made


def test_each_kill_explains_one_death(counter: Counter) -> None:
    kills = oom_kills.OomKills()
    assert kills.claim() is False
    counter.kills = 7
    assert [kills.claim() for _ in range(3)] == [True, True, False]


def test_a_kill_of_long_ago_explains_nothing(counter: Counter) -> None:
    kills = oom_kills.OomKills()
    counter.kills = 6
    for now in (10.0, 11.0, 12.5):
        kills.refresh(now)
    assert kills.claim() is False


def test_a_kill_of_a_moment_ago_still_does_after_a_look(counter: Counter) -> None:
    kills = oom_kills.OomKills()
    counter.kills = 6
    kills.refresh(10.0)
    assert kills.claim() is True
    kills.refresh(13.0)
    assert kills.claim() is False


def test_where_nobody_counts_nobody_knows(counter: Counter) -> None:
    counter.kills = None
    assert oom_kills.OomKills().claim() is None


def test_this_machine_says_something_or_nothing() -> None:
    found = oom_kills.count_kills()
    assert found is None or found >= 0
