"""Clusters and executions that are used twice, too early or too late, and runs that are cancelled at bad moments."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import handout
from handout import Cluster, Graph, Host
from handout.execution.membership.takeover import KnownAgent
from handout.execution.shell.driver import Driver
from handout.execution.shell.run_objects import RunObjects, SpillFile
from handout.transport.bootstrap import StartedAgent
from handout.transport.shielded import uninterrupted
from tests import work
from tests.patience import HANG_S
from tests.seen import until

pytestmark = pytest.mark.usefixtures("ledger_of_loop")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster([Host.local("here", {"cpu": 2})]) as opened:
        yield opened


def one() -> Graph:
    graph = Graph()
    graph.add(work.identity, 1, id="one")
    return graph


def stuck(path: Path) -> Graph:
    graph = Graph()
    graph.add(work.sleep_forever, str(path), id="stuck")
    return graph


def alive(path: Path) -> bool:
    try:
        status = Path(f"/proc/{path.read_text()}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.asyncio(loop_scope="module")
class TestOnOneCluster:
    @pytest.mark.parametrize("failures", [1, 99])
    async def test_a_full_disk_of_the_controller_costs_no_host(
        self, cluster: Cluster, failures: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        made, left = RunObjects.new_file, [failures]

        def new_file(self: RunObjects) -> SpillFile:
            left[0] -= 1
            if left[0] >= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return made(self)

        monkeypatch.setattr(RunObjects, "new_file", new_file)
        run = cluster.execute(one(), max_memory=0)
        if failures == 1:
            assert (await asyncio.wait_for(run, HANG_S))["one"] == 1
        else:
            with pytest.raises(handout.HostLostError, match="could not be copied") as caught:
                await asyncio.wait_for(run, HANG_S)
            assert "disk space" in str(caught.value.remedy)
        assert "could not store the result of task 'one'" in caplog.text
        assert (await asyncio.wait_for(cluster.execute(one()), HANG_S))["one"] == 1

    async def test_an_execution_is_for_one_run(self, cluster: Cluster) -> None:
        execution = cluster.start(one())
        async with execution:
            assert (await execution.results())["one"] == 1
        with pytest.raises(handout.HandoutError, match=r"used before.*start"):
            async with execution:
                pass
        assert (await execution.results())["one"] == 1
        await execution.cancel()
        with pytest.raises(handout.HandoutError, match="over"):
            execution.explain("one")

    async def test_an_execution_says_how_it_is_entered(self, cluster: Cluster) -> None:
        execution: Any = cluster.start(one())
        with pytest.raises(handout.HandoutError, match=r"async with start.*run\("):
            with execution:
                pass
        with pytest.raises(handout.HandoutError, match=r"await execute"):
            await execution

    async def test_a_cluster_shows_its_hosts(self, cluster: Cluster) -> None:
        assert repr(Cluster([Host.local(f"h{n}") for n in range(9)])).startswith("<Cluster, not open: h0, h1")
        assert repr(cluster).startswith("<Cluster, open: ")

    async def test_a_host_that_joins_is_logged_for_those_that_ask(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "handout")
        async with Cluster([Host.local("new", {"cpu": 1})]):
            pass
        assert f"Host new has joined. Functions run there in Python {platform.python_version()}." in caplog.messages

    async def test_an_execution_that_was_not_entered_says_so(self, cluster: Cluster) -> None:
        execution = cluster.start(one())
        with pytest.raises(handout.HandoutError, match="async with"):
            await execution.results()
        with pytest.raises(handout.HandoutError, match="async with"):
            await execution.cancel()

    async def test_a_cluster_is_opened_once(self, cluster: Cluster) -> None:
        with pytest.raises(handout.HostError, match="open already"):
            await cluster.open()
        assert (await cluster.execute(one()))["one"] == 1

    async def test_a_run_that_the_core_has_not_heard_of_yet_can_be_explained(self, cluster: Cluster) -> None:
        async with cluster.start(one()) as execution:
            found = execution.explain("one")
            assert str(found) == "task 'one' is waiting: the run is being submitted"
            assert (await execution.results())["one"] == 1
            assert execution.explain("one").reason.startswith("has succeeded on ")

    async def test_a_task_that_failed_or_was_skipped_is_explained_with_its_cause(self, cluster: Cluster) -> None:
        graph = Graph()
        bad = graph.add(work.fail, "no", id="bad")
        graph.add(work.identity, bad, id="behind")
        async with cluster.start(graph, on_failure="continue") as execution:
            await execution.results()
            assert execution.explain("bad").reason.endswith(", in attempt 1: tests.work.Refused: ('no', 7)")
            assert execution.explain("behind").reason.endswith("a task that it depends on failed: 'bad'")

    async def test_what_has_no_task_has_no_log_and_nothing_to_explain(self, cluster: Cluster) -> None:
        graph = Graph()
        value = graph.value(5, id="five")
        out = graph.add(work.identity, value)
        async with cluster.start(graph) as execution:
            with pytest.raises(handout.GraphError, match="'five' is a value"):
                execution.explain(value)
            with pytest.raises(handout.GraphError, match="'five' is a value"):
                await anext(execution.logs("five"))
            assert (await execution.results())[out] == 5

    async def test_runs_leave_nothing_behind_in_the_shell(self, cluster: Cluster) -> None:
        driver = cluster._runtime.driver
        await cluster.execute(one())
        sizes = len(driver.runs), len(driver.classes._by_run)
        for _ in range(3):
            await cluster.execute(one())
        assert (len(driver.runs), len(driver.classes._by_run)) == sizes

    async def test_a_caller_cancelled_twice_leaves_no_process_behind(self, cluster: Cluster, tmp_path: Path) -> None:
        path = tmp_path / "pid"
        running = asyncio.ensure_future(cluster.execute(stuck(path)))
        await until(lambda: path.exists() and path.read_text())
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not alive(path)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"retires": 2}, r"no option retires=.*retries"),
            ({"require": "all"}, r"require= is an option of Cluster"),
            ({"backoff_s": 1}, r"backoff_s= is an option of a function"),
            ({"max_concurrency": 0}, r"max_concurrency=0 is not a whole number from 1"),
            ({"on_failure": "contine"}, r"on_failure='contine'"),
            ({"timeout_s": 0}, r"timeout_s=0"),
            ({"retries": -1}, r"retries=-1"),
            ({"priority": float("nan")}, r"priority=nan"),
        ],
    )
    async def test_options_that_cannot_be_are_refused(
        self, cluster: Cluster, options: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(handout.HandoutError, match=words):
            cluster.start(one(), **options)


async def test_a_cluster_that_is_not_open_says_how_to_open_it() -> None:
    with pytest.raises(handout.HostError, match=r"not open.*async with"):
        await Cluster([Host.local("here")]).execute(one())


@pytest.mark.parametrize("allocator", ["locality", 3])
def test_what_is_no_allocator_is_refused_at_once(allocator: Any) -> None:
    with pytest.raises(handout.HandoutError, match=r"is not an async function of frontier and view.*handout\.locality"):
        Cluster([Host.local("here")], allocator=allocator)


async def test_a_variable_longer_than_the_system_allows_is_told_as_the_reason() -> None:
    with pytest.raises(handout.BootstrapError, match=r"Argument list too long.*env=\.\.\."):
        await Cluster([Host.local("here", env={"LONG": "x" * 2**20})]).open()


def test_an_empty_inventory_is_said_to_be_empty() -> None:
    with pytest.raises(handout.InventoryError, match=r"^The inventory has no host\. Add"):
        Cluster([])


async def test_a_closed_cluster_says_so_before_it_looks_at_the_graph() -> None:
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        pass
    graph = Graph()
    graph.add(work.identity, 1, cost={"cpu": 1000})
    with pytest.raises(handout.HostError, match="not open"):
        await cluster.execute(graph)


async def test_a_cluster_of_another_loop_is_refused_by_name() -> None:
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        with pytest.raises(handout.HandoutError, match=r"another event loop.*loop"):
            async with asyncio.timeout(HANG_S):
                await asyncio.to_thread(asyncio.run, cluster.execute(one()))
        assert (await cluster.execute(one()))["one"] == 1


async def test_a_cluster_closed_under_a_run_ends_it_by_name(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    cluster = Cluster([Host.local("here", {"cpu": 1})])
    await cluster.open()
    async with cluster.start(stuck(path)) as execution:
        await until(lambda: path.exists() and path.read_text())
        await cluster.close()
        assert not alive(path)
        with pytest.raises(handout.HandoutError, match=r"closed while 1 of the 1 tasks") as caught:
            await execution.results()
        assert not isinstance(caught.value, handout.InternalError)


async def test_a_closed_cluster_can_be_opened_again(tmp_path: Path) -> None:
    cluster = Cluster([Host.local("here", {"cpu": 1})])
    for _ in range(2):
        async with cluster:
            assert (await cluster.execute(one()))["one"] == 1


def test_the_agents_of_a_cluster_that_was_not_closed_end_with_its_event_loop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pid"
    cluster = Cluster([Host.local("here", {"cpu": 1})])

    async def forget() -> None:
        await cluster.open()
        left = asyncio.ensure_future(cluster.call(work.sleep_forever, str(path)))
        await until(lambda: path.exists() and path.read_text())
        assert not left.done()

    asyncio.run(forget())  # the ledger waits for the agent, but not until its lease would end
    assert not alive(path)
    assert "was not closed before its event loop ended" in caplog.text
    with pytest.raises(handout.HostError, match="not open"):
        cluster.executor()
    assert not cluster.unavailable


@pytest.mark.parametrize("require", [3, -1, "al", True, 1.5])
async def test_so_many_hosts_cannot_be_required(require: Any) -> None:
    with pytest.raises(handout.errors.InventoryError, match="require="):
        Cluster([Host.local("a"), Host.local("b")], require=require)


async def test_a_run_over_its_time_does_not_wait_for_a_host_that_says_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        host = Host("mute", address="127.0.0.1", port=server.sockets[0].getsockname()[1], ssh={"known_hosts": None})
        async with asyncio.timeout(HANG_S):
            with pytest.raises(handout.errors.RunTimeoutError, match=r"0\.2 s .* 0 of 1 tasks had ended\. State"):
                await handout.execute(one(), inventory=[host], timeout_s=0.2)


async def test_what_breaks_inside_ends_every_run_by_name(tmp_path: Path) -> None:
    cluster = Cluster([Host.local("here", {"cpu": 1})])
    await cluster.open()
    with pytest.raises(handout.InternalError, match="RuntimeError: a bug"):  # noqa: PT012 - the run raises, then the cluster
        async with cluster.start(stuck(tmp_path / "pid")) as execution:
            cluster._runtime.driver.break_down(ExceptionGroup("", [RuntimeError("a bug")]))
            with pytest.raises(handout.InternalError, match=r"RuntimeError: a bug.*report"):
                await execution.results()
            with pytest.raises(handout.InternalError, match="a bug"):
                await cluster.execute(one())
        await cluster.close()


async def test_after_what_breaks_inside_each_use_of_the_cluster_is_an_error_by_name() -> None:
    cluster = await Cluster([Host.local("here", {"cpu": 1})]).open()
    stored = await cluster.put(b"ab")
    assert await cluster.call(work.length, stored) == 2
    cluster._runtime.driver.break_down(RuntimeError("a bug"))
    uses: list[Callable[[], Any]] = [
        lambda: cluster.call(pow, 2, 3),
        lambda: cluster.call(pow, 2, 3),
        lambda: asyncio.wrap_future(cluster.executor().submit(pow, 2, 3)),
        lambda: cluster.put(1),
        lambda: cluster.put(bytes(1 << 17)),
        lambda: stored.fetch(),
        lambda: cluster.close(),
    ]
    for use in uses:
        async with asyncio.timeout(HANG_S):
            with pytest.raises(handout.InternalError, match="a bug"):
                await use()


async def test_a_driver_that_is_closed_takes_no_run_and_keeps_no_timer() -> None:
    driver = Driver(lambda coroutine: coroutine.close())
    driver.close()
    driver.post()
    assert not driver._pump_due


async def test_cleaning_up_goes_on_while_the_task_around_is_cancelled_again_and_again() -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def clean_up() -> int:
        await go.wait()
        done.set()
        return 7

    task = asyncio.ensure_future(uninterrupted(clean_up()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
    assert await uninterrupted(clean_up()) == 7


async def test_agents_that_start_now_hash_as_those_of_the_earlier_controller() -> None:
    lost = StartedAgent("/f", "/f/none.sock", "/f/b", "python3", (3, 12, 0), {}, True, "a1", hash_seed=12345)
    cluster = Cluster([Host.local("here", {"cpu": 1}), Host.local("new", {"cpu": 1})], require="all")
    cluster._runtime.begin({"here": KnownAgent("here", lost, "token")})
    try:
        await cluster._runtime.wait_until_usable()
        graph = Graph()
        outs = [graph.add(os.getenv, "PYTHONHASHSEED", host=host) for host in ("here", "new")]
        assert (await cluster.execute(graph))[outs] == ["12345"] * 2
    finally:
        await cluster.close()
