"""Loads the arguments of a worker's tasks, and makes the warm values among them that the worker does not have yet."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any, Callable

from handout.host.system import processes
from handout.host.system.clock import now_ns
from handout.host.warm_values import WarmValues
from handout.host.worker.batch import WorkerTask
from handout.host.worker.call_loader import CallLoader, LoadedRecipe, NotWarmError
from handout.host.worker.kept_loop import KeptLoop
from handout.host.worker.lent_state import LentState
from handout.host.worker.objects import MissingInputError
from handout.protocol import messages
from handout.protocol.messages import AnyMessage
from handout.serialization import calls, exceptions, pickling

__all__ = ["Arguments", "WarmMaker"]

#: The positional arguments, the keyword arguments, and the paths of elements to take from the result.
Arguments = tuple[tuple[Any, ...], dict[str, Any], Sequence[calls.Path]]


class WarmMaker:
    """Makes the warm values of a worker.

    Args:
        loader: Loads the arguments of tasks, and the functions that make warm values.
        lent: What the worker lends to its tasks. What such a function changes in it stays.
        send: Sends a message to the agent.
        spent: Called with the number of a task, and the nanoseconds that it took to make a value for the task, before
            the agent is told of the value.
    """

    def __init__(
        self,
        loader: CallLoader,
        lent: LentState,
        send: Callable[[AnyMessage], None],
        spent: Callable[[int, int], None],
    ) -> None:
        self._loader = loader
        self._lent = lent
        self._send = send
        self._spent = spent
        #: The loop in which asynchronous values live. A worker with a shared loop does not use it.
        self.loop = KeptLoop()
        self._values = WarmValues(self.loop.run)
        loader.warm = self._values.values
        #: The processes that were started while values were made. They stay as long as this process.
        self.children: set[int] = set()
        #: For tasks that have not ended: the key of the recipe that has failed.
        self._failed: dict[int, int] = {}

    def arguments(self, task: WorkerTask) -> Arguments:
        """Return the arguments of a task; see `CallLoader.arguments`.

        Raises:
            BaseException: The function that makes a value raised it.
        """
        while True:
            try:
                return self._loader.arguments(task)
            except NotWarmError as error:
                lacking = error
            self._make(task, lacking)  # not above: what the maker raises would then have the other error as its context

    async def arguments_in_loop(self, task: WorkerTask) -> Arguments:
        """Do the same as `arguments`, in a shared loop."""
        while True:
            try:
                return self._loader.arguments(task)
            except NotWarmError as error:
                lacking = error
            await self._make_in_loop(task, lacking)

    def _make(self, task: WorkerTask, lacking: NotWarmError) -> None:
        for recipe in self._recipe(lacking):
            if isinstance(recipe, NotWarmError):
                self._make(task, recipe)
                continue
            with self._making(task, lacking, recipe):
                self._values.make(lacking.key, recipe.make)

    async def _make_in_loop(self, task: WorkerTask, lacking: NotWarmError) -> None:
        for recipe in self._recipe(lacking):
            if isinstance(recipe, NotWarmError):
                await self._make_in_loop(task, recipe)
                continue
            with self._making(task, lacking, recipe):
                await self._values.make_in_loop(lacking.key, recipe.make)

    def _recipe(self, lacking: NotWarmError) -> Iterator[NotWarmError | LoadedRecipe]:
        """Yield the warm values that a recipe takes and that are lacking, one after another, and then the recipe."""
        while True:
            try:
                found: NotWarmError | LoadedRecipe = self._loader.recipe(lacking)
            except NotWarmError as inner:
                found = inner
            yield found
            if not isinstance(found, NotWarmError):
                return

    @contextmanager
    def _making(self, task: WorkerTask, lacking: NotWarmError, recipe: LoadedRecipe) -> Iterator[None]:
        """Tell the agent that a value is made meanwhile. Keep what the process changes and starts meanwhile."""
        self._send(messages.WarmingBegan(task.number, lacking.recipe, recipe.timeout_s))
        began, before = now_ns(), self._children()
        try:
            with self._lent.keep_changes():
                yield
            pickling.never_pickle(self._values.values[lacking.key])
        except MissingInputError:
            raise
        except BaseException as error:
            self._failed[task.number] = lacking.recipe
            exceptions.add_note(error, f"It was raised while {recipe.name} was made, which the task takes.")
            raise
        finally:
            self.children |= self._children() - before
            self._spent(task.number, now_ns() - began)
            value = lacking.key[0].hex() if lacking.key in self._values.values else ""
            self._send(messages.WarmingEnded(task.number, value, lacking.key[1], self._values.must_leave))

    def take_failed(self, number: int) -> int | None:
        """Return the key of the recipe that has failed in a task that ends, if there is one."""
        return self._failed.pop(number, None)

    def _children(self) -> set[int]:
        try:
            return set(processes.children(os.getpid()))
        except OSError:
            return set()  # a task has changed the root folder, so /proc is gone

    @property
    def has_values(self) -> bool:
        """True if the worker has warm values."""
        return bool(self._values.values)

    def forget(self, inputs: Set[int]) -> None:
        """Drop the values that were made from some of these objects. Print what leaving them raises."""
        for key in self._values.made_of(inputs):
            pickling.may_pickle(self._values.values[key])
            try:
                self._values.forget(key)
            except BaseException:  # code of the user may raise anything
                traceback.print_exc()

    async def forget_in_loop(self, inputs: Set[int]) -> None:
        """Do the same as `forget`, in a shared loop."""
        for key in self._values.made_of(inputs):
            pickling.may_pickle(self._values.values[key])
            try:
                await self._values.forget_in_loop(key)
            except BaseException:  # code of the user may raise anything
                traceback.print_exc()

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
