"""Faults as they strike: at a message, on its way in either direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from handout.scheduler import events as ev
from handout.sim.clock import Clock
from handout.sim.cluster import GRACE_S, HOST_TIMEOUT_S, SimulatedCluster
from handout.sim.controller import Controller
from handout.sim.echoes import Echoes, is_report
from handout.sim.faults import Fault, Faults
from handout.sim.host import SimulatedHost
from handout.sim.line import Way
from handout.sim.story import SimulationStory

__all__ = ["SUSPECT_S", "Trouble"]

SUSPECT_S = 6.0
#: Of the reports where reports may come twice: how many do so later, when it matters.
_ECHOES = 0.7


class Trouble:
    """Delivers messages, unless something happens to them.

    Args:
        clock: The time.
        faults: Which happen.
        story: Where they are told.
        cluster: Whom they strike.
    """

    def __init__(self, clock: Clock, faults: Faults, story: SimulationStory, cluster: SimulatedCluster) -> None:
        self._clock = clock
        self._faults = faults
        self._story = story
        self._cluster = cluster
        self._twist: Fault | None = None
        #: What the present life of the controller may hear again.
        self._echoes = Echoes()

    # ---- messages ----------------------------------------------------------------------------------------------

    def arriving(self, host: SimulatedHost, way: Way, action: Callable[[], None]) -> bool:
        """A message arrives; see `Line`."""
        fault = self._faults.at_message()
        if fault is None:
            self._take(host, way, action)
            return True
        self._faults.note(fault)
        what = f"{fault.name.lower()} at a message of {host.name} {way.name.lower()}"
        self._story.tell(self._clock.now, "fault", what)
        if fault in (Fault.DUPLICATE, Fault.REORDER):
            self._twist = fault
            self._take(host, way, action)
            self._twist = None
            return True
        if fault is Fault.CONTROLLER:
            self._kill_controller(host, way, action)
            return True
        if self._faults.rng.random() < 0.5:
            self._take(host, way, action)
            self._strike(fault, host)
            return True
        self._strike(fault, host)
        if fault in (Fault.DELAY, Fault.CUT, Fault.SILENCE):
            return False
        self._take(host, way, action)
        return True

    def _take(self, host: SimulatedHost, way: Way, action: Callable[[], None]) -> None:
        if (host.alive or way is Way.TO_CONTROLLER) and self._cluster.is_current(host):
            action()

    def heard(self, host: SimulatedHost, events: list[ev.Event]) -> None:
        """An agent's message, in its order or out of it, once or twice."""
        twist, self._twist = self._twist, None
        controller, rng = self._cluster.controller, self._faults.rng
        reports = [event for event in events if is_report(event)]
        if len(reports) == len(events):
            if twist is Fault.REORDER:
                host.overtaken += 1
                delay_s = rng.choice((0.005, 0.1, 2.0))
                self._clock.after(delay_s, lambda: self._overtaken(host, controller, events))
                return
            if twist is Fault.DUPLICATE:
                self._clock.after(rng.choice((0.0, 0.5, 20.0)), lambda: controller.heard(events))
        if self._faults.may(Fault.DUPLICATE) and rng.random() < _ECHOES:
            for event in reports:
                self._echoes.keep(event)
        controller.heard(events)

    @staticmethod
    def _overtaken(host: SimulatedHost, controller: Controller, events: list[ev.Event]) -> None:
        host.overtaken -= 1
        controller.heard(events)

    def handed(self, controller: Controller, host: str, run: int, tasks: Sequence[int]) -> None:
        """Tasks are handed to a host: what it had said of them before may come again."""
        for event in self._echoes.handed(host, run, tasks):
            self._faults.note(Fault.DUPLICATE)
            self._clock.after(0.0, lambda event=event: controller.heard([event]))  # type: ignore[misc]

    # ---- faults ------------------------------------------------------------------------------------------------

    def _kill_controller(self, host: SimulatedHost, way: Way, action: Callable[[], None]) -> None:
        controller = self._cluster.controller
        if not controller.alive:
            return
        controller.left = self._faults.rng.randrange(6)
        self._take(host, way, action)
        if controller.alive:
            controller.left = 0
            controller.tell()
        self._echoes = Echoes()

    def _strike(self, fault: Fault, host: SimulatedHost) -> None:
        rng, clock = self._faults.rng, self._clock
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
                    how: ev.FailureKind = rng.choice(("died", "died", "exited", "timeout", "memory"))
                    host.end(rng.choice(list(host.running)), how)
            case Fault.SLOW:
                host.slowness = rng.choice((3.0, 30.0))
                clock.after(rng.choice((1.0, 20.0)), lambda: setattr(host, "slowness", 1.0))
            case Fault.COPY:
                host.failing.extend(rng.choice(("missing", "missing", "broken")) for _ in range(rng.randint(1, 4)))
            case Fault.FLAP:
                self._cluster.flap(host, rng.randint(2, 4))
                self._crash(host)
            case Fault.FULL:
                host.full = True
                clock.after(rng.choice((0.1, 5.0, 60.0)), lambda: setattr(host, "full", False))

    def _cut(self, host: SimulatedHost, duration_s: float) -> None:
        """The connection is made again within the lease: nothing is lost."""
        host.line.stall(duration_s)
        if duration_s > SUSPECT_S:
            self._later(host, SUSPECT_S, lambda: self._suspect(host, ev.HostSuspected(host.name)))
            self._later(host, duration_s, lambda: self._suspect(host, ev.HostRecovered(host.name)))

    def _suspect(self, host: SimulatedHost, event: ev.Event) -> None:
        if self._cluster.is_current(host):
            self._cluster.controller.tell(event)

    def _silence(self, host: SimulatedHost) -> None:
        """Nobody hears of the other any more: both let go, the host first."""
        host.line.stall(HOST_TIMEOUT_S + GRACE_S + 1.0)
        self._later(host, SUSPECT_S, lambda: self._suspect(host, ev.HostSuspected(host.name)))
        self._later(host, HOST_TIMEOUT_S, host.lapse)
        self._later(host, HOST_TIMEOUT_S + GRACE_S, lambda: self._cluster.lose(host, "it was silent"))

    def _later(self, host: SimulatedHost, delay_s: float, action: Callable[[], None]) -> None:
        """It comes to that, unless another connection has been made to the agent by then."""
        line = host.line
        self._clock.after(delay_s, lambda: action() if host.line is line else None)

    def _crash(self, host: SimulatedHost) -> None:
        rng = self._faults.rng
        self._cluster.crash(host, rng.random() < 0.5, 0.01 + rng.random() * 0.2)
