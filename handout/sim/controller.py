"""One life of the simulated controller, from its start until it is killed.

It consists of the real driver and the real `InboundMessages`, with checks. In a turn, the driver gives events to the
core, which makes the decisions, and performs the commands that the core returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from handout.errors import PlacementError
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.membership.takeover import FoundAgent
from handout.execution.recording.recorder import Recorder
from handout.execution.shell.driver import Driver
from handout.execution.shell.inbound_messages import InboundMessages
from handout.execution.shell.run_state import RunState
from handout.journal import Journal
from handout.journal.identity import TaskIdentities
from handout.protocol import codec, numbering
from handout.protocol.frames import Buffer, Message, Piece
from handout.protocol.messages import AnyMessage
from handout.protocol.session import Source
from handout.scheduler import Core, Outcome
from handout.scheduler import commands as do
from handout.scheduler import events as ev
from handout.scheduler.state.jobs import STEPS
from handout.sim.calls import Callers, CallsPlan
from handout.sim.clock import Clock
from handout.sim.host import Frame, SimulatedHost
from handout.sim.journal import SimulatedIdentities, SimulatedJournal
from handout.sim.line import Way
from handout.sim.run_plan import RunPlan, SimulatedHome
from handout.sim.story import SimulationStory
from handout.slices import at_once
from handout.transport.agent_link import AgentLink
from handout.transport.conversation import GrowingSource

__all__ = ["Callbacks", "Controller"]


class _DeathError(BaseException):
    """Raised to kill the controller between two instructions; see `Controller.instruction`.

    It is not an `Exception`, so that no error handler catches it.
    """


class _Conversation:
    """Sends the controller's messages to one agent. It replaces `handout.transport.conversation.Conversation`."""

    def __init__(self, host: SimulatedHost, life: int) -> None:
        self._host = host
        self._life = life
        self._streams = 0
        #: The sources of the objects that the controller itself has not received completely, by stream.
        self._growing: dict[int, Source] = {}

    def send(self, message: AnyMessage, payload: Sequence[Buffer] = ()) -> None:
        """Send a message, but not its payload, because the simulated agent does not look at payloads."""
        host, life = self._host, self._life
        host.line.send(Way.TO_HOST, lambda: host.take(message, life))

    def send_object(self, key: int, source: Source) -> int:
        """Stream an object: announce it, and send its bytes once the source has all of them."""
        self._streams += 1
        host, stream, size = self._host, (self._life << 20) + self._streams, source.size
        host.line.send(Way.TO_HOST, lambda: host.announce(stream, key))

        def send_if_whole() -> None:
            if stream in self._growing and _is_whole(source):
                self._growing.pop(stream).close()
                host.line.stream(Way.TO_HOST, size, lambda: host.received(stream))

        self._growing[stream] = source
        if isinstance(source, GrowingSource):
            source.on_more = send_if_whole
        send_if_whole()
        return stream

    def stop_object(self, stream: int) -> None:
        """Stop the stream of an object."""
        host = self._host
        source = self._growing.pop(stream, None)
        if source is not None:
            source.close()
        host.line.send(Way.TO_HOST, lambda: host.stop(stream))


def _is_whole(source: Source) -> bool:
    """Read a source from its beginning, as an agent link does. Return True if its last byte has come."""
    at = 0
    while at < source.size:
        data = source.read(at, source.size - at)
        if not len(data):
            return False
        at += len(data)
    return True


