"""Implements ``handout.current()``, which returns facts about the running task."""

from __future__ import annotations

import contextvars
import os
import shutil

from handout.serialization.file import set_task_folder

__all__ = ["Current", "current", "publish", "remove_scratch"]


class Current:
    """The running task. User code gets an object of this class from `current`, and does not call this class itself.

    Attributes:
        id: The id of the function in its graph.
        host: The name of the host in the inventory.
        attempt: The number of the attempt, counted from 1.
        variant: The position of the chosen variant of the cost, counted from 0.

    Example:
        ```python
        def train(data: list[float]) -> float:
            running = handout.current()
            print(f"{running.id} on {running.host}, attempt {running.attempt}")
            return sum(data)
        ```
    """

    __slots__ = ("_has_scratch", "_scratch", "attempt", "host", "id", "variant")

    id: str
    host: str
    attempt: int
    variant: int

    def __init__(self, id: str, host: str, attempt: int, variant: int, scratch: str) -> None:
        self.id, self.host, self.attempt, self.variant, self._scratch = id, host, attempt, variant, scratch
        self._has_scratch = False

    @property
    def scratch(self) -> str:
        """The path of a folder for this attempt alone, as a ``str``: ``os.path.join(handout.current().scratch, "x")``.

        The first access makes the folder, and Handout removes it after the attempt.
        """
        if not self._has_scratch:
            os.makedirs(self._scratch, mode=0o700, exist_ok=True)
            self._has_scratch = True
        return self._scratch

    def __repr__(self) -> str:
        return f"Current(id={self.id!r}, host={self.host!r}, attempt={self.attempt})"


_current: contextvars.ContextVar[Current | None] = contextvars.ContextVar("handout.current", default=None)
#: The running task of this process. None if no task runs, or if several tasks may run at the same time. Threads that
#: user code starts need this variable, because a new thread begins with an empty `contextvars` context.
_of_process: Current | None = None


def remove_scratch(ended: Current) -> None:
    """Remove the scratch folder of a task that has ended, if the task used it."""
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

    Returns:
        The running task.

    Raises:
        RuntimeError: No task is running here.

    Example:
        ```python
        def train(data: list[float]) -> str:
            path = os.path.join(handout.current().scratch, "model.bin")  # scratch is a str
            with open(path, "wb") as file:
                file.write(bytes(8))
            return handout.current().host
        ```
    """
    running = _current.get() or _of_process
    if running is None:
        raise RuntimeError("No task is running here. Call handout.current() only inside a function that Handout runs.")
    return running


def _scratch_of_running() -> str | None:
    running = _current.get() or _of_process
    return None if running is None else running.scratch


set_task_folder(_scratch_of_running)

# `current` is pickled as the name `handout.current`, which the controller and the hosts can both import. On a host,
# `handout` is the stub in handout_stub.py.
current.__module__ = "handout"
