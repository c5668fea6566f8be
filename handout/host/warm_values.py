"""The warm values of a process: what it makes once, for the first task that takes it, and keeps for later tasks.

The function that returns a value is called its maker. A maker may return a context manager. The process enters it, and
leaves it when the process ends, or at the end of `handout.evaluate`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Coroutine
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Callable

__all__ = ["Key", "WarmValues"]

#: What two tasks that get the same value have in common: the identity of the recipe, and the inputs that it takes.
Key = tuple[bytes, tuple[int, ...]]


class WarmValues:
    """Makes warm values and keeps them. A process that runs tasks in an event loop uses the methods ``..._in_loop``.

    Args:
        run: Runs a coroutine to its end, in an event loop that stays the same. Only the other methods use it.
    """

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.values: dict[Key, Any] = {}
        self._run = run
        #: Leaves the context managers, the last one first.
        self._exits = ExitStack()
        self._exits_in_loop = AsyncExitStack()
        #: True if `leave` has something to do.
        self.must_leave = False
        #: The values that are being made in the event loop.
        self._making: dict[Key, _Making] = {}

    def make(self, key: Key, maker: Callable[[], Any]) -> None:
        """Make a value.

        Raises:
            BaseException: The maker raised it, or entering its context manager did.
        """
        made = maker()
        if _needs_loop(made):
            leave = self._run(self._begin(key, made))
            if leave is not None:
                self._exits.callback(lambda: self._run(leave()))
        else:
            self._enter(key, made, self._exits)

    async def make_in_loop(self, key: Key, maker: Callable[[], Any]) -> None:
        """Make a value, unless another task makes it already.

        If the caller is cancelled, other tasks that wait for the value still get it. If there are none, making it is
        cancelled too.
        """
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making(asyncio.ensure_future(self._make_in_loop(key, maker)))
            making.future.add_done_callback(lambda made: self._note_made(key, made))
        making.waiting += 1
        try:
            await asyncio.shield(making.future)
        finally:
            making.waiting -= 1
            if not making.waiting:
                making.future.cancel()

    async def _make_in_loop(self, key: Key, maker: Callable[[], Any]) -> None:
        made = maker()
        if _needs_loop(made):
            leave = await self._begin(key, made)
            if leave is not None:
                self._exits_in_loop.push_async_callback(leave)
        else:
            self._enter(key, made, self._exits_in_loop)

    def _note_made(self, key: Key, made: asyncio.Future[None]) -> None:
        del self._making[key]
        if not made.cancelled():
            made.exception()  # otherwise asyncio would complain if all tasks that waited were cancelled

    def _enter(self, key: Key, made: Any, exits: ExitStack | AsyncExitStack) -> None:
        """Keep a value, or enter its context manager."""
        if hasattr(type(made), "__enter__") and hasattr(type(made), "__exit__"):
            made = exits.enter_context(made)
            self.must_leave = True
        self.values[key] = made

    async def _begin(self, key: Key, made: Any) -> Callable[[], Awaitable[None]] | None:
        """Wait for a value, or enter its context manager. Return the function that leaves it again, if there is one."""
        if inspect.isawaitable(made):
            self.values[key] = await made
            return None
        entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        leaving = asyncio.Event()
        # One task must enter and leave the manager, because cancel scopes belong to a task.
        holder = asyncio.ensure_future(_hold(made, entered, leaving))
        try:
            await asyncio.wait({holder, entered}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            holder.cancel()
            await asyncio.wait({holder})
            raise
        if not entered.done():
            holder.result()  # it raises the error of the manager
        self.values[key] = entered.result()
        self.must_leave = True

        async def leave() -> None:
            leaving.set()
            await holder

        return leave

    def leave(self) -> None:
        """Leave all context managers.

        Raises:
            BaseException: One of them raised it.
        """
        self.values.clear()
        self._exits.close()

    async def leave_in_loop(self) -> None:
        """Do the same as `leave`."""
        self.values.clear()
        making = [each.future for each in self._making.values()]
        for future in making:
            future.cancel()
        if making:
            await asyncio.wait(making)
        await self._exits_in_loop.aclose()


class _Making:
    """A value that is being made in the event loop."""

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future
        #: How many tasks wait for the value.
        self.waiting = 0


async def _hold(manager: Any, entered: asyncio.Future[Any], leaving: asyncio.Event) -> None:
    async with manager as value:
        entered.set_result(value)
        await leaving.wait()


def _needs_loop(made: Any) -> bool:
    """Return True for an awaitable, and for a context manager that only an event loop can enter."""
    kind = type(made)
    return inspect.isawaitable(made) or (hasattr(kind, "__aenter__") and not hasattr(kind, "__enter__"))
