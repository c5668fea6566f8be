"""The driver: performs the commands of the core, and tells the core what happened.

The core is the part of the scheduler that makes all decisions. The driver decides nothing. `inbound_messages` turns the
messages of agents into events for the core. The core handles all events of one turn of the event loop together.

A watcher of a run is a function that gets the run's `handout.events`, for a caller that reads `Execution.events`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, NamedTuple

from handout.allocators.answer import read_answer
from handout.errors import AllocatorError, DependencyError, HandoutError, InternalError
from handout.events import (
    HostFull,
    HostLeft,
    HostQuarantined,
    HostUnavailable,
    RunEvent,
    TaskEnded,
    TaskHandedOver,
    TaskRetried,
    TaskSpeculated,
)
from handout.events import HostJoined as HostJoinedNotice
from handout.events import RunEnded as RunEndedNotice
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.planned_faults import FaultyAttempt, PlannedFaults
from handout.execution.reading_threads import ReadingThreads
from handout.execution.recording.recorder import Recorder
from handout.execution.shell.checkpoint_traffic import CheckpointTraffic
from handout.execution.shell.code_uses import CodeUses
from handout.execution.shell.object_traffic import ObjectTraffic
from handout.execution.shell.retry_decisions import RetryDecisions
from handout.execution.shell.run_state import RunRecorder, RunState
from handout.execution.shell.task_classes import TaskClassTable
from handout.failures import Failure, of_exception
from handout.scheduler import commands as do
from handout.scheduler import events as ev
from handout.scheduler.core import Core
from handout.scheduler.task_states import Outcome
from handout.serialization import exceptions
from handout.serialization.user_objects import has_text, is_interruption, short_name

__all__ = ["Driver"]

logger = logging.getLogger("handout")

#: Seconds between SIGTERM and SIGKILL for a cancelled task. A cancelled run must have ended within 5 s.
_CANCEL_GRACE_S = 2.5

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
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._inbox: list[ev.Event] = []
        #: The attempts that failed in this turn, if their runs have watchers.
        self.failed_attempts: list[FailedAttempt] = []
        self._pump_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._asking: dict[int, asyncio.Task[None]] = {}
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
        #: Maps each class of commands to the method that performs them. The simulator wraps these methods, so that it
        #: can kill a controller between two commands.
        self.performers: dict[type[do.Command], Callable[[Any], None]] = {
            do.StartTasks: self._start_tasks,
            do.CopyObjects: traffic.copy,
            do.FetchObjects: traffic.fetch,
            do.DropObjects: traffic.drop,
            do.CancelTasks: self._cancel_tasks,
            do.RecallTasks: self._recall_tasks,
            do.AskAllocator: self._ask_allocator,
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
        for task in self._asking.values():
            task.cancel()
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
            run.recorder.watch(lambda error: self._on_journal_lost(run, error))
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
        asking = self._asking.pop(run.number, None)
        if asking is not None:
            asking.cancel()
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

    def _start_tasks(self, command: do.StartTasks) -> None:
        run, agent = self.runs.get(command.run), self.agents.get(command.host)
        if run is None or agent is None:
            return  # the run or the host is gone, and an event about this is on its way to the core
        if run.checkpoints:
            command = self.checkpoints.hold(
                run, command.host, command, lambda held: self._start_ready(run, agent, held)
            )
        self._start_ready(run, agent, command)

    def _start_ready(self, run: RunState, agent: AgentProxy, command: do.StartTasks) -> None:
        """Hand over attempts that wait for no checkpoint, unless the run or the agent is gone meanwhile."""
        if not command.tasks or self.runs.get(run.number) is not run or self.agents.get(agent.name) is not agent:
            return
        if run.recorder is not None and run.recorder.must_wait(command):
            recorder = run.recorder
            shown = self.core.shown_attempts(run.number, command.tasks, command.attempts)
            recorder.start(
                run, command, shown, lambda error: self._start_recorded(run, recorder, agent, command, error)
            )
            return
        self._hand_over(run, agent, command)

    def _start_recorded(
        self, run: RunState, recorder: RunRecorder, agent: AgentProxy, command: do.StartTasks, error: Exception | None
    ) -> None:
        """Hand over attempts whose starts are now recorded, except those that were cancelled or recalled meanwhile."""
        pairs = zip(command.tasks, command.attempts, strict=True)
        still = [i for i, (task, attempt) in enumerate(pairs) if recorder.release(run, task, attempt)]
        if error is not None:
            self._on_journal_lost(run, error)
            back = command.only(still)
            self.post(ev.TasksRecalled(command.host, run.number, back.tasks, back.attempts))
        elif still and self.agents.get(command.host) is agent and run.number in self.runs:
            self._hand_over(run, agent, command.only(still))

    def _on_journal_lost(self, run: RunState, error: Exception) -> None:
        """Cancel a run, because its journal can no longer be written."""
        if run.error is None:
            run.error = error
        self.post(ev.CancelRequested(run.number))

    def _hand_over(self, run: RunState, agent: AgentProxy, command: do.StartTasks) -> None:
        if self.faults is not None:
            faulty = self.faults.choose(run, command)
            for each in faulty:
                self._hand_over_now(run, agent, command.only([each.place]), each)
            places = {each.place for each in faulty}
            command = command.only([i for i in range(len(command.tasks)) if i not in places])
        if command.tasks:
            self._hand_over_now(run, agent, command, None)

    def _hand_over_now(
        self, run: RunState, agent: AgentProxy, command: do.StartTasks, faulty: FaultyAttempt | None
    ) -> None:
        profile = run.spec.profile
        variants = zip(command.tasks, command.variants, strict=True)
        shown = self.core.shown_attempts(run.number, command.tasks, command.attempts)
        if faulty is None:
            warm, inputs = run.encoded.warm, run.encoded.inputs
            if warm:
                taken = {t: tuple(sorted({warm[o] for o in inputs[t] if o in warm})) for t in command.tasks}
                classes = [self.classes.entry(run, profile[t], variant, taken[t]) for t, variant in variants]
            else:
                classes = [self.classes.entry(run, profile[t], variant) for t, variant in variants]
        else:
            classes = [self.classes.alone(run, profile[t], variant, faulty.is_limited) for t, variant in variants]
        checkpoints = self.checkpoints.send(run, agent, command.tasks) if run.checkpoints else None
        function = None if faulty is None else faulty.function
        agent.start_tasks(run, command, classes, shown, checkpoints, function)
        for task in command.tasks:
            run.hosts[task] = command.host
        if run.on_hand_over:
            for callback in [run.on_hand_over.pop(t) for t in command.tasks if t in run.on_hand_over]:
                callback()
        if run.reused:
            run.note_made_again(command.tasks)
        if run.watchers:
            at_s, ids = self.now - run.started_at, run.ids
            pairs = zip(command.tasks, shown, strict=True)
            run.tell([TaskHandedOver(at_s, ids[t], command.host, a) for t, a in pairs])

    def _cancel_tasks(self, command: do.CancelTasks) -> None:
        agent = self.agents.get(command.host)
        self._give_back_held(command)
        if agent is not None:
            agent.cancel(command, _CANCEL_GRACE_S)

    def _recall_tasks(self, command: do.RecallTasks) -> None:
        agent = self.agents.get(command.host)
        self._give_back_held(command)
        if agent is not None:
            agent.recall(command)

    def _give_back_held(self, command: do.CancelTasks | do.RecallTasks) -> None:
        """Tell the core that attempts are recalled, if no agent has them yet; see `_start_tasks`."""
        run = self.runs.get(command.run)
        if run is None:
            return
        if run.checkpoints.held:
            tasks, attempts = self.checkpoints.give_back(run, command)
            if tasks:
                self.post(ev.TasksRecalled(command.host, run.number, tasks, attempts))
        if run.recorder is None:
            return
        for task, attempt in zip(command.tasks, command.attempts, strict=True):
            if run.recorder.release(run, task, attempt):
                run.recorder.not_started([task], [attempt])
                self.post(ev.TasksRecalled(command.host, run.number, [task], [attempt]))

    def _ask_allocator(self, command: do.AskAllocator) -> None:
        run = self.runs.get(command.run)
        if run is not None:
            self._spawn(self._await_allocator(run, command))

    async def _await_allocator(self, run: RunState, command: do.AskAllocator) -> None:
        """Await the user's allocator, which may raise any exception or never return. The core limits its time."""
        task = asyncio.current_task()
        assert task is not None
        assert run.policy.allocator is not None
        if run.number not in self.runs:
            return  # the caller has left the run in the meantime
        self._asking[run.number] = task
        try:
            promised = run.policy.allocator(command.frontier, command.view)
            if not inspect.isawaitable(promised):
                raise AllocatorError(
                    f"the allocator returned {type(promised).__name__}, which cannot be awaited.",
                    remedy="Define the allocator with `async def`.",
                )
            event = ev.PlacementsProposed(run.number, command.request, *read_answer(await promised))
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if run.number not in self._asking or (current is not None and current.cancelling()):
                return  # the run is over
            error = AllocatorError("the allocator cancelled itself.", remedy="Let it return its placements.")
            self.post(ev.AllocatorFailed(run.number, command.request, error))
        except BaseException as error:  # an allocator may raise anything; some test tools raise such subclasses
            if is_interruption(error):
                raise
            self.post(ev.AllocatorFailed(run.number, command.request, _allocator_error(error)))
        else:
            self.post(event)
        finally:
            if self._asking.get(run.number) is task:
                del self._asking[run.number]

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
                run.failures[task] = _failure(run, task, outcome, found, cause)
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


