"""One life of the controller: the shell around a core, as `handout.execution` is, but in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from handout.errors import OutcomeUnknownError
from handout.scheduler import CONTROLLER, Core, Outcome
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from handout.sim import checks
from handout.sim.adoption import SurvivingAgent, facts
from handout.sim.clock import Clock
from handout.sim.host import INLINE, Key, SimulatedHost
from handout.sim.journal import SimulatedJournal
from handout.sim.line import Way
from handout.sim.scenario import Submission
from handout.sim.story import SimulationStory

__all__ = ["Controller"]


class _DeadError(Exception):
    """It was killed between two instructions."""


@dataclass(slots=True, eq=False)
class _Relay:
    """An object on its way from one host to another, or to the controller."""

    failed: Callable[[bool], None]
    #: The stream's number at the target, once it is announced there.
    number: int = -1
    begun: bool = False
    over: bool = False


class Controller:
    """A core and what it is told, until it dies.

    Args:
        clock: The time.
        rng: Decides what is left to chance here.
        journal: What survives it.
        story: Where all is told.
        ended: Called when a run has ended.
        released: Called when a drained host may go.
        died: Called when it has died.
        handed: Called when tasks are handed to a host, with its name, their run and their numbers.
    """

    def __init__(
        self,
        clock: Clock,
        rng: Random,
        journal: SimulatedJournal,
        story: SimulationStory,
        ended: Callable[[Submission, cmd.AnnounceRunEnded], None],
        released: Callable[[str], None],
        died: Callable[[], None],
        handed: Callable[[Controller, str, int, Sequence[int]], None],
    ) -> None:
        self.core = Core()
        self.alive = True
        #: Instructions until it dies; None: it does not.
        self.left: int | None = None
        self.hosts: dict[str, SimulatedHost] = {}
        self.runs: dict[int, Submission] = {}
        #: Objects that are here.
        self.home: set[Key] = set()
        #: How tasks ended: run and task.
        self.outcomes: dict[Key, Outcome] = {}
        self.over: set[int] = set()
        #: Runs that the caller has forgotten.
        self.closed: set[int] = set()
        #: Tasks that an earlier life committed with all that is needed of them: run and task.
        self.spared: set[Key] = set()
        self.journal = journal
        self._clock = clock
        self._rng = rng
        self._story = story
        self._ended = ended
        self._released = released
        self._died = died
        self._handed = handed
        #: Objects that the journal has.
        self._committed: set[Key] = set()
        #: Tasks that an earlier life saw to their ends: run and task.
        self._reused: set[Key] = set()
        self._relays: dict[SimulatedHost, list[_Relay]] = {}
        self._inbox: list[ev.Event] = []
        self._armed_at = float("inf")

    # ---- what happens ------------------------------------------------------------------------------------------

    def post(self, *events: ev.Event) -> None:
        """Have the core told in a moment."""
        self._inbox.extend(events)
        self._clock.after(0.0, self._pump)

    def _pump(self) -> None:
        if self._inbox:
            events, self._inbox = self._inbox, []
            self.tell(*events)

    def tell(self, *events: ev.Event) -> None:
        """Feed the core, do what it says, and see that nothing is broken.

        Raises:
            InternalError: Something is.
        """
        if not self.alive:
            return
        if self._inbox:
            events, self._inbox = (*self._inbox, *events), []
        now = self._clock.now
        for event in events:
            self._story.tell(now, "event", event)
        before = checks.Before.of(self.core, events)
        try:
            commands = self.core.handle(events, now)
            for command in commands:
                self._story.tell(now, "command", command)
                self._instruction()
                self._perform(command)
            if self.left is not None:
                raise _DeadError
        except _DeadError:
            self._die()
            return
        checks.after_event(self, before, commands)
        self._arm()

    def _instruction(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise _DeadError

    def _die(self) -> None:
        self._story.tell(self._clock.now, "fault", "the controller dies")
        self.alive = False
        self._died()

    def _arm(self) -> None:
        deadline = self.core.next_deadline
        if deadline is not None and deadline < self._armed_at:
            self._armed_at = deadline
            self._clock.at(deadline, lambda: self._wake(deadline))

    def _wake(self, deadline: float) -> None:
        if self._armed_at == deadline:
            self._armed_at = float("inf")
            if self.core.next_deadline is not None:
                self.tell()

    def submit(self, *runs: Submission, found: Mapping[str, SurvivingAgent] = MappingProxyType({})) -> None:
        """Begin runs, or take them up again where the journal, or an agent, knows of them."""
        events: list[ev.Event] = []
        for run in runs:
            number = run.plan.number
            self.runs[number] = run
            self.home.update((number, o) for o, producer in enumerate(run.spec.producer) if producer < 0)
            for task, objects in self.journal.committed.items():
                if task[0] == number:
                    self._reused.add(task)
                    self._committed.update((number, o) for o in objects)
                    self.home.update((number, o) for o in objects)
            events += [ev.RunSubmitted(number, run.spec), *facts(run, self.journal, found)]
        self.tell(*events)

    def release(self, host: SimulatedHost, found: SurvivingAgent) -> None:
        """The runs are there that an adopted agent's messages are about; whatever else it has is of no use."""
        tickets = [ticket for ticket in found.tickets if ticket[0] not in self.runs]
        keys = [key for key in found.objects if key[0] not in self.runs]
        host.line.send(Way.TO_HOST, lambda: host.cancel(tickets))
        host.line.send(Way.TO_HOST, lambda: host.drop(keys))
        host.go_on()

    def forget(self, number: int) -> None:
        """The caller has what it wanted of a run, or does not want it any more."""
        if number not in self.closed:
            self.closed.add(number)
            self.home = {key for key in self.home if key[0] != number}
            self.tell(ev.RunClosed(number))

    def join(self, host: SimulatedHost, event: ev.HostConnected) -> None:
        """An agent is there."""
        self.hosts[host.name] = host
        self.tell(event)

    def leave(self, host: SimulatedHost, reason: str) -> None:
        """An agent is gone."""
        del self.hosts[host.name]
        for relay in self._relays.pop(host, ()):
            self._fail(relay, False)
        self.tell(ev.HostLost(host.name, reason))

    def heard(self, events: Sequence[ev.Event]) -> None:
        """An agent's message."""
        for event in events:
            if isinstance(event, ev.TasksFinished) and event.run in self.runs and event.run not in self.closed:
                run = self.runs[event.run]
                for t, attempt, sizes in zip(event.tasks, event.attempts, event.sizes, strict=True):
                    if self.core.is_live(event.run, t, event.host, attempt):
                        for o, size in zip(run.objects_of(t), sizes, strict=True):
                            if 0 <= size <= INLINE:
                                self.home.add((event.run, o))
        self.tell(*events)

    # ---- commands ----------------------------------------------------------------------------------------------

    def _perform(self, command: cmd.Command) -> None:
        match command:
            case cmd.StartTasks():
                self._start(command)
            case cmd.CopyObjects():
                self._copy(command)
            case cmd.FetchObjects():
                for o, source in zip(command.objects, command.sources, strict=True):
                    self._relay((command.run, o), source, None)
            case cmd.DropObjects():
                keys = [(command.run, o) for o in command.objects]
                if command.host == CONTROLLER:
                    self.home.difference_update(keys)
                else:
                    self._send(command.host, lambda host: host.drop(keys))
            case cmd.CancelTasks() | cmd.RecallTasks():
                tickets = [(command.run, t, a) for t, a in zip(command.tasks, command.attempts, strict=True)]
                if isinstance(command, cmd.CancelTasks):
                    self._send(command.host, lambda host: host.cancel(tickets))
                else:
                    self._send(command.host, lambda host: host.take_back(tickets))
            case cmd.AnnounceTasksEnded():
                for t, outcome, failure in zip(command.tasks, command.outcomes, command.failures, strict=True):
                    checks.ends_once(self, command.run, t)
                    self.outcomes[command.run, t] = outcome
                    self._record(command.run, t, outcome, failure)
            case cmd.AnnounceRunEnded():
                checks.run_ends_once(self, command)
                self.over.add(command.run)
                self._ended(self.runs[command.run], command)
            case cmd.AskAllocator():
                self._ask(command)
            case cmd.ReleaseHost():
                self._released(command.host)

    def _send(self, name: str, action: Callable[[SimulatedHost], None]) -> None:
        host = self.hosts[name]
        host.line.send(Way.TO_HOST, lambda: action(host))

    def _start(self, command: cmd.StartTasks) -> None:
        run, number = self.runs[command.run], command.run
        checks.handed(self, command)
        for t, attempt in zip(command.tasks, command.attempts, strict=True):
            if run.is_once(t):
                self.journal.start(run.original(t), attempt)
                self._instruction()
        columns = list(zip(command.tasks, command.attempts, command.variants, command.keep, strict=True))
        self._send(command.host, lambda host: host.hand(run, number, columns))
        self._handed(self, command.host, number, command.tasks)

    def _copy(self, command: cmd.CopyObjects) -> None:
        run, target = self.runs[command.run], self.hosts[command.host]
        small: list[Key] = []
        for o, source in zip(command.objects, command.sources, strict=True):
            key = (command.run, o)
            if source != CONTROLLER:
                self._relay(key, source, target)
            elif key not in self.home:
                self.post(ev.CopyFailed(command.host, command.run, o, CONTROLLER))
            elif run.nbytes(o) <= INLINE:
                small.append(key)
            else:
                target.line.send(Way.TO_HOST, lambda key=key, o=o: self._put(target, key, run.nbytes(o)))  # type: ignore[misc]
        if small:
            target.line.send(Way.TO_HOST, lambda: target.put(small))
            objects = [o for _, o in small]
            self.post(ev.ObjectsStored(command.host, command.run, objects, [run.nbytes(o) for o in objects]))

    @staticmethod
    def _put(target: SimulatedHost, key: Key, nbytes: int) -> None:
        number = target.announce(key)
        target.line.stream(nbytes, lambda: target.received(number, nbytes))

    def _relay(self, key: Key, source: str, target: SimulatedHost | None) -> None:
        """Bring an object from a host to another one, or here."""
        name = CONTROLLER if target is None else target.name
        relay = _Relay(lambda missing: self.post(ev.CopyFailed(name, key[0], key[1], source, missing)))
        giver = self.hosts.get(source)
        if giver is None:
            relay.failed(True)
            return
        self._relays.setdefault(giver, []).append(relay)

        failed = relay.failed

        def stop(missing: bool) -> None:
            if target is not None and relay.begun:
                end = target.stop
                target.line.send(Way.TO_HOST, lambda: end(relay.number))
            failed(missing)

        relay.failed = stop
        giver.line.send(Way.TO_HOST, lambda: self._give(giver, key, relay, target))

    def _give(self, giver: SimulatedHost, key: Key, relay: _Relay, target: SimulatedHost | None) -> None:
        """At the giver: it was asked for an object."""
        how = giver.give(key)
        if how == "missing":
            giver.line.send(Way.TO_CONTROLLER, lambda: self._fail(relay, True, giver))
            return
        nbytes = self.runs[key[0]].nbytes(key[1])
        giver.line.send(Way.TO_CONTROLLER, lambda: self._announce(relay, key, target))
        if how == "broken":
            giver.line.stream(nbytes // 2, lambda: self._fail(relay, False, giver))
        else:
            giver.line.stream(nbytes, lambda: self._gave(giver, key, nbytes, relay, target))

    def _announce(self, relay: _Relay, key: Key, target: SimulatedHost | None) -> None:
        if target is None or relay.over:
            return

        def announce() -> None:
            relay.number = target.announce(key)

        relay.begun = True
        target.line.send(Way.TO_HOST, announce)

    def _gave(self, giver: SimulatedHost, key: Key, nbytes: int, relay: _Relay, target: SimulatedHost | None) -> None:
        """Here: the last of it came."""
        if relay.over or not self.alive:
            return
        if target is not None and not relay.begun:
            # It overtook its announcement.
            self._clock.after(0.001, lambda: self._gave(giver, key, nbytes, relay, target))
            return
        relay.over = True
        self._relays[giver].remove(relay)
        if target is not None:
            target.line.send(Way.TO_HOST, lambda: target.received(relay.number, nbytes))
        elif key[0] not in self.closed:
            self.home.add(key)
            self.tell(ev.ObjectsStored(CONTROLLER, key[0], [key[1]], [nbytes]))
            if self.alive:
                self._commit(*key)

    def _fail(self, relay: _Relay, missing: bool, giver: SimulatedHost | None = None) -> None:
        if relay.over:
            return
        relay.over = True
        if giver is not None:
            self._relays[giver].remove(relay)
        relay.failed(missing)

    def _record(self, number: int, t: int, outcome: Outcome, failure: object) -> None:
        """Write down how a task ended, and what is here of its result."""
        run = self.runs[number]
        if outcome is Outcome.DONE and (number, t) not in self._reused:
            self.journal.ended(run.original(t))
            self._instruction()
            for o in run.objects_of(t):
                self._commit(number, o)
        known = outcome in (Outcome.DONE, Outcome.FAILED) and not isinstance(failure, OutcomeUnknownError)
        if run.is_once(t) and known:
            self.journal.settle(run.original(t))
            self._instruction()

    def _commit(self, number: int, o: int) -> None:
        """Write an object down once its task has ended well and it is here."""
        run, t = self.runs[number], self.runs[number].spec.producer[o]
        if t < 0 or self.outcomes.get((number, t)) is not Outcome.DONE or (number, o) in self._committed:
            return
        if o in run.spec.outputs and (number, o) in self.home:
            self._committed.add((number, o))
            self.journal.commit(run.original(t), o)
            self._instruction()

    def _ask(self, command: cmd.AskAllocator) -> None:
        manner = self.runs[command.run].plan.manner

        def answer() -> None:
            event = manner.answer(command, self._rng)
            if event is not None:
                self.tell(event)

        self._clock.after(manner.delay_s(self._rng), answer)