class _WatchedDriver(Driver):
    """The real driver. The simulation checks each turn, and may kill the controller at each command."""

    def __init__(self, controller: Controller, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        super().__init__(spawn, Core(controller.steps))
        self._controller = controller
        self.performers = {kind: self._watched(perform) for kind, perform in self.performers.items()}

    def turn(self, events: Sequence[ev.Event]) -> None:
        """See `Driver.turn`."""
        self._controller.turn(events, super().turn)

    def break_down(self, error: Exception) -> None:
        """End the simulation with the error. The real driver ends the runs instead."""
        raise error

    @property
    def settled(self) -> bool:
        """True if no event and no work waits for the next turn."""
        return not (self._inbox or self.core.world.jobs)

    def _watched(self, perform: Callable[[Any], None]) -> Callable[[Any], None]:
        def watched(command: do.Command) -> None:
            self._controller.performing(command)
            perform(command)

        return watched


class Callbacks(NamedTuple):
    """The functions that a controller calls."""

    #: Called with the number and the outcome of a run, when the run's caller learns that the run has ended.
    ended: Callable[[int, Outcome], None]
    #: Called with the name of a drained host, when the core lets the host go.
    released: Callable[[str], None]
    #: Called when the controller has died.
    died: Callable[[], None]
    #: Called with the controller, the host's name, the run's number and the tasks' numbers, when tasks are handed over.
    handed: Callable[[Controller, str, int, Sequence[int]], None]
    #: Called with the controller and the events of a turn, before the turn. Returns a function that is called with the
    #: performed commands, after the turn.
    watch_turn: Callable[[Controller, Sequence[ev.Event]], Callable[[Sequence[do.Command]], None]]
    #: Called before the driver performs a command.
    performing: Callable[[Controller, do.Command], None]


class Controller:
    """One life of the controller: a driver, and the agents with which the driver works.

    Args:
        life: The number of this life.
        clock: The virtual clock.
        rng: Makes the random choices.
        story: Records events and commands.
        callbacks: The functions that the controller calls.
    """

    def __init__(
        self,
        life: int,
        clock: Clock,
        rng: Random,
        story: SimulationStory,
        callbacks: Callbacks,
    ) -> None:
        self.life = life
        self.alive = True
        #: The controller dies after this many more instructions, or at the end of its next turn if that is earlier.
        #: None: the controller goes on.
        self.left: int | None = None
        self.hosts: dict[str, SimulatedHost] = {}
        #: Tasks, as (run, task), that must not run again: an earlier life committed all of their needed results.
        self.spared: set[tuple[int, int]] = set()
        #: Tasks, as (run, task), of which some live attempt has finished.
        self.finished: set[tuple[int, int]] = set()
        #: Tasks, as (run, task), that an earlier life had finished, as this life's core was told.
        self.committed: set[tuple[int, int]] = set()
        #: The asyncio tasks of the controller's coroutines.
        self.tasks: set[asyncio.Task[None]] = set()
        #: The outcomes of the runs that have ended, by the run's number.
        self.outcomes: dict[int, Outcome] = {}
        self._clock = clock
        self._rng = rng
        self._story = story
        self._callbacks = callbacks
        #: The callers of the open runs, by the run's number.
        self.callers: dict[int, Callers] = {}
        #: For each run of which others borrow objects: how many runs do so.
        self._lenders: dict[int, int] = {}
        self._draining: set[str] = set()
        self._performed: list[do.Command] = []
        #: The number of steps of `Jobs` that the core takes in one call. Small numbers spread work over many calls.
        self.steps = rng.choice((1, 3, STEPS))
        self.driver = _WatchedDriver(self, self.spawn)
        self.driver.classes.share(frozenset({"seat"}))
        self.core = self.driver.core
        self._inbound = InboundMessages(self.driver)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine for as long as the controller lives."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.result()  # raises the task's error in this callback, which ends the simulation

    # ---- events and commands -----------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """True if no event waits for the next turn."""
        return self.driver.settled

    def is_held(self, run: int, t: int, attempt: int) -> bool:
        """Return True if an attempt is not handed over yet, because its start is still being recorded."""
        known = self.driver.runs.get(run)
        recorder = None if known is None else known.recorder
        return isinstance(recorder, Recorder) and (run, t, attempt) in recorder.held

    def post(self, *events: ev.Event) -> None:
        """Give events to the core in the next turn."""
        self.driver.post(*events)

    def turn(self, events: Sequence[ev.Event], perform: Callable[[Sequence[ev.Event]], None]) -> None:
        """Have the driver take a turn, and check the rules after it.

        Raises:
            InternalError: A rule is broken.
        """
        for event in events:
            self._story.tell(self._clock.now, event)
        self._performed = []
        check = self._callbacks.watch_turn(self, events)
        try:
            perform(events)
            if self.left is not None:
                raise _DeathError
        except _DeathError:
            self._die()
        else:
            check(self._performed)

    def performing(self, command: do.Command) -> None:
        """Check and record a command that the driver is about to perform."""
        self.instruction()
        self._story.tell(self._clock.now, command)
        self._performed.append(command)
        self._callbacks.performing(self, command)
        if isinstance(command, do.StartTasks):
            self._callbacks.handed(self, command.host, command.run, command.tasks)
        elif isinstance(command, do.AnnounceRunEnded):
            self.outcomes[command.run] = command.outcome

    def instruction(self) -> None:
        """Count an instruction: a command, or a record in a journal. Kill the controller if ``left`` is used up."""
        if self.alive and self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise _DeathError

    def _die(self) -> None:
        self._story.tell(self._clock.now, "The controller died.")
        self.close()
        self._callbacks.died()

    def close(self) -> None:
        """End all that the controller does."""
        self.alive = False
        self.driver.close()
        for agent in self.driver.agents.values():
            agent.fetches.lost()
        # Later callbacks then find no agent and no run, as if the process were gone.
        self.driver.agents.clear()
        self.driver.runs.clear()
        for task in list(self.tasks):
            task.cancel()

    # ---- runs --------------------------------------------------------------------------------------------------

    def submit(self, plan: RunPlan, journal: SimulatedJournal, found: Mapping[str, FoundAgent]) -> None:
        """Begin a run. If its journal or an agent knows the run, resume it."""
        home = self.driver.runs.get(plan.borrows)
        if home is not None and plan.borrows not in self.outcomes:
            self.spawn(self._submit_later(plan, journal, home))
            return
        homes = self._homes_in(plan.borrows)
        if isinstance(plan, CallsPlan):
            self._begin_calls(plan, homes)
            return
        run = plan.make_run(plan.manner.allocator(self._rng), homes)
        identities = SimulatedIdentities(len(plan))
        recorder = run.recorder = Recorder(
            cast(Journal, journal), plan.plan, cast(TaskIdentities, identities), _close_nothing
        )
        recorder.prior.take_in(run, journal.committed(), journal.open_starts())
        try:
            at_once(recorder.prior.use_committed(run, ()))
            self.driver.submit(run, recorder.begin(run, found))
        except _DeathError:
            self._die()
        else:
            self.spawn(self._call(run))

    async def _submit_later(self, plan: RunPlan, journal: SimulatedJournal, home: RunState) -> None:
        """Submit a run that borrows objects of another run, when that run has ended."""
        await home.ended.wait()
        if self.alive:
            self.submit(plan, journal, {})

    def _homes_in(self, number: int) -> list[SimulatedHome]:
        """Return the objects that a run keeps, if it has ended well and was not closed. The run then stays open."""
        run, known = self.driver.runs.get(number), self.core.world.runs.get(number)
        if run is None or known is None or self.outcomes.get(number) is not Outcome.DONE:
            return []
        self._lenders[number] = self._lenders.get(number, 0) + 1
        return [SimulatedHome(f"kept-{o}", (number, o), known.objects.nbytes[o]) for o in run.spec.keep]

    def _give_back(self, number: int) -> None:
        """Note that a run does not borrow any more. Forget the home when its last borrower has ended."""
        if number in self._lenders:
            self._lenders[number] -= 1
            if not self._lenders[number]:
                del self._lenders[number]
                run = self.driver.runs.get(number)
                if run is not None:
                    self.post(ev.ObjectsReleased(number, list(run.spec.keep)))
                self._clock.after(0.1, lambda: self.forget(number))

    def _begin_calls(self, plan: CallsPlan, homes: Sequence[SimulatedHome]) -> None:
        allocator = plan.manner.allocator(self._rng)
        self.callers[plan.number] = Callers(
            plan, self.driver, allocator, self._rng, self.spawn, lambda outcome: self._calls_over(plan, outcome), homes
        )

    def _calls_over(self, plan: CallsPlan, outcome: Outcome) -> None:
        self._give_back(plan.borrows)
        if self.alive:
            self._callbacks.ended(plan.number, outcome)

    async def _call(self, run: RunState) -> None:
        """Act as the caller of a run. The caller takes the results some time after the run has ended."""
        await run.ended.wait()
        if not self.alive or run.number not in self.outcomes:
            return  # the controller died, or the caller closed the run before its end
        self._callbacks.ended(run.number, self.outcomes[run.number])
        await asyncio.sleep(self._rng.choice((0.0, 0.1, 20.0)))
        if run.number not in self._lenders:  # otherwise the run is forgotten with its last borrower
            self.forget(run.number)
        for number in {home.place[0] for home in run.homes.values()}:
            self._give_back(number)

    def forget(self, number: int) -> None:
        """Forget a run, because its caller has its results or no longer wants them."""
        run = self.driver.runs.get(number)
        if run is not None:
            self.driver.forget(run)
            run.finish(None)

    # ---- hosts -------------------------------------------------------------------------------------------------

    def join(self, host: SimulatedHost, event: ev.HostConnected, shift: int = 0) -> None:
        """Add an agent that has connected."""
        self.hosts[host.name] = host
        link = SimpleNamespace(conversation=_Conversation(host, self.life))
        agent = AgentProxy(host.name, cast(AgentLink, link))
        agent.shift = shift
        self.driver.join(agent, event)

    def leave(self, host: SimulatedHost, reason: str) -> None:
        """Remove an agent that was lost or has ended."""
        del self.hosts[host.name]
        self.driver.leave(self.driver.agents[host.name], reason)

    def release(self, host: SimulatedHost, found: FoundAgent) -> None:
        """Let an agent go on after a takeover. Cancel tasks and drop objects of runs that were not resumed."""
        agent, runs = self.driver.agents[host.name], self.driver.runs
        for run, tasks, attempts in numbering.by_run(found.attempt_ids):
            if run not in runs:
                agent.cancel(do.CancelTasks(host.name, run, tasks, attempts), 0.0)
        for run, o in (numbering.key_parts(key) for key, _ in found.objects):
            if run not in runs:
                agent.drop(run, [o])
        host.go_on()

    def drain(self, name: str) -> None:
        """Drain a host on behalf of the user."""
        if name not in self._draining:
            self._draining.add(name)
            self.spawn(self._drain(name))

    async def _drain(self, name: str) -> None:
        try:
            await self.driver.drain(name)
        except PlacementError:
            return  # the host stays, because a task needs it
        finally:
            self._draining.discard(name)
        self._callbacks.released(name)

    def heard(self, name: str, frames: Sequence[Frame]) -> None:
        """Handle messages, and bytes of objects, that arrived from a host's agent."""
        agent = self.driver.agents.get(name)
        if agent is None:
            return
        try:
            self._inbound.heard(agent, map(_as_received, frames))
        except _DeathError:
            self._die()


def _as_received(frame: Frame) -> Message | Piece:
    return frame if isinstance(frame, Piece) else Message(0, codec.encode(frame.message), frame.payload)


async def _close_nothing(within_s: float) -> None:
    """Do nothing, because a simulated journal is never closed."""
