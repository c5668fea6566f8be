"""The virtual loop: an asyncio event loop in which waiting takes no real time."""

from __future__ import annotations

import asyncio
import time

import pytest

from handout.errors import InternalError
from handout.sim.clock import Clock, VirtualLoop


def test_a_day_of_sleeping_takes_no_time() -> None:
    loop, woke = VirtualLoop(), list[float]()

    async def sleep(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        woke.append(loop.time())

    async def main() -> None:
        await asyncio.gather(sleep(86400.0), sleep(0.5), sleep(3.0))

    before = time.perf_counter()
    loop.play(main())
    assert time.perf_counter() - before < 5.0
    assert woke == pytest.approx([0.5, 3.0, 86400.0])


def test_the_first_error_of_a_callback_ends_it_and_what_ran_is_cancelled() -> None:
    loop, ended = VirtualLoop(), list[str]()

    async def main() -> None:
        Clock(loop).after(2.0, lambda: 1 // 0)
        try:
            await asyncio.sleep(100.0)
        finally:
            ended.append(f"cancelled at {loop.time():.1f} s")

    with pytest.raises(ZeroDivisionError):
        loop.play(main())
    assert ended == ["cancelled at 2.0 s"]


def test_the_first_error_is_told_although_other_tasks_take_longer_to_end_or_fail_as_well() -> None:
    loop, ended = VirtualLoop(), list[str]()

    async def takes_turns() -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            loop.call_soon(lambda: [].pop())
            for _ in range(3):
                await asyncio.sleep(0)
            ended.append("the other task")

    async def main() -> None:
        other = asyncio.create_task(takes_turns())
        Clock(loop).after(2.0, lambda: 1 // 0)
        await asyncio.wait({other})

    with pytest.raises(ZeroDivisionError):
        loop.play(main())
    assert ended == ["the other task"]


def test_a_loop_that_nothing_will_wake_says_so() -> None:
    loop = VirtualLoop()

    def hang() -> None:
        raise InternalError("it hangs")

    async def main() -> None:
        loop.virtual.on_idle = hang
        await asyncio.Event().wait()

    with pytest.raises(InternalError, match="it hangs"):
        loop.play(main())


def test_time_that_passes_the_limit_is_an_error() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        loop.virtual.limit = 10.0, lambda: "it has no end"
        while True:
            await asyncio.sleep(1.0)

    with pytest.raises(InternalError, match="it has no end"):
        loop.play(main())
