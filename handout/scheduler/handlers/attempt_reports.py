"""Handle the reports of agents about attempts that have started, finished, failed or been recalled.

For each task, `Run` keeps the data of one attempt in its columns (`attempt`, `host` and others, indexed by task). This
attempt is called the present attempt. A slow task may have another attempt at the same time, whose data is in
`Run.second_attempts`.
"""

from __future__ import annotations

from collections.abc import Sequence

from handout.scheduler.events import TaskFailed, TasksFinished, TasksRecalled, TasksStarted
from handout.scheduler.handlers.attempts import (
    confirm_end,
    end_attempt,
    end_other_attempt,
    recall_followers,
    return_to_frontier,
)
from handout.scheduler.handlers.cancellation import end, fail, give_up_output
from handout.scheduler.handlers.replicas import (
    add_replica,
    copy_to,
    drop_unused,
    mirror,
    notify_consumers,
    release_inputs,
)
from handout.scheduler.handlers.retries import CAUSES, UNKNOWN_KINDS, outcome_unknown, pause_before_retry
from handout.scheduler.handlers.warm_values import MAX_WARMINGS, has_fit_host, leave_host
from handout.scheduler.placing.disk_pressure import found_no_room
from handout.scheduler.placing.speculation import may_have_second
from handout.scheduler.state.hosts import CONTROLLER_ONLY, HostRecord
from handout.scheduler.state.object_table import KEEP, OUTPUT
from handout.scheduler.state.runs import Run
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.task_states import Outcome, State

__all__ = ["task_failed", "tasks_finished", "tasks_recalled", "tasks_started"]

_HANDED, _DONE = State.HANDED, State.DONE


def tasks_started(world: World, event: TasksStarted) -> None:
    """Note that tasks have started, so that they cannot be recalled any more."""
    run, host = world.runs.get(event.run), world.fleet.by_name.get(event.host)
    if run is None or host is None:
        world.stale += len(event.tasks)
        return
    for t, attempt in zip(event.tasks, event.attempts, strict=True):
        if _is_present(run, host, t, attempt):
            run.mark_started(t, world.now)
            if run.stragglers is not None and may_have_second(run, t):
                run.stragglers.started(t, world.now)
        else:
            world.stale += 1


def tasks_recalled(world: World, event: TasksRecalled) -> None:
    """Return recalled tasks to the frontier. Tasks that are being cancelled end instead."""
    run, host = world.runs.get(event.run), world.fleet.by_name.get(event.host)
    for t, attempt in zip(event.tasks, event.attempts, strict=True):
        if run is None or host is None or not _counts(run, host, t, attempt):
            confirm_end(world, host, event.run, t, attempt)
            continue
        run.begun.note_unbegun(t, attempt)
        end_attempt(world, run, t)
        if run.continue_with_second(t):
            continue
        if t in run.cancelling:
            end(world, run, t, Outcome.CANCELLED)
        else:
            recall_followers(world, run, t)
            return_to_frontier(world, run, t)


