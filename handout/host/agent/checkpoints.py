"""Keeps the checkpoints of the tasks of this host in the store, and tells the controller of them.

The newest checkpoint of an attempt replaces its older ones, and the one that the attempt got from an earlier attempt.
If the attempt ends well, its checkpoint is dropped. Otherwise a checkpoint that was made here stays in the store, until
the controller drops it or a later attempt on this host replaces it. A checkpoint that the controller has sent is
dropped when the attempt that got it ends, because the controller has it.

A checkpoint is offered from the time when the controller is told of it until the agent begins to send it. An offered
checkpoint stays in the store even if a newer one comes, and the controller is told of the newer one afterwards.
Otherwise a task that makes checkpoints faster than the controller can ask for them would never bring one to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Callable

from handout.host.agent.controller_link import ControllerLink
from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.pacer import Pacer
from handout.host.agent.task_queue import QueuedTask
from handout.host.worker.objects import checkpoint_name
from handout.protocol import messages, numbering

__all__ = ["Checkpoints"]

#: Seconds between two messages about the checkpoints of one attempt, at least.
_INTERVAL_S = 0.1


class Checkpoints:
    """The checkpoints on this host.

    Args:
        store: Keeps the bytes of the checkpoints.
        link: The link to the controller.
        drop: Drops objects from the store.
    """

    def __init__(self, store: ObjectStore, link: ControllerLink, drop: Callable[[Sequence[int]], None]) -> None:
        self._store = store
        self._link = link
        self._drop = drop
        #: Numbers the checkpoints of this agent.
        self._counts = itertools.count(1)
        #: The checkpoints in the store that were made on this host, each with the id of its attempt.
        self._made: dict[int, int] = {}
        #: The newest checkpoint of each attempt of which the controller has not been told.
        self._untold: dict[int, int] = {}
        #: The offered checkpoint of each attempt. It is older than the one in ``_untold``.
        self._offered: dict[int, int] = {}
        self._pacer = Pacer(_INTERVAL_S, self._tell)

    def take(self, task: QueuedTask, message: messages.Checkpoint, payload: memoryview, suffix: str) -> None:
        """Take a checkpoint of a running task.

        Args:
            task: The task.
            message: Describes the checkpoint.
            payload: The checkpoint, if it is not in a file.
            suffix: What the worker has appended to the file's name.
        """
        key = self._new_key(task.attempt_id)
        if message.file:
            name = checkpoint_name(message.file)
            if not self._store.take_file(key, message.size, message.folder, suffix, name):
                return  # another program has removed the file; the checkpoint before it stays
        else:
            try:
                self._store.put(key, payload)
            except StoreFullError:
                # The worker has gone on, so the agent must not refuse the checkpoint any more. It is small.
                self._store.keep(key, payload)
        before, task.checkpoint = task.checkpoint, key
        self._made[key] = task.attempt_id
        self._untold[task.attempt_id] = key
        if before and before != self._offered.get(task.attempt_id):
            self._drop([before])
        self._pacer.poke()

    def _new_key(self, attempt_id: int) -> int:
        # An attempt that an earlier controller has handed over may have had the same id.
        for count in self._counts:
            key = numbering.checkpoint_key(attempt_id, count)
            if key not in self._store:
                return key
        raise AssertionError("the count of checkpoints has no end")

    def _tell(self) -> bool:
        for attempt_id in [each for each in self._untold if each not in self._offered]:
            key = self._untold.pop(attempt_id)
            if self._send(attempt_id, key):
                self._offered[attempt_id] = key
        return False

    def _send(self, attempt_id: int, key: int) -> bool:
        """Tell the controller of a checkpoint. Return False if the store does not have the checkpoint any more."""
        if key not in self._store:
            return False
        self._link.send(messages.Checkpointed(attempt_id, key, self._store.size(key)))
        return True

    def taken(self, key: int) -> None:
        """Note that the agent begins to send an object to the controller, or has told it that it cannot send it."""
        attempt_id = self._made.get(key)
        if attempt_id is None or self._offered.get(attempt_id) != key:
            return
        del self._offered[attempt_id]
        if attempt_id in self._untold:
            self._drop([key])
            self._pacer.poke()

    def end(self, task: QueuedTask, well: bool) -> None:
        """Handle the end of an attempt, before the controller is told of it.

        Args:
            task: The attempt.
            well: True if the attempt has returned a result.
        """
        key = task.checkpoint
        offered = self._offered.pop(task.attempt_id, None)
        untold = self._untold.pop(task.attempt_id, None)
        if offered not in (None, key):
            self._drop([offered])
        if well or key not in self._made:
            self._drop([key])
        elif untold is not None:
            self._send(task.attempt_id, untold)

    def forget(self, keys: Iterable[int]) -> None:
        """Forget checkpoints that the store has dropped."""
        for key in keys:
            attempt_id = self._made.pop(key, None)
            if attempt_id is not None and self._offered.get(attempt_id) == key:
                del self._offered[attempt_id]
                self._pacer.poke()

    def withdraw(self) -> None:
        """Offer nothing any more, because another controller takes over. `Holdings` tells it of all checkpoints."""
        for key in list(self._offered.values()):
            self.taken(key)
