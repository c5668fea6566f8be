"""Reports about attempts, and those that come again at the worst moment: once their tasks are with the same host again.

Then run, task and host are those of the present attempt, and only its number tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

from handout.scheduler import events as ev

__all__ = ["Echoes", "Report", "is_report", "tokens"]

#: The session numbers messages; beyond that, only these say which attempt they are about.
Report = ev.TasksStarted | ev.TasksFinished | ev.TasksRecalled | ev.TaskFailed
_REPORTS = (ev.TasksStarted, ev.TasksFinished, ev.TasksRecalled, ev.TaskFailed)


def is_report(event: ev.Event) -> TypeGuard[Report]:
    """Whether an event says something about attempts."""
    return isinstance(event, _REPORTS)


def tokens(event: Report) -> list[tuple[int, int, int]]:
    """The attempts that it says something about: run, task, attempt."""
    if isinstance(event, ev.TaskFailed):
        return [(event.run, event.task, event.attempt)]
    return [(event.run, t, attempt) for t, attempt in zip(event.tasks, event.attempts, strict=True)]


class Echoes:
    """What one life of the controller may hear a second time."""

    def __init__(self) -> None:
        #: By host, run and task.
        self._kept: dict[tuple[str, int, int], list[Report]] = {}

    def keep(self, event: Report) -> None:
        """Have a report come again."""
        for run, t, _ in tokens(event):
            self._kept.setdefault((event.host, run, t), []).append(event)

    def handed(self, host: str, run: int, tasks: Sequence[int]) -> Iterator[Report]:
        """Tasks are handed to a host: what it had said of them before."""
        for t in tasks if self._kept else ():
            yield from self._kept.pop((host, run, t), ())
