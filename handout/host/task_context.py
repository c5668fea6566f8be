"""Implements ``handout.current()``, which returns facts about the running task."""

from __future__ import annotations

import contextvars
import os
import shutil
from typing import Any, Protocol, TypeVar

from handout.protocol.reported_facts import Fact, check_facts, check_progress
from handout.serialization.file import set_task_folder
from handout.serialization.temp_folder import TempFolder

__all__ = ["HERE", "Current", "NotOnHostError", "TaskChannel", "current", "end", "publish"]

A = TypeVar("A")

#: The host that a function sees in `current` if it runs in the program itself, and not on a host.
HERE = "local"


class TaskChannel(Protocol):
    """Carries what tasks tell with their `Current`, and what earlier attempts have left for them.

    The argument ``task`` is the last argument with which the task's `Current` was made.
    """

    @property
    def is_busy(self) -> bool:
        """True if a report of a task waits to be sent."""
        ...

    def report(self, task: Any, progress: float | None, facts: dict[str, Fact]) -> None:
        """Send a report, if a program watches the run."""

    def checkpoint(self, task: Any, value: Any) -> None:
        """Keep a value for the task's next attempt. Return when the agent has the value."""

    def restore(self, task: Any, default: Any) -> Any:
        """Return the value that an earlier attempt has kept, or the default."""

    def end(self, task: Any) -> None:
        """Send the last report of a task that ends, if it waits."""


class NotOnHostError(RuntimeError):
    """A task used a part of Handout that exists only in the process that builds the graph.

    The class is in this module, because both the stub on a host and the caller's process can import it from here.
    """


class Current:
    """The running task. User code gets an object of this class from `current`, and does not call this class itself.

    Attributes:
        id: The id of the function in its graph.
        host: The name of the host in the inventory.
        attempt: The number of the attempt, counted from 1. Only attempts that began, or may have begun, count.
        variant: The position of the chosen variant of the cost, counted from 0.

    Example:
        ```python
        def train(data: list[float]) -> float:
            running = handout.current()
            print(f"{running.id} on {running.host}, attempt {running.attempt}")
            return sum(data)
        ```
    """

    __slots__ = ("_channel", "_has_scratch", "_scratch", "_task", "attempt", "host", "id", "variant")

    id: str
    host: str
    attempt: int
    variant: int

    def __init__(
        self,
        id: str,
        host: str,
        attempt: int,
        variant: int,
        scratch: str,
        channel: TaskChannel | None = None,
        task: Any = None,
    ) -> None:
        self.id, self.host, self.attempt, self.variant, self._scratch = id, host, attempt, variant, scratch
        self._has_scratch = False
        # One channel for all tasks of a worker, because making an object for each task would slow short tasks down.
        self._channel = channel
        self._task = task

    @property
    def scratch(self) -> str:
        """The path of a folder for this attempt alone, as a ``str``: ``os.path.join(handout.current().scratch, "x")``.

        The first access makes the folder, and Handout removes it after the attempt.
        """
        if not self._has_scratch:
            os.makedirs(self._scratch, mode=0o700, exist_ok=True)
            self._has_scratch = True
        return self._scratch

    def report(self, progress: float | None = None, /, **facts: str | float | bool | None) -> None:
        """Tell a program that watches the run how far the task is.

        `Execution.events` yields the newest report of each task as `events.TaskReported`, at most ten a second. While
        no program reads the events, a call takes about a microsecond and sends nothing. What a task prints goes to
        its log.

        You can call this method from each thread of the task. A process that the task has forked sends nothing.

        Args:
            progress: The share of the work that is done, from 0 to 1.
            facts: Further values by name, such as ``loss=0.3``. Each is a ``str``, ``float``, ``int``, ``bool`` or
                None. Names and texts have at most 8 KiB together.

        Raises:
            ValueError: The progress is below 0, above 1 or no number, or the facts are too large.
            TypeError: The progress is not a number, or a fact is not one value.

        Example:
            ```python
            def train(rows: list[float]) -> float:
                total = 0.0
                for done, row in enumerate(rows, 1):
                    total += row
                    handout.current().report(done / len(rows), total=total)
                return total
            ```
        """
        share = check_progress(progress)
        checked = check_facts(facts) if facts else {}
        channel = self._channel
        if channel is not None:
            channel.report(self._task, share, checked)

    def checkpoint(self, value: object, /) -> None:
        """Keep a value for the next attempt of the task, in case this one does not return.

        The method returns when the agent of the host has the value, so nothing is lost if the worker dies. The value
        then travels to the controller, so the next attempt gets it even if the host is lost meanwhile. The newest
        checkpoint replaces the older ones. If the run has a journal, the journal takes a checkpoint once a second at
        most, and a resumed run goes on within the task.

        All checkpoints of a task are dropped when the task ends well, or when the run is over. A checkpoint of a host
        with ``trust="data"`` is restored only on that host.

        Args:
            value: What the next attempt needs, for example the number of the step and the weights. A `File` is kept
                with its content. The method does not wait for other tasks, but it blocks the thread while it pickles
                and writes the value; in a coroutine function, use ``asyncio.to_thread``.

        Raises:
            Exception: The value cannot be pickled, or the host has no room for it. If the function does not catch this
                exception, the attempt fails as if its result were such a value.
            RuntimeError: The call comes from a process that the task has forked.

        Example:
            ```python
            def count(rows: list[str]) -> int:
                task = handout.current()
                done, total = task.restore((0, 0))
                for row in rows[done:]:
                    done, total = done + 1, total + len(row)
                    task.checkpoint((done, total))
                return total
            ```
        """
        channel = self._channel
        if channel is not None:
            channel.checkpoint(self._task, value)

    def restore(self, default: A, /) -> A:
        """Return the newest checkpoint of an earlier attempt of the task, or the default if there is none.

        The checkpoint may come from another host. It is the newest that the controller could get: if its host was lost
        before the newest one had arrived, it is an older one. If the checkpoint cannot be read, the default is
        returned, with a `RuntimeWarning` in the log of the task. If the function or its arguments have changed since an
        earlier run of the journal, the checkpoint is not used, and the controller logs a warning.

        Args:
            default: The value to begin with. Its type is the type of the result.

        Returns:
            The checkpoint or the default. Each call unpickles the checkpoint anew.

        Example:
            ```python
            def train(steps: int) -> float:
                task = handout.current()
                step, weight = task.restore((0, 1.0))
                while step < steps:
                    step, weight = step + 1, weight * 0.9
                    task.checkpoint((step, weight))
                return weight
            ```
        """
        channel = self._channel
        if channel is None:
            return default
        restored: A = channel.restore(self._task, default)
        return restored

    def __repr__(self) -> str:
        return f"Current(id={self.id!r}, host={self.host!r}, attempt={self.attempt})"


