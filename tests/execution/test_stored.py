"""Objects that stay on hosts: `Cluster.put`, ``keep=`` and `Stored`, on local hosts and over a real sshd."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import handout
from handout import Cluster, Graph, GraphError, HandoutError, Host, HostLostError, Stored
from tests import work
from tests.execution.conftest import hosts
from tests.seen import agent_pid, started, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


def rows(n: int) -> list[list[int]]:
    return [[i] * 10 for i in range(n)]


async def test_what_one_graph_keeps_a_later_one_takes(cluster: Cluster) -> None:
    first = Graph()
    made = first.add(rows, 5, host="plain")
    count = first.add(len, made)
    results = await cluster.execute(first, outputs=[count], keep=[made])
    kept = results.stored(made)
    assert isinstance(kept, Stored)
    assert kept.nbytes > 50
    second = Graph()
    sums = second.map(work.total, [kept[i] for i in range(results[count])])
    whole = second.add(work.length, kept)
    found = await cluster.execute(second)
    assert found[sums] == [0, 10, 20, 30, 40]
    assert found[whole] == 5
    assert await kept.fetch() == rows(5)
    assert await cluster.call(work.total, kept[4]) == 40


async def test_a_kept_result_that_no_function_takes_is_not_brought_back(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(work.identity, 3)
    results = await cluster.execute(graph, keep=[out])
    assert list(results) == []
    assert await results.stored(out).fetch() == 3


async def test_a_value_that_was_put_is_sent_once_to_each_host(cluster: Cluster) -> None:
    data = os.urandom(2 << 20)
    stored = await cluster.put(data)
    graph = Graph()
    lengths = [graph.add(work.length, stored, host=host) for host in ("plain", "gpu") * 3]
    assert (await cluster.execute(graph))[lengths] == [2 << 20] * 6
    home = cluster._runtime.driver.core.locate(stored._home.place[0], 0)
    assert set(home) == {"", "plain", "gpu"}
    assert await cluster.call(work.identity, stored) == data


async def test_a_value_is_taken_when_it_is_put(cluster: Cluster) -> None:
    numbers = [1, 2, 3]
    promised = asyncio.ensure_future(cluster.put(numbers))
    await asyncio.sleep(0)
    numbers.append(100)
    assert await cluster.call(work.total, await promised) == 6


async def test_a_stored_object_stands_in_containers_and_beside_other_arguments(cluster: Cluster) -> None:
    one, two = await cluster.put(1), await cluster.put([2, 3])
    assert await cluster.call(work.identity, {"a": [one, two[1]], "b": 4}) == {"a": [1, 3], "b": 4}
    graph = Graph()
    out = graph.add(work.identity, [handout.later(one), (handout.later(two), 5)])
    assert (await cluster.execute(graph))[out] == [1, ([2, 3], 5)]
    pool = cluster.executor()
    assert await asyncio.wrap_future(pool.submit(work.total, two)) == 5


async def test_objects_of_own_classes_and_modules_travel(cluster: Cluster) -> None:
    class Own:
        def __init__(self, x: int) -> None:
            self.x = x

    stored = await cluster.put(Own(3))
    assert await cluster.call(lambda own: own.x, stored) == 3
    refused = await cluster.put(work.Refused("no", 5))
    assert await cluster.call(lambda error: error.code, refused) == 5


async def test_fetch_gives_a_new_value_each_time_and_writes_files(cluster: Cluster, tmp_path: Path) -> None:
    stored = await cluster.put([1, 2])
    first = await stored.fetch()
    first.append(3)
    assert await stored.fetch() == [1, 2]
    bytes_ = await cluster.put(b"content")
    assert (await bytes_.fetch(to=tmp_path / "out")).read_bytes() == b"content"  # type: ignore[attr-defined]
    with pytest.raises(GraphError, match="to= is for a File or bytes"):
        await stored.fetch(to=tmp_path / "list")


async def test_what_is_dropped_or_garbage_leaves_the_hosts(cluster: Cluster) -> None:
    driver = cluster._runtime.driver
    before = set(driver.runs)
    dropped, garbage = await cluster.put(b"x" * 100_000), await cluster.put(b"y" * 100_000)
    for stored in (dropped, garbage):
        await cluster.call(work.length, stored)
    await dropped.drop()
    await dropped.drop()
    with pytest.raises(HandoutError, match="was dropped"):
        await cluster.call(work.length, dropped)
    with pytest.raises(HandoutError, match="was dropped"):
        await dropped.fetch()
    del stored, garbage
    gc.collect()

    def is_left() -> bool:
        return any(driver.is_held(run) for number, run in driver.runs.items() if number not in before)

    await until(lambda: not is_left())


async def test_a_run_keeps_what_it_uses_until_it_has_ended(cluster: Cluster, tmp_path: Path) -> None:
    stored = await cluster.put(b"z" * 100_000)
    graph = Graph()
    out = graph.add(work.length, stored)
    async with cluster.start(graph) as execution:
        await stored.drop()
        assert (await execution.results())[out] == 100_000


async def test_a_use_of_the_value_says_how_to_fetch_it(cluster: Cluster) -> None:
    stored = await cluster.put({"a": [1]})
    uses: list[tuple[Callable[[], object], str]] = [
        (lambda: len(stored), r"stored object .* is on the hosts\. To use .* await stored\.fetch\(\)\. Do this"),
        (lambda: stored["a"].fetch(), r"\(await stored\.fetch\(\)\)\['a'\]"),
    ]
    for use, message in uses:
        with pytest.raises(handout.NotAValueError, match=message):
            use()


async def test_a_stored_object_says_how_to_get_it_back() -> None:
    async with Cluster([Host.local("here")]) as cluster:
        stored = await cluster.put(3)
        await stored.drop()
        with pytest.raises(HandoutError, match="Put the value again"):
            await cluster.call(work.identity, stored)
        other = await cluster.put(4)
    with pytest.raises(HandoutError, match="Fetch it before the cluster is closed"):
        await other.fetch()


async def test_what_failed_or_was_not_kept_says_so(cluster: Cluster) -> None:
    graph = Graph()
    bad, good, other = graph.add(divmod, 1, 0), graph.add(work.identity, 1), graph.add(work.identity, 2)
    results = await cluster.execute(graph, keep=[bad, good], on_failure="continue")
    with pytest.raises(ZeroDivisionError):
        results.stored(bad)
    with pytest.raises(KeyError, match="keep="):
        results.stored(other)
    assert await results.stored(good).fetch() == 1
    with pytest.raises(GraphError, match=r"cluster\.put"):
        await cluster.execute(graph, keep=[graph.value(3)])
    with pytest.raises(HandoutError, match="Open a Cluster"):
        await handout.execute(graph, keep=[good])
    with pytest.raises(GraphError, match=r"keep=\[\.\.\.\]"):
        await cluster.execute(graph, keep=good)  # type: ignore[arg-type]


async def test_a_stored_object_cannot_hide_in_an_object_or_go_to_another_cluster(cluster: Cluster) -> None:
    stored = await cluster.put(1)
    with pytest.raises(GraphError, match="is a promise of a value"):
        await cluster.put(stored)
    with pytest.raises(GraphError, match=r"holds Stored\('put-\d+'\), which is a promise.*to functions as it is"):
        await cluster.put({"a": [0, stored]})
    with pytest.raises(GraphError, match="where Handout cannot find it"):
        pickle.dumps(stored)
    async with Cluster([Host.local("elsewhere", {"cpu": 1})]) as other:
        with pytest.raises(HandoutError, match="another cluster"):
            await other.call(work.identity, stored)
        graph = Graph()
        graph.add(work.identity, stored)
        with pytest.raises(HandoutError, match="another cluster"):
            await other.execute(graph)
        there = await other.put(2)
    with pytest.raises(HandoutError, match="was closed"):
        await there.fetch()
    with pytest.raises(GraphError, match="stored object"):
        handout.evaluate(graph)


async def test_a_run_with_hosts_of_its_own_cannot_take_a_stored_object(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(len, await cluster.put([1]))
    with pytest.raises(HandoutError, match=r"hosts of its own.*await cluster\.execute"):
        await handout.execute(graph)


@pytest.mark.parametrize("launcher", ["local", "ssh"])
async def test_what_is_kept_comes_back_after_its_host_is_lost(
    launcher: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A result is made again by its function, and a value that was put is sent again."""
    async with Cluster(hosts(request, launcher), require="all") as cluster:
        first = Graph()
        made = first.add(rows, 3, host="plain")
        kept = (await cluster.execute(first, keep=[made])).stored(made)
        put = await cluster.put(b"p" * 200_000)
        assert await cluster.call(handout.options(host="plain")(partial(work.length)), put) == 200_000
        os.kill(agent_pid(started(cluster, "plain")), signal.SIGKILL)
        graph = Graph()
        whole, length = graph.add(work.length, kept), graph.add(work.length, put)
        results = await cluster.execute(graph)
        assert (results[whole], results[length]) == (3, 200_000)
        assert await kept.fetch() == rows(3)


