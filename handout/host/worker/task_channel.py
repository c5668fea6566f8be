"""Carries the reports and checkpoints of a worker's tasks to the agent, and restores checkpoints."""

from __future__ import annotations

import itertools
import warnings
from typing import Any, Callable

from handout.host.system import cgroups, shared_page
from handout.host.worker.agent_socket import AgentSocket
from handout.host.worker.batch import WorkerTask
from handout.host.worker.call_loader import CallLoader
from handout.host.worker.lent_state import LentState
from handout.host.worker.objects import MissingInputError, StoreAccessError, WorkerObjects
from handout.host.worker.progress_sender import ProgressSender
from handout.protocol import messages
from handout.protocol.messages import INLINE
from handout.protocol.reported_facts import Fact
from handout.serialization import diagnosis, exceptions

__all__ = ["WorkerChannel"]


class WorkerChannel:
    """The `TaskChannel` of all tasks of one worker.

    Args:
        link: Sends messages to the agent.
        page: The page of memory that the worker shares with the agent; see `shared_page`.
        objects: Writes large checkpoints, and reads the one of an earlier attempt.
        loader: Unpickles the checkpoint of an earlier attempt.
        lent: Knows if a task has closed the socket to the agent.
        group: The control group that limits the memory of the worker. None if there is no limit, or no such group.
        is_forked: Returns True in a process that a task has forked from the worker.
    """

    def __init__(
        self,
        link: AgentSocket,
        page: memoryview,
        objects: WorkerObjects,
        loader: CallLoader,
        lent: LentState,
        group: cgroups.MemoryGroup | None,
        is_forked: Callable[[], bool],
    ) -> None:
        self._link = link
        self._page = page
        self._objects = objects
        self._loader = loader
        self._lent = lent
        self._group = group
        self._is_forked = is_forked
        self._progress = ProgressSender(self._send_report)
        #: Counts the large checkpoints of all tasks, because each is a file with a name of its own.
        self._files = itertools.count(1)

    def _send_report(self, message: messages.ProgressReport) -> None:
        if self._is_forked() or not self._lent.descriptors.has_link:
            return  # the descriptor may belong to another file now
        try:
            self._link.send(message)
        except OSError:
            pass  # the agent has ended

    @property
    def is_busy(self) -> bool:
        """See `TaskChannel`."""
        return self._progress.is_busy

    def report(self, task: WorkerTask, progress: float | None, facts: dict[str, Fact]) -> None:
        """See `TaskChannel`."""
        if self._page[shared_page.WATCHED] and not self._is_forked():
            self._progress.report(task.number, progress, facts)

    def checkpoint(self, task: WorkerTask, value: Any) -> None:
        """See `TaskChannel`.

        Raises:
            CannotPickleError: The value cannot be pickled.
            DiskFullError: The host has no room for the value.
            StoreAccessError: The worker cannot write into the store, or the task has closed the socket to the agent.
            RuntimeError: This process is not the worker.
        """
        if self._is_forked():
            raise RuntimeError(
                "checkpoint() was called in a process that the task has forked. Only the task's own process can keep "
                "a checkpoint: return the value to it, and call checkpoint() there."
            )
        segments = diagnosis.dumps_or_diagnose(value, "checkpoint")
        size = sum(memoryview(segment).nbytes for segment in segments)
        message = messages.Checkpoint(task.number, size)
        payload: list[Any] = segments
        if size > INLINE:
            if self._group is not None:
                self._group.make_room(size)
            message, payload = message._replace(file=next(self._files)), []
            message = message._replace(folder=self._write(message.file, segments))
        if not self._lent.descriptors.has_link:
            raise StoreAccessError("the task has closed the worker's socket to the agent, so no checkpoint can be kept")
        try:
            self._link.send(message, payload)
        except OSError as error:
            raise StoreAccessError(f"the agent did not take a checkpoint of {size} bytes: {error}") from None

    def _write(self, file: int, segments: list[Any]) -> int:
        try:
            return self._objects.write_checkpoint(file, segments, bool(self._page[shared_page.SPILL]))
        except OSError as error:
            raise StoreAccessError(f"the worker could not write a checkpoint into the store: {error}") from None

    def restore(self, task: WorkerTask, default: Any) -> Any:
        """See `TaskChannel`."""
        if not task.checkpoint:
            return default
        try:
            return self._loader.checkpoint(task)
        except MissingInputError:
            reason = "its file is not there any more"
        except Exception as error:  # unpickling runs user code
            reason = f"{type(error).__name__}: {exceptions.message(error)}"
        warnings.warn(
            f"Task {task.name!r} begins anew, because the checkpoint of an earlier attempt cannot be read: {reason}",
            RuntimeWarning,
            stacklevel=3,
        )
        return default

    def end(self, task: WorkerTask) -> None:
        """See `TaskChannel`."""
        self._progress.end(task.number)
