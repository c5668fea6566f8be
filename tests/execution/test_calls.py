"""`Cluster.call` on local hosts and on hosts that a real sshd serves."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, GraphError, Host, PlacementError, UnserializableError
from handout.execution import calls
from tests import work
from tests.patience import HANG_S
from tests.seen import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_call_returns_the_result_of_its_function(cluster: Cluster) -> None:
    assert await cluster.call(work.add, 1, 2) == 3
    assert await cluster.call(work.greet, "you", greeting="goodbye") == "goodbye you"
    assert await cluster.call(work.later_add, 1, 2) == 3
    assert await cluster.call(lambda x: x + 1, 1) == 2


async def test_the_exception_of_a_function_is_raised_and_says_where_it_happened(cluster: Cluster) -> None:
    with pytest.raises(work.Refused) as caught:
        await cluster.call(_refuse)
    assert any("attempt 1 of 1, on host" in note for note in caught.value.__notes__)


async def test_a_task_that_builds_a_graph_is_told_where_graphs_are_built(cluster: Cluster) -> None:
    with pytest.raises(handout.NotOnHostError, match=r"Graph\(\)\.add is not available on a host.*__main__"):
        await cluster.call(_build)


def _build() -> None:
    handout.Graph().add(work.add, 1)


async def test_a_checkpoint_that_cannot_be_sent_is_not_called_a_result(cluster: Cluster) -> None:
    with pytest.raises(handout.ResultError, match=r"A checkpoint of task '_keep_a_lock\[\d+\]'.*lock.*Keep plain data"):
        await cluster.call(_keep_a_lock)


def _keep_a_lock() -> None:
    handout.current().checkpoint(threading.Lock())


def _refuse() -> None:
    raise work.Refused("no", 7)


async def test_many_calls_at_once_end_each_with_its_own_result(cluster: Cluster) -> None:
    found = await asyncio.gather(*[cluster.call(work.add, n, n) for n in range(300)])
    assert found == [2 * n for n in range(300)]


async def test_more_calls_than_one_open_run_takes_leave_nothing_of_the_first_ones(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of a cluster must not grow with the number of calls."""
    monkeypatch.setattr(calls, "_CAPACITY", 8)
    driver = cluster._runtime.driver
    for n in range(40):
        assert await cluster.call(work.add, n, 1) == n + 1
    await until(lambda: len(driver.runs) <= 2 and len(driver.core.world.runs) <= 2)
    assert sum(run.task_count for run in driver.runs.values()) < 1100


async def test_calls_of_many_priorities_leave_few_open_runs(cluster: Cluster) -> None:
    """A program may give each call another priority, such as the time at which its result is needed."""
    driver = cluster._runtime.driver

    async def call(priority: float) -> int:
        return await cluster.call(handout.options(priority=priority)(lambda: 7))

    assert await asyncio.gather(*[call(n / 7) for n in range(100)]) == [7] * 100
    await until(lambda: len(driver.runs) <= 16 and len(driver.core.world.runs) <= 16)
    assert await asyncio.gather(*[call(n / 7) for n in range(100)]) == [7] * 100


