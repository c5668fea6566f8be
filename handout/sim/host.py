"""One host's agent as the controller comes to know it: a queue, a ledger, a store, and what they lead to.

It does what `handout.host.agent` does, with the same ledger, and says what that would say. One object is one epoch: an
agent that is started anew is another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random

from handout.protocol.ledger import Claim, Ledger
from handout.resources import Offer
from handout.scheduler import events as ev
from handout.sim.adoption import SurvivingAgent
from handout.sim.clock import Clock
from handout.sim.echoes import Report, is_report, tokens
from handout.sim.line import Line, Way
from handout.sim.scenario import Fate, Submission

__all__ = ["INLINE", "Key", "SimulatedHost", "Ticket"]

#: Results up to this size ride in the message that says so.
INLINE = 65536
#: What is cancelled while it runs gets at most this long.
_GRACE_S = 3.0
#: So many messages may have arrived at a controller that died before it could say so.
_UNSURE = 2

#: Run, task, attempt.
Ticket = tuple[int, int, int]
#: Run, object.
Key = tuple[int, int]


@dataclass(slots=True, eq=False)
class Handed:
    """A task that was handed over and has not ended here."""

    ticket: Ticket
    run: Submission
    variant: int
    keep: bool
    #: What it has taken while it runs.
    claim: Claim | None = None

    @property
    def task(self) -> int:
        """Its number in the run."""
        return self.ticket[1]

    @property
    def shares(self) -> Mapping[str, int]:
        """What it takes of what hosts share."""
        return self._needs()[1]

    def needs_here(self) -> dict[str, int]:
        """What it takes of the host."""
        return dict(self._needs()[0])

    def _needs(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        spec = self.run.spec
        return spec.profiles[spec.profile[self.task]].requirements[self.variant].needs(self.run.shared)

    @property
    def objects(self) -> list[Key]:
        """What it makes."""
        return [(self.ticket[0], o) for o in self.run.objects_of(self.task)]

    @property
    def inputs(self) -> list[Key]:
        """What it takes."""
        return [(self.ticket[0], o) for o in self.run.spec.inputs[self.task]]


class SimulatedHost:
    """An agent.

    Args:
        name: The host's.
        epoch: Of this agent.
        offer: What it has.
        clock: The time.
        rng: Decides what is left to chance here.
        tell: Called at the controller with what a message says.
        began: Called as a function is called.
    """

    #: To the controller.
    line: Line

    def __init__(
        self,
        name: str,
        epoch: int,
        offer: Offer,
        clock: Clock,
        rng: Random,
        tell: Callable[[SimulatedHost, list[ev.Event]], None],
        began: Callable[[SimulatedHost, Handed], None],
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.ledger = Ledger(offer.amounts, offer.devices)
        self.queue: dict[Ticket, Handed] = {}
        self.running: dict[Ticket, Handed] = {}
        self.store: set[Key] = set()
        #: Streams that are coming in, by number.
        self.incoming: dict[int, Key] = {}
        #: False once its process is gone.
        self.alive = True
        #: Whether its lease is over: nothing starts.
        self.lapsed = False
        #: Everything takes this many times as long.
        self.slowness = 1.0
        #: Whether nothing finds room in its store, and what has not.
        self.full = False
        self.refused: set[Key] = set()
        #: Objects that it had and has no more, though nobody was told.
        self.lost: set[Key] = set()
        #: How the next objects that it is asked for fail to come.
        self.failing: deque[str] = deque()
        #: Reports that were taken out of their order and have yet to come.
        self.overtaken = 0
        self._clock = clock
        self._rng = rng
        self._tell = tell
        self._began = began
        self._runs: dict[int, Submission] = {}
        self._outbox: list[ev.Event] = []
        #: The latest messages, and how many of them have arrived; the last ones may do so without the host's knowing.
        self._said: deque[list[ev.Event]] = deque()
        self._arrived = 0
        #: Whether it has been adopted, and says nothing before `go_on`.
        self._waits = False
        #: Objects that it had when a controller adopted it, who may know nothing of them.
        self.inherited: set[Key] = set()
        self._streams = 0

    # ---- what the controller says ------------------------------------------------------------------------------

    def hand(self, run: Submission, number: int, columns: Iterable[tuple[int, int, int, bool]]) -> None:
        """Take tasks in: task, attempt, variant, keep."""
        self._runs[number] = run
        for t, attempt, variant, keep in columns:
            task = Handed((number, t, attempt), run, variant, keep)
            self.queue[task.ticket] = task
            if any(key in self.refused for key in task.inputs):
                self._fail(task, "disk")
            elif any(key in self.lost for key in task.inputs):
                self._fail(task, "input")
        if self.lapsed:
            self._return_all()
        self.pump()

    def take_back(self, tickets: Iterable[Ticket]) -> None:
        """Give back those that have not started."""
        for ticket in tickets:
            if ticket in self.queue:
                self._return(self.queue[ticket])

    def cancel(self, tickets: Iterable[Ticket]) -> None:
        """End these: at once where they have not started, else in a while, unless they end first."""
        for ticket in tickets:
            if ticket in self.queue:
                self._fail(self.queue[ticket], "cancelled")
            elif ticket in self.running:
                self._clock.after(self._rng.random() * _GRACE_S, lambda ticket=ticket: self.end(ticket, "cancelled"))  # type: ignore[misc]

    def drop(self, keys: Iterable[Key]) -> None:
        """Forget objects, also those that are still arriving."""
        gone = set(keys)
        self.store -= gone
        self.refused -= gone
        self.lost -= gone
        self.incoming = {number: key for number, key in self.incoming.items() if key not in gone}

    def give(self, key: Key) -> str:
        """It is asked for an object: whether that comes (""), breaks off on its way ("broken"), or is "missing"."""
        how = self.failing.popleft() if self.failing and key in self.store else ""
        if how == "missing":
            self.store.discard(key)
            self.lost.add(key)
            for task in list(self.queue.values()):
                if key in task.inputs:
                    self._fail(task, "input")
        return how if key in self.store else "missing"

    def _stored(self, key: Key) -> None:
        self.store.add(key)
        self.lost.discard(key)

    def put(self, keys: Iterable[Key]) -> None:
        """Objects that came within a message."""
        for key in keys:
            if self.full:
                self._refuse(key)
            else:
                self._stored(key)
        self.pump()

    def announce(self, key: Key) -> int:
        """An object will come as a stream: answers its number."""
        self._streams += 1
        if key in self.store:
            self._say_stored(key)
        elif self.full:
            self._refuse(key)
        else:
            self.incoming[self._streams] = key
        return self._streams

    def received(self, number: int, nbytes: int) -> None:
        """The last of a stream came."""
        key = self.incoming.pop(number, None)
        if key is None:
            return  # it was dropped meanwhile, or here before: the rest went nowhere
        self._stored(key)
        self._say_stored(key, nbytes)
        self.pump()

    def stop(self, number: int) -> None:
        """The rest of a stream will not come."""
        self.incoming.pop(number, None)

    def limit(self, offer: Offer) -> None:
        """It may give that much to tasks from now on."""
        self.ledger.resize(offer.amounts, offer.devices)
        self.pump()

    # ---- what happens here -------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Start what has its inputs and fits, first come first."""
        if self.lapsed or not self.alive:
            return
        for task in list(self.queue.values()):
            if all(key in self.store for key in task.inputs):
                claim = self.ledger.claim(task.needs_here())
                if claim is not None:
                    self._start(task, claim)

    def _start(self, task: Handed, claim: Claim) -> None:
        del self.queue[task.ticket]
        task.claim = claim
        self.running[task.ticket] = task
        self._began(self, task)
        run, t, attempt = task.ticket
        took_s = task.run.duration_s(t) * self.slowness
        if took_s > 0.05 and self._rng.random() < 0.7:
            self._say(ev.TasksStarted(self.name, run, [t], [attempt]))
        self._clock.after(took_s, lambda: self._due(task, took_s))

    def _due(self, task: Handed, took_s: float) -> None:
        if not self.alive or task.ticket not in self.running:
            return
        fate = task.run.fate(task.task, task.ticket[2])
        if fate is not Fate.WELL:
            self.end(task.ticket, "died" if fate is Fate.POISON else "raised")
        elif self.full and task.keep:
            self.end(task.ticket, "disk")
        else:
            self._finish(task, took_s)

    def _finish(self, task: Handed, took_s: float) -> None:
        self._release(task)
        run, t, attempt = task.ticket
        sizes, held = [], True
        awaited = {key for other in self.queue.values() for key in other.inputs}
        for key in task.objects:
            size = task.run.nbytes(key[1])
            if not task.run.wanted[key[1]]:
                size = -1
            elif size > INLINE or task.keep or key in awaited:
                self._stored(key)
            sizes.append(size)
            held = held and size <= INLINE
        self._say(ev.TasksFinished(self.name, run, [t], [attempt], [took_s], [sizes], [held]))
        self.pump()

    def end(self, ticket: Ticket, kind: ev.FailureKind) -> None:
        """A running task fails."""
        task = self.running.get(ticket)
        if task is not None and self.alive:
            self._fail(task, kind)
            self.pump()

    def _release(self, task: Handed) -> None:
        del self.running[task.ticket]
        assert task.claim is not None
        self.ledger.release(task.claim)

    def _fail(self, task: Handed, kind: ev.FailureKind) -> None:
        """A task, running or not, fails, and what would have followed it here goes back."""
        if task.claim is None:
            if self.queue.pop(task.ticket, None) is None:
                return  # it followed one that failed a moment ago
        else:
            self._release(task)
        run, t, attempt = task.ticket
        need = sum(task.run.nbytes(o) for _, o in task.objects) if kind == "disk" else 0
        called = kind != "disk" or task.claim is not None
        self._say(ev.TaskFailed(self.name, run, t, attempt, kind, True, f"{kind} on {self.name}", need, called))
        doomed = set(task.objects)
        while followers := [other for other in self.queue.values() if any(k in doomed for k in self._missing(other))]:
            for other in followers:
                doomed.update(other.objects)
                self._return(other)

    def _missing(self, task: Handed) -> list[Key]:
        return [key for key in task.inputs if key not in self.store]

    def _return(self, task: Handed) -> None:
        del self.queue[task.ticket]
        run, t, attempt = task.ticket
        self._say(ev.TasksRecalled(self.name, run, [t], [attempt]))

    def _return_all(self) -> None:
        for task in list(self.queue.values()):
            self._return(task)

    def _refuse(self, key: Key) -> None:
        self.refused.add(key)
        for task in list(self.queue.values()):
            if key in task.inputs:
                self._fail(task, "disk")

    def lapse(self) -> None:
        """The lease is over: what runs is killed, what has not started goes back."""
        if self.alive and not self.lapsed:
            self.lapsed = True
            self._return_all()
            for task in list(self.running.values()):
                self._fail(task, "host")

    def die(self) -> None:
        """The agent's process is gone, and with it all that it had started."""
        self.alive = False
        self._outbox.clear()
        self.queue.clear()
        for task in list(self.running.values()):
            self._release(task)

    # ---- another controller ------------------------------------------------------------------------------------

    def adopt(self, line: Line) -> SurvivingAgent:
        """Another controller goes on where the one before was lost: tell it what is here.

        What that one missed is told again with `go_on`.
        """
        self.line = line
        self.lapsed = False
        self.incoming.clear()
        self.refused.clear()
        self.inherited = set(self.store)
        for _ in range(self._arrived - min(self._arrived, self._rng.choice((0, 0, 1, _UNSURE)))):
            self._said.popleft()
        self._said.append(self._outbox)
        self._outbox, self._arrived, self._waits = [], 0, True
        tickets = dict.fromkeys((*self.running, *self.queue))
        for event in (event for said in self._said for event in said):
            if is_report(event) and not isinstance(event, ev.TasksStarted):
                tickets.update(dict.fromkeys(tokens(event)))
        return SurvivingAgent(list(tickets), self.inherited)

    def go_on(self) -> None:
        """The controller is ready to hear what the one before may have missed."""
        left = [[self._again(event) for event in said if is_report(event)] for said in self._said]
        self._said.clear()
        self._waits = False
        for said in left:
            self._send(said)
        self.pump()

    def _again(self, event: Report) -> ev.Event:
        """What to say of an end that the controller before may have heard of, and acted upon."""
        if isinstance(event, ev.TasksFinished):
            made = zip(self._runs[event.run].objects_of(event.tasks[0]), event.sizes[0], strict=True)
            if any(size > INLINE and (event.run, o) not in self.store for o, size in made):
                # It has had the result dropped.
                failure = f"gone from {self.name}"
                return ev.TaskFailed(self.name, event.run, event.tasks[0], event.attempts[0], "host", True, failure)
        return event

    # ---- what it says ------------------------------------------------------------------------------------------

    def _say_stored(self, key: Key, nbytes: int = -1) -> None:
        self._say(ev.ObjectsStored(self.name, key[0], [key[1]], [nbytes]))

    def _say(self, event: ev.Event) -> None:
        """What is said within a moment goes as one message."""
        self._outbox.append(event)
        if len(self._outbox) == 1:
            self._clock.after(0.0005, self._flush)

    @property
    def quiet(self) -> bool:
        """Whether it has nothing to say that has not been heard."""
        return not self._outbox and not self.overtaken and not self._waits and self.line.idle

    def _flush(self) -> None:
        said, self._outbox = self._outbox, []
        if self.alive:
            self._send(said)

    def _send(self, said: list[ev.Event]) -> None:
        if said:
            self._said.append(said)
            self.line.send(Way.TO_CONTROLLER, lambda: self._arrive(said))

    def _arrive(self, said: list[ev.Event]) -> None:
        self._arrived += 1
        if self._arrived > _UNSURE:
            self._said.popleft()
            self._arrived -= 1
        self._tell(self, said)