def _failure(run: RunState, task: int, outcome: Outcome, found: object, cause: int) -> Failure:
    ids = run.ids
    if isinstance(found, Failure):
        return found
    if outcome is Outcome.SKIPPED and cause >= 0:
        root = ids[cause]
        chain = [ids[t] for t in run.chain(task, cause)]
        why = run.failures[cause].reason if cause in run.failures else "it failed"
        error = DependencyError(
            f"Task {ids[task]!r} was skipped, because it depends on task {root!r}, which failed: "
            f"{' <- '.join(chain)} ({why}).",
            remedy=f"Fix {root!r} first.",
            id=ids[task],
            caused_by=root,
            chain=tuple(chain),
        )
        failure = of_exception(ids[task], error, kind="skipped", host=None, attempts=0)
        failure.caused_by = root
        return failure
    if isinstance(found, Exception):
        attempt = getattr(found, "attempt", 0) or 1
        history = run.histories.get(task)
        facts = history.last if history is not None and history.last.attempts == attempt else None
        host = run.hosts[task] or None
        return of_exception(ids[task], found, kind="host", host=host, attempts=attempt, facts=facts)
    cancelled = Failure(ids[task], "cancelled", host=run.hosts[task] or None, attempts=0)
    if cause >= 0:
        cancelled.caused_by = ids[cause]
    elif run.failed_order and run.policy.on_failure == "fail_fast":
        cancelled.caused_by = ids[run.failed_order[0]]
    return cancelled


def _allocator_error(error: BaseException) -> AllocatorError:
    """Return the error of a run whose allocator raised an exception."""
    if issubclass(type(error), AllocatorError) and has_text(error):
        return error  # type: ignore[return-value]  # its text names the mistake already
    found = AllocatorError(
        f"the allocator raised {short_name(error)}: {exceptions.message(error)}.",
        remedy="Look at the allocator's exception and its traceback, which are the cause of this error.",
    )
    found.__cause__ = error
    return found