def tasks_finished(world: World, event: TasksFinished) -> None:
    """Note the results of finished tasks, and drop inputs that no task needs any more.

    Tasks that waited only for these results become ready. The core spends more time in this function than in any other,
    so the function is written for speed.
    """
    run, host = world.runs.get(event.run), world.fleet.by_name.get(event.host)
    if run is None or host is None:
        _finished_after_close(world, event, host)
        return
    state, attempts, at, claims, reported = run.state, run.attempt, run.host, run.claims, run.reported
    index, inputs, elements, release = host.index, run.spec.inputs, run.objects.elements, host.ledger.release
    move, learn, stragglers = run.move, run.durations.learn, run.stragglers
    sparse = bool(run.cancelling or run.shared or run.started or run.recalled or run.second_attempts)
    done: list[int] = []
    count, ahead, backlog_s = 0, 0, 0.0
    for i, t in enumerate(event.tasks):
        if (state[t] != _HANDED or attempts[t] != event.attempts[i] or at[t] != index) and not (
            run.second_attempts and _counts(run, host, t, event.attempts[i])
        ):
            _finished_late(world, run, host, t, event.attempts[i])
            continue
        if sparse:
            if not _end_finished(world, run, host, t):
                continue
        else:
            claim = claims[t]
            count += 1
            if claim is None:
                ahead += 1
                backlog_s += run.backlog_s[t]
            else:
                run.set_claim(t, None)
                release(claim)
        move(t, _DONE)
        learn(t, event.durations_s[i])
        if stragglers is not None:
            stragglers.learned(t, world.now)
        if not reported[t]:
            done.append(t)
        sizes = event.sizes[i]
        if run.found and event.held[i] and run.found.get(t) == event.attempts[i]:
            _held_again(world, run, host, t, sizes)
        elif elements and t in elements:
            for o, size in zip(run.objects_of(t), sizes, strict=False):
                _made(world, run, host, o, size, event.held[i], True)
        elif sizes:
            _made(world, run, host, t, sizes[0], event.held[i], False)
        if inputs[t]:
            release_inputs(world, run, t)
    host.remove_attempts(count, ahead, backlog_s)
    run.requests.note_change()
    world.dirty.add(host)
    world.ending.add(run)
    if done and run.spec.is_open:
        # `add_replica` announces the tasks whose results the controller does not have yet; see `open_runs`.
        done = [t for t in done if not (reported[t] or run.objects.awaits(t))]
    if done:
        run.mark_reported(done)
        world.out.done(run.number, host.name, done)


def _end_finished(world: World, run: Run, host: HostRecord, t: int) -> bool:
    """End the finished attempt of a task, and the task's other attempt if there is one.

    Returns:
        True if the result of the task counts, and False if it does not, because the task is being cancelled.
    """
    if t in run.cancelling:
        end_attempt(world, run, t)
        if not run.continue_with_second(t):
            end(world, run, t, Outcome.CANCELLED)
        _discard_all(world, run, host, t)
        return False
    if t in run.second_attempts:
        end_other_attempt(world, run, t)
    end_attempt(world, run, t)
    return True


def _made(world: World, run: Run, host: HostRecord, o: int, size: int, held: bool, stored: bool) -> None:
    """Note an object that was made on a host, or drop it if it is not needed.

    Args:
        world: The core's state.
        run: The run.
        host: The host.
        o: The object.
        size: The object's size in bytes. It is negative if the object was neither stored on the host nor sent to the
            controller.
        held: True if the controller got the object's bytes with the report.
        stored: True if the host stores this object in any case, even if the report contains the object's bytes.
    """
    objects = run.objects
    if size < 0:
        # When the task was handed over, nothing needed the object, so the host did not store it. If the caller has
        # asked for the object since, the run ends without it.
        give_up_output(world, run, o)
        return
    if objects.copying:
        objects.end_copy(o, host.index)
        if held:
            objects.end_copy(o, 0)
    if objects.replicas[o]:
        # The task has run again although this object had a replica already.
        add_replica(world, run, o, host.index, size)
        if held:
            add_replica(world, run, o, 0, size)
        return
    flags, users = objects.flags[o], objects.uses[o]
    if held:
        if users or flags & KEEP or stored or objects.consumers[o]:
            objects.made(o, size, host.both)
            if not users:
                drop_unused(world, run, o)
        elif flags:
            objects.made(o, size, CONTROLLER_ONLY)  # the host has not stored the object: `StartTasks.keep` was False
        else:
            world.out.drop(0, run.number, o)
    elif users or flags:
        objects.made(o, size, host.only)
        if flags & OUTPUT:
            copy_to(world, run, o, 0)
    else:
        world.out.drop(host.index, run.number, o)
    if users:
        notify_consumers(world, run, o, host.index)
    if run.borrowers:
        mirror(world, run, o)


def _held_again(world: World, run: Run, host: HostRecord, t: int, sizes: Sequence[int]) -> None:
    """Note the result of an attempt that an earlier controller handed over.

    This controller has a replica, but it is not certain that the host still has one. The earlier controller may also
    have got the result, and may then have told the host to drop its replica.
    """
    for o, size in zip(run.objects_of(t), sizes, strict=False):
        if size < 0:
            give_up_output(world, run, o)
            continue
        run.objects.end_copy(o, 0)
        if run.objects.uses[o] or run.objects.flags[o]:
            add_replica(world, run, o, 0, size)
        else:
            world.out.drop(0, run.number, o)
        if host.index not in run.objects.replicas[o]:
            run.objects.mark_stale(o, host.index)


