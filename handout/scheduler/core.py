"""The core makes the controller's decisions: it takes events and returns commands.

The core has no clock, no I/O and no randomness, so the same events at the same times always lead to the same commands.
The shell is the part of the controller around the core. The shell has the clock and does the I/O. It contains the
driver (`handout.execution.shell.driver`), which passes events to the core and performs the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from handout.allocators import ClusterView
from handout.errors import InternalError
from handout.scheduler import events as ev
from handout.scheduler.commands import Command
from handout.scheduler.explain import Explanation, explain
from handout.scheduler.handlers import (
    attempt_reports,
    borrowing,
    custom_allocators,
    membership,
    open_runs,
    recovery,
    resumed_runs,
    retries,
    warm_values,
)
from handout.scheduler.handlers.cancellation import abort, abort_due, cancel, end_runs, is_gone
from handout.scheduler.handlers.replicas import want_output
from handout.scheduler.placing.disk_pressure import count_freed, pause_over
from handout.scheduler.placing.feasibility import end_infeasible_runs
from handout.scheduler.placing.placement import place
from handout.scheduler.placing.reservations import expire
from handout.scheduler.placing.run_ahead import hand_over_followers, recall_for_idle
from handout.scheduler.placing.speculation import speculate
from handout.scheduler.state.jobs import STEPS
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.task_states import Outcome, State
from handout.scheduler.views import cluster_view

__all__ = ["Core"]


def _cancel_requested(world: World, event: ev.CancelRequested) -> None:
    run = world.runs.get(event.run)
    if run is None:
        world.stale += 1
    elif event.tasks is None:
        abort(world, run, Outcome.CANCELLED)
    else:
        cancel(world, run, list(event.tasks))


def _outputs_wanted(world: World, event: ev.OutputsWanted) -> None:
    run = world.runs.get(event.run)
    if run is None or run.over:
        world.stale += 1
        return
    if run.noting:
        world.jobs.finish(run.number)  # the object may have a replica that is not noted yet
    for o in event.objects:
        want_output(world, run, o)


_HANDLERS: Final[dict[type, Callable[[World, Any], None]]] = {
    ev.RunSubmitted: membership.run_submitted,
    ev.RunClosed: membership.run_closed,
    ev.TasksAdded: open_runs.tasks_added,
    ev.ObjectsReleased: borrowing.objects_released,
    ev.ResultsCommitted: resumed_runs.results_committed,
    ev.AttemptsFound: resumed_runs.attempts_found,
    ev.AttemptsUnknown: resumed_runs.attempts_unknown,
    ev.HostExpected: membership.host_expected,
    ev.HostDelayed: membership.host_delayed,
    ev.HostConnected: membership.host_connected,
    ev.HostLost: membership.host_lost,
    ev.HostAbandoned: membership.host_abandoned,
    ev.HostRemoved: membership.host_removed,
    ev.HostSuspected: membership.host_suspected,
    ev.HostRecovered: membership.host_recovered,
    ev.HostDrained: membership.host_drained,
    ev.CapabilitiesChanged: membership.capabilities_changed,
    ev.SharedChanged: membership.shared_changed,
    ev.TasksStarted: attempt_reports.tasks_started,
    ev.TasksFinished: attempt_reports.tasks_finished,
    ev.TasksRecalled: attempt_reports.tasks_recalled,
    ev.TaskFailed: attempt_reports.task_failed,
    ev.ValueWarmed: warm_values.value_warmed,
    ev.ValueCooled: warm_values.value_cooled,
    ev.ObjectsStored: recovery.objects_stored,
    ev.ObjectsVanished: recovery.objects_vanished,
    ev.CopyFailed: recovery.copy_failed,
    ev.PlacementsProposed: custom_allocators.placements_proposed,
    ev.AllocatorFailed: custom_allocators.allocator_failed,
    ev.CancelRequested: _cancel_requested,
    ev.OutputsWanted: _outputs_wanted,
}


def _nothing_else(world: World, timer: Timer) -> None:
    """Do nothing. The timer only makes the shell call `Core.handle`, whose later steps do the work."""


_WAKES: Final[dict[Wake, Callable[[World, Timer], None]]] = {
    Wake.BACKOFF: retries.backoff_over,
    Wake.ABORT: abort_due,
    Wake.ASK_AGAIN: custom_allocators.ask_again,
    Wake.ANSWER_DUE: custom_allocators.answer_due,
    Wake.RECALL: _nothing_else,
    Wake.RESERVE: _nothing_else,
    Wake.SPECULATE: _nothing_else,
    Wake.SHORTAGE: membership.shortage_over,
    Wake.GIVE_UP: membership.patience_over,
    Wake.PAUSE: pause_over,
}


class Core:
    """Makes all decisions about one cluster and the runs on it.

    The shell calls `handle` with events and performs the returned commands in order. If no event comes until the time
    `next_deadline`, the shell calls `handle` at that time, without events.
    """

    __slots__ = ("_world",)

    def __init__(self, steps: int = STEPS) -> None:
        """Start without hosts and runs.

        Args:
            steps: The number of steps of `Jobs` that one call of `handle` takes at most.
        """
        self._world = World(steps)

    def handle(self, events: Sequence[ev.Event], now: float) -> list[Command]:
        """Handle events, and return the commands that the shell must perform.

        Args:
            events: The events. Events of the same host are in the order in which they happened.
            now: The present time in seconds, from a clock that never goes back.

        Returns:
            The commands, in the order in which the shell must perform them.

        Raises:
            InternalError: An event is of no known class, or the core has broken one of its own rules. After this error,
                the core must not be used any more.
        """
        world = self._world
        world.now = max(world.now, now)
        world.jobs.go_on()
        for timer in world.timers.due(world.now):
            _WAKES[timer.wake](world, timer)
        for event in events:
            handler = _HANDLERS.get(type(event))
            if handler is None:
                raise InternalError(f"The core does not know the class of event {event!r}. Please report this.")
            try:
                handler(world, event)
            except InternalError as error:
                raise InternalError(f"{error.problem} {_story(event)}", remedy=error.remedy) from error
        end_infeasible_runs(world)
        expire(world)
        count_freed(world)
        custom_allocators.note_room(world)
        place(world)
        speculate(world)
        hand_over_followers(world)
        recall_for_idle(world)
        custom_allocators.ask_allocators(world)
        membership.release_drained(world)
        end_runs(world)
        return world.out.flush()

    @property
    def next_deadline(self) -> float | None:
        """The time at which the shell must call `handle` if no event comes before; None if no time is set."""
        return self._world.now if self._world.jobs else self._world.timers.next_s

    @property
    def stale(self) -> int:
        """How many reports the core has ignored, because they came too late.

        An event about several tasks or objects counts once for each of them that came too late.
        """
        return self._world.stale

    @property
    def view(self) -> ClusterView:
        """A view of all hosts of the inventory, as the core shows it to allocators."""
        return cluster_view(self._world)

    @property
    def world(self) -> World:
        """The core's state, which only the core may change."""
        return self._world

    def attempts(self, run: int) -> Sequence[int]:
        """Return the number of each task's present attempt. The sequence belongs to the core and must not be changed.

        A task may have two attempts at the same time. Then the other attempt is not in the sequence, but `is_live`
        accepts both attempts.
        """
        known = self._world.runs.get(run)
        return () if known is None else known.attempt

    def shown_attempt(self, run: int, task: int, attempt: int | None = None) -> int:
        """Return the number by which users know an attempt: it counts the attempts that began, or may have begun.

        Args:
            run: The number of the run.
            task: The number of the task.
            attempt: The number of the hand-over. Default: the task's present or last attempt.
        """
        known = self._world.runs.get(run)
        if known is None:
            return attempt or 0
        return known.begun.shown(task, known.attempt[task] if attempt is None else attempt)

    def shown_attempts(self, run: int, tasks: Sequence[int], attempts: Sequence[int]) -> Sequence[int]:
        """Return the numbers by which users know several attempts; see `shown_attempt`."""
        known = self._world.runs.get(run)
        if known is None or not known.begun:
            return attempts
        return [known.begun.shown(t, a) for t, a in zip(tasks, attempts, strict=True)]

    def is_live(self, run: int, task: int, host: str, attempt: int) -> bool:
        """Return True if the core accepts reports about this attempt. A task may have two such attempts at a time."""
        known = self._world.runs.get(run)
        if known is None:
            return False
        live = [(known.host[task], known.attempt[task])]
        if (other := known.second_attempts.get(task)) is not None:
            live.append((other.host, other.attempt))
        return any(self._world.fleet.names[index] == host and number == attempt for index, number in live)

    def explain(self, run: int, task: int) -> Explanation:
        """Return where a task is and, if the task does not run, why not.

        Raises:
            InternalError: There is no such run or task.
        """
        return explain(self._world, run, task)

    def is_gone(self, run: int, object_: int) -> bool:
        """Return True if an object has no replica, and its task has ended. A task that is repeated has not ended."""
        known = self._world.runs.get(run)
        return known is None or is_gone(known, object_)

    def locate(self, run: int, object_: int) -> tuple[str, ...]:
        """Return the names of the hosts that have an object. If the controller has the object, ``""`` is first."""
        known = self._world.runs.get(run)
        names = self._world.fleet.names
        return () if known is None else tuple(names[index] for index in known.objects.replicas[object_])

    def counts(self, run: int) -> dict[State, int]:
        """Return how many tasks of a run are in each state."""
        known = self._world.runs.get(run)
        return {} if known is None else {state: known.state.count(state) for state in State}


def _story(event: ev.Event) -> str:
    """Return a sentence that says which event the core was handling when an error occurred."""
    facts = [f"{name} {value!r}" for name in ("host", "run") if (value := getattr(event, name, None)) is not None]
    return f"The core was handling {type(event).__name__}{' of ' if facts else ''}{' and '.join(facts)}."
