"""adaptive, a library that takes an executor, on two hosts: from plain code, and from async code."""

from __future__ import annotations

import math
from typing import Any

import pytest

from handout import Cluster, Host

adaptive: Any = pytest.importorskip("adaptive", reason="adaptive is not installed: pip install -e '.[libraries]'")

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]


def peak(x: float) -> float:
    """Return a value that changes quickly near 0.3, where adaptive must therefore take most points."""
    return math.tanh((x - 0.3) * 40)


def are_right(learner: Any) -> bool:
    near = sum(abs(x - 0.3) < 0.2 for x in learner.data)
    return near > len(learner.data) / 2 and all(y == peak(x) for x, y in learner.data.items())


def test_a_blocking_runner_learns_a_function(opened: Cluster) -> None:
    """The runner cannot tell how many calls an executor of another library takes, so `ntasks` says it."""
    learner = adaptive.Learner1D(peak, bounds=(-1.0, 1.0))
    adaptive.BlockingRunner(learner, npoints_goal=60, executor=opened.executor(), shutdown_executor=True, ntasks=8)
    assert learner.npoints >= 60
    assert are_right(learner)


async def test_an_async_runner_learns_in_the_event_loop_of_the_cluster() -> None:
    async with Cluster([Host.local("one", {"cpu": 2}), Host.local("two", {"cpu": 2})], require="all") as cluster:
        learner = adaptive.Learner1D(peak, bounds=(-1.0, 1.0))
        runner = adaptive.AsyncRunner(
            learner, npoints_goal=60, executor=cluster.executor(), shutdown_executor=False, ntasks=8
        )
        await runner.task
        assert are_right(learner)
