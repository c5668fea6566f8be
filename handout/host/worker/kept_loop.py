"""An event loop that stays between the tasks of a worker, because an asynchronous warm value lives in it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["KeptLoop"]


class KeptLoop:
    """An event loop that is made when it is first used. Nothing runs in it between two calls of its methods."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_used(self) -> bool:
        """True if a warm value may live in the loop."""
        return self._loop is not None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end. What it has started beside itself stays, and goes on with the next call."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(coroutine)

    def run_task(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end. Cancel what it has started beside itself, as `asyncio.run` does."""
        assert self._loop is not None
        before = asyncio.all_tasks(self._loop)
        try:
            return self._loop.run_until_complete(coroutine)
        finally:
            left = asyncio.all_tasks(self._loop) - before
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left))
