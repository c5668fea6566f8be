"""Each out-of-memory kill that the kernel counts is matched with at most one death of a worker."""

from __future__ import annotations

import pytest

from handout.host.system import oom_kills


class Counter:
    """A double for `count_kills`, which returns the number that the test sets."""

    def __init__(self, kills: int | None) -> None:
        self.kills = kills

    def __call__(self, group: str | None) -> int | None:
        return self.kills


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    made = Counter(5)
    monkeypatch.setattr(oom_kills, "count_kills", made)
    return made


def test_each_kill_matches_one_death(counter: Counter) -> None:
    kills = oom_kills.OomKills()
    assert kills.claim() is False
    counter.kills = 7
    assert [kills.claim() for _ in range(3)] == [True, True, False]


def test_an_old_kill_matches_no_death(counter: Counter) -> None:
    kills = oom_kills.OomKills()
    counter.kills = 6
    for now in (10.0, 11.0, 12.5):
        kills.refresh(now)
    assert kills.claim() is False


def test_a_recent_kill_still_matches_after_a_refresh(counter: Counter) -> None:
    kills = oom_kills.OomKills()
    counter.kills = 6
    kills.refresh(10.0)
    assert kills.claim() is True
    kills.refresh(13.0)
    assert kills.claim() is False


def test_without_a_count_the_answer_is_unknown(counter: Counter) -> None:
    counter.kills = None
    assert oom_kills.OomKills().claim() is None


def test_this_machine_counts_kills_or_says_that_it_does_not() -> None:
    found = oom_kills.count_kills()
    assert found is None or found >= 0
