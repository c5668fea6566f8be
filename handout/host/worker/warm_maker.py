"""Loads the arguments of a worker's tasks, and makes the warm values among them that the worker does not have yet."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from typing import Any

from handout.host.system import processes
from handout.host.warm_values import WarmValues
from handout.host.worker.batch import WorkerTask
from handout.host.worker.call_loader import CallLoader, NotWarmError
from handout.host.worker.kept_loop import KeptLoop
from handout.host.worker.lent_state import LentState
from handout.serialization import calls, pickling

__all__ = ["Arguments", "WarmMaker"]

#: The positional arguments, the keyword arguments, and the paths of elements to take from the result.
Arguments = tuple[tuple[Any, ...], dict[str, Any], Sequence[calls.Path]]


class WarmMaker:
    """Makes the warm values of a worker.

    Args:
        loader: Loads the arguments of tasks, and of the functions that make warm values.
        lent: What the worker lends to its tasks. What a maker changes in it stays.
    """

    def __init__(self, loader: CallLoader, lent: LentState) -> None:
        self._loader = loader
        self._lent = lent
        #: The loop in which asynchronous values live. A worker with a shared loop does not use it.
        self.loop = KeptLoop()
        self._values = WarmValues(self.loop.run)
        loader.warm = self._values.values
        #: The processes that makers have started. They stay as long as this process.
        self.children: set[int] = set()

    def arguments(self, task: WorkerTask) -> Arguments:
        """Return the arguments of a task; see `CallLoader.arguments`.

        Raises:
            BaseException: A maker raised it.
        """
        while True:
            try:
                return self._loader.arguments(task)
            except NotWarmError as lacking:
                self._make(lacking)

    async def arguments_in_loop(self, task: WorkerTask) -> Arguments:
        """Do the same as `arguments`, in a shared loop."""
        while True:
            try:
                return self._loader.arguments(task)
            except NotWarmError as lacking:
                await self._make_in_loop(lacking)

    def _make(self, lacking: NotWarmError) -> None:
        with self._lent.keep_changes():
            before = self._children()
            while True:
                try:
                    maker = self._loader.maker(lacking)
                    break
                except NotWarmError as inner:
                    self._make(inner)
            self._values.make(lacking.key, maker)
            self._note_made(lacking, before)

    async def _make_in_loop(self, lacking: NotWarmError) -> None:
        with self._lent.keep_changes():
            before = self._children()
            while True:
                try:
                    maker = self._loader.maker(lacking)
                    break
                except NotWarmError as inner:
                    await self._make_in_loop(inner)
            await self._values.make_in_loop(lacking.key, maker)
            self._note_made(lacking, before)

    def _note_made(self, lacking: NotWarmError, before: set[int]) -> None:
        pickling.never_pickle(self._values.values[lacking.key])
        self.children |= self._children() - before

    def _children(self) -> set[int]:
        try:
            return set(processes.children(os.getpid()))
        except OSError:
            return set()  # a task has changed the root folder, so /proc is gone

    def leave(self) -> None:
        """Leave the context managers of the values, because this process ends. Print what they raise."""
        try:
            self._values.leave()
        except BaseException:  # code of the user may raise anything
            traceback.print_exc()

    async def leave_in_loop(self) -> None:
        """Do the same as `leave`, in a shared loop."""
        try:
            await self._values.leave_in_loop()
        except BaseException:  # code of the user may raise anything
            traceback.print_exc()
