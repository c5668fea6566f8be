"""Many coroutines in one worker: functions that wait more than they compute share its loop."""

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
from handout.host.worker.worker import Order, Worker, writing


class Loop:
    """Runs what a worker is sent, all of it at once.

    Args:
        worker: Owns the link, the functions and the objects.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._flushing = False

    async def serve(self) -> NoReturn:
        """Run until the agent closes the link."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._worker.link.fileno(), self._read)
        self._start_all()
        await loop.create_future()
        raise AssertionError("nobody resolves that future")

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
            order = worker.queue.popleft()
            number = order[0]
            page[shared_page.STARTED] = now_ns()
            page[shared_page.ANNOUNCED] = number
            page[shared_page.IDLE] = 0
            if page[shared_page.RECALLED_FROM] <= number <= page[shared_page.RECALLED_TO] or worker.retiring:
                worker.report.skipped(number)
                self._flush_soon()
                continue
            task = asyncio.get_running_loop().create_task(self._run(order))
            self._tasks[number] = task
            task.add_done_callback(lambda _, number=number: self._forget(number))  # type: ignore[misc]

    async def _run(self, order: Order) -> None:
        worker, number = self._worker, order[0]
        current = worker.current(order)
        writing.set(number)
        publish(current, context_only=True)
        started = now_ns()
        try:
            fn, args, kwargs, paths = worker.prepare(order)
            value: Any = fn(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
            columns = worker.encode(value, paths, order[4])
        except MissingInputError:
            worker.report.missing(number)
        except BaseException as error:
            fields, payload = worker.failure(error, number in worker.cancelled)
            worker.streams.flush()
            us = (now_ns() - started) // 1000
            worker.report.failed({"s": number, "us": us, **fields}, payload)
        else:
            worker.streams.flush()
            worker.report.done(number, (now_ns() - started) // 1000, *columns)
        current.clean()
        self._flush_soon()

    def _forget(self, number: int) -> None:
        del self._tasks[number]
        worker = self._worker
        worker.cancelled.discard(number)
        if not self._tasks:
            # Only now can nothing that is left belong to somebody.
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
