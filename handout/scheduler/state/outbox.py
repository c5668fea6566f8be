"""The commands of one call, gathered as columns by (host, run) until they are handed out."""

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
from handout.scheduler.states import Outcome

__all__ = ["Outbox"]

#: A host's index and a run's number.
_Key = tuple[int, int]


class Outbox:
    """Gathers what is to be done; `flush` gives it out, in an order that is safe to perform one by one."""

    __slots__ = ("_cancels", "_copies", "_drops", "_ended", "_fetches", "_later", "_names", "_recalls", "_starts")

    def __init__(self, names: Sequence[str]) -> None:
        #: Host names by index; grows while hosts join.
        self._names = names
        self._clear()

    def _clear(self) -> None:
        self._drops: dict[_Key, list[int]] = {}
        self._cancels: dict[_Key, tuple[list[int], list[int]]] = {}
        self._recalls: dict[_Key, tuple[list[int], list[int]]] = {}
        self._starts: dict[_Key, tuple[list[int], list[int], list[bool], list[int], list[bool]]] = {}
        self._copies: dict[_Key, tuple[list[int], list[str]]] = {}
        self._fetches: dict[int, tuple[list[int], list[str]]] = {}
        self._ended: dict[int, tuple[list[int], list[Outcome], list[str], list[object], list[int]]] = {}
        self._later: list[Command] = []

    def start(self, host: int, run: int, task: int, attempt: int, ahead: bool, variant: int, keep: bool) -> None:
        """Hand a task over."""
        columns = self._starts.get((host, run))
        if columns is None:
            columns = self._starts[host, run] = ([], [], [], [], [])
        columns[0].append(task)
        columns[1].append(attempt)
        columns[2].append(ahead)
        columns[3].append(variant)
        columns[4].append(keep)

    def drop(self, host: int, run: int, object_: int) -> None:
        """Free a copy."""
        columns = self._drops.get((host, run))
        if columns is None:
            columns = self._drops[host, run] = []
        columns.append(object_)

    def drops(self, host: int) -> Iterator[tuple[int, int]]:
        """Run and object of all that is to be dropped on a host."""
        for (index, run), objects in self._drops.items():
            if index == host:
                for o in objects:
                    yield run, o

    def copy(self, host: int, run: int, object_: int, source: int) -> None:
        """Bring an object to a host; host 0 is the controller."""
        if host:
            columns = self._copies.setdefault((host, run), ([], []))
        else:
            columns = self._fetches.setdefault(run, ([], []))
        columns[0].append(object_)
        columns[1].append(self._names[source])

    def cancel(self, host: int, run: int, task: int, attempt: int) -> None:
        """End an attempt."""
        columns = self._cancels.setdefault((host, run), ([], []))
        columns[0].append(task)
        columns[1].append(attempt)

    def recall(self, host: int, run: int, task: int, attempt: int) -> None:
        """Take a task back if it has not started."""
        columns = self._recalls.setdefault((host, run), ([], []))
        columns[0].append(task)
        columns[1].append(attempt)

    def done(self, run: int, host: str, tasks: list[int]) -> None:
        """Report tasks that ended well."""
        columns = self._ended_of(run)
        columns[0].extend(tasks)
        columns[1].extend([Outcome.DONE] * len(tasks))
        columns[2].extend([host] * len(tasks))
        columns[3].extend([None] * len(tasks))
        columns[4].extend([-1] * len(tasks))

    def ended(self, run: int, task: int, outcome: Outcome, host: str, failure: object, cause: int) -> None:
        """Report a task that ended in any way."""
        columns = self._ended_of(run)
        columns[0].append(task)
        columns[1].append(outcome)
        columns[2].append(host)
        columns[3].append(failure)
        columns[4].append(cause)

    def add(self, command: Command) -> None:
        """Anything else; given out last."""
        self._later.append(command)

    def forget(self, host: int) -> None:
        """A host is lost: nothing can be sent to it any more."""
        for by_key in (self._drops, self._cancels, self._recalls, self._starts, self._copies):
            for key in [key for key in by_key if key[0] == host]:
                del by_key[key]

    def flush(self) -> list[Command]:
        """All that was gathered. Drops come first: what is made again later in the same call must stay."""
        names = self._names
        commands: list[Command] = [DropObjects(names[h], r, c) for (h, r), c in self._drops.items()]
        commands += [CancelTasks(names[h], r, *c) for (h, r), c in self._cancels.items()]
        commands += [RecallTasks(names[h], r, *c) for (h, r), c in self._recalls.items()]
        commands += [StartTasks(names[h], r, *c) for (h, r), c in self._starts.items()]
        commands += [CopyObjects(names[h], r, *c) for (h, r), c in self._copies.items()]
        commands += [FetchObjects(r, *c) for r, c in self._fetches.items()]
        commands += [AnnounceTasksEnded(r, *c) for r, c in self._ended.items()]
        commands += self._later
        self._clear()
        return commands

    def _ended_of(self, run: int) -> tuple[list[int], list[Outcome], list[str], list[object], list[int]]:
        columns = self._ended.get(run)
        if columns is None:
            columns = self._ended[run] = ([], [], [], [], [])
        return columns