class _NoTask(Current):
    """What `current` returns where no task runs, so that a function can be called and tested without Handout."""

    __slots__ = ("_folder",)

    def __init__(self) -> None:
        super().__init__("no task", HERE, 1, 0, "")
        self._folder = TempFolder("handout-scratch-")

    @property
    def scratch(self) -> str:
        return self._folder.path


_no_task = _NoTask()
_current: contextvars.ContextVar[Current | None] = contextvars.ContextVar("handout.current", default=None)
#: The running task of this process. None if no task runs, or if several tasks may run at the same time. Threads that
#: user code starts need this variable, because a new thread begins with an empty `contextvars` context.
_of_process: Current | None = None


def end(ended: Current) -> None:
    """End what a task has used: send its last report, and remove its scratch folder."""
    channel, ended._channel = ended._channel, None
    if channel is not None and channel.is_busy:
        channel.end(ended._task)
    if ended._has_scratch:
        ended._has_scratch = False
        shutil.rmtree(ended._scratch, ignore_errors=True)


def publish(running: Current | None, *, context_only: bool = False) -> None:
    """Set the task that `current` returns from now on.

    Args:
        running: The task, or None after the task has ended.
        context_only: True if other tasks run in this process at the same time. The task is then set only for the
            current `contextvars` context.
    """
    global _of_process
    _current.set(running)
    _of_process = None if context_only else running


def current() -> Current:
    """Return the task that is running: its id, host, attempt, variant and scratch folder.

    You can call `current` in a function of a graph, in code that the function calls, and in a thread that the function
    starts. If the function is a coroutine function or runs in `evaluate`, the thread must run in a copy of the
    function's context. `asyncio.to_thread` makes such a copy.

    Where no task runs, for example in a test that calls the function itself, `current` returns a stand-in: attempt 1
    and variant 0 of ``"no task"`` on the host ``"local"``. Its scratch folder is a temporary folder of the process, its
    `Current.report` and `Current.checkpoint` do nothing, and its `Current.restore` returns the default.

    Returns:
        The running task, or the stand-in.

    Example:
        ```python
        def train(data: list[float]) -> str:
            path = os.path.join(handout.current().scratch, "model.bin")  # scratch is a str
            with open(path, "wb") as file:
                file.write(bytes(8))
            return handout.current().host
        ```
    """
    return _current.get() or _of_process or _no_task


def _scratch_of_running() -> str | None:
    running = _current.get() or _of_process
    return None if running is None else running.scratch


set_task_folder(_scratch_of_running)

# `current` is pickled as the name `handout.current`, which the controller and the hosts can both import. On a host,
# `handout` is the stub in handout_stub.py.
current.__module__ = "handout"
