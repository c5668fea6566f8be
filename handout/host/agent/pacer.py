"""Calls a function at once, and then at most once in a while."""

from __future__ import annotations

import asyncio
from typing import Callable

__all__ = ["Pacer"]


class Pacer:
    """Calls a function after `poke`: at once, or as soon as ``interval_s`` seconds have passed since the last call.

    Args:
        interval_s: Seconds between two calls.
        act: The function. It returns True if it must be called again.
    """

    def __init__(self, interval_s: float, act: Callable[[], bool]) -> None:
        self._interval_s = interval_s
        self._act = act
        self._loop = asyncio.get_running_loop()
        self._waits = False
        self._due = False

    def poke(self) -> None:
        """Have the function called."""
        self._due = True
        if not self._waits:
            self._go_on()

    def _go_on(self) -> None:
        self._waits = self._due
        if self._due:
            self._due = self._act()
            self._loop.call_later(self._interval_s, self._go_on)
