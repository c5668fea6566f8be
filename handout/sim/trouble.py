"""Makes faults happen at messages that are on their way, in either direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from handout.errors import DamagedFileError
from handout.execution.shell.run_state import GraphRun
from handout.protocol import numbering
from handout.scheduler import events as ev
from handout.sim.clock import Clock
from handout.sim.cluster import GRACE_S, HOST_TIMEOUT_S, SimulatedCluster
from handout.sim.controller import Controller
from handout.sim.faults import Fault, SimulatedFaults
from handout.sim.host import Frame, SimulatedHost, attempts_of, is_report
from handout.sim.line import Way
from handout.sim.story import SimulationStory

__all__ = ["SUSPECT_S", "Trouble"]

#: Seconds of silence after which the controller suspects a host.
SUSPECT_S = 6.0
_ON_THE_WAY = {Way.TO_HOST: "from the controller to host {}", Way.TO_CONTROLLER: "from host {} to the controller"}


def _read_damaged() -> bytes:
    raise DamagedFileError("A result is damaged.")


class Trouble:
    """Delivers messages, and makes faults happen at them.

    Args:
        clock: The virtual clock.
        faults: Chooses the faults.
        story: Records the faults.
        cluster: The simulated cluster in which the faults happen.
    """

    def __init__(
        self, clock: Clock, faults: SimulatedFaults, story: SimulationStory, cluster: SimulatedCluster
    ) -> None:
        self._clock = clock
        self._faults = faults
        self._story = story
        self._cluster = cluster
        self._twist: Fault | None = None
        #: Reports that may reach the controller a second time, each with the number of its message. Key: (host, run,
        #: task). The reports are removed when the controller dies.
        self._echoes: dict[tuple[str, int, int], list[tuple[int, Frame]]] = {}

    # ---- messages ----------------------------------------------------------------------------------------------

    def arriving(self, host: SimulatedHost, way: Way, action: Callable[[], None]) -> bool:
        """Deliver a message, with a fault or without; see `Line`."""
        fault = self._faults.at_message()
        if fault is None:
            self._take(host, way, action)
            return True
        self._faults.note(fault)
        self._story.tell(self._clock.now, f"{fault.sentence} {_ON_THE_WAY[way].format(host.name)}.")
        if fault in (Fault.DUPLICATE, Fault.REORDER):
            self._twist = fault
            self._take(host, way, action)
            self._twist = None
            return True
        if fault is Fault.CONTROLLER:
            self._kill_controller(host, way, action)
            return True
        if self._faults.detail.random() < 0.5:
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

    def heard(self, host: SimulatedHost, frames: list[Frame]) -> None:
        """Deliver messages and bytes of objects from an agent: in order or out of order, once or twice."""
        twist, self._twist = self._twist, None
        controller, rng = self._cluster.controller, self._faults.detail
        reports = [frame for frame in frames if is_report(frame)]
        if len(reports) == len(frames):
            if twist is Fault.REORDER:
                host.overtaken += 1
                delay_s = rng.choice((0.005, 0.1, 2.0))
                self._clock.after(delay_s, lambda: self._overtaken(host, controller, frames))
                return
            if twist is Fault.DUPLICATE:
                self._clock.after(rng.choice((0.0, 0.5, 20.0)), lambda: controller.heard(host.name, frames))
        if self._faults.may_echo():
            for report in reports:
                for attempt_id in attempts_of(report):
                    run, t, _ = numbering.parts(attempt_id)
                    self._echoes.setdefault((host.name, run, t), []).append((self._faults.messages, report))
        controller.heard(host.name, frames)

    @staticmethod
    def _overtaken(host: SimulatedHost, controller: Controller, frames: list[Frame]) -> None:
        host.overtaken -= 1
        controller.heard(host.name, frames)

    def handed(self, controller: Controller, host: str, run: int, tasks: Sequence[int]) -> None:
        """Repeat earlier reports of a host about tasks that are just being handed to it.

        A repeated report does the most harm at this moment, because it has the same run, task and host as the new
        attempt. Only the attempt number shows the controller that the report is stale.
        """
        for t in tasks if self._echoes else ():
            for message, report in self._echoes.pop((host, run, t), ()):
                self._faults.note(Fault.DUPLICATE)
                self._faults.echoed.add(message)
                self._story.tell(
                    self._clock.now, f"The network repeated a report of host {host} about task {t} of run {run}."
                )
                self._clock.after(0.0, lambda report=report: controller.heard(host, [report]))  # type: ignore[misc]

    # ---- faults ------------------------------------------------------------------------------------------------

    def _kill_controller(self, host: SimulatedHost, way: Way, action: Callable[[], None]) -> None:
        controller = self._cluster.controller
        if not controller.alive:
            return
        controller.left = self._faults.detail.randrange(6)
        self._take(host, way, action)
        # The controller dies in its next turn at the latest. `post` makes sure that there is a next turn.
        controller.post()
        self._echoes = {}

    def _strike(self, fault: Fault, host: SimulatedHost) -> None:
        rng, clock = self._faults.detail, self._clock
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
                    how = rng.choice(("died", "died", "exited", "timeout", "memory"))
                    host.end(rng.choice(list(host.running)), how)
            case Fault.SLOW:
                host.slowness = rng.choice((3.0, 30.0))
                clock.after(rng.choice((1.0, 20.0)), lambda: setattr(host, "slowness", 1.0))
            case Fault.COPY:
                host.failing.extend(rng.choice(("missing", "missing", "broken")) for _ in range(rng.randint(1, 4)))
            case Fault.VANISH:
                host.vanished.update(key for key in sorted(host.store) if rng.random() < 0.5)
            case Fault.DAMAGE:
                self._damage()
            case Fault.FLAP:
                self._cluster.flap(host, rng.randint(2, 4))
                self._crash(host)
            case Fault.FULL:
                host.full = True
                clock.after(rng.choice((0.1, 5.0, 60.0)), lambda: setattr(host, "full", False))

    def _damage(self) -> None:
        """Damage some of the results that the controller has only for tasks, and not for the caller.

        The tasks that made these results may then run again, and so may the tasks that make their inputs.
        """
        controller = self._cluster.controller
        for run in controller.driver.runs.values():
            if not isinstance(run, GraphRun):
                continue  # all results are for the caller
            for number, task in enumerate(run.spec.producer):
                if task < 0 or number not in run.objects or number in run.plan.outputs:
                    continue
                if self._faults.detail.random() < 0.5:
                    nbytes = run.objects.size(number)
                    run.objects.drop([number])
                    run.objects.put_later(number, _read_damaged, nbytes)
                    controller.spared = {key for key in controller.spared if key[0] != run.number}

    def _cut(self, host: SimulatedHost, duration_s: float) -> None:
        """Cut a connection for less than the lease, so that nothing is lost."""
        host.line.stall(duration_s)
        if duration_s > SUSPECT_S:
            self._later(host, SUSPECT_S, lambda: self._suspect(host, ev.HostSuspected(host.name)))
            self._later(host, duration_s, lambda: self._suspect(host, ev.HostRecovered(host.name)))

    def _suspect(self, host: SimulatedHost, event: ev.Event) -> None:
        if self._cluster.is_current(host):
            self._cluster.controller.post(event)

    def _silence(self, host: SimulatedHost) -> None:
        """Cut a connection for longer than the lease: the agent ends its tasks, then the controller loses the host."""
        host.line.stall(HOST_TIMEOUT_S + GRACE_S + 1.0)
        self._later(host, SUSPECT_S, lambda: self._suspect(host, ev.HostSuspected(host.name)))
        self._later(host, HOST_TIMEOUT_S, host.lapse)
        self._later(host, HOST_TIMEOUT_S + GRACE_S, lambda: self._cluster.lose(host, "it was silent"))

    def _later(self, host: SimulatedHost, delay_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` after ``delay_s`` virtual seconds, unless the agent has another connection by then."""
        line = host.line
        self._clock.after(delay_s, lambda: action() if host.line is line else None)

    def _crash(self, host: SimulatedHost) -> None:
        rng = self._faults.detail
        self._cluster.crash(host, rng.random() < 0.5, 0.01 + rng.random() * 0.2)