def _finished_after_close(world: World, event: TasksFinished, host: HostRecord | None) -> None:
    """Drop the results of a run that is closed."""
    for t, attempt, held in zip(event.tasks, event.attempts, event.held, strict=True):
        # An agent may end an attempt that an earlier controller handed over, of a run that this one does not know.
        for o in confirm_end(world, host, event.run, t, attempt) or (t,):
            if host is not None:
                world.out.drop(host.index, event.run, o)
            if held:
                world.out.drop(0, event.run, o)


def _finished_late(world: World, run: Run, host: HostRecord, t: int, attempt: int) -> None:
    """Drop the result of an attempt that does not count any more."""
    confirm_end(world, host, run.number, t, attempt)
    if run.state[t] == _HANDED and run.host[t] == host.index:
        # The present attempt may have stored its result on the same host, and a drop could delete that result.
        for o in run.objects_of(t):
            run.objects.mark_stale(o, host.index)
    else:
        _discard_all(world, run, host, t)


def _discard_all(world: World, run: Run, host: HostRecord, t: int) -> None:
    for o in run.objects_of(t):
        if host.index in run.objects.replicas[o]:
            continue
        if (o, host.index) in run.objects.copying:
            # The result of another attempt is being copied to this host, and a drop could delete that copy.
            run.objects.mark_stale(o, host.index)
        else:
            world.out.drop(host.index, run.number, o)


def task_failed(world: World, event: TaskFailed) -> None:
    """Let a failed task run again, if possible on another host, or let it fail for good.

    This depends on the kind of the failure, and on how many such failures the task has had.
    """
    run, host = world.runs.get(event.run), world.fleet.by_name.get(event.host)
    t = event.task
    if run is not None and run.reported[t]:
        world.jobs.finish(run.number)  # see `fail`
    if run is None or host is None or not _counts(run, host, t, event.attempt):
        confirm_end(world, host, event.run, t, event.attempt)
        return
    if not event.called:
        run.begun.note_unbegun(t, event.attempt)
    end_attempt(world, run, t)
    if event.kind == "disk":
        found_no_room(world, run, t, host, event.need)
    if run.continue_with_second(t):
        return  # the task's other attempt goes on, so this failure is not counted
    if t in run.cancelling:
        end(world, run, t, Outcome.CANCELLED)
        return
    run.avoid_host(t, host.index)
    recurs = event.recurs
    if event.recipe >= 0 and run.count_unmade(event.recipe, host.index) >= MAX_WARMINGS:
        recurs = True
        leave_host(world, run, t, event.recipe, host, event.failure)
    if recurs:
        run.mark_unfit(t, host.index)
    idempotent = run.spec.profiles[run.spec.profile[t]].idempotent
    pause_s = pause_before_retry(run, t, event)
    if pause_s is not None and not idempotent and event.kind in UNKNOWN_KINDS and event.called:
        fail(world, run, t, outcome_unknown(run, t, host.name, CAUSES.get(event.kind, event.kind)))
    elif pause_s is None or (recurs and not has_fit_host(world, run, t)):
        fail(world, run, t, event.failure)
    else:
        recall_followers(world, run, t)
        if pause_s > 0.0:
            run.move(t, State.BACKOFF)
            world.timers.set(world.now + pause_s, Timer(Wake.BACKOFF, run.number, t, run.attempt[t]))
        else:
            return_to_frontier(world, run, t)


def _counts(run: Run, host: HostRecord, t: int, attempt: int) -> bool:
    """Return True if a report about this attempt counts.

    If the report is about the task's other attempt, the two attempts are exchanged: the other attempt becomes the
    present one.
    """
    other = run.second_attempts.get(t) if run.second_attempts else None
    if other is not None and other.host == host.index and other.attempt == attempt:
        run.swap_attempts(t)
        return True
    return _is_present(run, host, t, attempt)


def _is_present(run: Run, host: HostRecord, t: int, attempt: int) -> bool:
    return run.state[t] == _HANDED and run.attempt[t] == attempt and run.host[t] == host.index
