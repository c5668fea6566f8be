"""Runs the coroutines of one worker beside each other, in one event loop."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
from typing import Any, NoReturn

from handout.host.current import publish
from handout.host.system import shared_page
from handout.host.system.clock import now_ns
from handout.host.worker.objects import MissingInputError
from handout.host.worker.worker import Worker, WorkerTask, writing


class SharedLoop:
    """Runs the tasks of a worker beside each other.

    Args:
        worker: Has the link, the functions and the objects.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._flushing = False

    async def serve(self) -> NoReturn:
        """Run tasks until the agent closes the link."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._worker.link.fileno(), self._read)
        self._start_all()
        await loop.create_future()
        raise AssertionError("that future is never resolved")

    def _read(self) -> None:
        try:
            self._worker.read(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            os._exit(0)
        self._start_all()
        for number in self._worker.cancelled:
            task = self._tasks.get(number)
            if task is not None:
                task.cancel()
        self._worker.cancelled &= self._tasks.keys()

    def _start_all(self) -> None:
        worker = self._worker
        page = worker.page
        while worker.queue:
            queued = worker.queue.popleft()
            number = queued.number
            page[shared_page.STARTED] = now_ns()
            page[shared_page.ANNOUNCED] = number
            page[shared_page.IDLE] = 0
            if page[shared_page.RECALLED_FROM] <= number <= page[shared_page.RECALLED_TO] or worker.retiring:
                worker.report.skipped(number)
                self._flush_soon()
                continue
            task = asyncio.get_running_loop().create_task(self._run(queued))
            self._tasks[number] = task
            task.add_done_callback(lambda _, number=number: self._forget(number))  # type: ignore[misc]

    async def _run(self, queued: WorkerTask) -> None:
        worker, number = self._worker, queued.number
        current = worker.current(queued)
        writing.set(number)
        publish(current, context_only=True)
        started = now_ns()
        try:
            fn, args, kwargs, paths = worker.prepare(queued)
            value: Any = fn(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
            result = worker.encode(value, paths, queued.outputs)
        except MissingInputError:
            worker.report.lacking(number)
        except BaseException as error:
            failure, payload = worker.failure(number, error, number in worker.cancelled)
            worker.streams.flush()
            worker.report.failed(failure._replace(elapsed_us=(now_ns() - started) // 1000), payload)
        else:
            worker.streams.flush()
            worker.report.done(number, (now_ns() - started) // 1000, result)
        current.clean()
        self._flush_soon()

    def _forget(self, number: int) -> None:
        del self._tasks[number]
        worker = self._worker
        worker.cancelled.discard(number)
        if not self._tasks:
            # Only while no task runs do the processes that are left belong to none.
            worker.page[shared_page.IDLE] = 1
            worker.end_children()
            if worker.retiring:
                worker.retire()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._worker.report.flush()
