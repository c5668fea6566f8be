"""A model of a cluster, in memory: it performs the core's commands as agents would, in steps that a test chooses.

Each agent of the model has a ledger, a store and a queue, and starts the tasks that fit. Its events reach the core
later, and in order. A test can deliver an event twice, or lose the events of a host together with the host.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from handout.protocol.resource_ledger import Claim, Ledger
from handout.resources import compile_capabilities
from handout.scheduler import Core, Outcome, RunSpec, invariants
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev

Ticket = tuple[int, int, int]


@dataclass
class Agent:
    """The model of the agent of one host."""

    name: str
    epoch: int
    ledger: Ledger
    inbox: deque[cmd.Command] = field(default_factory=deque)
    outbox: deque[ev.Event] = field(default_factory=deque)
    store: set[tuple[int, int]] = field(default_factory=set)
    #: For each waiting task: the variant of its cost, and True if the agent keeps the result even if it is small.
    queue: dict[Ticket, tuple[int, bool]] = field(default_factory=dict)
    running: dict[Ticket, tuple[Claim, bool]] = field(default_factory=dict)
    alive: bool = True
    silent: bool = False


class Cluster:
    """A core and its agents. The model also checks the commands that the core gives."""

    def __init__(self, *, size: int = 100) -> None:
        self.core = Core()
        self.now = 0.0
        self.size = size
        self.agents: dict[str, Agent] = {}
        self.copies: deque[tuple[str, int, int, str]] = deque()
        #: The objects that the controller has, as numbers of the run and the object.
        self.home: set[tuple[int, int]] = set()
        self.specs: dict[int, RunSpec] = {}
        self.ended: dict[tuple[int, int], Outcome] = {}
        self.over: dict[int, cmd.AnnounceRunEnded] = {}
        #: Runs that were closed before their end.
        self.forgotten: set[int] = set()
        self.asked: deque[cmd.AskAllocator] = deque()
        self.executed: dict[tuple[int, int], int] = {}
        #: The number of second attempts that the core has announced.
        self.seconds = 0
        self.pauses = 0
        self.epochs = 0

    # -- the shell

    def tell(self, *events: ev.Event) -> None:
        """Give the core these events, and perform its commands."""
        commands = self.core.handle(events, self.now)
        for command in commands:
            self._perform(command)
        invariants.check(self.core.world)
        assert invariants.stuck(self.core.world) == []

    def _perform(self, command: cmd.Command) -> None:
        match command:
            case cmd.CopyObjects():
                for o, source in zip(command.objects, command.sources, strict=True):
                    self._drop_first(self.agents[command.host], command.run, o)
                    self.copies.append((command.host, command.run, o, source))
            case cmd.FetchObjects():
                for o, source in zip(command.objects, command.sources, strict=True):
                    self.copies.append(("", command.run, o, source))
            case cmd.DropObjects(host="") | cmd.DropObjects() if command.host == "":
                self.home -= {(command.run, o) for o in command.objects}
            case cmd.StartTasks() | cmd.CancelTasks() | cmd.RecallTasks() | cmd.DropObjects():
                self.agents[command.host].inbox.append(command)
            case cmd.AnnounceTasksEnded():
                for t, outcome in zip(command.tasks, command.outcomes, strict=True):
                    assert (command.run, t) not in self.ended, f"task {t} of run {command.run} ended twice"
                    assert command.run not in self.over
                    self.ended[command.run, t] = outcome
            case cmd.AnnounceRunEnded():
                assert command.run not in self.over, f"run {command.run} ended twice"
                self.over[command.run] = command
                spec = self.specs[command.run]
                for t in range(spec.count):
                    assert (command.run, t) in self.ended, f"task {t} has not ended"
                if command.outcome is Outcome.DONE:
                    for o in spec.outputs:
                        assert (command.run, o) in self.home, f"output {o} is not at the controller"
            case cmd.AskAllocator():
                self.asked.append(command)
            case cmd.AnnounceSecondAttempt():
                self.seconds += 1
            case cmd.AnnouncePause():
                self.pauses += 1
            case cmd.ReleaseHost():
                assert command.host not in self.agents or not self.agents[command.host].running

    @staticmethod
    def _drop_first(agent: Agent, run: int, o: int) -> None:
        """Perform the drops of an object that were sent before its copy: a link keeps the order of its messages."""
        for command in agent.inbox:
            if isinstance(command, cmd.DropObjects) and command.run == run and o in command.objects:
                command.objects.remove(o)
                agent.store.discard((run, o))

    def submit(self, spec: RunSpec) -> int:
        run = len(self.specs) + 1
        self.specs[run] = spec
        for o, producer in enumerate(spec.producer):
            if producer < 0:
                self.home.add((run, o))
        self.tell(ev.RunSubmitted(run, spec))
        return run

    def join(self, name: str, *, cores: float = 1, rtt_s: float = 0.001, **offer: object) -> None:
        self.epochs += 1
        compiled = compile_capabilities({"cpu": cores, **offer})
        self.agents[name] = Agent(name, self.epochs, Ledger(compiled.amounts, compiled.devices))
        self.tell(ev.HostConnected(name, compiled, "3.11", rtt_s, self.epochs))

    def change(self, name: str, *, cores: float) -> None:
        """Report to the core, as a tracker would, that a host now offers another number of cores."""
        compiled = compile_capabilities({"cpu": cores})
        self.agents[name].ledger.resize(compiled.amounts, compiled.devices)
        self.tell(ev.CapabilitiesChanged(name, compiled))

    def lose(self, name: str) -> None:
        del self.agents[name]
        self.copies = deque(copy for copy in self.copies if copy[0] != name)
        self.tell(ev.HostLost(name, "killed"))

    # -- the network

    def receive(self, name: str) -> None:
        """Let an agent receive its next command."""
        agent = self.agents[name]
        command = agent.inbox.popleft()
        match command:
            case cmd.StartTasks():
                columns = zip(command.tasks, command.attempts, command.variants, command.keep, strict=True)
                for t, attempt, variant, keep in columns:
                    agent.queue[command.run, t, attempt] = (variant, keep)
            case cmd.DropObjects():
                agent.store -= {(command.run, o) for o in command.objects}
            case cmd.RecallTasks():
                for t, attempt in zip(command.tasks, command.attempts, strict=True):
                    self._recalled(agent, (command.run, t, attempt))
            case cmd.CancelTasks():
                for t, attempt in zip(command.tasks, command.attempts, strict=True):
                    ticket = (command.run, t, attempt)
                    if ticket in agent.running:
                        self.end(name, ticket, "cancelled")
                    else:
                        self._recalled(agent, ticket)

    def deliver(self, name: str, *, again: bool = False) -> None:
        """Give the core the next event of an agent, twice if ``again`` is True."""
        event = self.agents[name].outbox.popleft()
        if isinstance(event, ev.TasksFinished):
            # The bytes of small results travel in the same message.
            for t, held in zip(event.tasks, event.held, strict=True):
                producer = self.specs[event.run].producer
                self.home |= {(event.run, o) for o, p in enumerate(producer) if p == t and held}
        self.tell(event)
        if again:
            self.tell(event)

    def copy(self, number: int = 0) -> None:
        """Let a copy arrive, or report that it failed because the source does not have the object."""
        target, run, o, source = self.copies[number]
        del self.copies[number]
        held = (run, o) in (self.home if source == "" else self.agents[source].store) if self._up(source) else False
        if target and target not in self.agents:
            return
        if not held:
            self.tell(ev.CopyFailed(target, run, o, source, missing=True))
            return
        (self.home if target == "" else self.agents[target].store).add((run, o))
        self.tell(ev.ObjectsStored(target, run, [o], [self.size]))

    def _up(self, source: str) -> bool:
        return source == "" or source in self.agents

    # -- the agents

    def startable(self, name: str) -> list[Ticket]:
        """Return the tasks that have their inputs and fit now, in the order in which the agent received them."""
        agent = self.agents[name]
        return [
            ticket
            for ticket, (variant, _) in agent.queue.items()
            if all((ticket[0], o) in agent.store for o in self.specs[ticket[0]].inputs[ticket[1]])
            and agent.ledger.fits(self._need(ticket, variant))
        ]

    def _need(self, ticket: Ticket, variant: int) -> dict[str, int]:
        spec = self.specs[ticket[0]]
        shared = self.core.world.fleet.shared_amounts
        return dict(spec.profiles[spec.profile[ticket[1]]].requirements[variant].needs(shared)[0])

    def start(self, name: str, ticket: Ticket, *, say: bool = False) -> None:
        agent = self.agents[name]
        variant, keep = agent.queue.pop(ticket)
        claim = agent.ledger.claim(self._need(ticket, variant))
        assert claim is not None
        agent.running[ticket] = (claim, keep)
        run, t, attempt = ticket
        self.executed[run, t] = self.executed.get((run, t), 0) + 1
        if say:
            agent.outbox.append(ev.TasksStarted(name, run, [t], [attempt]))

    def finish(self, name: str, ticket: Ticket, *, small: bool = True, took_s: float = 0.001) -> None:
        agent = self.agents[name]
        claim, keep = agent.running.pop(ticket)
        agent.ledger.release(claim)
        run, t, attempt = ticket
        objects = [t, *(o for o, p in enumerate(self.specs[run].producer) if p == t and o != t)]
        if keep or not small:
            agent.store.update((run, o) for o in objects)
        sizes = [[self.size] * len(objects)]
        agent.outbox.append(ev.TasksFinished(name, run, [t], [attempt], [took_s], sizes, [small]))

    def end(
        self, name: str, ticket: Ticket, kind: ev.FailureKind, *, retryable: bool = True, recurs: bool = False
    ) -> None:
        agent = self.agents[name]
        claim, _ = agent.running.pop(ticket)
        agent.ledger.release(claim)
        run, t, attempt = ticket
        if kind == "input":
            self.executed[run, t] -= 1  # it failed before its function was called
        agent.outbox.append(ev.TaskFailed(name, run, t, attempt, kind, retryable, f"{kind} of {t}", recurs=recurs))
        self._return_followers(agent, ticket)

    def _return_followers(self, agent: Agent, ticket: Ticket) -> None:
        """Report as recalled the tasks that wait on this agent for a result that it will not make."""
        run, t, _ = ticket
        producer = self.specs[run].producer
        for other in list(agent.queue):
            if other[0] == run and any(
                producer[o] == t and (run, o) not in agent.store for o in self.specs[run].inputs[other[1]]
            ):
                self._recalled(agent, other)

    def _recalled(self, agent: Agent, ticket: Ticket) -> None:
        if agent.queue.pop(ticket, None) is not None:
            run, t, attempt = ticket
            agent.outbox.append(ev.TasksRecalled(agent.name, run, [t], [attempt]))
            self._return_followers(agent, ticket)

    # -- the whole cluster

    def step(self) -> bool:
        """Deliver all messages and copies, and start and finish tasks. Return False if there was nothing to do."""
        moved = False
        for name in list(self.agents):
            agent = self.agents[name]
            while agent.inbox:
                self.receive(name)
                moved = True
            while agent.outbox:
                self.deliver(name)
                moved = True
            while tickets := self.startable(name):
                self.start(name, tickets[0])
                moved = True
            for ticket in list(agent.running):
                self.finish(name, ticket)
                moved = True
        while self.copies:
            self.copy()
            moved = True
        return moved

    def all_over(self) -> bool:
        """Return True if every run has ended, or was closed before its end."""
        return self.over.keys() | self.forgotten == self.specs.keys()

    def settle(self) -> None:
        """Take steps until all runs are over, or until there is nothing to do and no timer is set."""
        for _ in range(10_000):
            if self.step():
                continue
            deadline = self.core.next_deadline
            if deadline is None or self.all_over():
                return
            self.now = max(self.now, deadline)
            self.tell()
        raise AssertionError("the cluster still has something to do after 10,000 steps")
