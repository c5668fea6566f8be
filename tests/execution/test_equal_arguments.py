"""Equal large arguments of calls travel to each host once, and leave the hosts when no call takes them."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from handout import Cluster, File, HandoutError, Host
from handout.execution import equal_arguments
from handout.execution.membership.agent_proxy import AgentProxy
from handout.protocol import numbering
from tests import work
from tests.seen import until

#: A large argument that becomes a stored object for its first call, and one that does so for its second.
SIZES = [2 << 20, 100_000]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the objects that are sent to each host."""
    counted, put = Counter[str](), AgentProxy.put

    def counting(self: AgentProxy, key: int, *args: Any) -> Any:
        counted[self.name] += key >= numbering.base(1)  # the keys of bundles are lower
        return put(self, key, *args)

    monkeypatch.setattr(AgentProxy, "put", counting)
    return counted


def two_hosts() -> Cluster:
    return Cluster([Host.local(name, {"cpu": 2}) for name in ("a", "b")], require="all")


def stored(cluster: Cluster) -> int:
    """Return how many objects are stored for the calls of a cluster."""
    driver = cluster._runtime.driver
    return sum(1 for run in driver.runs.values() if driver.is_held(run))


@pytest.mark.parametrize("size", SIZES)
async def test_equal_arguments_travel_once(sent: Counter[str], size: int) -> None:
    data = os.urandom(size)
    async with two_hosts() as cluster:
        pool = cluster.executor()
        for _ in range(4):  # with moments at which no call takes the argument
            found = await asyncio.gather(*[cluster.call(work.length, bytes(bytearray(data))) for _ in range(8)])
            found += await asyncio.gather(*[asyncio.wrap_future(pool.submit(work.length, data)) for _ in range(8)])
            assert found == [size] * 16
        assert max(sent.values()) <= (1 if size > 1 << 20 else 2)
        assert stored(cluster) == 1
    assert set(sent) <= {"a", "b"}


@pytest.mark.parametrize("size", SIZES)
async def test_an_argument_that_differs_anywhere_is_another_one(size: int) -> None:
    data = bytearray(size)
    async with two_hosts() as cluster:
        for place in (0, size // 2, size - 1):
            data[place] += 1
            for _ in range(2):
                assert sum(await cluster.call(work.identity, data)) == sum(data)
            calls = [cluster.call(work.identity, bytes(data)) for _ in range(3)]
            assert [sum(each) for each in await asyncio.gather(*calls)] == [sum(data)] * 3


async def test_arguments_leave_the_hosts_after_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_arguments, "_MAX_IDLE", 5 << 20)
    async with two_hosts() as cluster:
        arguments = cluster._runtime.calls._arguments

        async def call(number: int, times: int) -> None:
            for _ in range(times):
                assert await cluster.call(work.length, bytes([number]) * (2 << 20)) == 2 << 20

        for number in range(6):  # each is taken by one call only, so it goes with the next call
            await call(number, 1)
        await until(lambda: stored(cluster) == 1)
        for number in range(6):  # two of these find room
            await call(number, 2)
        await until(lambda: stored(cluster) == 2)
        assert await cluster.call(work.length, b"x" * (6 << 20)) == 6 << 20  # more than may stay at all
        await until(lambda: stored(cluster) == 0)
        await call(1, 2)
        arguments.drop_idle()
        await until(lambda: stored(cluster) == 0)
        assert not arguments._known
        monkeypatch.setattr(equal_arguments, "_IDLE_S", 0.0)
        await call(1, 2)
        await until(lambda: stored(cluster) == 0)


async def test_a_closed_cluster_keeps_no_arguments(tmp_path: Path) -> None:
    began = tmp_path / "began"
    cluster = two_hosts()
    async with cluster:
        driver, arguments = cluster._runtime.driver, cluster._runtime.calls._arguments
        assert await cluster.call(work.length, b"x" * (2 << 20)) == 2 << 20
        waiting = asyncio.ensure_future(cluster.call(_mark_and_wait, str(began), b"y" * (2 << 20)))
        await until(began.exists)
    with pytest.raises(HandoutError, match="closed"):
        await waiting
    assert not arguments._known
    assert not arguments.has_idle
    await until(lambda: not any(driver.is_held(run) for run in driver.runs.values()))
    assert arguments._timer is not None
    assert arguments._timer.cancelled()


async def test_a_cancelled_call_lets_its_argument_go(tmp_path: Path) -> None:
    data = b"x" * (2 << 20)
    async with two_hosts() as cluster:
        began = tmp_path / "began"
        waiting = [asyncio.ensure_future(cluster.call(_mark_and_wait, str(began), data)) for _ in range(2)]
        await until(began.exists)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await cluster.call(work.length, data) == 2 << 20
        cluster._runtime.calls._arguments.drop_idle()
        await until(lambda: stored(cluster) == 0)


def _mark_and_wait(began: str, data: bytes) -> None:
    import threading

    Path(began).touch()
    threading.Event().wait()


async def test_a_file_that_was_written_anew_has_its_new_content(tmp_path: Path) -> None:
    """A mapping of the old content shows the new one, so that the two cannot be compared."""
    path = tmp_path / "data"
    async with two_hosts() as cluster:
        for letter in "abc":
            with path.open("r+" if path.exists() else "w") as file:
                file.write(letter * 2_000_000)
            for age_s in (0, 100):
                os.utime(path, (path.stat().st_atime - age_s, path.stat().st_mtime - age_s))
                for _ in range(2):
                    assert await cluster.call(_first, File(path)) == letter


def _first(file: File) -> str:
    return file.read_text()[0]
