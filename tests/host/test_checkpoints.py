"""The agent's part of checkpoints: which of them it keeps, and which of them it tells the controller of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from handout.host.agent.checkpoints import Checkpoints
from handout.host.agent.controller_link import ControllerLink
from handout.host.agent.object_store import ObjectStore
from handout.host.agent.task_queue import QueuedTask, TaskClassQueue
from handout.protocol import messages
from tests.host.rig import Rig
from tests.patience import HANG_S


class Link:
    """A double for the link to the controller, which records what is sent."""

    def __init__(self) -> None:
        self.told: list[messages.Checkpointed] = []

    def send(self, message: messages.Checkpointed) -> None:
        self.told.append(message)


class Scene:
    """The checkpoints of an agent with one running task."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("handout.host.agent.checkpoints._INTERVAL_S", 0.0)
        self.store = ObjectStore(None, str(folder))
        self.link = Link()
        self.checkpoints = Checkpoints(self.store, cast(ControllerLink, self.link), self.drop)
        task_class = TaskClassQueue(messages.NewTaskClass(1, {}))
        self.task = QueuedTask(1 << 44 | 1, 1, task_class, b"", [], [1], 1, "t", 1, 0)

    def drop(self, keys: Sequence[int]) -> None:
        for key in keys:
            self.store.drop(key)
        self.checkpoints.forget(keys)

    def keep(self, *values: bytes) -> None:
        for value in values:
            self.checkpoints.take(self.task, messages.Checkpoint(1, len(value)), memoryview(value), "")

    async def told(self, count: int) -> list[int]:
        """Wait until the controller was told of ``count`` checkpoints, and return their keys."""
        async with asyncio.timeout(HANG_S):
            while len(self.link.told) < count:
                await asyncio.sleep(0)
        return [each.key for each in self.link.told]

    @property
    def stored(self) -> list[bytes | None]:
        return [self.store.small(key) for key in sorted(self.store.keys)]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that runs a coroutine function with a new scene."""

    def run(main: Any) -> None:
        async def within() -> None:
            await main(Scene(tmp_path, monkeypatch))

        asyncio.run(within())

    return run


def test_an_offered_checkpoint_stays_until_the_controller_has_asked_for_it(play: Any) -> None:
    async def main(scene: Scene) -> None:
        scene.keep(b"1", b"2", b"3")
        first = (await scene.told(1))[0]
        assert scene.stored == [b"1", b"3"]
        scene.checkpoints.taken(first)
        assert len(await scene.told(2)) == 2
        assert scene.stored == [b"3"]

    play(main)


def test_after_the_controller_has_dropped_an_offered_checkpoint_the_next_one_is_offered(play: Any) -> None:
    async def main(scene: Scene) -> None:
        scene.keep(b"1", b"2")
        scene.drop(await scene.told(1))
        await scene.told(2)
        assert scene.stored == [b"2"]

    play(main)


@pytest.mark.parametrize("well", [True, False])
def test_an_attempt_that_ends_leaves_at_most_its_newest_checkpoint(play: Any, well: bool) -> None:
    async def main(scene: Scene) -> None:
        scene.keep(b"1", b"2")
        await scene.told(1)
        scene.checkpoints.end(scene.task, well)
        assert scene.stored == ([] if well else [b"2"])
        assert len(scene.link.told) == (1 if well else 2)

    play(main)


def test_another_controller_is_offered_only_the_newest_checkpoint(play: Any) -> None:
    async def main(scene: Scene) -> None:
        scene.keep(b"1", b"2")
        await scene.told(1)
        scene.checkpoints.withdraw()
        assert scene.stored == [b"2"]

    play(main)


def test_a_task_that_keeps_checkpoints_all_the_time_brings_one_to_the_controller(rig: Rig) -> None:
    def keep_on() -> None:
        import handout

        number = 0
        while True:
            number += 1
            handout.current().checkpoint((number, bytes(100_000)))

    rig.submit([1 << 44 | 1], rig.function(keep_on), rig.call())
    told = rig.wait(lambda: rig.heard("checkpointed"))[0]
    assert len(rig.fetch(told["key"])) > 100_000
    rig.wait(lambda: len(rig.heard("checkpointed")) > 1)
    assert not rig.heard("missing")
    rig.send(messages.Cancel([1 << 44 | 1], 0.0))
    rig.wait_for(1 << 44 | 1)
