"""Keeps the code that tasks on this host need: pickled functions, task classes and source bundles.

A task class is what several tasks have in common, such as their limits. A source bundle is a zip file with the user's
modules.

The controller releases code once every run that used the code is closed. At that moment, the agent may still be ending
tasks of such a run. Therefore the agent keeps released code until no task on this host needs the code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Callable

from handout.host.agent.object_store import ObjectStore
from handout.host.agent.task_queue import TaskClassQueue, TaskQueue
from handout.host.agent.worker_pool import WorkerPool
from handout.protocol import codec, messages
from handout.protocol.numbering import FIRST_KEY

#: Seconds between two checks of whether tasks still need released code.
_RETRY_S = 1.0


class CodeStore:
    """Keeps functions and task classes, and drops released code.

    Args:
        queue: Holds the tasks and the task classes.
        store: Holds the source bundles.
        pool: The workers. They keep functions too, and drop a function when `CodeStore` drops it.
        drop_objects: Drops objects from the store, including those that are still arriving.
    """

    def __init__(
        self,
        queue: TaskQueue,
        store: ObjectStore,
        pool: WorkerPool,
        drop_objects: Callable[[Sequence[int]], None],
    ) -> None:
        self._queue = queue
        self._store = store
        self._pool = pool
        self._drop_objects = drop_objects
        self._loop = asyncio.get_running_loop()
        #: Pickled functions by number.
        self.functions: dict[int, bytes] = {}
        #: The highest number that the agent has got so far. The numbers of functions, the numbers of task classes and
        #: the keys of bundles all count.
        self.highest_number = 0
        self._released_functions: set[int] = set()
        self._released_classes: set[int] = set()
        self._released_bundles: set[int] = set()
        self._retry: asyncio.TimerHandle | None = None

    def add_functions(self, message: messages.Functions, payload: memoryview) -> None:
        """Add functions. If the controller released one of them before, that release no longer counts."""
        for number, blob in zip(message.numbers, codec.parts(payload, message.sizes)):
            self.functions[number] = bytes(blob)
            self._released_functions.discard(number)
            self.highest_number = max(self.highest_number, number)

    def add_class(self, message: messages.NewTaskClass) -> None:
        """Add a task class. If the controller released the class before, that release no longer counts."""
        self._queue.classes[message.number] = TaskClassQueue(message)
        self._released_classes.discard(message.number)
        self.highest_number = max(self.highest_number, message.number)

    def expect_bundle(self, key: int) -> None:
        """Record that a bundle will arrive. If the controller released it before, that release no longer counts."""
        self._released_bundles.discard(key)
        self.highest_number = max(self.highest_number, key)

    def release(self, message: messages.Release) -> None:
        """Drop each of the released functions, task classes and bundles as soon as no task needs it."""
        self._released_functions.update(message.functions)
        self._released_classes.update(message.task_classes)
        self._released_bundles.update(message.bundles)
        self._sweep()

    def release_all(self) -> None:
        """Release all code, because a controller that takes over sends its own code."""
        bundles = [key for key in self._store.keys if key < FIRST_KEY]
        self.release(messages.Release(list(self.functions), list(self._queue.classes), bundles))

    def _sweep(self) -> None:
        """Drop the released code that no task needs. If tasks still need some of the code, check again later."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        tasks = self._queue.tasks.values()
        functions = self._released_functions.difference([task.function for task in tasks])
        for number in functions:
            self.functions.pop(number, None)
        if functions:
            self._pool.forget_functions(functions)
        for number in self._released_classes.difference([task.task_class.number for task in tasks]):
            self._queue.classes.pop(number, None)
            self._released_classes.discard(number)
        bundles = self._released_bundles.difference([task.task_class.bundle for task in tasks])
        if bundles:
            self._pool.forget_bundles(bundles)
            self._drop_objects(list(bundles))
        self._released_functions -= functions
        self._released_bundles -= bundles
        if self._released_functions or self._released_classes or self._released_bundles:
            self._retry = self._loop.call_later(_RETRY_S, self._sweep)
