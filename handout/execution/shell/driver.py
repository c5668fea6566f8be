"""The driver: performs the commands of the core, and tells the core what happened.

The core is the part of the scheduler that makes all decisions. The driver decides nothing. `inbound_messages` turns the
messages of agents into events for the core. The core handles all events of one turn of the event loop together.

A watcher of a run is a function that gets the run's `handout.events`, for a caller that reads `Execution.events`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, NamedTuple

from handout.errors import HandoutError, InternalError
from handout.events import (
    HostFull,
    HostLeft,
    HostQuarantined,
    HostUnavailable,
    RunEvent,
    TaskEnded,
    TaskRetried,
    TaskSpeculated,
)
from handout.events import HostJoined as HostJoinedNotice
from handout.events import RunEnded as RunEndedNotice
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.planned_faults import PlannedFaults
from handout.execution.reading_threads import ReadingThreads
from handout.execution.recording.recorder import Recorder
from handout.execution.shell.allocator_questions import AllocatorQuestions
from handout.execution.shell.checkpoint_traffic import CheckpointTraffic
from handout.execution.shell.code_uses import CodeUses
from handout.execution.shell.handovers import Handovers
from handout.execution.shell.object_traffic import ObjectTraffic
from handout.execution.shell.retry_decisions import RetryDecisions
from handout.execution.shell.run_state import RunState
from handout.execution.shell.task_classes import TaskClassTable
from handout.execution.shell.task_failures import failure_of
from handout.failures import Failure
from handout.scheduler import commands as do
from handout.scheduler import events as ev
from handout.scheduler.core import Core
from handout.scheduler.task_states import Outcome
from handout.serialization import exceptions
from handout.serialization.user_objects import short_name

__all__ = ["Driver"]

logger = logging.getLogger("handout")

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class FailedAttempt(NamedTuple):
    """A failed attempt. The core decides whether another attempt follows."""

    run: RunState
    task: int
    failure: Failure


class Driver:
    """Connects the core of one cluster with the cluster's agents and runs.

    Args:
        spawn: Starts a coroutine in the cluster's task group.
        core: A core without hosts and runs. Default: a new one.
    """

    def __init__(self, spawn: Spawn, core: Core | None = None) -> None:
        self.core = core or Core()
        self.agents: dict[str, AgentProxy] = {}
        self.runs: dict[int, RunState] = {}
        self.classes = TaskClassTable()
        self._code_uses = CodeUses()
        #: For each run that is kept: the objects because of which it is kept.
        self._held: dict[int, set[int]] = {}
        #: Records every agent in a journal. None unless the cluster belongs to one run that has a journal.
        self.recorder: Recorder | None = None
        self._loop = asyncio.get_running_loop()
        self._inbox: list[ev.Event] = []
        #: The attempts that failed in this turn, if their runs have watchers.
        self.failed_attempts: list[FailedAttempt] = []
        self._pump_due = False
        self._timer: asyncio.TimerHandle | None = None
        #: Maps each host that is being drained to a future, which is done when the core allows or refuses the removal.
        self._drains: dict[str, asyncio.Future[None]] = {}
        #: The error with which every run ends after the core or the driver has failed. None if neither has failed.
        self.broken: InternalError | None = None
        self._closed = False
        #: One for all hosts, so that no two calls of the user's functions run at the same time.
        self.retry_decisions = RetryDecisions(self._loop)
        self.reading_threads = ReadingThreads(self._loop)
        #: The faults that a test has planned. None unless `handout.testing.Faults` is in use.
        self.faults: PlannedFaults | None = None
        self.checkpoints = CheckpointTraffic(self.runs, self.agents)
        #: True while a run has watchers.
        self._is_watched = False
        traffic = ObjectTraffic(self.runs, self.agents, self.core, self.post)
        self._handovers = Handovers(
            self.runs, self.agents, self.core, self.classes, self.checkpoints, lambda: self.faults, self.post
        )
        self._questions = AllocatorQuestions(self.runs, self.post, spawn)
        #: Maps each class of commands to the method that performs them. The simulator wraps these methods, so that it
        #: can kill a controller between two commands.
        self.performers: dict[type[do.Command], Callable[[Any], None]] = {
            do.StartTasks: self._handovers.start,
            do.CopyObjects: traffic.copy,
            do.FetchObjects: traffic.fetch,
            do.DropObjects: traffic.drop,
            do.CancelTasks: self._handovers.cancel,
            do.RecallTasks: self._handovers.recall,
            do.AskAllocator: self._questions.ask,
            do.AnnouncePause: self._announce_pause,
            do.AnnounceSecondAttempt: self._announce_second,
            do.AnnounceTasksEnded: self._tasks_ended,
            do.AnnounceRunEnded: self._run_ended,
            do.AnnounceObjectsLost: self._objects_lost,
            do.ReleaseHost: self._release_host,
            do.RefuseDrain: self._refuse_drain,
        }

    @property
    def now(self) -> float:
        """The time of the event loop, in seconds."""
        return self._loop.time()

    # ---- turns -----------------------------------------------------------------------------------------------

    def post(self, *events: ev.Event) -> None:
        """Queue events for the core. The core gets all events of one turn of the event loop together."""
        if self._closed:
            return
        self._inbox.extend(events)
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        if self.broken is not None or self._closed:
            return
        events, self._inbox = self._inbox, []
        try:
            self.turn(events)
        except Exception as error:
            self.break_down(error)

    def turn(self, events: Sequence[ev.Event]) -> None:
        """Give events to the core, perform its commands, and set the timer for its next deadline."""
        commands = self.core.handle(events, self._loop.time())
        if self.failed_attempts:
            self._tell_retries()
        for command in commands:
            self.performers[type(command)](command)
        self._arm()

    def _tell_retries(self) -> None:
        """Tell the watchers after which failed attempts another attempt follows. Only the core knows this."""
        failed, self.failed_attempts = self.failed_attempts, []
        for run, task, failure in failed:
            known = self.core.world.runs.get(run.number)
            if known is None or known.ended(task) or known.aborting:
                continue
            reason = str(failure.report.get("message") or failure.kind)
            at_s = self.now - run.started_at
            run.tell([TaskRetried(at_s, failure.id, failure.host or "", failure.attempts, reason)])

    def break_down(self, error: Exception) -> None:
        """End every run with an `InternalError`, because the core or the driver has failed and runs would hang."""
        if self.broken is not None:
            return
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        logger.error("Handout itself failed.", exc_info=error)
        self.broken = InternalError(
            f"Handout itself failed: {short_name(error)}: {exceptions.message(error)}.",
            remedy="Please report this error, with the traceback of its cause.",
        )
        self.broken.__cause__ = error
        for run in self.runs.values():
            run.finish(self.broken)
        for drained in self._drains.values():
            if not drained.done():
                drained.set_exception(self.broken)

    def _arm(self) -> None:
        """Set the timer for the next deadline of the core."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.core.next_deadline
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self.post)

    @property
    def is_closed(self) -> bool:
        """True if the cluster was closed, or the core or the driver has failed."""
        return self._closed or self.broken is not None

    def is_held(self, run: RunState) -> bool:
        """Return True if a run is kept because of objects that stay on hosts."""
        return bool(self._held.get(run.number))

    def close(self) -> None:
        """Give the core no more events. End every open run with an error."""
        self._closed = True
        self.reading_threads.close()
        if self._timer is not None:
            self._timer.cancel()
        self._questions.close()
        for drained in self._drains.values():
            drained.cancel()
        for run in list(self.runs.values()):
            if not run.ended.is_set():
                run.finish(self.broken or _closed_under(run))
            elif self.is_held(run):
                run.finish(None)  # a caller may wait for an object of it

    # ---- runs and hosts ----------------------------------------------------------------------------------------

    def submit(self, run: RunState, facts: Sequence[ev.Event] = ()) -> None:
        """Begin a run. The events ``facts`` tell the core what earlier runs of the same tasks left."""
        self.runs[run.number] = run
        self._code_uses.begin(run)
        if self.recorder is not None:
            for agent in self.agents.values():
                self.recorder.agent(agent.name, agent.link)
        if self.broken is not None:
            run.finish(self.broken)
            return
        if self._closed:
            run.finish(_closed_under(run))
            return
        if run.recorder is not None:
            run.recorder.watch(lambda error: self._handovers.journal_lost(run, error))
        run.on_watched = self._update_watching
        self._update_watching()
        self.checkpoints.submitted(run)
        prepared, run.prepared = run.prepared, None
        self.post(ev.RunSubmitted(run.number, run.spec, prepared), *facts)

    def use_code(self, function: int | None, bundle: int | None) -> None:
        """Note that an open run begins to use a function or a bundle; see `CodeUses.add`."""
        self._code_uses.add(function, bundle)

    def hold(self, run: RunState, objects: Collection[int]) -> None:
        """Keep a run until `release` was called for each of these objects, which the run keeps."""
        if objects:
            self._held[run.number] = set(objects)

    def release(self, run: RunState, number: int) -> None:
        """Let an object go that a run keeps. With the last one, forget the run."""
        held = self._held.get(run.number, set())
        if number not in held:
            return
        held.discard(number)
        if held:
            self.post(ev.ObjectsReleased(run.number, [number]))
        else:
            self.forget(run)

    def forget(self, run: RunState) -> None:
        """Drop a run that its caller has left, and what it keeps. Tell agents to drop code that no other run uses."""
        self._questions.forget(run.number)
        if run.recorder is not None:
            for host, task, attempt in run.recorder.release_all():
                run.recorder.not_started([task], [attempt])
                self.post(ev.TasksRecalled(host, run.number, [task], [attempt]))
        self._held.pop(run.number, None)
        run.give_back(list(run.homes))
        for (task, attempt), host in run.checkpoints.held.items():
            self.post(ev.TasksRecalled(host, run.number, [task], [attempt]))
        run.checkpoints.held.clear()
        self.checkpoints.run_left(run)
        if self.runs.pop(run.number, None) is None:
            return
        self._update_watching()
        functions, bundles = self._code_uses.end(run)
        classes = self.classes.forget(run.number)
        for agent in self.agents.values():
            agent.release_code(functions, classes, bundles)
        if self.broken is None:
            self.post(ev.RunClosed(run.number))

    def join(self, agent: AgentProxy, event: ev.HostConnected) -> None:
        """Tell the core and the watchers that a host has joined."""
        self.agents[agent.name] = agent
        if self.faults is not None:
            self.faults.joined(agent)
        if self._is_watched:
            agent.watch_reports(True)
        if self.recorder is not None:
            self.recorder.agent(agent.name, agent.link)
        self.post(event)
        self._tell_all(lambda at_s: HostJoinedNotice(at_s, agent.name))

    def leave(self, agent: AgentProxy, reason: str) -> None:
        """Tell the core and the watchers that a host is lost."""
        if self.agents.get(agent.name) is agent:
            del self.agents[agent.name]
        agent.fetches.lost()
        self.checkpoints.host_lost(agent.name)
        if self.faults is not None:
            self.faults.left(agent.name)
        self.post(ev.HostLost(agent.name, reason))
        self._tell_all(lambda at_s: HostLeft(at_s, agent.name, reason))

    def unavailable(self, name: str, error: Exception, *, final: bool) -> None:
        """Tell the core and the watchers that a host cannot be used. If ``final`` is True, it is not tried again."""
        self.post(ev.HostLost(name, str(error), final))
        self._tell_all(lambda at_s: HostUnavailable(at_s, name, error))

    def quarantined(self, name: str, error: Exception, pause_s: float) -> None:
        """Tell the core and the watchers that a host is in quarantine for ``pause_s`` seconds."""
        self.post(ev.HostDelayed(name, f"in quarantine for {pause_s:g} s, after it was lost again and again"))
        self._tell_all(lambda at_s: HostQuarantined(at_s, name, pause_s, error))

    async def drain(self, name: str) -> None:
        """Give a host no new tasks, and wait until no run needs a task or an object on the host.

        Raises:
            PlacementError: A task could not run on any other host. The host is not drained.
            InternalError: The core has failed.
        """
        if self.broken is not None:
            raise self.broken
        drained = self._drains[name] = self._loop.create_future()
        try:
            self.post(ev.HostDrained(name))
            await drained
        finally:
            del self._drains[name]

    def _update_watching(self) -> None:
        """Tell the agents if the tasks of a run have to send the reports that they make about themselves."""
        watched = any(run.watchers for run in self.runs.values())
        if watched != self._is_watched:
            self._is_watched = watched
            for agent in self.agents.values():
                agent.watch_reports(watched)

    def _tell_all(self, make: Callable[[float], RunEvent]) -> None:
        for run in self.runs.values():
            if run.watchers:
                run.tell([make(self.now - run.started_at)])

    # ---- commands ----------------------------------------------------------------------------------------------

    def _announce_second(self, command: do.AnnounceSecondAttempt) -> None:
        run = self.runs.get(command.run)
        if run is not None and run.watchers:
            c, id = command, run.ids[command.task]
            at_s = self.now - run.started_at
            shown = self.core.shown_attempt(c.run, c.task, c.attempt)
            run.tell([TaskSpeculated(at_s, id, c.host, shown, c.beside, c.running_s, c.limit_s)])

    def _announce_pause(self, command: do.AnnouncePause) -> None:
        run, agent = self.runs.get(command.run), self.agents.get(command.host)
        if run is None or agent is None:
            return
        c, id = command, run.ids[command.task]
        function = run.spec.profiles[run.spec.profile[c.task]].fn_name
        if not agent.was_full:
            agent.was_full = True  # later cases are not logged, but the events of the runs report them
            need = f"{c.need} bytes" if c.need else "data"
            logger.warning(
                "Host %s has no room for %s that task %r makes or takes. Tasks of the function %s prefer other hosts "
                "for %g s. Free some space on the host, or give the function a disk cost.",
                *(c.host, need, id, function, c.pause_s),
            )
        if run.watchers:
            run.tell([HostFull(self.now - run.started_at, c.host, id, function, c.need, c.pause_s)])

    def _release_host(self, command: do.ReleaseHost) -> None:
        drained = self._drains.get(command.host)
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _refuse_drain(self, command: do.RefuseDrain) -> None:
        drained = self._drains.get(command.host)
        if drained is not None and not drained.done():
            drained.set_exception(command.error)

    def _tasks_ended(self, command: do.AnnounceTasksEnded) -> None:
        run = self.runs.get(command.run)
        if run is None:
            return
        columns = zip(command.tasks, command.outcomes, command.hosts, command.failures, command.causes, strict=True)
        for task, outcome, host, found, cause in columns:
            run.outcomes[task] = outcome
            if host:
                run.hosts[task] = host
            if outcome is not Outcome.DONE:
                run.failures[task] = failure_of(run, task, outcome, found, cause)
                if outcome is Outcome.FAILED:
                    run.failed_order.append(task)
            if run.checkpoints:
                self.checkpoints.task_ended(run, task, outcome is Outcome.DONE)
            if run.on_task_end:
                run.task_ended(task)
        if run.recorder is not None:
            run.recorder.ended(run, command, self._shown_in(run))
        if run.watchers:
            at_s = self.now - run.started_at
            run.tell(
                [
                    TaskEnded(at_s, run.ids[t], o.value, h or None, run.failures.get(t))
                    if o is not Outcome.DONE or t not in run.reused
                    else run.reused_event(t, at_s)
                    for t, o, h in zip(command.tasks, command.outcomes, command.hosts, strict=True)
                ]
            )

    def _objects_lost(self, command: do.AnnounceObjectsLost) -> None:
        run = self.runs.get(command.run)
        if run is None:
            return
        for number in command.objects:
            run.lost[number] = command.failure
            run.arrived(number)

    def _shown_in(self, run: RunState) -> Callable[[int], int]:
        """Return a function that returns the number by which users know the last attempt of a task."""
        return lambda task: self.core.shown_attempt(run.number, task)

    def _run_ended(self, command: do.AnnounceRunEnded) -> None:
        run = self.runs.get(command.run)
        if run is None:
            return
        if run.watchers:
            counts = run.counts()
            reused = sum(1 for task in run.reused if run.outcomes[task] is Outcome.DONE)
            done, failed, skipped, cancelled = (counts[outcome] for outcome in Outcome)
            run.tell([RunEndedNotice(self.now - run.started_at, done, failed, skipped, cancelled, reused)])
        if run.recorder is None:
            run.finish(command.error)
        else:
            run.recorder.over(command.outcome, lambda error: run.finish(command.error or error))


def _closed_under(run: RunState) -> HandoutError:
    left = sum(1 for outcome in run.outcomes if outcome is None)
    return HandoutError(
        f"The cluster was closed while {left} of the {run.task_count} tasks of this run had not ended.",
        remedy="Close the cluster after its runs have ended.",
    )