@pytest.mark.parametrize("launcher", ["local", "ssh"])
async def test_what_a_run_with_a_journal_keeps_can_be_fetched_and_comes_back(
    launcher: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The controller has fetched these results for the journal, and the core knows that it has them."""
    async with Cluster(hosts(request, launcher), require="all") as cluster:
        for _ in range(2):  # the second run takes all results from the journal
            first = Graph()
            made = first.add(work.identity, first.add(rows, 3, host="plain"), host="plain")
            first.add(work.length, made)
            kept = (await cluster.execute(first, keep=[made], journal=tmp_path / "run.db")).stored(made)
            assert await kept.fetch() == rows(3)
            assert await cluster.call(work.length, kept) == 3
        os.kill(agent_pid(started(cluster, "plain")), signal.SIGKILL)
        assert await cluster.call(work.length, kept) == 3


async def test_what_cannot_be_made_again_fails_its_readers_with_a_reason(tmp_path: Path) -> None:
    once = tmp_path / "once"
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        graph = Graph()
        out = graph.add(_only_once, str(once))
        kept = (await cluster.execute(graph, keep=[out])).stored(out)
        os.kill(agent_pid(started(cluster, "here")), signal.SIGKILL)
        with pytest.raises(HostLostError, match="only once"):
            await kept.fetch()
        with pytest.raises(HostLostError, match="stored object that was lost"):
            await cluster.call(work.length, kept)


def _only_once(mark: str) -> str:
    if Path(mark).exists():
        raise ValueError("this works only once")
    Path(mark).touch()
    return "made" * 100_000  # so that only the host has it


async def test_two_hundred_objects_put_and_dropped_leave_nothing(cluster: Cluster) -> None:
    driver = cluster._runtime.driver
    before = len(driver.runs)
    for n in range(200):
        stored = await cluster.put([n] * 10)
        await stored.drop()
    del stored
    await until(lambda: len(driver.runs) <= before + 1 and len(driver.core.world.runs) <= before + 1)


async def test_a_stored_object_can_be_given_in_place_of_an_output(cluster: Cluster) -> None:
    graph = Graph()
    table = graph.value([1], id="table")
    made = graph.add(rows, 2)
    total, first, whole = graph.add(work.total, table), graph.add(work.total, made[0]), graph.add(work.length, made)
    stored, other = await cluster.put([4, 5]), await cluster.put([[7, 8], [9]])
    results = await cluster.execute(graph, given={table: stored, made: other})
    assert results[[total, first, whole]] == [9, 15, 2]
    results = await cluster.execute(graph, given={"table": other[1]})
    assert results[[total, first]] == [9, 0]
