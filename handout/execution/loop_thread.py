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

    Raises:
        OSError: The system has no descriptors left for an event loop.
        RuntimeError: The system has no thread left.
    """

    def __init__(self) -> None:
        # The thread that opens the cluster makes the loop, because it gets the error if that fails.
        self.loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="handout cluster", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self.loop.close()
            raise

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._closing.wait())

    def close(self) -> None:
        """End the event loop, and wait for the end of its thread."""
        self.loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
