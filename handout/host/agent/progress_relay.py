"""Sends the reports that tasks make about themselves to the controller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

from handout.host.agent.controller_link import ControllerLink
from handout.host.agent.pacer import Pacer
from handout.host.agent.task_queue import QueuedTask
from handout.protocol import messages

__all__ = ["ProgressRelay"]

#: Seconds between two reports of one task. One second has at most nine such moments, and the last report of a task is
#: sent when the task ends, so a task's reports are at most ten a second.
_INTERVAL_S = 0.12


class _Newest(NamedTuple):
    progress: float | None
    facts: Mapping[str, Any]


class ProgressRelay:
    """Keeps the newest report of each task until it is sent.

    Args:
        link: The link to the controller.
        has_room: Returns True while the link has room for more bulk messages.
    """

    def __init__(self, link: ControllerLink, has_room: Callable[[], bool]) -> None:
        self._link = link
        self._has_room = has_room
        self._newest: dict[int, _Newest] = {}
        self._pacer = Pacer(_INTERVAL_S, self._flush)
        #: True while a program watches a run.
        self.wanted = False

    def watch(self, wanted: bool) -> None:
        """Begin or stop to send reports."""
        self.wanted = wanted
        if not wanted:
            self._newest.clear()

    def take(self, task: QueuedTask, message: messages.ProgressReport) -> None:
        """Take a report of a running task. It replaces the one before."""
        if self.wanted:
            self._newest[task.attempt_id] = _Newest(message.progress, message.facts)
            self._pacer.poke()

    def _flush(self) -> bool:
        """Send all reports that wait. Return True if there is no room for them yet."""
        if self._newest and self._has_room():
            newest, self._newest = self._newest, {}
            columns = map(list, zip(*newest.values()))
            self._link.send_bulk(messages.ProgressReports(list(newest), *columns))
        return bool(self._newest)

    def end(self, task: QueuedTask) -> None:
        """Send the last report of a task that ends now, so that the report comes before the end."""
        newest = self._newest.pop(task.attempt_id, None)
        if newest is not None:
            self._link.send(messages.ProgressReports([task.attempt_id], [newest.progress], [newest.facts]))
