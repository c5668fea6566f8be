"""What a function may ask about its own run: ``handout.current()``."""

from __future__ import annotations

import contextvars
import os
import shutil

from handout.serialization.file import set_task_folder

__all__ = ["Current", "current", "publish"]


class Current:
    """The task that is running here.

    Attributes:
        id: Of the function in its graph.
        host: The name of the host, as in the inventory.
        attempt: 1 for the first try.
        variant: Which of its costs was chosen; 0 for the first.
    """

    __slots__ = ("_made", "_scratch", "attempt", "host", "id", "variant")

    id: str
    host: str
    attempt: int
    variant: int

    def __init__(self, id: str, host: str, attempt: int, variant: int, scratch: str) -> None:
        self.id, self.host, self.attempt, self.variant, self._scratch = id, host, attempt, variant, scratch
        self._made = False

    @property
    def scratch(self) -> str:
        """A folder of its own, made when it is first asked for and removed when the task has ended."""
        if not self._made:
            os.makedirs(self._scratch, mode=0o700, exist_ok=True)
            self._made = True
        return self._scratch

    def clean(self) -> None:
        """Remove the scratch folder, if anybody asked for it."""
        if self._made:
            self._made = False
            shutil.rmtree(self._scratch, ignore_errors=True)

    def __repr__(self) -> str:
        return f"Current(id={self.id!r}, host={self.host!r}, attempt={self.attempt})"


_current: contextvars.ContextVar[Current | None] = contextvars.ContextVar("handout.current", default=None)
#: For threads that user code starts: a new thread has an empty context.
_of_process: Current | None = None


def publish(running: Current | None, *, context_only: bool = False) -> None:
    """Say which task runs from here on.

    Args:
        running: The task, or None when it has ended.
        context_only: Others run in this process at the same time: only this context's own code is told.
    """
    global _of_process
    _current.set(running)
    _of_process = None if context_only else running


def current() -> Current:
    """The task that is running: id, host, attempt, variant and scratch folder.

    Raises:
        RuntimeError: No task is running here.
    """
    running = _current.get() or _of_process
    if running is None:
        raise RuntimeError("handout.current() is for functions while Handout runs them; no task is running here.")
    return running


def _scratch_of_running() -> str | None:
    running = _current.get() or _of_process
    return None if running is None else running.scratch


set_task_folder(_scratch_of_running)

# One name on both ends, whichever of the two packages called handout is there.
current.__module__ = "handout"
