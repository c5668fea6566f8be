"""`Cluster.executor`: what the standard library's own tests ask of an executor, on local hosts and over a real sshd.

`tests/libraries` has the libraries that take an executor.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import inspect
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, GraphError, HandoutError, Host, HostError, UnserializableError
from handout.transport.timings import Timings
from tests import work
from tests.execution.conftest import hosts
from tests.patience import HANG_S


@pytest.fixture(scope="module", params=["local", "ssh"])
def opened(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Yield a cluster that a plain `with` has opened."""
    with Cluster(hosts(request, request.param), require="all") as cluster:
        yield cluster


@pytest.fixture
def pool(opened: Cluster) -> Iterator[Executor]:
    with opened.executor() as made:
        yield made


def wait_for(path: str, told: str = "") -> str:
    """Write `told` if it is a path, and return once `path` exists."""
    if told:
        Path(told).write_text(str(os.getpid()))
    for _ in range(int(HANG_S / 0.005)):
        if Path(path).exists():
            return "seen"
        time.sleep(0.005)
    return "not seen"


def until_there(path: Path) -> None:
    assert wait_for(str(path)) == "seen"


def test_a_future_has_the_result_of_its_call(pool: Executor) -> None:
    assert isinstance(pool, Executor)
    assert pool.submit(pow, 2, 8).result(HANG_S) == 256
    assert pool.submit(work.greet, "you", greeting="goodbye").result(HANG_S) == "goodbye you"
    assert pool.submit(work.later_add, 1, 2).result(HANG_S) == 3


