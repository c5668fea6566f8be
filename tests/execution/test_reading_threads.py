"""Results are unpickled beside the event loop, where user code that hangs stops neither the loop nor the others."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest

import handout
from handout import Cluster, Graph, Host, ResultError
from handout.execution import reading_threads
from handout.execution.reading_threads import ReadingThreads
from tests import work
from tests.patience import HANG_S
from tests.seen import until


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Yield an event for which `work.Slow` waits while it is unpickled. It is set in the end, so that threads end."""
    opened = threading.Event()
    work.Slow.unpickled = opened.wait
    yield opened
    opened.set()
    work.Slow.unpickled = None


async def test_a_function_is_called_in_another_thread_with_the_context_of_its_caller() -> None:
    threads, variable = ReadingThreads(asyncio.get_running_loop()), contextvars.ContextVar[str]("variable")
    variable.set("mine")
    assert await threads.call(lambda: (variable.get(), threading.current_thread() is threading.main_thread())) == (
        "mine",
        False,
    )
    for error in (ValueError("no"), SystemExit(3)):
        with pytest.raises(type(error)) as caught:
            await threads.call(lambda error=error: _raise(error))  # type: ignore[misc]
        assert caught.value is error
    threads.close()


def _raise(error: BaseException) -> None:
    raise error


async def test_functions_that_never_return_delay_the_others_but_do_not_stop_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading_threads, "PATIENCE_S", 0.01)
    threads, opened = ReadingThreads(asyncio.get_running_loop()), threading.Event()
    stuck = [asyncio.ensure_future(threads.call(opened.wait)) for _ in range(9)]
    try:
        async with asyncio.timeout(HANG_S):
            assert await threads.call(lambda: 7) == 7
        assert not any(each.done() for each in stuck)
    finally:
        opened.set()
    assert await asyncio.gather(*stuck) == [True] * 9
    threads.close()


async def test_a_call_that_has_not_begun_is_not_made_if_its_caller_is_cancelled() -> None:
    threads, opened, called = ReadingThreads(asyncio.get_running_loop()), threading.Event(), list[int]()
    stuck = [asyncio.ensure_future(threads.call(opened.wait)) for _ in range(4)]
    late = asyncio.ensure_future(threads.call(lambda: called.append(1)))
    await asyncio.sleep(0)
    for each in (late, stuck[0]):
        each.cancel()
        with pytest.raises(asyncio.CancelledError):
            await each
    opened.set()
    await asyncio.gather(*stuck[1:])
    await threads.call(int)
    assert called == []
    threads.close()


async def test_the_threads_end_when_they_are_closed_and_later_functions_are_called_all_the_same() -> None:
    before = threading.active_count()
    threads = ReadingThreads(asyncio.get_running_loop())
    await threads.call(int)
    threads.close()
    assert threading.active_count() == before
    assert await threads.call(lambda: 7) == 7
    await until(lambda: threading.active_count() == before)


async def test_without_a_thread_left_the_caller_gets_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = ReadingThreads(asyncio.get_running_loop())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await threads.call(int)
    assert await threads.call(int) == 0
    threads.close()


async def test_a_result_that_is_being_unpickled_delays_no_other_call(gate: threading.Event) -> None:
    """Each of these ways to a result waits in the user's own code, and the event loop goes on."""
    async with Cluster([Host.local("here", {"cpu": 2})]) as cluster:
        stored = await cluster.put(work.Slow(3))
        graph = Graph()
        slow = graph.add(work.Slow, 4)
        async with cluster.start(graph) as execution:
            waiting = [
                asyncio.ensure_future(each)
                for each in (
                    cluster.call(work.Slow, 1),
                    asyncio.wrap_future(cluster.executor().submit(work.Slow, 2)),
                    stored.fetch(),
                    execution.result(slow),
                )
            ]
            await until(lambda: work.Slow.waiting == 4)
            assert await cluster.call(work.add, 1, 2) == 3
            gate.set()
            found = await asyncio.gather(*waiting)
            assert [each.number for each in found] == [1, 2, 3, 4]
            assert await execution.result(slow) is found[3] is (await execution.results())[slow]


async def test_errors_of_unpickling_are_as_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> None:
        monkeypatch.setattr(work.Slow, "unpickled", lambda: _raise(error))

    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        fail(KeyError("key"))
        with pytest.raises(KeyError) as caught:
            await cluster.call(work.Slow, 1)
        assert any("was read and unpickled" in note for note in caught.value.__notes__)
        for error in (SystemExit(3), StopIteration(), KeyboardInterrupt()):
            fail(error)
            with pytest.raises(ResultError, match=f"raised {type(error).__name__}"):
                await cluster.call(work.Slow, 1)


async def test_a_fetch_leaves_the_value_that_the_results_have_returned() -> None:
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        graph = Graph()
        out = graph.add(work.Slow, 1)
        results = await cluster.execute(graph, outputs=[out], keep=[out])
        value = results[out]
        assert await results.stored(out).fetch() is not value
        assert results[out] is value


def test_a_plain_cluster_leaves_no_thread_that_has_read_a_result() -> None:
    before = threading.active_count()
    with handout.Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        assert cluster.executor().submit(work.Slow, 5).result(HANG_S).number == 5
    assert threading.active_count() == before
