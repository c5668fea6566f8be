"""Runs the real core and driver with simulated hosts and connections in virtual time, with faults at any message.

The core makes the decisions of the controller, and the driver performs the core's commands. A controller that dies and
is started again begins a new life.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from handout.errors import HandoutError, InternalError
from handout.resources import PARTS, compile_capabilities
from handout.scheduler import Outcome
from handout.scheduler import events as ev
from handout.sim import checks
from handout.sim.calls import CallsPlan
from handout.sim.clock import Clock, VirtualLoop
from handout.sim.cluster import SimulatedCluster, expecting
from handout.sim.controller import Callbacks, Controller
from handout.sim.faults import Fault, Script, SimulatedFaults
from handout.sim.host import HandedTask, SimulatedHost
from handout.sim.journal import SimulatedJournal
from handout.sim.run_plan import RunPlan
from handout.sim.scenario import Scenario, Whim
from handout.sim.story import SimulationStory
from handout.sim.trouble import Trouble

__all__ = ["SimulationError", "SimulationReport", "play", "simulate"]

#: Virtual seconds within which all runs must end after the last fault. Clearing up after the runs has the same limit.
LIMIT_S = 600.0


class SimulationError(HandoutError):
    """A scenario broke a rule."""

    seed: int = -1
    #: The name of the error's class, and the text of its message before the first colon. This text is usually a rule,
    #: such as "R2".
    rule: str = ""
    #: The lines of the story up to the error.
    story: Sequence[str] = ()
    #: The faults that happened before the error.
    script: Script = Script({}, frozenset())


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """A report about a scenario that broke no rule."""

    seed: int
    #: Virtual seconds until all runs had ended.
    took_s: float
    #: How many messages arrived.
    messages: int
    #: How many events, or parts of events, the core ignored as stale, in all lives of the controller.
    stale: int
    faults: dict[Fault, int]
    #: The outcome of each run, or None if the caller closed the run before its end.
    outcomes: dict[int, Outcome | None]
    #: How many calls of functions began.
    calls: int
    story: SimulationStory

    @property
    def digest(self) -> str:
        """A hash of the story. Equal stories have equal hashes."""
        return self.story.digest


def simulate(seed: int, tell: Callable[[str], object] | None = None) -> SimulationReport:
    """Run the scenario of a seed. No event loop may run in this thread.

    Args:
        seed: Determines all that happens.
        tell: Called at the end with each line of the story, even if a rule was broken.

    Raises:
        SimulationError: A rule was broken.
    """
    return play(Scenario.draw(seed), tell)


def play(scenario: Scenario, tell: Callable[[str], object] | None = None) -> SimulationReport:
    """Run a scenario; see `simulate`."""
    loop = VirtualLoop()
    simulation = _Simulation(scenario, loop)
    try:
        loop.play(simulation.run())
        return simulation.report
    except Exception as error:
        raise SimulationError(
            f"seed {scenario.seed} at {simulation.clock.now:.6f} s: {type(error).__name__}: {error}",
            remedy=f"To see what happened, run: python -m handout.sim --seed {scenario.seed} --verbose",
            seed=scenario.seed,
            rule=f"{type(error).__name__} {str(error).partition(':')[0]}",
            story=tuple(simulation.story.lines()),
            script=simulation.script,
        ) from error
    finally:
        if tell is not None:
            for line in simulation.story.lines():
                tell(line)


class _Simulation:
    """Plays a scenario: hosts come and go, callers submit runs, and the controller may die."""

    def __init__(self, scenario: Scenario, loop: VirtualLoop) -> None:
        self.scenario = scenario
        self.clock = Clock(loop)
        self.story = SimulationStory()
        self._loop = loop
        self._plans = {plan.number: plan for plan in scenario.runs}
        self.journals = {number: SimulatedJournal(self.clock, self._instruction) for number in self._plans}
        self._rng = Random(scenario.seed ^ 0x5EED)
        self._faults = SimulatedFaults(scenario.weather, Random(scenario.seed ^ 0xFA017), script=scenario.script)
        self.cluster = SimulatedCluster(
            self.clock,
            self._rng,
            self.story,
            scenario.hosts,
            self._plans,
            lambda host, way, action: self._trouble.arriving(host, way, action),
            lambda host, frames: self._trouble.heard(host, frames),
            self._began,
        )
        self._trouble = Trouble(self.clock, self._faults, self.story, self.cluster)
        #: How often each task has started, by (run, task).
        self._calls: Counter[tuple[int, int]] = Counter()
        #: Like `_calls`, but when a new controller starts, the count of a task begins anew, unless the journal has a
        #: result of the task, or a start of the task without an end.
        self._tries: Counter[tuple[int, int]] = Counter()
        #: The outcomes that the callers of runs have learned, by run number. None: the caller closed the run.
        self._outcomes: dict[int, Outcome | None] = {}
        self._asked: set[int] = set()
        self._stale = 0
        self._shared = dict(scenario.shared)
        self._lives = 0
        self._took_s = 0.0

    @property
    def script(self) -> Script:
        """The faults that have happened so far."""
        return Script(self._faults.struck, frozenset(self._faults.echoed))

    def _instruction(self) -> None:
        self.controller.instruction()

    # ---- from the first event to the last ----------------------------------------------------------------------

    async def run(self) -> None:
        """Play the scenario from its first event to its last."""
        self._over = asyncio.Event()
        virtual, scenario = self._loop.virtual, self.scenario
        self.controller = self._live()
        self.controller.post(*(expecting(plan.name) for plan in scenario.hosts))
        for plan in scenario.hosts:
            if plan.refuses:
                self.clock.at(plan.at_s / 3, lambda name=plan.name: self.cluster.refuse(name))  # type: ignore[misc]
            self.clock.at(plan.at_s, lambda plan=plan: self.cluster.boot(plan, self.controller))  # type: ignore[misc]
        for run in scenario.runs:
            self.clock.at(run.at_s, lambda run=run: self._ask_for(run))  # type: ignore[misc]
        for whim in scenario.whims:
            self.clock.at(whim.at_s, lambda whim=whim: self._follow(whim))  # type: ignore[misc]
        self.clock.at(scenario.horizon_s, self._calm_down)
        virtual.limit = scenario.horizon_s + LIMIT_S, lambda: f"R2: the runs do not end; {self._unfinished()}"
        virtual.on_idle = self._hang
        try:
            await self._over.wait()
            self._took_s = self.clock.now
            await self._settle()
        finally:
            self.controller.close()
        if scenario.is_calm:
            self._check_calm()

    @property
    def report(self) -> SimulationReport:
        """The report of the simulation."""
        return SimulationReport(
            self.scenario.seed,
            self._took_s,
            self._faults.messages,
            self._stale + self.controller.core.stale,
            self._faults.counts,
            self._outcomes,
            self._calls.total(),
            self.story,
        )

    def _hang(self) -> None:
        raise InternalError(f"R2: the runs hang; {self._unfinished()}")

    def _unfinished(self) -> str:
        return "; ".join(
            str(self.controller.core.explain(run, t))
            for run, known in self.controller.core.world.runs.items()
            for t in range(known.task_count)
            if not known.ended(t)
        )

    async def _settle(self) -> None:
        """Close all runs, wait until nothing more happens, and check that nothing is left."""
        self._faults.over = True
        for number in list(self.controller.driver.runs):
            self.controller.forget(number)
        idle, virtual = asyncio.Event(), self._loop.virtual
        virtual.limit = self.clock.now + LIMIT_S, lambda: "R4: something still happens long after all runs were closed"
        virtual.on_idle = idle.set
        await idle.wait()
        checks.at_the_end(self.controller, self.cluster.agents)

    def _check_calm(self) -> None:
        for number, outcome in self._outcomes.items():
            if outcome is not Outcome.DONE:
                raise InternalError(f"run {number} ended as {outcome}, although no fault happened")
        sure = {run.number for run in self.scenario.runs if run.speculation is None}
        twice = [task for task, count in self._calls.items() if count > 1 and task[0] in sure]
        if twice or len(self._calls) != sum(map(len, self.scenario.runs)):
            raise InternalError(f"no fault happened, but (run, task) {twice} ran twice, or some tasks did not run")

    def _calm_down(self) -> None:
        self._faults.over = True

    # ---- runs --------------------------------------------------------------------------------------------------

    def _ask_for(self, plan: RunPlan) -> None:
        """Submit a run for its caller. If the controller is dead, the next controller submits the run."""
        self._asked.add(plan.number)
        if not self.controller.alive and isinstance(plan, CallsPlan):
            self._run_ended(plan.number, None)  # its callers are dead, too
        if not self.controller.alive or plan.number in self._outcomes:
            return  # the next controller submits the run, unless the run has ended
        self.controller.submit(plan, self.journals[plan.number], {})

    def _run_ended(self, number: int, outcome: Outcome | None) -> None:
        self._outcomes.setdefault(number, outcome)
        if len(self._outcomes) == len(self.scenario.runs):
            self._over.set()

    def _began(self, host: SimulatedHost, task: HandedTask) -> None:
        key = (task.plan.number, task.task)
        self.story.tell(self.clock.now, f"Host {host.name} began {task}.")
        self._calls[key] += 1
        self._tries[key] += 1
        checks.began(self.controller, host, task, self._tries[key])

    # ---- the controller ----------------------------------------------------------------------------------------

    def _live(self) -> Controller:
        self._lives += 1
        controller = Controller(
            self._lives,
            self.clock,
            self._rng,
            self.story,
            Callbacks(
                self._run_ended,
                self.cluster.release,
                self._controller_died,
                self._trouble.handed,
                checks.watch_turn,
                checks.performing,
            ),
        )
        self.cluster.controller = controller
        controller.post(ev.SharedChanged(self._shared))
        return controller

    def _controller_died(self) -> None:
        self.cluster.orphan()
        for number in self.controller.callers:
            self._run_ended(number, None)  # no journal has its tasks
        self._stale += self.controller.core.stale
        for number, journal in self.journals.items():
            torn = journal.recover(self._rng)
            if torn:
                self.story.tell(self.clock.now, f"The last record of the journal of run {number} was torn: {torn}.")
        self.clock.after(self._rng.choice((0.1, 5.0, 30.0)), self._revive)

    def _revive(self) -> None:
        """Start a new controller, which resumes the runs from their journals."""
        self.story.tell(self.clock.now, "The controller was started again.")
        known = {number: (journal.committed(), journal.open_starts()) for number, journal in self.journals.items()}
        dead, self.controller = self.controller, self._live()
        for (number, t), _ in list(self._tries.items()):
            committed, starts = known[number]
            if b"%d" % t not in committed and b"%d" % t not in starts:
                del self._tries[number, t]
        self.controller.spared = {
            (number, int(identity))
            for number, (committed, _) in known.items()
            for identity, task in committed.items()
            if self._plans[number].needed_of(int(identity)) <= task.parts.keys()
        }
        found = self.cluster.take_over(dead)
        for run in self.scenario.runs:
            if run.number in self._asked and run.number not in self._outcomes and self.controller.alive:
                held = {host.name: one for host, one in found.items()}
                self.controller.submit(run, self.journals[run.number], held)
        for host, one in found.items():
            self.controller.release(host, one)

    # ---- whims -------------------------------------------------------------------------------------------------

    def _follow(self, whim: Whim) -> None:
        """Carry out an action of a user or a tracker, unless there is no controller, no run or no host."""
        controller = self.controller
        runs, hosts = list(controller.core.world.runs), list(controller.hosts)
        if not controller.alive or not runs or not hosts:
            return
        run, name = runs[whim.which % len(runs)], hosts[whim.which % len(hosts)]
        anywhere = self.scenario.hosts[whim.which % len(self.scenario.hosts)].name
        callers = controller.callers.get(run)
        count = len(self._plans[run]) if callers is None else callers.run.state.task_count
        if callers is not None and whim.what in ("cancel", "cancel_some", "want"):
            if count:
                controller.post(ev.CancelRequested(run, [whim.which % count]))
            return
        match whim.what:
            case "cancel":
                controller.post(ev.CancelRequested(run))
            case "cancel_some":
                controller.post(ev.CancelRequested(run, [whim.which % count, whim.which // 7 % count]))
            case "want":
                controller.post(ev.OutputsWanted(run, [whim.which % count]))
            case "close":
                controller.forget(run)
                self._run_ended(run, None)
            case "drain":
                if anywhere in controller.hosts:
                    controller.drain(anywhere)
            case "change":
                offer = compile_capabilities({"cpu": 1 + whim.which % 4, "memory": "4 GB"})
                controller.post(ev.CapabilitiesChanged(name, offer))
                controller.driver.agents[name].limits(dict(offer.amounts), offer.devices)
            case "share":
                self._shared["seat"] = (1 + whim.which % 2) * PARTS
                controller.post(ev.SharedChanged(self._shared))
