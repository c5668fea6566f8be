"""A cluster, which may live for weeks, drops functions, task classes and source bundles that no run uses any more."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handout import Cluster, Graph, Host
from tests.seen import resident_bytes, started, until

RUNS, TASKS = 10, 1000
#: Bytes that each task's function closes over. The functions of a run take 20 MB in each process that keeps them.
CLOSED_OVER = 20_000


def closure(number: int) -> Callable[[], int]:
    data = os.urandom(CLOSED_OVER)
    return lambda: len(data) + number


def graph_of_closures(count: int) -> Graph:
    graph = Graph()
    for number in range(count):
        graph.add(closure(number), id=f"t{number}")
    return graph


@pytest.mark.slow
async def test_ten_runs_of_a_thousand_closures_leave_memory_flat_everywhere() -> None:
    async with Cluster([Host.local("here", {"cpu": 2})]) as cluster:
        driver = cluster._runtime.driver
        peer, pid = driver.agents["here"], started(cluster, "here").supervisor
        there: list[int] = []
        here: list[int] = []
        for _ in range(RUNS):
            results = await cluster.execute(graph_of_closures(TASKS))
            assert results["t7"] == CLOSED_OVER + 7
            del results
            await until(lambda: not (peer.conversation.unacknowledged or driver.core.world.runs))
            assert (peer._functions, peer._classes, driver.classes._known) == (set(), set(), {})
            assert not driver._code_uses._functions
            gc.collect()
            here.append(resident_bytes(os.getpid()) - resident_bytes(pid))
            there.append(resident_bytes(pid))
    # The first runs grow heaps that later runs use again, so the third run is the reference. If no function were
    # dropped, the controller and the host would each hold the bytes of five more runs after the eighth run.
    for each in (here, there):
        assert min(each[-3:]) < each[2] + 2 * TASKS * CLOSED_OVER, (here, there)


#: A program whose function uses a large global.
PROGRAM = """
import os
LARGE = bytearray(20_000_000)
def memory():
    pages = open("/proc/self/statm").read().split()[1]
    return len(LARGE), os.getpid(), int(pages) * os.sysconf("SC_PAGE_SIZE")
"""


async def test_a_worker_drops_what_a_run_sent_when_the_run_is_over() -> None:
    program: dict[str, Any] = {"__name__": "__main__"}
    exec(PROGRAM, program)
    used = []
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        for _ in range(5):
            graph = Graph()
            graph.add(program["memory"], id="memory")
            large, pid, nbytes = (await cluster.execute(graph))["memory"]
            used.append((pid, nbytes))
    assert len({pid for pid, _ in used}) == 1
    # The second run is the reference, because the first one runs in a process with little memory.
    assert used[-1][1] < used[1][1] + large, used


async def test_a_run_that_ends_takes_no_code_from_one_that_shares_it(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    def wait() -> int:
        while not os.path.exists(gate):
            time.sleep(0.01)
        return 1

    shared = closure(1)
    async with Cluster([Host.local("here", {"cpu": 4})]) as cluster:
        driver = cluster._runtime.driver
        peer = driver.agents["here"]
        long = Graph()
        late = long.map(lambda _, fn=shared: fn(), [long.add(wait, cost={"cpu": 1})])
        early = long.add(shared, id="early")
        async with cluster.start(long) as execution:
            assert await execution.result(early) == CLOSED_OVER + 1
            for _ in range(3):
                short = Graph()
                short.add(shared, id="short")
                short.add(closure(2), id="own")
                assert (await cluster.execute(short))["short"] == CLOSED_OVER + 1
                numbers = {f.number for f in execution._run.encoded.functions}  # type: ignore[union-attr]
                assert peer._functions == numbers
            Path(gate).touch()
            results = await execution.results()
        assert results[late] == [CLOSED_OVER + 1]
        assert (peer._functions, peer._classes, driver.classes._known) == (set(), set(), {})


@pytest.mark.parametrize("runs", [1, 3])
async def test_code_that_was_dropped_is_sent_again(runs: int) -> None:
    function = closure(3)
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        for _ in range(runs):
            graph = Graph()
            graph.add(function, id="again")
            assert (await cluster.execute(graph))["again"] == CLOSED_OVER + 3


async def test_one_bundle_that_no_run_uses_stays_and_an_older_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster keeps the bundle that became unused last, because the next run is often of the same project."""
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        peer = cluster._runtime.driver.agents["here"]
        for version in range(4):
            name = f"project_of_its_own_{version}"
            (tmp_path / f"{name}.py").write_text(f"def fn():\n    return {version}\n", encoding="utf-8")
            monkeypatch.syspath_prepend(str(tmp_path))
            graph = Graph()
            graph.add(__import__(name).fn, id="fn")
            for _ in range(2):
                assert (await cluster.execute(graph))["fn"] == version
                assert len(peer._bundles) == 1
