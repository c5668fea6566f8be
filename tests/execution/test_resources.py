"""Running graphs respect costs, capabilities, shared amounts and the Python versions of hosts."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

import handout
from handout import Cluster, Graph, Host, Inventory
from handout.resources import LiveHost
from tests import work
from tests.patience import HANG_S
from tests.pythons import MINORS, find_python, require_python
from tests.sshd import OpenSsh


def crowd(folder: str, me: str) -> int:
    """Return the largest number of calls that this call has seen running at the same time."""
    import time

    mine = os.path.join(folder, me)
    open(mine, "w").close()
    most = 0
    for _ in range(10):
        most = max(most, len(os.listdir(folder)))
        time.sleep(0.002)
    os.unlink(mine)
    return most


async def test_hosts_share_what_the_inventory_shares(tmp_path: Path) -> None:
    hosts = [Host.local("a", {"cpu": 4}), Host.local("b", {"cpu": 4})]
    graph = Graph()
    outs = graph.map(crowd, [str(tmp_path)] * 12, [str(i) for i in range(12)], cost={"licence": 1}, id="seat")
    results = await handout.execute(graph, inventory=Inventory(hosts, shared={"licence": 2}), require="all")
    assert max(results[outs]) <= 2


async def test_fractions_of_a_cpu_add_up(tmp_path: Path) -> None:
    graph = Graph()
    outs = graph.map(crowd, [str(tmp_path)] * 12, [str(i) for i in range(12)], cost={"cpu": 1 / 3})
    results = await handout.execute(graph, inventory=[Host.local("a", {"cpu": 1})])
    assert 1 < max(results[outs]) <= 3


async def test_the_first_variant_that_fits_is_taken_and_the_function_can_ask_which() -> None:
    graph = Graph()
    cost = [{"gpu": 1, "memory": "1 GB"}, {"cpu": 2}]
    out = graph.add(lambda: handout.current().variant, cost=cost)
    assert (await handout.execute(graph, inventory=[Host.local("a", {"cpu": 2, "gpu": 0})]))[out] == 1
    offers = {"cpu": 2, "gpu": 1, "memory": "2 GB"}
    assert (await handout.execute(graph, inventory=[Host.local("a", offers)]))[out] == 0


async def test_a_tracker_changes_what_a_host_offers_during_a_run(tmp_path: Path) -> None:
    asked: list[str] = []

    async def mounts(host: LiveHost) -> dict[str, object]:
        """Report the share as mounted once a command on the host finds it."""
        asked.append(await host.run("sh", "-c", f"test -e {tmp_path}/mounted && echo yes || echo no"))
        return {"share": asked[-1].strip() == "yes"}

    inventory = Inventory([Host.local("a", {"cpu": 2})], tracker=mounts, interval_s=0.05)
    graph = Graph()
    first = graph.add(work.mark_and_return, str(tmp_path / "mounted"), 1)
    after = graph.add(work.identity, first, cost={"share": True}, retries=0)
    with pytest.raises(handout.PlacementError, match="share"):
        await handout.execute(graph, inventory=inventory)
    (tmp_path / "mounted").touch()
    results = await handout.execute(graph, inventory=inventory)
    assert results[after] == 1
    assert asked[0].strip() == "no"
    assert asked[-1].strip() == "yes"


async def test_a_host_that_loses_a_capability_gets_no_more_of_what_needs_it(tmp_path: Path) -> None:
    async def wearing_out(host: LiveHost) -> dict[str, object]:
        return {"tokens": 0 if host.name == "a" and (tmp_path / "ran").exists() else 5}

    inventory = Inventory(
        [Host.local("a", {"cpu": 1}), Host.local("b", {"cpu": 1})], tracker=wearing_out, interval_s=0.02
    )
    async with Cluster(inventory, require="all") as cluster:
        graph = Graph()
        graph.add(work.mark_and_return, str(tmp_path / "ran"), 1, host="a", cost={"tokens": 1})
        await cluster.execute(graph)
        async with asyncio.timeout(HANG_S):
            while cluster.view.hosts["a"].total.amounts.get("tokens"):
                await asyncio.sleep(0.01)
        graph = Graph()
        outs = [graph.add(work.where, cost={"tokens": 1}) for _ in range(4)]
        results = await cluster.execute(graph)
    assert {r[0] for r in results[outs]} == {"b"}


async def test_what_is_not_declared_is_probed_on_the_host() -> None:
    async with Cluster() as cluster:
        (host,) = cluster.view.hosts.values()
        amounts = host.total.amounts
        assert amounts["cpu"] == len(os.sched_getaffinity(0))
        assert amounts["memory"] > 100e6
        assert amounts["disk"] > 0


@pytest.mark.parametrize("minor", MINORS)
async def test_agents_run_on_every_supported_python_over_ssh(sshd: OpenSsh, minor: int) -> None:
    python = require_python(minor)
    graph = Graph()
    seen = graph.add(work.python_version)
    parts = graph.map(work.identity, range(50))
    total = graph.add(work.total, parts)
    nested = graph.add(work.later_add, total, graph.add(work.length, os.urandom(200_000)))
    results = await handout.execute(
        graph, inventory=[sshd.host("old", {"cpu": 2}, python=python)], outputs=[seen, nested]
    )
    assert results[seen] == (3, minor)
    assert results[nested] == sum(range(50)) + 200_000


async def test_code_by_value_goes_only_where_the_python_is_the_same(sshd: OpenSsh) -> None:
    other = next(filter(None, (find_python(minor) for minor in MINORS if minor != sys.version_info.minor)), None)
    if other is None:
        pytest.skip("no other Python on this machine")
    graph = Graph()
    out = graph.add(lambda: handout.current().host)
    old, same = sshd.host("old", {"cpu": 8}, python=other), sshd.host("same", {"cpu": 1})
    assert (await handout.execute(graph, inventory=[old, same], require="all"))[out] == "same"
    with pytest.raises(handout.PlacementError, match=r"[Pp]ython"):
        await handout.execute(graph, inventory=[old])


async def test_a_service_runs_many_graphs_at_once_on_one_cluster() -> None:
    async def one(cluster: Cluster, number: int) -> int:
        graph = Graph()
        out = graph.add(work.total, graph.map(work.add, [number] * 10, range(10)))
        return (await cluster.execute(graph))[out]

    async with Cluster([Host.local("a", {"cpu": 2})]) as cluster:
        answers = await asyncio.gather(*(one(cluster, n) for n in range(20)))
    assert answers == [10 * n + 45 for n in range(20)]


async def test_run_works_without_a_loop_and_says_so_inside_one() -> None:
    graph = Graph()
    out = graph.add(work.add, 1, 2)
    results = await asyncio.to_thread(handout.run, graph)
    assert results[out] == 3
    with pytest.raises(handout.HandoutError, match="await"):
        handout.run(graph)


async def test_what_one_task_does_to_its_process_is_not_the_next_ones_trouble(tmp_path: Path) -> None:
    def move(path: str) -> None:
        """Make a folder the working directory of this process, and remove the folder."""
        os.mkdir(path)
        os.chdir(path)
        os.rmdir(path)

    def leak() -> None:
        """Open files until the process has no descriptor left, and never close them."""
        kept = globals().setdefault("kept", [])
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))

    graph = Graph()
    moved = graph.add(move, str(tmp_path / "gone"))
    leaked = graph.add(leak, retries=0)
    after = graph.add(lambda _: os.path.isdir(os.getcwd()), moved)
    results = await handout.execute(graph, inventory=[Host.local("a", {"cpu": 1})], on_failure="continue")
    assert results[after] is True
    assert isinstance(results.failures[leaked.id].exception, OSError)
    graph = Graph()
    first = graph.add(leak, id="leak")
    others = [graph.add(work.mark_and_return, str(tmp_path / f"ran{i}"), i) for i in range(5)]
    results = await handout.execute(graph, inventory=[Host.local("a", {"cpu": 1})], on_failure="continue")
    assert results[others] == list(range(5))
    assert first.id in results.failures
