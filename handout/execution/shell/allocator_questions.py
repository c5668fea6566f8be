"""Asks the allocators of runs where their tasks shall run. An allocator is user code."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from handout.allocators.answer import read_answer
from handout.errors import AllocatorError
from handout.execution.shell.run_state import RunState
from handout.scheduler import commands as do
from handout.scheduler import events as ev
from handout.serialization import exceptions
from handout.serialization.user_objects import has_text, is_interruption, short_name

__all__ = ["AllocatorQuestions"]


class AllocatorQuestions:
    """Asks allocators, each in an asyncio task of its own.

    Args:
        runs: The cluster's runs by number, as the driver keeps them.
        post: Passes an event to the core.
        spawn: Starts a coroutine in the cluster's task group.
    """

    def __init__(
        self,
        runs: Mapping[int, RunState],
        post: Callable[[ev.Event], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._runs = runs
        self._post = post
        self._spawn = spawn
        #: The asyncio tasks that await allocators, by the number of the run.
        self._asking: dict[int, asyncio.Task[None]] = {}

    def ask(self, command: do.AskAllocator) -> None:
        """Ask the allocator of a run, and post its answer as an event."""
        run = self._runs.get(command.run)
        if run is not None:
            self._spawn(self._await(run, command))

    async def _await(self, run: RunState, command: do.AskAllocator) -> None:
        """Await the user's allocator, which may raise any exception or never return. The core limits its time."""
        task = asyncio.current_task()
        assert task is not None
        assert run.policy.allocator is not None
        if run.number not in self._runs:
            return  # the caller has left the run in the meantime
        self._asking[run.number] = task
        try:
            promised = run.policy.allocator(command.frontier, command.view)
            if not inspect.isawaitable(promised):
                raise AllocatorError(
                    f"the allocator returned {type(promised).__name__}, which cannot be awaited.",
                    remedy="Define the allocator with `async def`.",
                )
            event = ev.PlacementsProposed(run.number, command.request, *read_answer(await promised))
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if run.number not in self._asking or (current is not None and current.cancelling()):
                return  # the run is over
            error = AllocatorError("the allocator cancelled itself.", remedy="Let it return its placements.")
            self._post(ev.AllocatorFailed(run.number, command.request, error))
        except BaseException as error:  # an allocator may raise anything; some test tools raise such subclasses
            if is_interruption(error):
                raise
            self._post(ev.AllocatorFailed(run.number, command.request, _allocator_error(error)))
        else:
            self._post(event)
        finally:
            if self._asking.get(run.number) is task:
                del self._asking[run.number]

    def forget(self, run: int) -> None:
        """Cancel the allocator of a run that its caller has left."""
        asking = self._asking.pop(run, None)
        if asking is not None:
            asking.cancel()

    def close(self) -> None:
        """Cancel all allocators."""
        for task in self._asking.values():
            task.cancel()


def _allocator_error(error: BaseException) -> AllocatorError:
    """Return the error of a run whose allocator raised an exception."""
    if issubclass(type(error), AllocatorError) and has_text(error):
        return error  # type: ignore[return-value]  # its text names the mistake already
    found = AllocatorError(
        f"the allocator raised {short_name(error)}: {exceptions.message(error)}.",
        remedy="Look at the allocator's exception and its traceback, which are the cause of this error.",
    )
    found.__cause__ = error
    return found
