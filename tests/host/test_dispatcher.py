"""The inputs that the agent sends to a worker together with a task."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import cast

import pytest

from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.task_queue import QueuedTask, TaskClassQueue, TaskQueue
from handout.host.agent.worker_pool import WorkerPool
from handout.protocol import messages
from handout.protocol.messages import INLINE
from handout.protocol.resource_ledger import Ledger
from tests.host.doubles import Nothing


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(None, str(tmp_path))


def test_on_a_full_disk_small_inputs_go_along_with_their_task(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk with room, the agent would write many of these inputs to files instead."""

    def refuse(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    async def main() -> None:
        queue = TaskQueue(store.__contains__)
        dispatcher = Dispatcher(queue, Ledger({}), store, cast(WorkerPool, Nothing()), {})
        keys = list(range(200))
        for key in keys:
            store.put(key, bytes(INLINE))
        task = QueuedTask(1, 1, TaskClassQueue(messages.NewTaskClass(1, {})), b"", keys, [], 1, "t", 1, 0)
        monkeypatch.setattr("handout.host.agent.object_store.os.write", refuse)
        assert dispatcher._inputs([task])[0] == keys
        with pytest.raises(StoreFullError):
            store.path(5)
        assert store.small(5) == bytes(INLINE)

    asyncio.run(main())
