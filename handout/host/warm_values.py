"""The warm values of a process: what it makes once, for the first task that takes it, and keeps for later tasks.

The function that returns a value is called its maker. A maker may return a context manager. The process enters it, and
leaves it when the process ends, or at the end of `handout.evaluate`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Coroutine, Set
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Callable, TypeVar

__all__ = ["Key", "WarmValues"]

#: What two tasks that get the same value have in common: the identity of the recipe, and the inputs that it takes.
Key = tuple[bytes, tuple[int, ...]]

Stack = TypeVar("Stack", ExitStack, AsyncExitStack)


class WarmValues:
    """Makes warm values and keeps them. A process that runs tasks in an event loop uses the methods ``..._in_loop``.

    Args:
        run: Runs a coroutine to its end, in an event loop that stays the same. Only the other methods use it.
    """

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.values: dict[Key, Any] = {}
        self._run = run
        #: For the values that have context managers: leaves them.
        self._exits: dict[Key, ExitStack] = {}
        self._exits_in_loop: dict[Key, AsyncExitStack] = {}
        #: The values that are being made in the event loop.
        self._making: dict[Key, _Making] = {}
        #: The asyncio tasks that make them, also those that were cancelled and have not ended.
        self._makers: set[asyncio.Future[None]] = set()

    def make(self, key: Key, maker: Callable[[], Any]) -> None:
        """Make a value.

        Raises:
            BaseException: The maker raised it, or entering its context manager did.
        """
        made = maker()
        if _needs_loop(made):
            leave = self._run(self._begin(key, made))
            if leave is not None:
                self._exits[key] = ExitStack()
                self._exits[key].callback(lambda: self._run(leave()))
        else:
            self._enter(key, made, self._exits, ExitStack())

    async def make_in_loop(self, key: Key, maker: Callable[[], Any]) -> None:
        """Make a value, unless another task makes it already.

        If the caller is cancelled, other tasks that wait for the value still get it. If there are none, making it is
        cancelled too.
        """
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making(asyncio.ensure_future(self._make_in_loop(key, maker)))
            self._makers.add(making.future)
            making.future.add_done_callback(self._note_made)
        making.waiting += 1
        try:
            await asyncio.shield(making.future)
        finally:
            making.waiting -= 1
            if not making.waiting:
                making.future.cancel()
                del self._making[key]

    async def _make_in_loop(self, key: Key, maker: Callable[[], Any]) -> None:
        made = maker()
        if _needs_loop(made):
            leave = await self._begin(key, made)
            if leave is not None:
                self._exits_in_loop[key] = AsyncExitStack()
                self._exits_in_loop[key].push_async_callback(leave)
        else:
            self._enter(key, made, self._exits_in_loop, AsyncExitStack())

    def _note_made(self, made: asyncio.Future[None]) -> None:
        self._makers.discard(made)
        if not made.cancelled():
            made.exception()  # otherwise asyncio would complain if all tasks that waited were cancelled

    def _enter(self, key: Key, made: Any, all_exits: dict[Key, Stack], exits: Stack) -> None:
        """Keep a value, or enter its context manager."""
        if hasattr(type(made), "__enter__") and hasattr(type(made), "__exit__"):
            made = exits.enter_context(made)
            all_exits[key] = exits
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

        async def leave() -> None:
            leaving.set()
            await holder

        return leave

    @property
    def must_leave(self) -> bool:
        """True if `leave` has something to do."""
        return bool(self._exits or self._exits_in_loop)

    def made_of(self, inputs: Set[int]) -> list[Key]:
        """Return the keys of the values that were made from some of these inputs."""
        return [key for key in self.values if not inputs.isdisjoint(key[1])]

    def forget(self, key: Key) -> Any:
        """Drop a value, and leave its context manager. Return the value.

        Raises:
            BaseException: The context manager raised it.
        """
        value = self.values.pop(key)
        exits = self._exits.pop(key, None)
        if exits is not None:
            exits.close()
        return value

    async def forget_in_loop(self, key: Key) -> Any:
        """Do the same as `forget`."""
        value = self.values.pop(key)
        exits = self._exits_in_loop.pop(key, None)
        if exits is not None:
            await exits.aclose()
        return value

    def leave(self) -> None:
        """Leave all context managers, the one that was entered last first.

        Raises:
            BaseException: One of them raised it.
        """
        self.values.clear()
        with ExitStack() as every:
            for exits in self._exits.values():
                every.callback(exits.close)

    async def leave_in_loop(self) -> None:
        """Do the same as `leave`."""
        self.values.clear()
        makers = list(self._makers)
        for maker in makers:
            maker.cancel()
        if makers:
            await asyncio.wait(makers)
        async with AsyncExitStack() as every:
            for exits in self._exits_in_loop.values():
                every.push_async_callback(exits.aclose)


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
