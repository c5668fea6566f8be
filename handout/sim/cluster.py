"""Starts simulated agents on hosts, lets agents die, and lets the controller lose agents and take agents over.

A controller that dies and is started again begins a new life.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from handout.errors import InternalError
from handout.execution.membership.takeover import FoundAgent
from handout.resources import compile_capabilities
from handout.scheduler import events as ev
from handout.sim.clock import Clock
from handout.sim.controller import Controller
from handout.sim.host import Frame, HandedTask, SimulatedHost
from handout.sim.line import Line, Way
from handout.sim.run_plan import RunPlan
from handout.sim.scenario import HostPlan
from handout.sim.story import SimulationStory

__all__ = ["GRACE_S", "HOST_TIMEOUT_S", "SimulatedCluster", "expecting"]

#: `HOST_TIMEOUT_S` is the lease, and `GRACE_S` is the time for which the controller waits after the lease before it
#: counts a host as lost. Both are in seconds; see `handout.transport.timings.Timings`.
HOST_TIMEOUT_S, GRACE_S = 15.0, 3.0
#: The pause before the controller tries to reach a lost host again doubles each time, up to this many seconds.
_REJOIN_MAX_S = 8.0
#: The probability that the next controller can reach an agent of a dead controller.
_TAKEN_OVER = 0.45

#: Nothing is declared of a simulated host, so that its capabilities are unknown before its first agent starts.
_UNKNOWN = compile_capabilities({}, complete=False)


def expecting(name: str) -> ev.HostExpected:
    """Return the event that says that the controller connects to a host."""
    return ev.HostExpected(name, _UNKNOWN, patience_s=HOST_TIMEOUT_S + GRACE_S)


class SimulatedCluster:
    """The simulated hosts, and all agents that were ever started on them.

    Args:
        clock: The virtual clock.
        rng: Makes the random choices.
        story: Records what happens to hosts.
        plans: The scenario's hosts.
        runs: The scenario's runs, by number.
        arriving: Called when a message arrives at an agent or at the controller; see `Line`.
        heard: Called with an agent, and with messages and bytes of objects that reach the controller from it together.
        began: Called when a task starts.
    """

    #: The controller in its present life.
    controller: Controller

    def __init__(
        self,
        clock: Clock,
        rng: Random,
        story: SimulationStory,
        plans: Sequence[HostPlan],
        runs: Mapping[int, RunPlan],
        arriving: Callable[[SimulatedHost, Way, Callable[[], None]], bool],
        heard: Callable[[SimulatedHost, list[Frame]], None],
        began: Callable[[SimulatedHost, HandedTask], None],
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._story = story
        self._runs = runs
        self._plans = {plan.name: plan for plan in plans}
        self._arriving = arriving
        self._heard = heard
        self._began = began
        self.agents: list[SimulatedHost] = []
        #: Names of the hosts that were drained, so that they get no agent any more.
        self.gone: set[str] = set()
        self._pauses: dict[str, float] = {}
        #: For each host: how many of its next agents die soon after their start.
        self._flaps: dict[str, int] = {}

    def is_current(self, host: SimulatedHost) -> bool:
        """Return True if the controller works with this agent."""
        return self.controller.alive and self.controller.hosts.get(host.name) is host

    def boot(self, plan: HostPlan, controller: Controller) -> None:
        """Start an agent on a host. The agent joins a little later."""
        if controller.alive and plan.name not in self.gone and plan.name not in controller.hosts:
            self._clock.after(0.2 + 4 * plan.rtt_s, lambda: self._join(plan, controller))

    def _join(self, plan: HostPlan, controller: Controller) -> None:
        if not controller.alive or plan.name in controller.hosts:
            return
        epoch = len(self.agents) + 1
        host = SimulatedHost(plan.name, epoch, plan.offer, self._clock, self._rng, self._runs, self._heard, self._began)
        host.line = self._line(host, plan)
        self.agents.append(host)
        controller.join(host, ev.HostConnected(plan.name, plan.offer, "3.11", plan.rtt_s, epoch))
        if self._flaps.get(plan.name):
            self._flaps[plan.name] -= 1
            self._clock.after(self._rng.choice((0.1, 1.0, 3.0)), lambda: self.crash(host, False, 0.01))

    def refuse(self, name: str) -> None:
        """Have the controller fail to reach a host that has not joined yet. It tries again later."""
        if self.controller.alive and name not in self.controller.hosts and name not in self.gone:
            self.controller.post(ev.HostLost(name, "the host refuses connections"))

    def flap(self, host: SimulatedHost, times: int) -> None:
        """Let the next ``times`` agents of a host die soon after their start."""
        self._flaps[host.name] = times

    def crash(self, host: SimulatedHost, silently: bool, noticed_s: float) -> None:
        """Let an agent die.

        Args:
            host: The agent.
            silently: If True, messages and streams of the agent that are on their way to the controller are lost.
            noticed_s: The controller notices the death after this many seconds.
        """
        if host.alive:
            self._story.tell(self._clock.now, f"Host {host.name} crashed.")
        host.die()
        if silently:
            host.line.lose(Way.TO_CONTROLLER)
        self._clock.after(noticed_s / 2, lambda: self._abandon(host))
        self._clock.after(noticed_s, lambda: self.lose(host, "its agent died"))

    def _abandon(self, host: SimulatedHost) -> None:
        if self.is_current(host):
            self.controller.post(ev.HostAbandoned(host.name))

    def lose(self, host: SimulatedHost, reason: str) -> None:
        """Let the controller lose a host, and later try to reach it again."""
        if not self.is_current(host):
            return
        controller = self.controller
        host.line.close()
        controller.leave(host, reason)
        if not controller.alive:
            return
        if host.name in self.gone:
            controller.post(ev.HostRemoved(host.name))
            return
        controller.post(expecting(host.name))
        pause_s = self._pauses[host.name] = min(2 * self._pauses.get(host.name, 0.25), _REJOIN_MAX_S)
        if self._flaps.get(host.name):
            controller.post(ev.HostDelayed(host.name, f"in quarantine for {pause_s:g} s"))
        if self._rng.random() < 0.1:
            # The host comes back late, after 40 s. The controller waits for it for only 20 s.
            self._clock.after(20.0, lambda: self._give_up(host.name, controller))
            pause_s = 40.0
        self._clock.after(pause_s, lambda: self.boot(self._plans[host.name], controller))

    @staticmethod
    def _give_up(name: str, controller: Controller) -> None:
        if name not in controller.hosts:
            controller.post(ev.HostLost(name, "it did not come back in time"))

    def release(self, name: str) -> None:
        """Release a drained host, unless the controller has lost the host already.

        Raises:
            InternalError: The host still runs tasks.
        """
        self.gone.add(name)
        host = self.controller.hosts.get(name)
        if host is None:
            self.controller.post(ev.HostRemoved(name))
            return
        if host.running:
            raise InternalError(f"host {name!r} is released while {list(map(str, host.running.values()))} run there")
        host.die()
        self._clock.after(0.0, lambda: self.lose(host, "it was drained"))

    def orphan(self) -> None:
        """Close the connections of a dead controller to its agents.

        The lease of an agent ends after `HOST_TIMEOUT_S` seconds, unless another controller has taken over the agent by
        then.
        """
        for host in self.controller.hosts.values():
            line = host.line
            line.close()
            self._clock.after(HOST_TIMEOUT_S, lambda host=host, line=line: self.lapse(host, line))  # type: ignore[misc]

    @staticmethod
    def lapse(host: SimulatedHost, line: Line) -> None:
        """End the lease of an agent, unless the agent got another connection after ``line`` was closed."""
        if host.line is line:
            host.lapse()

    def take_over(self, dead: Controller) -> dict[SimulatedHost, FoundAgent]:
        """Have a new controller take over the agents that it can reach, and start agents on the other hosts.

        Args:
            dead: The controller that died before.

        Returns:
            The agents that were taken over, each with its attempts and objects.
        """
        plans = [plan for plan in self._plans.values() if plan.name not in self.gone]
        self.controller.post(*(expecting(plan.name) for plan in plans))
        found = {}
        for plan in plans:
            host = dead.hosts.get(plan.name)
            if host is not None and host.alive and self._rng.random() < _TAKEN_OVER:
                found[host] = self._take_over(host, plan)
            else:
                self.boot(plan, self.controller)
        return found

    def _take_over(self, host: SimulatedHost, plan: HostPlan) -> FoundAgent:
        shift, found = host.shift, host.take_over(self._line(host, plan))
        self._story.tell(self._clock.now, f"The controller took over the agent of host {host.name}.")
        offer = plan.offer
        connected = ev.HostConnected(plan.name, offer, "3.11", plan.rtt_s, host.epoch)
        self.controller.join(host, connected, shift)
        self.controller.driver.agents[host.name].limits(dict(offer.amounts), offer.devices)
        return found

    def _line(self, host: SimulatedHost, plan: HostPlan) -> Line:
        return Line(self._clock, plan.rtt_s / 2, lambda way, action: self._arriving(host, way, action))
