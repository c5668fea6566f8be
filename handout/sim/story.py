"""The story of a simulation: what happened, in sentences, so that a reader can find out why a seed fails.

Amounts in these sentences are numbers of parts; see `handout.resources.units.PARTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

from handout.scheduler import CONTROLLER
from handout.scheduler import commands as do
from handout.scheduler import events as ev

__all__ = ["SimulationStory", "sentence_of"]


class SimulationStory:
    """Keeps events, commands and sentences with their times. `lines` turns events and commands into sentences."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[tuple[float, object]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def tell(self, now: float, what: ev.Event | do.Command | str) -> None:
        """Add an event, a command or a sentence. The caller must not change ``what`` afterwards."""
        self._entries.append((now, what))

    def lines(self) -> Iterator[str]:
        """Yield a line for each entry: the time in virtual seconds, and a sentence."""
        for now, what in self._entries:
            yield f"{now:12.6f} s  {sentence_of(what)}"

    @property
    def kinds(self) -> set[str]:
        """The names of the classes of the events and commands."""
        return {type(what).__name__ for _, what in self._entries}

    @property
    def digest(self) -> str:
        """A hash of the story. Equal stories have equal hashes."""
        return sha256("\n".join(self.lines()).encode()).hexdigest()


def sentence_of(what: object) -> str:
    """Return the sentence for an event or a command. If ``what`` is a sentence already, return it unchanged."""
    return what if isinstance(what, str) else _SENTENCES[type(what)](what)


def _tasks(each: Any) -> str:
    """Return a phrase that names tasks, their attempts and their run."""
    attempts = getattr(each, "attempts", None) or [None] * len(each.tasks)
    named = [str(t) if a is None else f"{t} (attempt {a})" for t, a in zip(each.tasks, attempts, strict=True)]
    return f"{'task' if len(named) == 1 else 'tasks'} {', '.join(named)} of run {each.run}"


def _objects(run: int, numbers: Sequence[int]) -> str:
    return f"{'object' if len(numbers) == 1 else 'objects'} {', '.join(map(str, numbers))} of run {run}"


def _at(name: str) -> str:
    return "the controller" if name == CONTROLLER else f"host {name}"


def _sources(each: do.CopyObjects | do.FetchObjects) -> str:
    pairs = zip(each.objects, each.sources, strict=True)
    return ", ".join(f"object {o} from {_at(source)}" for o, source in pairs)


def _ends(c: do.AnnounceTasksEnded) -> str:
    named = ", ".join(f"task {t} {outcome.value}" for t, outcome in zip(c.tasks, c.outcomes, strict=True))
    return f"The controller announced how tasks of run {c.run} ended: {named}."


def _failed(e: ev.TaskFailed) -> str:
    what = f"{e.kind}, as it made a warm value of object {e.recipe}" if e.recipe >= 0 else e.kind
    return f"Host {e.host} reported that task {e.task} (attempt {e.attempt}) of run {e.run} failed: {what}."


def _cancelled(e: ev.CancelRequested) -> str:
    what = f"run {e.run}" if e.tasks is None else _tasks(e)
    return f"The caller cancelled {what}."


def _shared(e: ev.SharedChanged) -> str:
    return f"The inventory's shared amounts are now {dict(e.amounts)}, in parts."


