"""A simulated cluster: the real core, simulated hosts and lines, faults at any message, in virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from handout.errors import HandoutError, InternalError
from handout.resources import PARTS, compile_capabilities
from handout.scheduler import Outcome
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from handout.sim import checks
from handout.sim.clock import Clock
from handout.sim.controller import Controller
from handout.sim.faults import Fault, Faults
from handout.sim.host import Handed, Host
from handout.sim.journal import Journal
from handout.sim.line import Line, Way
from handout.sim.scenario import HostPlan, RunPlan, Scenario, Submission, Whim
from handout.sim.story import Story

__all__ = ["SUSPECT_S", "Report", "SimulationError", "simulate"]

#: The timings of the house; see `handout.remote.link.Timings`.
SUSPECT_S, HOST_TIMEOUT_S, GRACE_S = 6.0, 15.0, 3.0
#: So long after the last fault all must be over.
LIMIT_S = 600.0
#: A lost host is tried again with pauses that double, up to this one.
_REJOIN_MAX_S = 8.0
_TASK_REPORTS = (ev.TasksStarted, ev.TasksFinished, ev.TasksReturned, ev.TaskFailed)


class SimulationError(HandoutError):
    """A seed broke a rule. `story` is all that had happened, a line each."""

    seed: int = -1
    story: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """How a scenario went."""

    seed: int
    #: Virtual seconds.
    took_s: float
    messages: int
    #: Events, or parts of events, that the core had to ignore, in all lives of the controller.
    stale: int
    faults: dict[Fault, int]
    #: By run: how it ended, None where its caller forgot it before.
    outcomes: dict[int, Outcome | None]
    #: Functions called.
    calls: int
    #: The same for the same story.
    digest: str


def simulate(seed: int, tell: Callable[[str], object] | None = None) -> Report:
    """Run one scenario.

    Args:
        seed: Decides everything.
        tell: Gets the story line by line, at the end, however it ends.
    Raises:
        SimulationError: A rule was broken.
    """
    simulation = _Simulation(Scenario.draw(seed))
    try:
        return simulation.run()
    except Exception as error:
        story = tuple(simulation.story.lines())
        raise SimulationError(
            f"seed {seed} at {simulation.clock.now:.6f} s: {type(error).__name__}: {error}",
            remedy=f"See what happened: python -m handout.sim --seed {seed} --verbose",
            seed=seed,
            story=story,
        ) from error
    finally:
        if tell is not None:
            for line in simulation.story.lines():
                tell(line)


class _Simulation:
    """Hosts that come and go, runs that are asked for, and a controller that may die."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.clock = Clock()
        self.story = Story()
        self.journal = Journal()
        self._rng = Random(scenario.seed ^ 0x5EED)
        self._faults = Faults(scenario.weather, Random(scenario.seed ^ 0xFA017))
        self._agents: list[Host] = []
        self._epochs = 0
        self._pauses: dict[str, float] = {}
        self._gone: set[str] = set()
        #: What an earlier life of the controller had committed.
        self._known: set[tuple[int, int]] = set()
        self._calls: Counter[tuple[int, int]] = Counter()
        #: The same, since a caller who saw a task fail asked for it again.
        self._tries: Counter[tuple[int, int]] = Counter()
        #: By plan: how it ended, as its caller was told.
        self._outcomes: dict[int, Outcome | None] = {}
        self._asked: set[int] = set()
        self._numbers = 0
        self._stale = 0
        self._shared = dict(scenario.shared)
        self._twist: Fault | None = None
        self.controller = self._live()

    def _live(self) -> Controller:
        return Controller(
            self.clock, self._rng, self.journal, self.story, self._run_ended, self._released, self._controller_died
        )

    # ---- from the first event to the last ----------------------------------------------------------------------

    def run(self) -> Report:
        """All of it."""
        self.controller.tell(ev.SharedChanged(self._shared), *(ev.HostExpected(p.name) for p in self.scenario.hosts))
        for plan in self.scenario.hosts:
            self.clock.at(plan.at_s, lambda plan=plan: self._boot(plan, self.controller))  # type: ignore[misc]
        for run in self.scenario.runs:
            self.clock.at(run.at_s, lambda run=run: self._ask_for(run))  # type: ignore[misc]
        for whim in self.scenario.whims:
            self.clock.at(whim.at_s, lambda whim=whim: self._follow(whim))  # type: ignore[misc]
        self.clock.at(self.scenario.horizon_s, self._calm_down)
        while len(self._outcomes) < len(self.scenario.runs):
            if not self.clock.step():
                raise InternalError(f"R2: it hangs; {self._unfinished()}")
            if self.clock.now > self.scenario.horizon_s + LIMIT_S:
                raise InternalError(f"R2: it has no end; {self._unfinished()}")
        took_s = self.clock.now
        self._settle()
        if self.scenario.is_calm:
            self._check_calm()
        return Report(
            self.scenario.seed,
            took_s,
            self._faults.messages,
            self._stale + self.controller.core.stale,
            self._faults.counts,
            self._outcomes,
            self._calls.total(),
            self.story.digest,
        )

    def _unfinished(self) -> str:
        return "; ".join(
            str(self.controller.core.explain(run, t))
            for run, known in self.controller.core.world.runs.items()
            for t in range(known.spec.count)
            if not known.ended(t)
        )

    def _settle(self) -> None:
        """Close what is open, let all that is under way come to its end, and look at the books."""
        self._faults.over = True
        for number in list(self.controller.core.world.runs):
            self.controller.forget(number)
        limit = self.clock.now + LIMIT_S
        while self.clock.step():
            if self.clock.now > limit:
                raise InternalError("R4: something goes on for ever")
        checks.at_the_end(self.controller, self._agents)

    def _check_calm(self) -> None:
        for number, outcome in self._outcomes.items():
            if outcome is not Outcome.DONE:
                raise InternalError(f"run {number} ended as {outcome} though nothing was wrong")
        twice = [task for task, count in self._calls.items() if count != 1]
        if twice or self._calls.total() != sum(run.spec.count for run in self.scenario.runs):
            raise InternalError(f"nothing was wrong, and tasks {twice} ran twice, or some did not run at all")

    def _calm_down(self) -> None:
        self._faults.over = True

    # ---- runs --------------------------------------------------------------------------------------------------

    def _ask_for(self, plan: RunPlan) -> None:
        """A caller asks for a run, for the first time or after the controller has died."""
        self._asked.add(plan.number)
        if not self.controller.alive or plan.number in self._outcomes:
            return  # it is asked for again once the controller is back
        self._numbers += 1
        self.controller.submit(self._numbers, Submission(plan, self._shared))

    def _run_ended(self, run: Submission, command: cmd.RunEnded) -> None:
        self._outcomes[run.plan.number] = command.outcome
        controller = self.controller
        self.clock.after(self._rng.choice((0.0, 0.1, 20.0)), lambda: controller.forget(command.run))

    def _began(self, host: Host, task: Handed) -> None:
        original = task.run.original(task.task)
        self._calls[original] += 1
        self._tries[original] += 1
        known = self._known if self.controller.hosts.get(host.name) is host else set()
        checks.began(host, task, task.run, known, self._tries[original])

    # ---- hosts -------------------------------------------------------------------------------------------------

    def _boot(self, plan: HostPlan, controller: Controller) -> None:
        """Start an agent; it joins a little later."""
        if not controller.alive or plan.name in self._gone or plan.name in controller.hosts:
            return
        self.clock.after(0.2 + 4 * plan.rtt_s, lambda: self._join(plan, controller))

    def _join(self, plan: HostPlan, controller: Controller) -> None:
        if not controller.alive or plan.name in controller.hosts:
            return
        self._epochs += 1
        line = Line(self.clock, plan.rtt_s / 2, lambda way, action: self._arriving(host, way, action))
        host = Host(plan.name, self._epochs, plan.offer, self.clock, self._rng, line, self._heard, self._began)
        self._agents.append(host)
        controller.join(host, ev.HostJoined(plan.name, plan.offer, "3.11", plan.rtt_s, self._epochs))

    def _current(self, host: Host) -> bool:
        return self.controller.alive and self.controller.hosts.get(host.name) is host

    def _lost(self, host: Host, reason: str) -> None:
        """The controller finds out that a host is gone, and tries to have it again."""
        if not self._current(host):
            return
        controller = self.controller
        host.line.close()
        controller.leave(host, reason)
        if not controller.alive or host.name in self._gone:
            return
        controller.tell(ev.HostExpected(host.name))
        plan = next(plan for plan in self.scenario.hosts if plan.name == host.name)
        pause_s = self._pauses[host.name] = min(2 * self._pauses.get(host.name, 0.25), _REJOIN_MAX_S)
        if self._rng.random() < 0.1:
            # It is not back in time: whoever waited for it is told, and it comes later.
            self.clock.after(20.0, lambda: self._give_up(host.name, controller))
            pause_s = 40.0
        self.clock.after(pause_s, lambda: self._boot(plan, controller))

    @staticmethod
    def _give_up(name: str, controller: Controller) -> None:
        if name not in controller.hosts:
            controller.tell(ev.HostLost(name, "it is not back"))

    def _released(self, name: str) -> None:
        """A drained host is let go, if it is still there."""
        self._gone.add(name)
        host = self.controller.hosts.get(name)
        if host is None:
            return
        if host.running:
            raise InternalError(f"host {name!r} is released while {list(host.running)} run there")
        host.die()
        self.clock.after(0.0, lambda: self._lost(host, "it was drained"))

    def _controller_died(self) -> None:
        dead = self.controller
        for host in dead.hosts.values():
            host.line.close()
            self.clock.after(HOST_TIMEOUT_S, host.lapse)
        self._stale += dead.core.stale
        torn = self.journal.recover(self._rng)
        if torn:
            self.story.tell(self.clock.now, "fault", f"a record is torn: {torn}")
        self.clock.after(self._rng.choice((0.1, 5.0, 30.0)), self._revive)

    def _revive(self) -> None:
        """A new controller, with agents of its own, takes up what the journal has."""
        committed = self.journal.committed
        self.story.tell(self.clock.now, "fault", f"the controller is back; committed: {sorted(committed)}")
        self._known = {
            task for task, objects in committed.items() if self.scenario.runs[task[0] - 1].needed_of(task[1]) <= objects
        }
        unknown = self.journal.unknown
        self._tries = Counter({task: n for task, n in self._tries.items() if task in unknown or task in committed})
        controller = self.controller = self._live()
        plans = [plan for plan in self.scenario.hosts if plan.name not in self._gone]
        controller.tell(ev.SharedChanged(self._shared), *(ev.HostExpected(plan.name) for plan in plans))
        for plan in plans:
            self._boot(plan, controller)
        for run in self.scenario.runs:
            if run.number in self._asked:
                self._ask_for(run)

    # ---- messages and faults -----------------------------------------------------------------------------------

    def _arriving(self, host: Host, way: Way, action: Callable[[], None]) -> bool:
        """A message arrives, unless something happens to it."""
        fault = self._faults.at_message()
        if fault is None:
            self._take(host, way, action)
            return True
        self._faults.note(fault)
        self.story.tell(self.clock.now, "fault", f"{fault.name.lower()} at a message of {host.name} {way.name.lower()}")
        if fault in (Fault.DUPLICATE, Fault.REORDER):
            self._twist = fault
            self._take(host, way, action)
            self._twist = None
            return True
        if fault is Fault.CONTROLLER:
            self._kill_controller(host, way, action)
            return True
        if self._rng.random() < 0.5:
            self._take(host, way, action)
            self._strike(fault, host)
            return True
        self._strike(fault, host)
        if fault in (Fault.DELAY, Fault.CUT, Fault.SILENCE):
            return False
        self._take(host, way, action)
        return True

    def _take(self, host: Host, way: Way, action: Callable[[], None]) -> None:
        if (host.alive or way is Way.TO_CONTROLLER) and self._current(host):
            action()

    def _kill_controller(self, host: Host, way: Way, action: Callable[[], None]) -> None:
        controller = self.controller
        if not controller.alive:
            return
        controller.left = self._faults.rng.randrange(6)
        self._take(host, way, action)
        if controller.alive:
            controller.left = 0
            controller.tell()

    def _strike(self, fault: Fault, host: Host) -> None:
        rng, clock = self._faults.rng, self.clock
        match fault:
            case Fault.DELAY:
                host.line.stall(rng.choice((0.01, 0.1, 1.0)))
            case Fault.CUT:
                self._cut(host, rng.choice((0.5, 3.0, 8.0, 14.0)))
            case Fault.SILENCE:
                self._silence(host)
            case Fault.CRASH:
                self._crash(host)
            case Fault.WORKER:
                if host.running:
                    host.end(
                        rng.choice(list(host.running)), rng.choice(("died", "died", "exited", "timeout", "memory"))
                    )
            case Fault.SLOW:
                host.slowness = rng.choice((3.0, 30.0))
                clock.after(rng.choice((1.0, 20.0)), lambda: setattr(host, "slowness", 1.0))
            case Fault.FULL:
                host.full = True
                clock.after(rng.choice((0.1, 5.0)), lambda: setattr(host, "full", False))

    def _cut(self, host: Host, duration_s: float) -> None:
        """The connection is made again within the lease: nothing is lost."""
        host.line.stall(duration_s)
        if duration_s > SUSPECT_S:
            self.clock.after(SUSPECT_S, lambda: self._suspect(host, ev.HostSuspected(host.name)))
            self.clock.after(duration_s, lambda: self._suspect(host, ev.HostRecovered(host.name)))

    def _suspect(self, host: Host, event: ev.Event) -> None:
        if self._current(host):
            self.controller.tell(event)

    def _silence(self, host: Host) -> None:
        """Nobody hears of the other any more: both let go, the host first."""
        host.line.stall(HOST_TIMEOUT_S + GRACE_S + 1.0)
        self.clock.after(SUSPECT_S, lambda: self._suspect(host, ev.HostSuspected(host.name)))
        self.clock.after(HOST_TIMEOUT_S, host.lapse)
        self.clock.after(HOST_TIMEOUT_S + GRACE_S, lambda: self._lost(host, "it was silent"))

    def _crash(self, host: Host) -> None:
        """What the agent had sent may arrive, or not; then the controller sees that it is gone."""
        host.die()
        if self._faults.rng.random() < 0.5:
            host.line.lose(Way.TO_CONTROLLER)
        self.clock.after(0.01 + self._faults.rng.random() * 0.2, lambda: self._lost(host, "its agent died"))

    def _heard(self, host: Host, events: list[ev.Event]) -> None:
        """An agent's message, in its order or out of it, once or twice."""
        twist, self._twist = self._twist, None
        controller, rng = self.controller, self._faults.rng
        if twist is not None and not all(isinstance(event, _TASK_REPORTS) for event in events):
            # The session numbers messages. Beyond that, only reports about attempts say which one they are about.
            twist = None
        if twist is Fault.REORDER:
            host.overtaken += 1
            self.clock.after(rng.choice((0.005, 0.1, 2.0)), lambda: self._overtaken(host, controller, events))
            return
        if twist is Fault.DUPLICATE:
            self.clock.after(rng.choice((0.0, 0.5, 20.0)), lambda: controller.heard(events))
        controller.heard(events)

    @staticmethod
    def _overtaken(host: Host, controller: Controller, events: list[ev.Event]) -> None:
        host.overtaken -= 1
        controller.heard(events)

    # ---- whims -------------------------------------------------------------------------------------------------

    def _follow(self, whim: Whim) -> None:
        """Do what a user, or a tracker, wants just now, where there is something to do it to."""
        controller = self.controller
        runs, hosts = list(controller.core.world.runs), list(controller.hosts)
        if not controller.alive or not runs or not hosts:
            return
        run, name = runs[whim.which % len(runs)], hosts[whim.which % len(hosts)]
        anywhere = self.scenario.hosts[whim.which % len(self.scenario.hosts)].name
        count = controller.runs[run].spec.count
        match whim.what:
            case "cancel":
                controller.tell(ev.CancelRequested(run))
            case "cancel_some":
                controller.tell(ev.CancelRequested(run, [whim.which % count, whim.which // 7 % count]))
            case "want":
                controller.tell(ev.OutputsWanted(run, [whim.which % count]))
            case "close":
                self._outcomes.setdefault(controller.runs[run].plan.number, None)
                controller.forget(run)
            case "drain":
                if anywhere not in self._gone:
                    controller.tell(ev.HostDrained(anywhere))
            case "change":
                offer = compile_capabilities({"cpu": 1 + whim.which % 4, "memory": "4 GB"})
                controller.tell(ev.CapabilitiesChanged(name, offer))
                host = controller.hosts.get(name)
                if host is not None:
                    host.line.send(Way.TO_HOST, lambda: host.limit(offer))
            case "share":
                self._shared = {"seat": (1 + whim.which % 2) * PARTS}
                controller.tell(ev.SharedChanged(self._shared))
