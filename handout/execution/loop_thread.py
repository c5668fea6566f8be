"""An event loop in a thread of its own, for a cluster that a plain ``with`` opens."""

from __future__ import annotations

import asyncio
import threading

__all__ = ["LoopThread"]


class LoopThread:
    """Runs an event loop in a new thread until `close` is called.

    The thread is a daemon, so that a program can end although it has not closed its cluster. anyio's blocking portal
    does not serve here: it is a generator, which the interpreter closes when it ends, or when a forked process does.
    The portal then waits for its thread, which is gone.
    """

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="handout cluster", daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._ready.set()
        await self._closing.wait()

    def close(self) -> None:
        """End the event loop, and wait for the end of its thread."""
        self.loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
