"""The entry point of a worker process, which the supervisor has forked from itself."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import sys
from typing import NoReturn

from handout.host.system import shared_page
from handout.host.worker.async_worker import SharedLoop
from handout.host.worker.worker import Worker
from handout.serialization import pickling

__all__ = ["preload", "run"]


def preload() -> None:
    """Import modules that tasks may need. The supervisor calls this, so that workers forked later have the modules."""
    pickling.preload()


async def _serve(worker: Worker) -> NoReturn:
    await SharedLoop(worker).serve()
    raise AssertionError("a worker with a shared loop ends its process itself")


def run(link_fd: int, page_fd: int) -> NoReturn:
    """Run tasks until the agent closes its end of the socket.

    Args:
        link_fd: Descriptor of the socket to the agent.
        page_fd: Descriptor of the page of memory that the worker shares with the agent; see `shared_page`.
    """
    pickling.become_worker()
    link = socket.socket(fileno=link_fd)
    page = shared_page.attach(page_fd)
    os.close(page_fd)
    faulthandler.enable(file=2, all_threads=True)
    faulthandler.register(shared_page.SAMPLE_SIGNAL, file=2, all_threads=True, chain=False)
    worker = Worker(link, page)

    def close_link_in_fork() -> None:
        # A process that a task forks must not hold the worker's socket open, and must not write to the socket.
        if not worker.forked:
            worker.forked = True
            try:
                os.close(link_fd)
            except OSError:
                pass

    os.register_at_fork(after_in_child=close_link_in_fork)
    signal.signal(shared_page.FLUSH_SIGNAL, worker.flush_on_signal)
    sys.argv = [""]
    try:
        worker.read()
        if worker.shared_loop:
            asyncio.run(_serve(worker))
        worker.serve()
    except ConnectionError:
        os._exit(0)
