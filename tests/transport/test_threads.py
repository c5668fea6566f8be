"""Blocking calls in threads, and what a cancellation does to them."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from handout.transport.threads import call_in_daemon_thread, ended_within, in_thread


async def test_what_a_function_returns_or_raises_is_the_callers() -> None:
    assert await in_thread(lambda: 7) == 7
    with pytest.raises(KeyError, match="missing"):
        await in_thread(lambda: {}["missing"])


async def test_a_cancelled_call_comes_back_once_the_thread_has_even_where_it_is_cancelled_again() -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(20)
        ended.set()

    calling = asyncio.ensure_future(in_thread(work))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    for _ in range(3):
        calling.cancel()
        await asyncio.sleep(0)
    assert not calling.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert ended.is_set()


async def test_a_call_that_still_waits_for_a_thread_is_not_made() -> None:
    """Other work of the caller occupies all threads for a long time. The cancelled call does not wait for a thread."""
    go, called = threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as threads:
        loop.set_default_executor(threads)
        busy = loop.run_in_executor(None, go.wait, 20)
        calling = asyncio.ensure_future(in_thread(called.set))
        await asyncio.sleep(0)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert not busy.done()
        go.set()
        assert await busy
    assert not called.is_set()


def test_a_loop_that_is_shut_down_while_a_thread_goes_on_waits_for_it_and_says_nothing_else() -> None:
    begun, said = threading.Event(), []

    def work() -> None:
        begun.set()
        time.sleep(0.2)

    async def leave() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        left.append(asyncio.ensure_future(in_thread(work)))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        left[0].cancel()  # the task now waits for its thread, and the loop cancels the task once more at the end
        await asyncio.sleep(0)

    left: list[asyncio.Task[None]] = []
    asyncio.run(leave())
    assert said == []
    assert left[0].cancelled()


async def test_a_call_in_a_daemon_is_waited_for_only_so_long_and_goes_on() -> None:
    go = threading.Event()
    calling = call_in_daemon_thread(lambda: go.wait(20), "test")
    assert not await ended_within(calling, 0.01)
    waiting = asyncio.ensure_future(ended_within(calling, 20))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    assert await ended_within(calling, 20)
    assert calling.result() is True


async def test_what_a_call_in_a_daemon_raises_is_told_also_where_it_is_a_timeout() -> None:
    def late() -> None:
        raise TimeoutError("the disk")

    with pytest.raises(TimeoutError, match="the disk"):
        await ended_within(call_in_daemon_thread(late, "test"), 20)
