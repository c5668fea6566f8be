"""Helpers for tests of the core: they make graphs and hosts from short texts, and events from the names of tasks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handout.resources import PARTS, as_costs, compile_capabilities, compile_cost
from handout.scheduler import Core, Outcome, Profile, RunSpec, State, invariants
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev

Said = tuple[Any, ...]


def profile(cost: Any = None, **fields: Any) -> Profile:
    return Profile(tuple(compile_cost(one) for one in as_costs(cost or {})), **fields)


def graph(text: str, *, profiles: Mapping[str, Profile] | None = None, **fields: Any) -> RunSpec:
    """Return the specification of a run from a text such as ``"a -> b; a, c -> d; e"``.

    Here b takes the result of a, d takes the results of a and c, and e takes none. By default, the outputs are the
    results that no task takes. ``profiles`` has the profiles by the name of the task; a task that is not in it gets the
    default profile. ``outputs``, ``keep``, ``groups`` and ``priorities`` use the names of tasks as well.
    """
    inputs: dict[str, list[str]] = {}
    for clause in text.split(";"):
        chain = [[name.strip() for name in part.split(",")] for part in clause.split("->")]
        for names in chain:
            for name in names:
                inputs.setdefault(name, [])
        for before, after in itertools.pairwise(chain):
            for name in after:
                inputs[name].extend(before)
    ids = list(inputs)
    number = {name: t for t, name in enumerate(ids)}
    taken = {o for ins in inputs.values() for o in ins}
    known = list(dict.fromkeys((profiles or {}).values()))
    default = profile()
    columns = [default, *known]
    outputs = fields.pop("outputs", None)
    groups: Mapping[str, int] = fields.pop("groups", {})
    priorities: Mapping[str, float] = fields.pop("priorities", {})
    return RunSpec(
        count=len(ids),
        profiles=columns,
        profile=[columns.index((profiles or {}).get(name, default)) for name in ids],
        fn=[columns.index((profiles or {}).get(name, default)) for name in ids],
        inputs=[tuple(number[o] for o in inputs[name]) for name in ids],
        producer=list(range(len(ids))),
        nbytes=[-1] * len(ids),
        outputs=[number[o] for o in ids if o not in taken] if outputs is None else [number[o] for o in outputs],
        keep=[number[o] for o in fields.pop("keep", ())],
        group=[groups.get(name, -1) for name in ids] if groups else None,
        priority=[priorities.get(name, 0.0) for name in ids] if priorities else None,
        ids=ids,
        **fields,
    )


class Scene:
    """A core, its clock, and the names of its tasks. Each call of `tell` checks the invariants of the core."""

    def __init__(self, *hosts: str, **shared: int) -> None:
        self.core = Core()
        self.now = 0.0
        self.specs: dict[int, RunSpec] = {}
        self.ended: dict[tuple[int, str], Outcome] = {}
        self.over: dict[int, cmd.AnnounceRunEnded] = {}
        if shared:
            self.tell(ev.SharedChanged({name: units * PARTS for name, units in shared.items()}))
        for text in hosts:
            self.join(text)

    # -- what happens

    def tell(self, *events: ev.Event, at: float | None = None) -> list[cmd.Command]:
        if at is not None:
            self.now = at
        commands = self.core.handle(events, self.now)
        for command in commands:
            if isinstance(command, cmd.AnnounceTasksEnded):
                for t, outcome in zip(command.tasks, command.outcomes, strict=True):
                    key = (command.run, self.name(command.run, t))
                    assert key not in self.ended, f"{key} ended twice"
                    self.ended[key] = outcome
            elif isinstance(command, cmd.AnnounceRunEnded):
                assert command.run not in self.over
                self.over[command.run] = command
        invariants.check(self.core.world)
        return commands

    def join(self, text: str, **offer: Any) -> list[Said]:
        """Connect a host: ``"h1"`` has one core, and ``"h1 2"`` has two."""
        name, _, cores = text.partition(" ")
        offer = {"cpu": float(cores or 1), **offer}
        return self.said(self.tell(joined(name, **offer)))

    def submit(self, spec: RunSpec, run: int = 1) -> list[Said]:
        self.specs[run] = spec
        return self.said(self.tell(ev.RunSubmitted(run, spec)))

    def finish(
        self, host: str, *names: str, run: int = 1, size: int = 8, held: bool = True, took_s: float = 60.0
    ) -> list[Said]:
        return self.said(self.tell(self.finished(host, *names, run=run, size=size, held=held, took_s=took_s)))

    def finished(
        self, host: str, *names: str, run: int = 1, size: int = 8, held: bool = True, took_s: float = 60.0
    ) -> ev.TasksFinished:
        tasks = [self.number(run, name) for name in names]
        attempts = [self.attempt(run, t) for t in tasks]
        n = len(tasks)
        sizes = [[size] * len(self.core.world.runs[run].objects_of(t)) for t in tasks]
        return ev.TasksFinished(host, run, tasks, attempts, [took_s] * n, sizes, [held] * n)

    def fail(
        self,
        host: str,
        name: str,
        kind: ev.FailureKind = "raised",
        *,
        run: int = 1,
        retryable: bool = True,
        need: int = 0,
        recurs: bool = False,
    ) -> list[Said]:
        t = self.number(run, name)
        failure = f"{name} failed"
        event = ev.TaskFailed(host, run, t, self.attempt(run, t), kind, retryable, failure, need, recurs=recurs)
        return self.said(self.tell(event))

    def recalled(self, host: str, *names: str, run: int = 1) -> list[Said]:
        tasks = [self.number(run, name) for name in names]
        return self.said(self.tell(ev.TasksRecalled(host, run, tasks, [self.attempt(run, t) for t in tasks])))

    def store(self, host: str, *names: str, run: int = 1, size: int = 8) -> list[Said]:
        objects = [self.number(run, name) for name in names]
        return self.said(self.tell(ev.ObjectsStored(host, run, objects, [size] * len(objects))))

    def lose(self, host: str) -> list[Said]:
        return self.said(self.tell(ev.HostLost(host, "it is gone")))

    def wake(self) -> list[Said]:
        """Let time pass until the core's next deadline, and call the core."""
        deadline = self.core.next_deadline
        assert deadline is not None
        return self.said(self.tell(at=deadline))

    # -- what is known

    def name(self, run: int, t: int) -> str:
        ids = self.specs[run].ids
        return ids[t] if ids is not None and t < len(ids) else str(t)

    def number(self, run: int, name: str) -> int:
        ids = self.specs[run].ids
        assert ids is not None
        return list(ids).index(name) if name in ids else int(name)

    def attempt(self, run: int, t: int) -> int:
        return self.core.world.runs[run].attempt[t]

    def state(self, name: str, run: int = 1) -> State:
        return State(self.core.world.runs[run].state[self.number(run, name)])

    def where(self, name: str, run: int = 1) -> tuple[str, ...]:
        return self.core.locate(run, self.number(run, name))

    def said(self, commands: Iterable[cmd.Command]) -> list[Said]:
        """Return commands as words, such as ``("start", "h1", "a", "b")``, in the order in which the core gave them."""
        return [words for command in commands for words in self._words(command)]

    def _words(self, command: cmd.Command) -> Sequence[Said]:
        def named(tasks: Iterable[int]) -> tuple[str, ...]:
            return tuple(self.name(command.run, t) for t in tasks)  # type: ignore[union-attr]

        match command:
            case cmd.StartTasks():
                now = [t for t, ahead in zip(command.tasks, command.ahead, strict=True) if not ahead]
                later = [t for t, ahead in zip(command.tasks, command.ahead, strict=True) if ahead]
                words: list[Said] = [("start", command.host, *named(now))] if now else []
                return words + ([("ahead", command.host, *named(later))] if later else [])
            case cmd.CopyObjects():
                return [
                    ("copy", name, source, command.host)
                    for name, source in zip(named(command.objects), command.sources, strict=True)
                ]
            case cmd.FetchObjects():
                return [("fetch", n, s) for n, s in zip(named(command.objects), command.sources, strict=True)]
            case cmd.DropObjects():
                return [("drop", command.host, *named(command.objects))]
            case cmd.CancelTasks():
                return [("cancel", command.host, *named(command.tasks))]
            case cmd.RecallTasks():
                return [("recall", command.host, *named(command.tasks))]
            case cmd.AnnounceTasksEnded():
                ended = zip(named(command.tasks), command.outcomes, strict=True)
                by: dict[str, list[str]] = {}
                for name, outcome in ended:
                    by.setdefault(outcome.value, []).append(name)
                return [(outcome, *names) for outcome, names in by.items()]
            case cmd.AskAllocator():
                return [("ask", command.request, *(task.id for task in command.frontier))]
            case cmd.AnnounceRunEnded():
                return [("over", command.outcome.value)]
            case cmd.AnnounceObjectsLost():
                return [("lost", *named(command.objects))]
            case cmd.AnnouncePause() | cmd.AnnounceSecondAttempt():
                return []
            case cmd.RefuseDrain():
                return [("refuse", command.host)]
            case cmd.ReleaseHost():
                return [("release", command.host)]


def joined(
    name: str, *, python: str = "3.11.4", rtt_s: float = 0.001, epoch: int = 0, **offer: Any
) -> ev.HostConnected:
    return ev.HostConnected(name, compile_capabilities(offer), python, rtt_s, epoch)
