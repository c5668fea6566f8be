"""Work in slices gives the same results as work without a pause, and gives turns to an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import signal
import weakref
from collections.abc import Awaitable, Callable
from time import thread_time

import pytest

from handout.errors import GraphError
from handout.execution.sliced import sliced
from handout.slices import SLICE, SharedWork, Slices, at_once, column, empty


@pytest.mark.parametrize("count", [0, 1, 8 * SLICE - 1, 8 * SLICE, 8 * SLICE + 1, 20 * SLICE])
def test_a_column_has_an_entry_for_each_item(count: int) -> None:
    assert at_once(column(str, range(count))) == [str(item) for item in range(count)]


def test_a_list_is_emptied() -> None:
    entries = list(range(100_000))
    at_once(empty(entries))
    assert entries == []


def busy(for_s: float) -> None:
    until_s = thread_time() + for_s
    while thread_time() < until_s:
        pass


def work(slices: int, each: Callable[[], None]) -> Slices[str]:
    for _ in range(slices):
        each()
        yield
    return "done"


async def turns_of(doing: Awaitable[object]) -> int:
    """Return how many turns the event loop gets while something is done."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(count())
        await asyncio.sleep(0)
        turns = 0
        await doing
        counting.cancel()
    return turns


async def test_work_gives_its_result() -> None:
    assert await sliced(work(10, lambda: None)) == "done"


async def test_short_work_is_done_in_one_turn() -> None:
    assert await turns_of(sliced(work(10, lambda: None))) == 0


async def test_long_work_gives_the_loop_a_turn_after_each_10_ms_of_cpu_time() -> None:
    turns = await turns_of(sliced(work(20, lambda: busy(0.006))))  # two slices of 6 ms are more than 10 ms
    assert 8 <= turns <= 11


async def test_short_works_that_begin_together_share_the_10_ms() -> None:
    works = [sliced(work(1, lambda: busy(0.001))) for _ in range(100)]
    assert await turns_of(asyncio.gather(*works)) >= 9


async def test_many_short_works_do_not_take_a_turn_each_and_do_not_all_end_in_one_turn() -> None:
    works = [sliced(work(1, lambda: None)) for _ in range(320)]
    assert 19 <= await turns_of(asyncio.gather(*works)) <= 30  # 16 in a turn


async def test_a_work_that_waits_reads_the_context_variables_of_its_caller() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")
    read: list[str] = []

    async def do(own: str) -> None:
        name.set(own)

        def read_name() -> None:
            busy(0.012)
            read.append(name.get())

        await sliced(work(2, read_name))

    await asyncio.gather(do("a"), do("b"))
    assert sorted(read) == ["a", "a", "b", "b"]


def test_a_loop_that_is_closed_is_not_kept_alive() -> None:
    async def contend() -> weakref.ref[asyncio.AbstractEventLoop]:
        await asyncio.gather(*(sliced(work(2, lambda: busy(0.006))) for _ in range(3)))
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(contend())
    gc.collect()
    assert loop() is None


async def test_long_work_lets_short_works_go_on_after_each_slice() -> None:
    ended: list[str] = []

    async def do(name: str, slices: int) -> None:
        await sliced(work(slices, lambda: busy(0.006)))
        ended.append(name)

    await asyncio.gather(do("long", 40), *(do("short", 1) for _ in range(5)))
    assert ended == ["short"] * 5 + ["long"]


async def test_work_that_was_cancelled_while_it_waited_lets_the_next_one_go_on() -> None:
    long = asyncio.create_task(sliced(work(10, lambda: busy(0.006))))
    waiting = [asyncio.create_task(sliced(work(1, lambda: None))) for _ in range(3)]
    while not long.done():
        await asyncio.sleep(0)
        waiting[0].cancel()
    assert [await each for each in waiting[1:]] == ["done", "done"]


async def test_work_that_cancels_its_caller_lets_the_next_one_go_on() -> None:
    async def cancel() -> str:
        task = asyncio.current_task()
        assert task is not None

        def cancel_caller() -> None:
            task.cancel()

        return await sliced(work(1, cancel_caller))

    first = asyncio.create_task(sliced(work(2, lambda: busy(0.012))))
    cancelled = asyncio.create_task(cancel())  # it waits for its turn
    last = asyncio.create_task(sliced(work(1, lambda: None)))
    assert (await first, await last) == ("done", "done")
    assert cancelled.cancelled()


async def test_work_that_fails_lets_the_next_one_go_on() -> None:
    def fail() -> None:
        busy(0.012)
        raise ValueError("on purpose")

    works = [sliced(work(2, fail)), sliced(work(1, lambda: None))]
    assert [str(each) for each in await asyncio.gather(*works, return_exceptions=True)] == ["on purpose", "done"]


async def test_an_error_of_the_work_reaches_the_caller() -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        await sliced(work(2, fail))


async def test_an_exit_of_user_code_in_the_work_is_an_error_and_ctrl_c_stays() -> None:
    def fail(error: BaseException) -> None:
        raise error

    with pytest.raises(GraphError, match="SystemExit: on purpose"):
        await sliced(work(2, lambda: fail(SystemExit("on purpose"))))
    with pytest.raises(KeyboardInterrupt):
        await sliced(work(2, lambda: fail(KeyboardInterrupt())))


async def test_an_exit_that_a_signal_handler_raises_during_the_work_stays() -> None:
    def leave(number: int, _: object) -> None:
        raise SystemExit(number)

    before = signal.signal(signal.SIGUSR1, leave)
    try:
        with pytest.raises(SystemExit):
            await sliced(work(2, lambda: signal.raise_signal(signal.SIGUSR1)))
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_shared_work_that_fails_does_so_for_each_caller_and_can_be_begun_anew() -> None:
    shared: SharedWork[str, str] = SharedWork()

    def fails() -> Slices[str]:
        yield
        yield
        raise OSError("no such file")

    first, second = shared.do("key", fails), shared.do("key", fails)
    next(first)
    next(second)
    for caller in (first, second):
        with pytest.raises(OSError, match="no such file"):
            at_once(caller)
    assert "key" not in shared
    assert at_once(shared.do("key", lambda: work(3, lambda: None))) == "done"
