"""Gathers the commands that one call of the core returns.

The shell is the part of the controller around the core. It contains the driver, which performs the commands after the
call. Most commands have columns: lists with one entry for each task or object. These lists grow until the end of the
call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from handout.scheduler.commands import (
    AnnounceTasksEnded,
    CancelTasks,
    Command,
    CopyObjects,
    DropObjects,
    FetchObjects,
    RecallTasks,
    StartTasks,
)
from handout.scheduler.task_states import Outcome

__all__ = ["Outbox"]

#: A host's index and a run's number.
_Key = tuple[int, int]


class Outbox:
    """Gathers commands. Commands of the same kind, host and run are combined into one command with columns.

    The methods that are named after commands, such as `start`, only add to what `flush` returns.

    Args:
        names: Names of hosts by index. The list grows when hosts join.
    """

    __slots__ = ("_cancels", "_copies", "_drops", "_ended", "_fetches", "_names", "_others", "_recalls", "_starts")

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._clear()

    def _clear(self) -> None:
        self._drops: dict[_Key, DropObjects] = {}
        self._cancels: dict[_Key, CancelTasks] = {}
        self._recalls: dict[_Key, RecallTasks] = {}
        self._starts: dict[_Key, StartTasks] = {}
        self._copies: dict[_Key, CopyObjects] = {}
        self._fetches: dict[int, FetchObjects] = {}
        self._ended: dict[int, AnnounceTasksEnded] = {}
        self._others: list[Command] = []

    def start(self, host: int, run: int, task: int, attempt: int, ahead: bool, variant: int, keep: bool) -> None:
        """Hand a task over to a host."""
        command = self._starts.get((host, run))
        if command is None:
            command = self._starts[host, run] = StartTasks(self._names[host], run, [], [], [], [], [])
        command.tasks.append(task)
        command.attempts.append(attempt)
        command.ahead.append(ahead)
        command.variants.append(variant)
        command.keep.append(keep)

    def drop(self, host: int, run: int, object_: int) -> None:
        """Drop the replica of an object on a host."""
        command = self._drops.get((host, run))
        if command is None:
            command = self._drops[host, run] = DropObjects(self._names[host], run, [])
        command.objects.append(object_)

    def drops(self, host: int) -> Iterator[tuple[int, int]]:
        """Yield each object that a host is about to drop, as (run, object)."""
        for (index, run), command in self._drops.items():
            if index == host:
                for o in command.objects:
                    yield run, o

    def copy(self, host: int, run: int, object_: int, source: int) -> None:
        """Copy an object to a host; host 0 is the controller."""
        command: CopyObjects | FetchObjects | None
        if host:
            command = self._copies.get((host, run))
            if command is None:
                command = self._copies[host, run] = CopyObjects(self._names[host], run, [], [])
        else:
            command = self._fetches.get(run)
            if command is None:
                command = self._fetches[run] = FetchObjects(run, [], [])
        command.objects.append(object_)
        command.sources.append(self._names[source])

    def cancel(self, host: int, run: int, task: int, attempt: int) -> None:
        """End an attempt."""
        command = self._cancels.get((host, run))
        if command is None:
            command = self._cancels[host, run] = CancelTasks(self._names[host], run, [], [])
        command.tasks.append(task)
        command.attempts.append(attempt)

    def recall(self, host: int, run: int, task: int, attempt: int) -> None:
        """Recall a task if it has not started."""
        command = self._recalls.get((host, run))
        if command is None:
            command = self._recalls[host, run] = RecallTasks(self._names[host], run, [], [])
        command.tasks.append(task)
        command.attempts.append(attempt)

    def done(self, run: int, host: str, tasks: Sequence[int]) -> None:
        """Announce tasks that ended with `Outcome.DONE`."""
        command = self._ended_of(run)
        command.tasks.extend(tasks)
        command.outcomes.extend([Outcome.DONE] * len(tasks))
        command.hosts.extend([host] * len(tasks))
        command.failures.extend([None] * len(tasks))
        command.causes.extend([-1] * len(tasks))

    def ended(self, run: int, task: int, outcome: Outcome, host: str, failure: object, cause: int) -> None:
        """Announce one task that ended, with any outcome."""
        command = self._ended_of(run)
        command.tasks.append(task)
        command.outcomes.append(outcome)
        command.hosts.append(host)
        command.failures.append(failure)
        command.causes.append(cause)

    def add(self, command: Command) -> None:
        """Add a command of another kind. `flush` returns these commands last."""
        self._others.append(command)

    def forget(self, host: int) -> None:
        """Remove the commands for a lost host."""
        for by_key in (self._drops, self._cancels, self._recalls, self._starts, self._copies):
            for key in [key for key in by_key if key[0] == host]:
                del by_key[key]

    def flush(self) -> list[Command]:
        """Remove and return all commands, in the order in which the shell must perform them.

        Drops come first, so that they delete nothing that the later commands make or copy.
        """
        commands: list[Command] = [
            *self._drops.values(),
            *self._cancels.values(),
            *self._recalls.values(),
            *self._starts.values(),
            *self._copies.values(),
            *self._fetches.values(),
            *self._ended.values(),
            *self._others,
        ]
        self._clear()
        return commands

    def _ended_of(self, run: int) -> AnnounceTasksEnded:
        command = self._ended.get(run)
        if command is None:
            command = self._ended[run] = AnnounceTasksEnded(run, [], [], [], [], [])
        return command
