"""What a controller knows of the lives before it: from the journal, and from agents that went on meanwhile.

The shell's counterpart is `handout.execution.recording.recorder.Recorder.recall`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from handout.execution.recording.resume import latest_attempts
from handout.scheduler import CONTROLLER
from handout.scheduler import events as ev
from handout.sim.journal import SimulatedJournal
from handout.sim.scenario import Submission

__all__ = ["SurvivingAgent", "facts"]


@dataclass(frozen=True, slots=True)
class SurvivingAgent:
    """What an agent has of earlier lives, as run, task and attempt, and as run and object."""

    #: Attempts that it goes on with, or whose ends nobody has heard of.
    tickets: Sequence[tuple[int, int, int]]
    objects: Collection[tuple[int, int]]


def facts(run: Submission, journal: SimulatedJournal, found: Mapping[str, SurvivingAgent]) -> list[ev.Event]:
    """What is known of a run that is taken up again.

    Args:
        run: It.
        journal: What is written down of it.
        found: By host, what agents have.
    """
    number = run.plan.number
    known = {task[1]: objects for task, objects in journal.committed.items() if task[0] == number}
    unseen = {t: attempt for (plan, t), attempt in journal.unknown.items() if plan == number}
    held = {host: _of_run(one.tickets, number) for host, one in found.items()}
    going_on, superseded = latest_attempts(held, unseen)
    began = {t for tasks, _ in going_on.values() for t in tasks}
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
    events += [ev.AttemptsFound(host, number, *attempts) for host, attempts in going_on.items()]
    unknown = sorted(unseen.keys() - began)
    if unknown:
        attempts = [unseen[t] for t in unknown]
        events.append(ev.AttemptsUnknown(number, unknown, ["somewhere"] * len(unknown), attempts))
    events += [ev.AttemptsFound(host, number, *attempts) for host, attempts in superseded.items()]
    return events


def _of_run(tickets: Sequence[tuple[int, int, int]], number: int) -> tuple[list[int], list[int]]:
    """Tasks and attempts of one run."""
    own = [(t, attempt) for run, t, attempt in tickets if run == number]
    return [t for t, _ in own], [attempt for _, attempt in own]
