"""A run that sends much says so before it sends it, and names the largest parts."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy
import pytest

import handout
from handout import File, Graph
from handout.execution import bulk_calls
from handout.slices import at_once
from handout.submission import arguments, bulk
from handout.submission.arguments import encode_plan
from tests import work
from tests.sshd import OpenSsh


def length(*args: Any, **kwargs: Any) -> int:
    return len(args) + len(kwargs)


@pytest.fixture
def megabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make 1 MB count as much, so that the tests are fast."""
    monkeypatch.setattr(arguments, "BULK_BYTES", 1_000_000)
    monkeypatch.setattr(bulk_calls, "BULK_BYTES", 1_000_000)


def told(graph: Graph) -> str:
    return at_once(encode_plan(graph.compile())).bulk


def test_much_is_said_from_100_megabytes_on() -> None:
    assert bulk.BULK_BYTES == arguments.BULK_BYTES == 100_000_000


@pytest.mark.usefixtures("megabyte")
@pytest.mark.parametrize(
    ("add", "part"),
    [
        (lambda graph, data: graph.add(length, 1, data, id="train"), "args[1] of 'train' (bytes, 3.0 MB)"),
        (lambda graph, data: graph.add(length, table=data), "table of 'length' (bytes, 3.0 MB)"),
        (lambda graph, data: graph.add(length, {"a": [1]}, [0, data]), "args[1] of 'length' (list, 3.0 MB)"),
        (
            lambda graph, data: graph.add(length, [graph.add(int), data]),
            "args[0][1] of 'length' (bytes, 3.0 MB)",
        ),
        (lambda graph, data: graph.add(length, graph.value(data, id="table")), "value 'table' (3.0 MB)"),
        (
            lambda graph, data: graph.add(length, numpy.frombuffer(data, numpy.uint8)),
            "args[0] of 'length' (numpy.ndarray, 3.0 MB)",
        ),
        (lambda graph, data: graph.add(lambda: len(data), id="f"), "function 'f'.<closure data> (bytes, 3.0 MB)"),
        (lambda graph, data: graph.add(lambda x=data: len(x), id="f"), "function 'f'.<default 0> (bytes, 3.0 MB)"),
        (
            lambda graph, data: graph.add(lambda d={"a": [data]}: len(d), id="f"),
            "function 'f'.<default 0>['a'][0] (bytes, 3.0 MB)",
        ),
    ],
)
def test_the_largest_part_is_named_with_its_size(add: Any, part: str) -> None:
    graph = Graph()
    add(graph, bytes(3_000_000))
    said = told(graph)
    assert said.startswith("This run sends 3.0 MB of arguments and functions")
    assert f"The largest parts: {part}. " in said
    assert "graph.add(load, path)" in said
    assert "handout.File(path)" in said


@pytest.mark.usefixtures("megabyte")
def test_many_parts_count_together_and_the_largest_three_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(500_000))
    graph = Graph()
    graph.map(length, [File(path), *[bytes(200_000 + i) for i in range(8)]])
    said = told(graph)
    assert said.startswith("This run sends 2.1 MB")
    assert "args[0] of 'length' (handout.File, 0.5 MB), args[0] of 'length-9' (bytes, 0.2 MB), " in said
    assert said.count(" MB)") == 3


@pytest.mark.usefixtures("megabyte")
def test_little_is_not_told(tmp_path: Path) -> None:
    graph = Graph()
    same = bytes(900_000)
    graph.map(length, [same] * 50)  # one object
    assert told(graph) == ""


@pytest.mark.usefixtures("megabyte")
async def test_a_call_is_told_once_for_each_function(sshd: OpenSsh, caplog: pytest.LogCaptureFixture) -> None:
    held = {"small": b"1", "large": bytes(2_000_000)}

    def said() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.getMessage().startswith("A call of")]

    async with handout.Cluster([handout.Host.local("here", {"cpu": 1})]) as cluster:
        assert await cluster.call(length, held) == 1
        assert said() == []  # no network
    async with handout.Cluster([sshd.host("far", {"cpu": 1})]) as cluster:
        assert await cluster.call(work.length, bytes(900_000)) == 900_000
        assert said() == []
        for _ in range(2):
            assert await cluster.call(length, held) == 1
            assert await asyncio.wrap_future(cluster.executor().submit(work.identity, held)) == held
    first, second = said()
    assert first.startswith("A call of 'length' sends 2.0 MB of arguments. To send this")
    assert "The largest part: args[0]['large'] (bytes)." in first
    assert "pass `await cluster.put(value)`" in first
    assert second.startswith("A call of 'identity' sends")


@pytest.mark.usefixtures("megabyte")
async def test_it_is_logged_before_any_host_is_reached(sshd: OpenSsh, caplog: pytest.LogCaptureFixture) -> None:
    graph = Graph()
    out = graph.add(work.length, bytes(3_000_000))
    assert (await handout.execute(graph))[out] == 3_000_000
    assert [each for each in caplog.records if "This run sends" in each.getMessage()] == []  # no network
    gone = handout.Host("gone", address="127.0.0.1", port=1)
    with pytest.raises(handout.HostError):
        await handout.execute(graph, inventory=[gone])
    (record,) = [each for each in caplog.records if "This run sends" in each.getMessage()]
    assert record.levelno == logging.WARNING
    assert (await handout.execute(graph, inventory=[sshd.host("far")]))[out] == 3_000_000
    assert len([each for each in caplog.records if "This run sends" in each.getMessage()]) == 2
