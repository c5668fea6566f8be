"""A host whose first connection fails is tried again."""

from __future__ import annotations

from typing import ClassVar

import pytest

import handout
from handout import Graph, Host
from handout.errors import HostLostError
from handout.transport.bootstrap import StartedAgent
from handout.transport.byte_stream import Receiver, Transport
from handout.transport.local_launcher import LocalLauncher
from tests import work


class DroppedOnce(LocalLauncher):
    """A launcher whose next connection ends with the error in `drops`, as on a host that is still starting."""

    drops: ClassVar[list[Exception]] = []

    async def connect(self, started: StartedAgent, receiver: Receiver) -> Transport:
        if self.drops and isinstance(self.drops[0], HostLostError):
            raise self.drops.pop()
        transport = await super().connect(started, receiver)
        if self.drops:
            transport.close()
            receiver.lost(self.drops.pop())
        return transport


@pytest.mark.parametrize("drop", [ConnectionResetError("reset by peer"), HostLostError("its agent is gone", gone=True)])
async def test_a_host_whose_first_handshake_fails_is_used_all_the_same(
    drop: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DroppedOnce, "drops", [drop])
    monkeypatch.setattr("handout.transport.launcher_choice.LocalLauncher", DroppedOnce)
    graph = Graph()
    out = graph.add(work.add, 1, 2)
    results = await handout.execute(graph, inventory=[Host.local("here", {"cpu": 1})])
    assert results[out] == 3
    assert not DroppedOnce.drops
