"""A blocked event loop in the caller's own program: named, once, with where it was."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from handout import Cluster, Timings
from handout.execution.loop_monitor import LoopMonitor

LIMIT_S = 0.2


def blocking(seconds: float) -> None:
    time.sleep(seconds)  # found here


async def beaten(watch: LoopMonitor) -> None:
    """Until the loop has beaten, and so said what it has to say."""
    beat_at = watch._beat_at
    async with asyncio.timeout(10):
        while watch._beat_at == beat_at:
            await asyncio.sleep(0.005)


async def test_a_blocked_loop_is_told_once_with_its_length_and_the_line_of_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = LoopMonitor(LIMIT_S)
    watch.start()
    await beaten(watch)
    blocking(3 * LIMIT_S)
    await beaten(watch)
    await beaten(watch)
    watch.stop()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("handout", logging.WARNING)
    line = blocking.__code__.co_firstlineno + 1
    assert f"at {__file__}:{line} (blocking)" in record.getMessage()
    told_s = float(record.getMessage().split("blocked for ")[1].split(" s ")[0])
    assert told_s > 2 * LIMIT_S


async def test_the_line_is_the_callers_own_not_that_of_a_library_that_it_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = LoopMonitor(LIMIT_S)
    watch.start()
    await beaten(watch)
    threading.Event().wait(3 * LIMIT_S)
    await beaten(watch)
    watch.stop()
    assert f"{__file__}:" in caplog.text
    assert "threading.py" not in caplog.text


async def test_a_loop_that_is_merely_busy_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    watch = LoopMonitor(10 * LIMIT_S)
    watch.start()
    for _ in range(2):
        time.sleep(LIMIT_S)
        await asyncio.sleep(0)
    watch.stop()
    assert caplog.records == []


async def test_its_thread_is_there_as_long_as_the_cluster() -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == "handout loop watch"]

    async with Cluster(timings=Timings()):
        assert len(threads()) == 1
    assert threads() == []