_SENTENCES: dict[type, Callable[[Any], str]] = {
    ev.RunSubmitted: lambda e: f"The caller submitted run {e.run}. Its number of tasks is {e.spec.count}.",
    ev.TasksAdded: lambda e: f"Callers added tasks {', '.join(e.ids)} to run {e.run}.",
    ev.ObjectsReleased: lambda e: f"The caller needs {_objects(e.run, e.objects)} no more.",
    ev.RunClosed: lambda e: f"The caller closed run {e.run}.",
    ev.ResultsCommitted: lambda e: f"The journal or the hosts already had the results of {_tasks(e)}.",
    ev.AttemptsFound: lambda e: f"Host {e.host} had gone on with {_tasks(e)} while there was no controller.",
    ev.AttemptsUnknown: lambda e: f"The journal has the start, but not the end, of {_tasks(e)}.",
    ev.HostExpected: lambda e: f"The controller expects host {e.host} to join.",
    ev.HostDelayed: lambda e: f"The controller does not connect to host {e.host} for now: {e.reason}.",
    ev.HostConnected: lambda e: f"Host {e.host} joined. The number of its agent is {e.epoch}.",
    ev.HostLost: lambda e: f"The controller lost host {e.host}: {e.reason}.",
    ev.HostAbandoned: lambda e: f"The controller gave up the agent of host {e.host}.",
    ev.HostRemoved: lambda e: f"Host {e.host} is not in the inventory any more.",
    ev.HostSuspected: lambda e: f"The controller has not heard from host {e.host} for a while.",
    ev.HostRecovered: lambda e: f"The controller heard from host {e.host} again.",
    ev.HostDrained: lambda e: f"The caller drained host {e.host}.",
    ev.CapabilitiesChanged: lambda e: f"Host {e.host} now offers the amounts {dict(e.offer.amounts)}, in parts.",
    ev.SharedChanged: _shared,
    ev.TasksStarted: lambda e: f"Host {e.host} reported the start of {_tasks(e)}.",
    ev.TasksFinished: lambda e: f"Host {e.host} reported the results of {_tasks(e)}.",
    ev.TasksRecalled: lambda e: f"Host {e.host} gave back {_tasks(e)}.",
    ev.TaskFailed: _failed,
    ev.ValueWarmed: lambda e: f"Host {e.host} made warm value {e.value} in {e.seconds:g} s.",
    ev.ValueCooled: lambda e: f"Host {e.host} does not have warm value {e.value} any more.",
    ev.ObjectsStored: lambda e: f"A copy of {_objects(e.run, e.objects)} arrived at {_at(e.host)}.",
    ev.ObjectsVanished: lambda e: f"Host {e.host} has lost the files of {_objects(e.run, e.objects)}.",
    ev.CopyFailed: lambda e: f"Copying object {e.object} of run {e.run} from {_at(e.source)} to {_at(e.host)} failed.",
    ev.PlacementsProposed: lambda e: f"The allocator of run {e.run} placed tasks: {dict(e.placements)}.",
    ev.AllocatorFailed: lambda e: f"The allocator of run {e.run} raised {e.error!r}.",
    ev.OutputsWanted: lambda e: f"The caller asked for {_objects(e.run, e.objects)}.",
    ev.CancelRequested: _cancelled,
    do.StartTasks: lambda c: f"The controller handed {_tasks(c)} to host {c.host}.",
    do.CopyObjects: lambda c: f"The controller sent to host {c.host}, for run {c.run}: {_sources(c)}.",
    do.FetchObjects: lambda c: f"The controller fetched, for run {c.run}: {_sources(c)}.",
    do.DropObjects: lambda c: f"The controller had {_objects(c.run, c.objects)} dropped at {_at(c.host)}.",
    do.CancelTasks: lambda c: f"The controller had host {c.host} cancel {_tasks(c)}.",
    do.RecallTasks: lambda c: f"The controller recalled {_tasks(c)} from host {c.host}.",
    do.AskAllocator: lambda c: f"The controller asked the allocator of run {c.run} about {len(c.frontier)} tasks.",
    do.AnnouncePause: lambda c: f"Tasks of a function avoid host {c.host} for {c.pause_s:g} s, because it had no room.",
    do.AnnounceSecondAttempt: lambda c: f"Task {c.task} of run {c.run} gets a second attempt on host {c.host}.",
    do.AnnounceTasksEnded: _ends,
    do.AnnounceRunEnded: lambda c: f"The controller announced that run {c.run} ended: {c.outcome.value}.",
    do.AnnounceObjectsLost: lambda c: f"The controller announced that {_objects(c.run, c.objects)} are lost for good.",
    do.ReleaseHost: lambda c: f"The controller released host {c.host}.",
    do.RefuseDrain: lambda c: f"The controller refused to drain host {c.host}: {c.error}",
}
