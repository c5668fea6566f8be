"""Runs many tasks of one worker at the same time, as coroutines in one event loop."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
from typing import Any, NoReturn

from handout.host.system import shared_page
from handout.host.system.clock import now_ns
from handout.host.task_context import end, publish
from handout.host.worker.batch import WorkerTask
from handout.host.worker.objects import MissingInputError
from handout.host.worker.worker import AgentGoneError, Worker, writing_task


class SharedLoop:
    """Runs the tasks of a worker as coroutines in one event loop.

    Args:
        worker: The worker whose tasks this loop runs. The loop uses the worker's socket, functions and objects.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        #: The asyncio task of each running task, by the number that the running task has on this worker.
        self._coroutines: dict[int, asyncio.Task[None]] = {}
        #: The tasks whose coroutines were cancelled. A second `cancel` would interrupt a coroutine that cleans up.
        self._cancelled: set[int] = set()
        self._flushing = False
        self._leaving = asyncio.Event()
        #: The tasks that leave warm values which no task needs any more.
        self._forgetting: set[asyncio.Task[None]] = set()

    async def serve(self) -> NoReturn:
        """Run tasks until the agent closes its end of the worker's socket."""
        asyncio.get_running_loop().add_reader(self._worker.link.fileno(), self._read)
        self._start_all()
        await self._leaving.wait()
        asyncio.get_running_loop().remove_reader(self._worker.link.fileno())
        if self._forgetting:
            await asyncio.wait(self._forgetting)
        await self._worker.warm.leave_in_loop()
        os._exit(0)

    def _read(self) -> None:
        try:
            self._worker.read(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except AgentGoneError:
            self._leaving.set()
            return
        except OSError:
            os._exit(0)
        self._start_all()
        if self._worker.unused_warm:
            unused, self._worker.unused_warm = self._worker.unused_warm, set()
            forgetting = asyncio.ensure_future(self._worker.warm.forget_in_loop(unused))
            self._forgetting.add(forgetting)
            forgetting.add_done_callback(self._forgetting.discard)
        for number in self._worker.cancelled - self._cancelled:
            coroutine = self._coroutines.get(number)
            if coroutine is not None:
                coroutine.cancel()
        self._worker.cancelled &= self._coroutines.keys()
        self._cancelled = set(self._worker.cancelled)

    def _start_all(self) -> None:
        worker = self._worker
        page = worker.page
        while worker.queue:
            task = worker.queue.popleft()
            number = task.number
            page[shared_page.STARTED] = now_ns()
            page[shared_page.ANNOUNCED] = number
            page[shared_page.IDLE] = 0
            if page[shared_page.RECALLED_FROM] <= number <= page[shared_page.RECALLED_TO] or worker.leaving:
                worker.report.add_skipped(number)
                self._flush_soon()
                continue
            coroutine = asyncio.get_running_loop().create_task(self._run(task))
            self._coroutines[number] = coroutine
            coroutine.add_done_callback(lambda ended, number=number: self._forget(number, ended))  # type: ignore[misc]

    async def _run(self, task: WorkerTask) -> None:
        worker, number = self._worker, task.number
        current = worker.new_current(task)
        writing_task.set(number)
        publish(current, context_only=True)
        started = now_ns()
        try:
            fn = worker.loader.function(task.fn)
            try:
                args, kwargs, paths = await worker.warm.arguments_in_loop(task)
            finally:
                started += worker.warming_ns.pop(number, 0)  # to make a warm value is no part of the task's time
            value: Any = fn(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
            result = worker.results.encode(value, paths, task.outputs)
        except MissingInputError:
            end(current)
            self._restore_streams()
            worker.report.add_lacking(number)
        except BaseException as error:
            failure, payload, _ = worker.failure(number, error, number in worker.cancelled)
            end(current)
            self._restore_streams()
            worker.report.send_failure(failure._replace(elapsed_us=(now_ns() - started) // 1000), payload)
        else:
            end(current)
            self._restore_streams()
            worker.report.add_result(number, (now_ns() - started) // 1000, result)
        self._flush_soon()

    def _restore_streams(self) -> None:
        """Write what tasks have printed, and replace standard streams that a task has closed or replaced.

        All other state is taken back only when no task runs, because another task may still need what it has changed.
        """
        self._worker.streams.flush_replaced()
        self._worker.streams.restore()

    def _forget(self, number: int, coroutine: asyncio.Task[None]) -> None:
        del self._coroutines[number]
        worker = self._worker
        if coroutine.cancelled():  # before its first step, so that `_run` could not report it
            failure, payload, _ = worker.failure(number, asyncio.CancelledError(), True)
            worker.report.send_failure(failure, payload)
            self._flush_soon()
        worker.cancelled.discard(number)
        if not self._coroutines:
            # Only now can the worker kill the processes that ended tasks have left, because while a task runs, the
            # worker cannot tell them from the processes of the running task.
            worker.page[shared_page.IDLE] = 1
            worker.kill_children()
            worker.note_threads()
            worker.take_back_idle()
            if worker.leaving:
                worker.report.flush(leaving=True)
                self._leaving.set()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._worker.report.flush()
