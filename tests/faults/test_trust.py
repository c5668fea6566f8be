"""Fault row 32: results that run code in the process that unpickles them. The hosts are behind a real sshd."""

from __future__ import annotations

import dataclasses
import gc
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio

import handout
from handout import Cluster, Graph, Host
from handout.serialization.untrusted import allowlist
from tests.faults import bites
from tests.sshd import OpenSsh

#: Bytes of two results. One travels in the message that reports the end of its task; the other is fetched or copied.
SIZES = [0, 100_000]


def suspect(sshd: OpenSsh, name: str = "suspect") -> Host:
    host = sshd.host(name, {"cpu": 1})
    return Host(
        name,
        address=host.address,
        port=host.port,
        username=host.username,
        python=host.python,
        capabilities={"cpu": 1},
        ssh=sshd.options,
        trust="data",
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(sshd: OpenSsh) -> AsyncIterator[Cluster]:
    """Open a cluster with two trusted hosts, and a host that is trusted with data alone."""
    hosts = [sshd.host("near", {"cpu": 1}), sshd.host("far", {"cpu": 1}), suspect(sshd)]
    async with Cluster(hosts, require="all") as opened:
        yield opened


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("nbytes", SIZES)
async def test_row_32_intermediate_results_are_never_unpickled_here(
    cluster: Cluster, tmp_path: Path, nbytes: int
) -> None:
    graph = Graph()
    made = graph.add(bites.canary, str(tmp_path / "bitten"), nbytes, host="near")
    kinds = [graph.add(bites.look, made, host=host) for host in ("near", "far")]
    results = await cluster.execute(graph, outputs=kinds)
    assert results[kinds] == ["str", "str"]
    bitten = bites.bitten(tmp_path / "bitten")
    assert len(bitten) == 2  # in the two workers that took it as an argument
    assert os.getpid() not in bitten


@pytest.mark.parametrize("nbytes", SIZES)
async def test_row_32_a_result_of_a_host_trusted_with_data_alone_is_refused_by_name(
    cluster: Cluster, tmp_path: Path, nbytes: int
) -> None:
    graph = Graph()
    out = graph.add(bites.canary, str(tmp_path / "bitten"), nbytes, id="bad", host="suspect")
    results = await cluster.execute(graph)
    for _ in range(2):
        with pytest.raises(
            handout.TrustError, match=r"'bad'.*'suspect'.*tests\.faults\.bites\.bite.*trust\("
        ) as caught:
            results[out]
    assert (caught.value.id, caught.value.host, caught.value.type) == ("bad", "suspect", "tests.faults.bites.bite")
    assert bites.bitten(tmp_path / "bitten") == []


async def test_row_32_results_of_a_trusted_host_stay_bytes_until_they_are_asked_for(
    cluster: Cluster, tmp_path: Path
) -> None:
    graph = Graph()
    out = graph.add(bites.canary, str(tmp_path / "bitten"), host="near")
    results = await cluster.execute(graph)
    assert bites.bitten(tmp_path / "bitten") == []
    assert results[out] == "bitten"  # a trusted host may run code here
    assert bites.bitten(tmp_path / "bitten") == [os.getpid()]


@pytest.mark.parametrize("nbytes", SIZES)
async def test_row_32_it_is_not_unpickled_on_another_host_either(cluster: Cluster, tmp_path: Path, nbytes: int) -> None:
    graph = Graph()
    made = graph.add(bites.canary, str(tmp_path / "bitten"), nbytes, host="suspect")
    graph.add(bites.look, made, id="eater", host="near")
    with pytest.raises(handout.TrustError, match=r"'eater'.*trust='data'.*bites\.bite.*'near'"):
        await cluster.execute(graph)
    assert bites.bitten(tmp_path / "bitten") == []


async def test_row_32_an_exception_of_it_comes_as_text(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    graph.add(bites.raise_canary, str(tmp_path / "bitten"), id="bad", host="suspect", retries=0)
    with pytest.raises(handout.RemoteError, match=r"'bad' raised tests\.faults\.bites\.BitingError") as caught:
        await cluster.execute(graph)
    assert "raise BitingError" in caught.value.traceback
    assert os.getpid() not in bites.bitten(tmp_path / "bitten")


@pytest.mark.parametrize("nbytes", SIZES)
async def test_data_and_registered_classes_pass_everywhere(cluster: Cluster, nbytes: int) -> None:
    graph = Graph()
    made = graph.add(bites.make_row, nbytes, host="suspect")
    grown = graph.add(bites.grow, made, host="near")
    again = graph.add(bites.grow, grown, host="suspect")
    results = await cluster.execute(graph, outputs=[made, grown, again])
    assert results[made] == bites.make_row(nbytes)
    assert [results[out].name for out in (grown, again)] == ["ab", "abb"]
    assert results[again].data["colour"] is bites.Colour.RED


@pytest.mark.parametrize("nbytes", SIZES)
async def test_a_function_need_not_name_a_registered_class_that_is_sent_by_value(
    cluster: Cluster, nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowlist, "_registered", dict(allowlist._registered))  # the class goes with the test

    @handout.trust
    @dataclasses.dataclass
    class Reading:
        at: float
        data: bytes

    def measure(nbytes: int) -> object:
        return Reading(1.5, bytes(nbytes))

    def look(reading: Any, _previous: object) -> tuple[str, float, int]:
        gc.collect()  # the class stays for the next task of this function
        return type(reading).__name__, reading.at, len(reading.data)

    graph = Graph()
    made = graph.add(measure, nbytes, host="suspect")
    first = graph.add(look, made, None, host="near")
    out = graph.add(look, made, first, host="near")
    results = await cluster.execute(graph, outputs=[made, out])
    assert results[out] == ("Reading", 1.5, nbytes)
    assert type(results[made]) is Reading


async def test_a_registered_class_that_cannot_be_sent_is_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowlist, "_registered", {})

    @handout.trust
    @dataclasses.dataclass
    class Reading:
        lock: ClassVar[Any] = threading.Lock()

    graph = Graph()
    graph.add(lambda: 1)
    with pytest.raises(handout.UnserializableError, match=r"handout\.trust\[0\].*lock"):
        await cluster.execute(graph)
    async with Cluster([Host.local("here", {"cpu": 1})]) as trusted:
        assert [*(await trusted.execute(graph)).values()] == [1]


async def test_a_class_that_is_not_registered_is_refused_and_one_of_a_trusted_host_is_not(cluster: Cluster) -> None:
    graph = Graph()
    refused, taken = [graph.add(bites.make_unregistered, host=host) for host in ("suspect", "near")]
    results = await cluster.execute(graph)
    assert results[taken] == bites.Unregistered("a")
    with pytest.raises(handout.TrustError, match=r"bites\.Unregistered"):
        results[refused]


async def test_what_a_journal_has_of_such_a_host_is_read_as_data_too(sshd: OpenSsh, tmp_path: Path) -> None:
    graph = Graph()
    out = graph.add(bites.canary, str(tmp_path / "bitten"), host="suspect")
    journal = tmp_path / "journal"
    for _ in range(2):
        results = await handout.execute(graph, inventory=[suspect(sshd)], journal=journal)
        with pytest.raises(handout.TrustError, match=r"bites\.bite"):
            results[out]
    other = Graph()
    again = other.add(bites.canary, str(tmp_path / "bitten"))
    results = await handout.execute(other, inventory=[sshd.host("near", {"cpu": 1})], journal=journal)
    # The task was not run again: this inventory does not have that host.
    assert results.allocations[again] == "suspect"
    with pytest.raises(handout.TrustError, match=r"bites\.bite"):
        results[again]
    assert bites.bitten(tmp_path / "bitten") == []
