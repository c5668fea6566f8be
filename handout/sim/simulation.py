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
from handout.sim.cluster import SimulatedCluster
from handout.sim.controller import Controller
from handout.sim.faults import Fault, Faults
from handout.sim.host import Handed, SimulatedHost
from handout.sim.journal import SimulatedJournal
from handout.sim.line import Way
from handout.sim.scenario import RunPlan, Scenario, Submission, Whim
from handout.sim.story import SimulationStory
from handout.sim.trouble import Trouble

__all__ = ["SimulationError", "SimulationReport", "simulate"]

#: So long after the last fault all must be over.
LIMIT_S = 600.0


class SimulationError(HandoutError):
    """A seed broke a rule. `story` is all that had happened, a line each."""

    seed: int = -1
    story: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class SimulationReport:
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
    story: SimulationStory

    @property
    def digest(self) -> str:
        """The same for the same story."""
        return self.story.digest


def simulate(seed: int, tell: Callable[[str], object] | None = None) -> SimulationReport:
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
        self.story = SimulationStory()
        self.journal = SimulatedJournal()
        self._rng = Random(scenario.seed ^ 0x5EED)
        self._faults = Faults(scenario.weather, Random(scenario.seed ^ 0xFA017))
        self.cluster = SimulatedCluster(
            self.clock,
            self._rng,
            scenario.hosts,
            lambda host, way, action: self._trouble.arriving(host, way, action),
            lambda host, events: self._trouble.heard(host, events),
            self._began,
        )
        self._trouble = Trouble(self.clock, self._faults, self.story, self.cluster)
        self._calls: Counter[tuple[int, int]] = Counter()
        #: The same, since a caller who saw a task fail asked for it again.
        self._tries: Counter[tuple[int, int]] = Counter()
        #: By plan: how it ended, as its caller was told.
        self._outcomes: dict[int, Outcome | None] = {}
        self._asked: set[int] = set()
        self._stale = 0
        self._shared = dict(scenario.shared)
        self.controller = self._live()

    # ---- from the first event to the last ----------------------------------------------------------------------

    def run(self) -> SimulationReport:
        """All of it."""
        self.controller.tell(*(ev.HostExpected(plan.name) for plan in self.scenario.hosts))
        for plan in self.scenario.hosts:
            self.clock.at(plan.at_s, lambda plan=plan: self.cluster.boot(plan, self.controller))  # type: ignore[misc]
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
        return SimulationReport(
            self.scenario.seed,
            took_s,
            self._faults.messages,
            self._stale + self.controller.core.stale,
            self._faults.counts,
            self._outcomes,
            self._calls.total(),
            self.story,
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
        checks.at_the_end(self.controller, self.cluster.agents)

    def _check_calm(self) -> None:
        for number, outcome in self._outcomes.items():
            if outcome is not Outcome.DONE:
                raise InternalError(f"run {number} ended as {outcome} though nothing was wrong")
        sure = {run.number for run in self.scenario.runs if run.spec.speculation is None}
        twice = [task for task, count in self._calls.items() if count > 1 and task[0] in sure]
        if twice or len(self._calls) != sum(run.spec.count for run in self.scenario.runs):
            raise InternalError(f"nothing was wrong, and tasks {twice} ran twice, or some did not run at all")

    def _calm_down(self) -> None:
        self._faults.over = True

    # ---- runs --------------------------------------------------------------------------------------------------

    def _ask_for(self, plan: RunPlan) -> None:
        """A caller asks for a run, for the first time or after the controller has died."""
        self._asked.add(plan.number)
        if not self.controller.alive or plan.number in self._outcomes:
            return  # it is asked for again once the controller is back
        self.controller.submit(Submission(plan, self._shared))

    def _run_ended(self, run: Submission, command: cmd.AnnounceRunEnded) -> None:
        self._outcomes[run.plan.number] = command.outcome
        controller = self.controller
        self.clock.after(self._rng.choice((0.0, 0.1, 20.0)), lambda: controller.forget(command.run))

    def _began(self, host: SimulatedHost, task: Handed) -> None:
        original = task.run.original(task.task)
        self._calls[original] += 1
        self._tries[original] += 1
        checks.began(self.controller, host, task, self._tries[original])

    # ---- the controller ----------------------------------------------------------------------------------------

    def _live(self) -> Controller:
        controller = Controller(
            self.clock,
            self._rng,
            self.journal,
            self.story,
            self._run_ended,
            self.cluster.release,
            self._controller_died,
            self._trouble.handed,
        )
        self.cluster.controller = controller
        controller.tell(ev.SharedChanged(self._shared))
        return controller

    def _controller_died(self) -> None:
        self.cluster.orphan()
        self._stale += self.controller.core.stale
        torn = self.journal.recover(self._rng)
        if torn:
            self.story.tell(self.clock.now, "fault", f"a record is torn: {torn}")
        self.clock.after(self._rng.choice((0.1, 5.0, 30.0)), self._revive)

    def _revive(self) -> None:
        """A new controller takes up what the journal has."""
        committed = self.journal.committed
        self.story.tell(self.clock.now, "fault", f"the controller is back; committed: {sorted(committed)}")
        unknown = self.journal.unknown
        self._tries = Counter({task: n for task, n in self._tries.items() if task in unknown or task in committed})
        dead, self.controller = self.controller, self._live()
        runs = self.scenario.runs
        self.controller.spared = {t for t, objects in committed.items() if runs[t[0] - 1].needed_of(t[1]) <= objects}
        found = self.cluster.take_over(dead)
        again = [run for run in self.scenario.runs if run.number in self._asked and run.number not in self._outcomes]
        self.controller.submit(
            *(Submission(run, self._shared) for run in again), found={host.name: one for host, one in found.items()}
        )
        for host, one in found.items():
            self.controller.release(host, one)

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
                if anywhere not in self.cluster.gone:
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
