"""A program that opens a second cluster on the same machines is told once, for example by a notebook's first cell."""

from __future__ import annotations

import logging

import pytest

from handout import Cluster, Host, Inventory
from handout.execution import cluster_runtime
from handout.execution.cluster_hint import OpenClusters


class Opened:
    """Stands for an open cluster."""


def test_two_clusters_with_one_machine_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    clusters = [Opened() for _ in range(4)]
    known = OpenClusters()
    known.note(clusters[0], Inventory(["a", "ann@b:2222", Host.local("here"), Host.local("there")]))
    known.note(clusters[1], Inventory(["c", "b:2222"]))
    assert caplog.messages == []
    known.note(clusters[2], Inventory([Host("d", address="a"), Host("e", address="b", port=2222, username="ann"), "c"]))
    (message,) = caplog.messages
    assert "'c', 'd', 'e'. Each cluster" in message
    known.note(clusters[3], Inventory(["a"]))
    assert caplog.messages == [message]


def test_a_cluster_that_was_closed_or_is_garbage_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    known, first = OpenClusters(), Opened()
    known.note(first, Inventory(["a"]))
    known.note(Opened(), Inventory(["b"]))
    known.forget(first)
    known.forget(first)
    known.note(Opened(), Inventory(["a", "b"]))
    assert caplog.messages == []


@pytest.mark.asyncio
async def test_the_first_cell_of_a_notebook_that_runs_twice_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster_runtime, "OPEN", OpenClusters())
    caplog.set_level(logging.WARNING, "handout")
    async with Cluster(), Cluster():
        pass
    async with Cluster():
        pass
    assert ["another open Cluster" in message for message in caplog.messages] == [True]