def test_a_future_has_the_exception_of_its_call(pool: Executor) -> None:
    future = pool.submit(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        future.result(HANG_S)
    assert isinstance(future.exception(HANG_S), ZeroDivisionError)


def test_map_gives_the_results_in_the_order_of_the_arguments(pool: Executor) -> None:
    assert list(pool.map(pow, range(10), range(10))) == [n**n for n in range(10)]
    found = pool.map(divmod, [1, 1, 1], [2, 0, 3])
    assert next(found) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_map_raises_a_timeout(pool: Executor, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with pytest.raises(concurrent.futures.TimeoutError):
        list(pool.map(wait_for, [str(go)], timeout=0.05))
    go.touch()


def test_wait_and_as_completed_see_the_ends_of_futures(pool: Executor, tmp_path: Path) -> None:
    go = tmp_path / "go"
    late, early = pool.submit(wait_for, str(go)), pool.submit(pow, 2, 2)
    done, left = concurrent.futures.wait([late, early], HANG_S, return_when=concurrent.futures.FIRST_COMPLETED)
    assert (done, left) == ({early}, {late})
    go.touch()
    assert set(concurrent.futures.as_completed([late, early], HANG_S)) == {late, early}


def test_a_future_that_no_host_has_can_be_cancelled_and_one_that_runs_cannot(opened: Cluster, tmp_path: Path) -> None:
    """The functions take both processors of a host, and must not be queued on hosts: only one of them has a host."""
    go, began = tmp_path / "go", tmp_path / "began"
    pool = opened.executor(host="plain", cost={"cpu": 2}, idempotent=False)
    first = pool.submit(wait_for, str(go), str(began))
    until_there(began)
    second = pool.submit(wait_for, str(go))
    assert first.running()
    assert not first.cancel()
    assert second.cancel()
    assert second.cancelled()
    assert second.cancel()
    assert second in concurrent.futures.wait([first, second], return_when=concurrent.futures.FIRST_COMPLETED).done
    with pytest.raises(CancelledError):
        second.result(HANG_S)
    go.touch()
    assert first.result(HANG_S) == "seen"


def test_a_callback_of_a_cancelled_future_may_wait_for_the_cluster(opened: Cluster, tmp_path: Path) -> None:
    """The event loop comes to the call while the callback runs, and must not wait for the callback."""
    go, began = tmp_path / "go", tmp_path / "began"
    pool = opened.executor(host="plain", cost={"cpu": 2}, idempotent=False)
    first = pool.submit(wait_for, str(go), str(began))
    until_there(began)
    second, seen = pool.submit(wait_for, str(go)), list[Any]()

    def called(future: Future[Any]) -> None:
        go.touch()
        seen.append(first.result(HANG_S))
        seen.extend(opened.view.hosts)

    second.add_done_callback(called)
    assert second.cancel()
    assert (seen[0], sorted(seen[1:])) == ("seen", ["gpu", "plain"])
    assert second.cancelled()


def test_shutdown_waits_for_its_own_futures_and_refuses_new_ones(opened: Cluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    pool, other = opened.executor(), opened.executor()
    future, foreign = pool.submit(pow, 2, 2), other.submit(wait_for, str(go))
    pool.shutdown()
    assert future.done()
    assert not foreign.done()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(pow, 2, 2)
    go.touch()
    assert foreign.result(HANG_S) == "seen"
    assert other.submit(pow, 2, 3).result(HANG_S) == 8


def test_shutdown_can_cancel_what_does_not_run(opened: Cluster, tmp_path: Path) -> None:
    go, began = tmp_path / "go", tmp_path / "began"
    pool = opened.executor(host="plain", cost={"cpu": 2}, idempotent=False)
    first = pool.submit(wait_for, str(go), str(began))
    until_there(began)
    others = [pool.submit(pow, 2, n) for n in range(5)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(each.cancelled() for each in others)
    go.touch()
    assert first.result(HANG_S) == "seen"


def test_an_interrupted_block_ends_its_calls_and_those_of_no_other_executor(opened: Cluster, tmp_path: Path) -> None:
    go, began = tmp_path / "go", tmp_path / "began"
    other = opened.executor(host="gpu").submit(wait_for, str(go))
    pool = opened.executor(host="plain", cost={"cpu": 2}, idempotent=False)
    with pytest.raises(KeyboardInterrupt), pool:  # noqa: PT012
        first = pool.submit(wait_for, str(tmp_path / "never"), str(began))
        until_there(began)
        others = [pool.submit(pow, 2, n) for n in range(5)]
        raise KeyboardInterrupt
    assert all(each.cancelled() for each in others)
    with pytest.raises(BrokenExecutor, match="interrupted before the call had ended"):
        first.result(HANG_S)
    go.touch()
    assert other.result(HANG_S) == "seen"
    assert opened.executor(host="plain").submit(pow, 2, 3).result(HANG_S) == 8


def test_what_cannot_be_sent_is_the_exception_of_the_future(pool: Executor) -> None:
    assert isinstance(pool.submit(work.identity, threading.Lock()).exception(HANG_S), UnserializableError)
    assert isinstance(pool.submit(work.greet).exception(HANG_S), GraphError)  # type: ignore[call-arg]


def test_options_of_the_executor_hold_where_the_function_has_none(opened: Cluster) -> None:
    pool = opened.executor(host="gpu")
    assert pool.submit(lambda: handout.current().host).result(HANG_S) == "gpu"
    own = handout.options(host="plain")(lambda: handout.current().host)
    assert pool.submit(own).result(HANG_S) == "plain"
    with pytest.raises(GraphError, match="retires"):
        opened.executor(retires=2)  # type: ignore[call-arg]
    with pytest.raises(GraphError, match="for graphs"):
        opened.executor(inline=True)


def test_libraries_see_how_many_calls_keep_the_hosts_busy(opened: Cluster) -> None:
    def most(**options: Any) -> int:
        return int(opened.executor(**options)._max_workers)  # type: ignore[attr-defined]

    assert most() == 8
    assert most(cost={"cpu": 2}) == 4
    assert most(cost={"gpu": 1}) == 4
    assert most(cost={"cpu": 0, "gpu_memory": "1 GB"}) == 16
    assert most(cost={"cpu": 0}) == 128
    assert most(cost={"cpu": 99}) == 1


def test_a_future_keeps_nothing_of_its_call_alive(pool: Executor) -> None:
    class Payload:
        def method(self) -> int:
            return 1

    payload = Payload()
    seen = weakref.ref(payload)
    assert pool.submit(payload.method).result(HANG_S) == 1
    del payload
    gc.collect()
    assert seen() is None


def test_many_threads_may_submit(pool: Executor) -> None:
    found: dict[int, list[int]] = {}

    def submit(number: int) -> None:
        found[number] = [pool.submit(pow, number, n).result(HANG_S) for n in range(20)]

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert found == {number: [number**n for n in range(20)] for number in range(8)}


def test_a_closed_cluster_breaks_open_futures(tmp_path: Path) -> None:
    began = tmp_path / "began"
    with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        pool = cluster.executor()
        future: Future[str] = pool.submit(wait_for, str(tmp_path / "never"), str(began))
        until_there(began)
        waiting = pool.submit(pow, 2, 2)
    for each in (future, waiting):
        assert isinstance(each.exception(HANG_S), BrokenExecutor)
    assert isinstance(pool.submit(pow, 2, 2).exception(HANG_S), BrokenExecutor)
    with pytest.raises(HostError, match="not open"):
        cluster.executor()


async def test_in_the_loop_of_the_cluster_waiting_is_an_error_and_awaiting_works() -> None:
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        pool = cluster.executor()
        assert await asyncio.get_running_loop().run_in_executor(pool, pow, 2, 8) == 256
        future = pool.submit(pow, 2, 3)
        for wait in (future.result, future.exception, pool.shutdown):
            with pytest.raises(HandoutError, match="would wait for ever"):
                wait()
        assert await asyncio.wrap_future(future) == 8
        assert future.result() == 8
        with pytest.raises(RuntimeError):
            pool.submit(pow, 2, 2)


def test_run_in_executor_works_in_another_event_loop(opened: Cluster) -> None:
    async def several() -> list[int]:
        loop, pool = asyncio.get_running_loop(), opened.executor()
        return await asyncio.gather(*[loop.run_in_executor(pool, pow, 2, n) for n in range(20)])

    assert asyncio.run(several()) == [2**n for n in range(20)]


async def test_a_future_that_is_awaited_can_be_cancelled(tmp_path: Path) -> None:
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        pool = cluster.executor(idempotent=False)
        go, began = tmp_path / "go", tmp_path / "began"
        first = pool.submit(wait_for, str(go), str(began))
        await asyncio.to_thread(until_there, began)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.wrap_future(pool.submit(pow, 2, 2))
        go.touch()
        assert await asyncio.wrap_future(first) == "seen"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "use",
    [
        lambda cluster: cluster.call(pow, 2, 3),
        lambda cluster: cluster.put([1]),
        lambda cluster: cluster.execute(handout.Graph()),
        lambda cluster: cluster.start(handout.Graph()),
        lambda cluster: cluster.add("node1"),
        lambda cluster: cluster.drain("gpu"),
    ],
)
def test_a_coroutine_method_in_a_plain_with_raises_where_it_is_called(opened: Cluster, use: Any) -> None:
    with pytest.raises(HandoutError, match=r"opened by a plain `with`.*cluster\.run\(graph\).*submit.*async with"):
        use(opened)


def test_other_packages_see_that_the_methods_of_a_cluster_are_coroutine_functions() -> None:
    """A web framework that takes such a method for a plain function never awaits the call, so it is lost."""
    with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        pass  # the methods of a cluster that was opened by a plain `with` are the same again
    for used in (cluster, Cluster()):
        for method in (used.add, used.call, used.drain, used.execute, used.put):
            assert inspect.iscoroutinefunction(method)

    async def open_again() -> int:
        async with cluster:
            return await cluster.call(pow, 2, 5)

    assert asyncio.run(open_again()) == 32


def test_the_plain_with_runs_graphs_and_leaves_no_thread(opened: Cluster) -> None:
    before = set(threading.enumerate())
    with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        graph = handout.Graph()
        out = graph.add(pow, 2, 5)
        assert cluster.run(graph)[out] == 32
        assert cluster.view.hosts["here"].total.amounts["cpu"] == 1
        assert dict(cluster.unavailable) == {}
        assert cluster.runs == ()
        with pytest.raises(HostError, match="open already"):
            cluster.__enter__()
    assert set(threading.enumerate()) <= before
    with pytest.raises(HostError, match="not open"):
        cluster.run(graph)
    with cluster:
        assert cluster.run(graph)[out] == 32


def test_an_exception_of_a_run_or_of_the_block_passes_through(opened: Cluster) -> None:
    graph = handout.Graph()
    graph.add(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        opened.run(graph)
    with pytest.raises(KeyError), Cluster([Host.local("here", {"cpu": 1})]):
        raise KeyError
    with pytest.raises(HandoutError), contextlib.closing(open(os.devnull)):
        opened.run(graph, no_such_option=1)  # type: ignore[call-arg]


def test_coroutines_of_a_cluster_with_a_thread_name_what_to_use(opened: Cluster) -> None:
    async def wrong() -> None:
        with pytest.raises(HandoutError, match=r"cluster\.run\(graph\) or cluster\.executor\(\)\.submit"):
            await opened.call(pow, 2, 2)
        with pytest.raises(HandoutError, match="async with"):
            await opened.execute(handout.Graph())
        with pytest.raises(HandoutError, match="async with"):
            await opened.drain("plain")

    asyncio.run(wrong())


async def test_run_in_the_loop_of_the_cluster_names_execute() -> None:
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        graph = handout.Graph()
        out = graph.add(pow, 2, 5)
        with pytest.raises(HandoutError, match=r"await cluster\.execute"):
            cluster.run(graph)
        assert (await asyncio.to_thread(cluster.run, graph))[out] == 32


async def test_the_limit_of_a_cluster_holds_over_runs_and_calls(tmp_path: Path) -> None:
    """Three tasks could run at one time, and the cluster allows two."""
    go = tmp_path / "go"
    async with Cluster([Host.local("here", {"cpu": 3})], max_concurrency=2) as cluster:
        graph = handout.Graph()
        graph.add(wait_for, str(go), str(tmp_path / "a"))
        async with asyncio.TaskGroup() as group:
            run = group.create_task(cluster.execute(graph))
            await asyncio.to_thread(until_there, tmp_path / "a")
            first = group.create_task(cluster.call(wait_for, str(go), str(tmp_path / "b")))
            await asyncio.to_thread(until_there, tmp_path / "b")
            second = group.create_task(cluster.call(pow, 2, 2))
            while sum(view.unfinished for view in cluster.runs) < 3:
                await asyncio.sleep(0)
            seen = {view.kind: (view.unfinished, view.handed_over, view.failed) for view in cluster.runs}
            assert seen == {"graph": (1, 1, 0), "calls": (2, 1, 0)}
            assert cluster.view.hosts["here"].running == 2
            go.touch()
        assert (await run, await first, await second)[1:] == ("seen", 4)
    with pytest.raises(HandoutError, match="max_concurrency=0"):
        Cluster(max_concurrency=0)
    with pytest.raises(handout.InventoryError, match="another name"):
        Cluster(handout.Inventory(["a"], shared={"max_concurrency": 2}), max_concurrency=2)


def test_a_cluster_that_closes_while_threads_use_it_lets_none_of_them_wait_for_ever() -> None:
    """A function that is passed to an event loop is lost if the loop ends before it comes to the function."""
    cluster = Cluster([Host.local("here", {"cpu": 1})])
    cluster.__enter__()
    pool, futures, begun = cluster.executor(), list[Future[int]](), threading.Barrier(5)

    def use() -> None:
        begun.wait()
        graph = handout.Graph()
        graph.add(pow, 2, 2)
        while True:
            futures.append(pool.submit(pow, 2, 2))
            try:
                assert cluster.view.hosts
                assert cluster.runs is not None
                assert cluster.unavailable == {}
                if len(futures) % 7 == 0:
                    cluster.run(graph)
            except (HostError, HandoutError):
                return

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    cluster.__exit__(None, None, None)
    for thread in threads:
        thread.join(HANG_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not concurrent.futures.wait(futures, HANG_S).not_done
    assert isinstance(pool.submit(pow, 2, 2).exception(HANG_S), BrokenExecutor)


def test_a_function_for_a_loop_that_was_closed_without_its_cluster_is_refused() -> None:
    # The agent ends soon after it hears nothing more from the loop.
    cluster = Cluster([Host.local("here", {"cpu": 1})], timings=Timings().scaled(0.05))
    asyncio.run(_open(cluster))
    with pytest.raises(HostError, match="not open"):
        cluster.executor()
    with pytest.raises(HostError, match="not open"):
        cluster.run(handout.Graph())
    with pytest.raises(HostError, match="not open"):
        _ = cluster.runs
    asyncio.run(cluster.close())

    async def again() -> int:
        async with cluster:
            return await cluster.call(pow, 2, 3)

    assert asyncio.run(again()) == 8


async def _open(cluster: Cluster) -> None:
    await cluster.open()


def test_a_cluster_with_a_thread_is_closed_only_by_leaving_its_block(opened: Cluster) -> None:
    with pytest.raises(HandoutError, match="plain `with`"):
        asyncio.run(opened.close())
    with pytest.raises(HostError, match="open already"):
        asyncio.run(_open(opened))
    assert opened.executor().submit(pow, 2, 3).result(HANG_S) == 8


def test_the_block_of_a_cluster_cannot_be_left_in_a_callback(opened: Cluster, tmp_path: Path) -> None:
    """Callbacks run in the event loop, which would wait for its own end."""
    errors, called = list[BaseException](), threading.Event()

    def leave(_: Future[int]) -> None:
        try:
            opened.__exit__(None, None, None)
        except HandoutError as error:
            errors.append(error)
        called.set()

    # The call goes on until the future has its callback. Otherwise, this thread would call it.
    opened.executor().submit(wait_for, str(tmp_path / "go")).add_done_callback(leave)
    (tmp_path / "go").touch()
    assert called.wait(HANG_S)
    assert "Leave the block in the thread that entered it" in str(errors[0])
    assert opened.executor().submit(pow, 2, 3).result(HANG_S) == 8


def test_only_one_of_several_threads_opens_a_cluster() -> None:
    cluster, begun, found = Cluster([Host.local("here", {"cpu": 1})]), threading.Barrier(4), list[object]()

    def enter() -> None:
        begun.wait()
        try:
            found.append(cluster.__enter__())
        except HostError as error:
            found.append(str(error).partition(".")[0])

    before = threading.active_count()
    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert sorted(map(str, found)) == sorted([str(cluster), *["This cluster is open already"] * 3])
    assert cluster.executor().submit(pow, 2, 3).result(HANG_S) == 8
    cluster.__exit__(None, None, None)
    assert threading.active_count() <= before  # a thread of an earlier test may have ended


def _run_program(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has a local cluster. It must end by itself."""
    head = "import os, sys, threading\nimport handout\nfrom handout import Cluster, Host\n"
    return subprocess.run(
        [sys.executable, "-c", head + program], capture_output=True, text=True, timeout=HANG_S, check=False
    )


@pytest.mark.usefixtures("ledger")
def test_a_program_ends_although_it_has_not_left_the_block_of_its_cluster() -> None:
    done = _run_program(
        "def main():\n"
        "    cluster = Cluster([Host.local('here', {'cpu': 1})]).__enter__()\n"
        "    print(cluster.executor().submit(pow, 2, 3).result())\n"
        "main()"
    )
    assert (done.returncode, done.stdout) == (0, "8\n")
    assert "still open when the program ended" in done.stderr


@pytest.mark.usefixtures("ledger")
def test_a_forked_process_cannot_use_the_cluster_and_does_not_close_it() -> None:
    done = _run_program(
        "with Cluster([Host.local('here', {'cpu': 1})]) as cluster:\n"
        "    pool = cluster.executor()\n"
        "    if os.fork() == 0:\n"
        "        print(pool.submit(pow, 2, 3).exception())\n"
        "        sys.exit(0)\n"
        "    os.wait()\n"
        "    print(pool.submit(pow, 2, 3).result())"
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "forked from the one that opened the cluster" in first
    assert second == "8"
    assert done.stderr == ""


def test_a_cluster_without_descriptors_for_its_event_loop_is_an_error() -> None:
    done = _run_program(
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "cluster, taken = Cluster([Host.local('here')]), []\n"
        "try:\n"
        "    while True:\n"
        "        taken.append(os.dup(0))\n"
        "except OSError:\n"
        "    pass\n"
        "try:\n"
        "    cluster.__enter__()\n"
        "except OSError as error:\n"
        "    print(error.strerror, threading.active_count())"
    )
    assert done.stdout == "Too many open files 1\n", done.stderr


def test_a_cluster_cannot_be_opened_after_the_main_thread() -> None:
    program = "def use():\n    Cluster([Host.local('here')]).__enter__()\nthreading.Thread(target=use).start()"
    assert "after the main thread of the program has ended" in _run_program(program).stderr
