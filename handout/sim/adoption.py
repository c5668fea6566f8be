"""What a controller knows of the lives before it: from the journal, and from agents that went on meanwhile.

The shell's counterpart is `handout.execution.recording.Recorder.recall`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from handout.scheduler import CONTROLLER
from handout.scheduler import events as ev
from handout.sim.journal import Journal
from handout.sim.scenario import Submission

__all__ = ["Found", "facts"]


@dataclass(frozen=True, slots=True)
class Found:
    """What an agent has of earlier lives, as run, task and attempt, and as run and object."""

    #: Attempts that it goes on with, or whose ends nobody has heard of.
    tickets: Sequence[tuple[int, int, int]]
    objects: Collection[tuple[int, int]]


def facts(run: Submission, journal: Journal, found: Mapping[str, Found]) -> list[ev.Event]:
    """What is known of a run that is taken up again.

    Args:
        run: It.
        journal: What is written down of it.
        found: By host, what agents have.
    """
    number = run.plan.number
    known = {task[1]: objects for task, objects in journal.committed.items() if task[0] == number}
    # Those of what must not run twice that a later attempt took the place of say nothing of the one that counts.
    started = {t: attempt for (plan, t), attempt in journal.unknown.items() if plan == number}
    going_on = {
        host: [(t, a) for plan, t, a in one.tickets if plan == number and a >= started.get(t, 0)]
        for host, one in found.items()
    }
    began = {t for tickets in going_on.values() for t, _ in tickets}
    left: dict[int, list[str]] = {}
    for host, one in found.items():
        for _, o in sorted(key for key in one.objects if key[0] == number):
            left.setdefault(o, []).append(host)
    done: list[int] = []
    replicas: list[tuple[int, str]] = []
    for t in range(run.spec.count if known or left else 0):
        made = [o for o in run.objects_of(t) if run.wanted[o]]
        if t not in known and (t in began or not made or not all(o in left for o in made)):
            continue  # else it ended in the moment before the controller did: what it made is there
        done.append(t)
        replicas += [(o, CONTROLLER) for o in sorted(known.get(t, ()))]
        replicas += [(o, host) for o in made for host in left.get(o, ())]
    events: list[ev.Event] = []
    if done:
        objects = [o for o, _ in replicas]
        sizes = [run.nbytes(o) for o in objects]
        events.append(ev.ResultsCommitted(number, done, objects, sizes, [host for _, host in replicas]))
    for host, tickets in going_on.items():
        if tickets:
            events.append(ev.AttemptsFound(host, number, [t for t, _ in tickets], [a for _, a in tickets]))
    unknown = sorted(started.keys() - began)
    if unknown:
        events.append(
            ev.AttemptsUnknown(
                run=number, tasks=unknown, hosts=["somewhere"] * len(unknown), attempts=[1] * len(unknown)
            )
        )
    return events