async def test_a_run_that_gets_no_more_calls_goes_on_until_its_last_call_has_ended(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_MOST_OPEN", 1)
    go, driver = tmp_path / "go", cluster._runtime.driver
    early = asyncio.ensure_future(cluster.call(handout.options(priority=77)(work.wait_for_file), str(go)))
    await until(lambda: any(run.policy.priority == 77 for run in driver.runs.values()))
    dropped = asyncio.ensure_future(cluster.call(handout.options(priority=78, host="none")(work.where)))
    assert await cluster.call(handout.options(priority=79)(work.add), 1, 2) == 3
    go.touch()
    assert await early
    with pytest.raises(PlacementError):
        await dropped
    await until(lambda: len(driver.runs) <= 1)


async def test_arguments_are_taken_at_the_call(cluster: Cluster) -> None:
    numbers = [1, 2, 3]
    promised = asyncio.ensure_future(cluster.call(work.total, numbers))
    await asyncio.sleep(0)
    numbers.append(100)
    assert await promised == 6


async def test_a_function_of_the_script_is_sent_again_only_when_it_has_changed(cluster: Cluster) -> None:
    """A worker keeps what such a function stores in its globals, as long as the function stays the same."""
    space: dict[str, Any] = {"__name__": "__main__", "FACTOR": 2, "SEEN": []}
    exec("def scaled(x):\n    SEEN.append(x)\n    return x * FACTOR, len(SEEN)", space)
    scaled = space["scaled"]
    fn = handout.options(host="plain", cost={"cpu": 2})(scaled)
    first, second = await cluster.call(fn, 1), await cluster.call(fn, 2)
    assert (first[0], second[0]) == (2, 4)
    assert second[1] == first[1] + 1
    space["FACTOR"] = 5
    assert (await cluster.call(fn, 3))[0] == 15
    space["FACTOR"] = 2
    assert (await cluster.call(fn, 4))[0] == 8


async def test_large_arguments_and_results_travel(cluster: Cluster) -> None:
    data = os.urandom(3 << 20)
    assert await cluster.call(work.identity, data) == data
    assert await cluster.call(work.length, data, **{}) == 3 << 20


async def test_files_travel(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello")
    assert await cluster.call(handout.File.read_text, handout.File(path)) == "hello"


async def test_options_of_the_decorator_hold(cluster: Cluster) -> None:
    @handout.options(host="gpu", retries=2)
    def flaky() -> tuple[str, int]:
        current = handout.current()
        if current.attempt < 3:
            raise ValueError("not yet")
        return current.host, current.attempt

    assert await cluster.call(flaky) == ("gpu", 3)


async def test_a_use_with_options_counts_for_the_durations_of_its_function(cluster: Cluster) -> None:
    """A run remembers them when it is closed, by the names that its profiles have."""
    world, graph = cluster._runtime.driver.core.world, handout.Graph()
    graph.add(handout.options(retries=1)(work.total), [1])
    await cluster.execute(graph)
    await until(lambda: "total" in world.remembered)
    await cluster.call(handout.options(retries=1)(work.length), b"")
    assert "length" in {profile.fn_name for run in world.runs.values() for profile in run.spec.profiles}


async def test_an_option_of_graphs_that_holds_an_output_is_refused_by_its_name(cluster: Cluster) -> None:
    beside = handout.options(collocate_with=await cluster.put(1))(lambda: 1)
    with pytest.raises(GraphError, match="cannot have the option collocate_with="):
        await cluster.call(beside)


async def test_a_call_that_no_host_can_run_fails_alone(cluster: Cluster) -> None:
    heavy = handout.options(cost={"cpu": 512})(lambda: 1)
    other = asyncio.ensure_future(cluster.call(work.add, 1, 1))
    with pytest.raises(PlacementError, match="512"):
        await cluster.call(heavy)
    assert await other == 2


async def test_a_call_that_cannot_be_made_is_refused_before_anything_is_sent(cluster: Cluster) -> None:
    with pytest.raises(GraphError, match="cannot be called with"):
        await cluster.call(work.greet)  # type: ignore[call-arg]
    with pytest.raises(
        GraphError, match=r"cannot be called with .* retries=(.|\n)*handout\.options\(retries=\.\.\.\)\(add\)"
    ):
        await cluster.call(work.add, 1, retries=2)  # type: ignore[call-arg]
    with pytest.raises(UnserializableError, match="lock"):
        await cluster.call(work.identity, threading.Lock())
    with pytest.raises(GraphError, match="is not callable"):
        await cluster.call(3)  # type: ignore[call-overload]
    with pytest.raises(GraphError, match=r"Warm\(greet\) is not callable"):
        await cluster.call(handout.Warm(work.greet, "Ada"))  # type: ignore[call-overload]
    with pytest.raises(GraphError, match="belongs to no graph"):
        await cluster.call(work.identity, [handout.Graph().add(work.add, 1)])
    with pytest.raises(GraphError, match="collocate_with="):
        await cluster.call(handout.options(collocate_with="a")(lambda: 1))


async def test_a_cancelled_call_returns_at_once_and_its_function_is_ended(cluster: Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "began"
    promised = asyncio.ensure_future(cluster.call(_wait_for_ever, str(mark)))
    await until(mark.exists)
    pid = int(await _text_of(mark))
    promised.cancel()
    with pytest.raises(asyncio.CancelledError):
        await promised
    await until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert await cluster.call(work.add, 1, 1) == 2


async def _text_of(path: Path) -> str:
    await until(lambda: bool(path.read_text()))
    return path.read_text()


def _wait_for_ever(mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    threading.Event().wait()


async def test_a_timeout_around_a_call_ends_it(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await cluster.call(_wait_for_ever, str(tmp_path / "began"))


async def test_calls_and_graphs_share_the_cluster(cluster: Cluster) -> None:
    graph = handout.Graph()
    out = graph.add(work.add, 1, 2)
    results, found = await asyncio.gather(cluster.execute(graph), cluster.call(work.add, 3, 4))
    assert (results[out], found) == (3, 7)


async def test_a_call_keeps_nothing_of_its_caller_alive(cluster: Cluster) -> None:
    class Payload:
        pass

    payload = Payload()
    seen = weakref.ref(payload)
    await cluster.call(work.length, [payload])
    del payload
    gc.collect()
    assert seen() is None


async def test_a_call_on_a_closed_cluster_is_an_error_and_open_calls_end_with_one(tmp_path: Path) -> None:
    cluster = Cluster([Host.local("here", {"cpu": 1})])
    with pytest.raises(handout.HostError, match="not open"):
        await cluster.call(work.add, 1)
    async with cluster:
        assert await cluster.call(work.add, 1) == 1
        mark = tmp_path / "began"
        left = asyncio.ensure_future(cluster.call(_wait_for_ever, str(mark)))
        await until(mark.exists)
    with pytest.raises(handout.HandoutError, match=r"closed before call '_wait_for_ever\[2\]' had ended\. Await all"):
        async with asyncio.timeout(HANG_S):
            await left
    async with cluster:
        assert await cluster.call(work.add, 2) == 2


async def test_calls_use_the_allocator_of_the_cluster() -> None:
    asked = []

    async def second(frontier: Any, view: Any) -> Any:
        asked.extend(task.labels for task in frontier)
        return {task.id: "b" for task in frontier}

    hosts = [Host.local(name, {"cpu": 1}) for name in ("a", "b")]
    async with Cluster(hosts, allocator=second, require="all") as cluster:
        fn = handout.options(labels={"team": "red"})(lambda: handout.current().host)
        assert [await cluster.call(fn) for _ in range(3)] == ["b"] * 3
    assert {"team": "red"} in asked
