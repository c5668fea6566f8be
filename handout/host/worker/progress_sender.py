"""Sends the reports of a worker's tasks to the agent: the newest of each task, a few a second."""

from __future__ import annotations

import threading
import time
from typing import Callable

from handout.protocol import messages
from handout.protocol.reported_facts import Fact, to_json

__all__ = ["ProgressSender"]

#: Seconds between two messages with reports. A task may report in each turn of a tight loop, and the agent, which
#: serves all workers, must not have to read all of these reports.
INTERVAL_S = 0.05
#: Seconds to wait for the end of the thread that sends a late report.
_JOIN_S = 1.0


class ProgressSender:
    """Keeps the newest report of each running task, until it is sent.

    If a report comes soon after another one, a thread sends it a little later: the task may then compute for an hour
    without another call.

    Args:
        send: Sends a message to the agent, or ignores it if the agent has ended.
    """

    def __init__(self, send: Callable[[messages.ProgressReport], None]) -> None:
        self._send = send
        # Reentrant, because the handler of a signal may report while it interrupts a report.
        self._lock = threading.RLock()
        self._newest: dict[int, messages.ProgressReport] = {}
        self._due = 0.0
        self._timer: threading.Timer | None = None

    @property
    def is_busy(self) -> bool:
        """True if a report waits, or a thread waits to send one."""
        return self._timer is not None or bool(self._newest)

    def report(self, number: int, progress: float | None, facts: dict[str, Fact]) -> None:
        """Send a report of a task, now or a little later."""
        with self._lock:
            self._newest[number] = messages.ProgressReport(number, progress, to_json(facts))
            if self._timer is not None:
                return
            wait_s = self._due - time.monotonic()
            if wait_s > 0 and self._begin_timer(wait_s):
                return
        self._flush()

    def _begin_timer(self, wait_s: float) -> bool:
        """Have the newest reports sent later. Return False if the host cannot start another thread."""
        timer = threading.Timer(wait_s, self._flush)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            return False
        self._timer = timer
        return True

    def _flush(self) -> None:
        with self._lock:
            self._timer = None
            self._due = time.monotonic() + INTERVAL_S
            newest, self._newest = self._newest, {}
            for report in newest.values():
                self._send(report)

    def end(self, number: int) -> None:
        """Send the last report of a task, which ends now."""
        with self._lock:
            timer = self._timer if not self._newest.keys() - {number} else None
            report = self._newest.pop(number, None)
            if report is not None:
                self._send(report)
        if timer is not None:
            timer.cancel()
            # Otherwise the thread would count as one that the task has left.
            timer.join(_JOIN_S)
            with self._lock:
                if self._timer is timer:
                    self._timer = None
