"""Reports the places at which asyncio tasks wait in the package's code, or in a library that the package awaits."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import handout

__all__ = ["Site", "watch_awaits"]

#: The place at which a task waits: one ``file:line function`` for each frame, from the outermost to the innermost.
Site = tuple[str, ...]

#: Names of interpreter types that wrap a coroutine or generator, but have no attribute for the wrapped object.
_WRAPPERS = frozenset({"coroutine_wrapper", "async_generator_asend", "async_generator_athrow"})
_HOUSE = str(Path(handout.__file__).parent) + "/"


@contextmanager
def watch_awaits(seen: Callable[[Site], None]) -> Iterator[None]:
    """Call `seen` each time that a task begins to wait in the package's code.

    Only tasks that are created inside the block are watched. The call comes while the loop still runs the task's step.
    So if `seen` cancels the task, the cancellation takes effect once the task waits.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(_watched(coroutine, seen), loop=loop, **options)
        # A task that is cancelled before its first step never awaits its coroutine. Without close(), Python would warn.
        task.add_done_callback(lambda _: coroutine.close())
        return task

    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(before)


async def _watched(coroutine: Coroutine[Any, Any, Any], seen: Callable[[Site], None]) -> Any:
    """Wrap a `_Steps` in a real coroutine, because anyio reads the state of every task's coroutine."""
    return await _Steps(coroutine, seen)


class _Steps:
    """Runs a coroutine step by step, as a task does, and reports each wait in the package's code."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], seen: Callable[[Site], None]) -> None:
        self._coroutine = coroutine
        self._seen = seen

    def __await__(self) -> Generator[Any, Any, Any]:
        step = partial(self._coroutine.send, None)
        while True:
            try:
                waited = step()
            except StopIteration as end:
                return end.value
            site = _site(self._coroutine)
            if site:
                self._seen(site)
            try:
                value = yield waited
            except BaseException as error:  # thrown into the task, such as a cancellation
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, value)


def _site(coroutine: Any) -> Site:
    """Return the place at which a coroutine waits, or () if none of its frames is in the package's code."""
    lines, ours = [], False
    at = coroutine
    while at is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(at, f"{kind}_frame")), None)
        if kind is None:
            at = _inside(at)
            continue
        code = getattr(at, f"{kind}_code")
        frame = getattr(at, f"{kind}_frame")
        ours = ours or code.co_filename.startswith(_HOUSE)
        if frame is not None:
            name = "/".join(Path(code.co_filename).parts[-2:])
            lines.append(f"{name}:{frame.f_lineno} {code.co_qualname}")
        at = getattr(at, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return tuple(lines) if ours else ()


def _inside(awaited: object) -> object:
    """Return the coroutine or asynchronous generator inside an object of `_WRAPPERS`, or None for any other object."""
    if type(awaited).__name__ not in _WRAPPERS:
        return None
    return next(
        (each for each in gc.get_referents(awaited) if hasattr(each, "cr_frame") or hasattr(each, "ag_frame")), None
    )
