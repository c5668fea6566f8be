"""End tasks that fail or are cancelled, end the tasks that depend on them, and end runs."""

from __future__ import annotations

from handout.errors import HostLostError, OutcomeUnknownError
from handout.scheduler.commands import AnnounceObjectsLost, AnnounceRunEnded
from handout.scheduler.handlers.attempts import give_up_attempts
from handout.scheduler.handlers.replicas import drop_unused, release_inputs
from handout.scheduler.state.object_table import KEEP
from handout.scheduler.state.run_preparation import empty_run
from handout.scheduler.state.runs import Run
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.task_states import Outcome, State
from handout.slices import Slices, is_slice_end

__all__ = [
    "ABORT_S",
    "abort",
    "abort_due",
    "announce_lost",
    "cancel",
    "close",
    "end",
    "end_dependents",
    "end_runs",
    "fail",
    "fail_borrowers",
    "fail_consumers",
    "give_up_output",
    "is_gone",
    "withdraw",
]

#: An aborted run waits at most this many seconds for agents to confirm that its tasks have ended.
ABORT_S = 5.0

_STATE = {
    Outcome.FAILED: State.FAILED,
    Outcome.SKIPPED: State.SKIPPED,
    Outcome.CANCELLED: State.CANCELLED,
}


def end(world: World, run: Run, t: int, outcome: Outcome, failure: object = None, cause: int = -1) -> None:
    """End a task with an outcome other than DONE. The task's attempts must have ended or been given up before."""
    if run.end_task(t, _STATE[outcome]):
        world.out.ended(run.number, t, outcome, world.fleet.names[run.host[t]], failure, cause)
    for o in run.objects_of(t):
        # A replica may exist, because the task may have been DONE before and have been repeated.
        if not run.objects.replicas[o]:
            give_up_output(world, run, o)
        elif not run.objects.uses[o]:
            drop_unused(world, run, o)
    release_inputs(world, run, t)
    run.give_back_inputs(t)
    world.ending.add(run)
    if run.announced:
        announce_lost(world, run, t, failure)
    if run.borrowers:
        fail_borrowers(world, run, t)


def announce_lost(world: World, run: Run, t: int, failure: object) -> None:
    """Announce that a task cannot make again what a run keeps after its end."""
    objects = run.objects
    lost = [o for o in run.objects_of(t) if objects.flags[o] & KEEP and not objects.replicas[o]]
    if lost:
        world.out.add(AnnounceObjectsLost(run.number, lost, failure))


def fail_borrowers(world: World, home: Run, t: int) -> None:
    """Fail the tasks of other runs that wait for an object of a task, because the task has ended without it."""
    for object_ in home.objects_of(t):
        if not home.objects.replicas[object_]:
            for run, o in list(home.borrowers.get(object_, ())):
                fail_consumers(world, run, o)


def is_gone(home: Run, object_: int) -> bool:
    """Return True if no host has an object that a run keeps, and no task will make it again."""
    producer = home.spec.producer[object_]
    return not home.objects.replicas[object_] and (producer < 0 or home.ended(producer))


def fail_consumers(world: World, run: Run, o: int) -> None:
    """Fail the tasks that take a borrowed object, because this object will not come."""
    for c in list(run.objects.consumers[o]):
        if run.ended(c):
            continue
        if run.state[c] == State.HANDED:
            give_up_attempts(world, run, c)
        name = run.name_of(c)
        error = HostLostError(
            f"task {name!r} takes a stored object that was lost, and making the object again failed.",
            remedy="Store the object anew: run the graph that makes it with keep=[...], or put the value again.",
            id=name,
        )
        fail(world, run, c, error)


def _give_back_all(world: World, run: Run) -> None:
    """End all borrowing of a run that is being closed. Tasks of other runs that wait for its objects fail."""
    for o, (home, object_) in list(run.borrowed.items()):
        run.give_back(o, home, object_)
    for lent in list(run.borrowers.values()):
        for other, o in list(lent):
            other.give_back(o, *other.borrowed[o])
            fail_consumers(world, other, o)


def give_up_output(world: World, run: Run, o: int) -> None:
    """Let a run end without this output, because no task will make it."""
    if run.objects.give_up_output(o):
        world.ending.add(run)


def withdraw(world: World, run: Run, t: int, outcome: Outcome, failure: object = None) -> None:
    """Announce another outcome for a task of an open run that is DONE, because the controller will not get its result.

    Do nothing if the end of the task was announced before.
    """
    if run.reported[t]:
        return
    run.mark_reported([t])
    give_up_output(world, run, t)
    drop_unused(world, run, t)
    world.out.ended(run.number, t, outcome, world.fleet.names[run.host[t]], failure, -1)


def fail(world: World, run: Run, t: int, failure: object) -> None:
    """End a task that failed for good, and the tasks that depend on it.

    If the task is handed, its attempts have ended. The caller must have finished the run's jobs before if the task was
    DONE before, because a job must not find a task between two states.
    """
    if run.reported[t]:
        if run.number in world.jobs and run.state[t] != State.HANDED:
            world.jobs.finish(run.number)  # a task that is about to be skipped does not need the objects
            if run.ended(t):
                return  # it was one of the tasks that were to be skipped
        objects = run.objects
        if not any(objects.needed(o) and not objects.replicas[o] for o in run.objects_of(t)):
            # The task was DONE before, and was being repeated for objects that are not needed any more.
            run.move(t, State.DONE)
            release_inputs(world, run, t)
            world.ending.add(run)
            return
        run.set_error(failure if isinstance(failure, OutcomeUnknownError) else _lost_for_good(run, t, failure))
    end(world, run, t, Outcome.FAILED, failure)
    end_dependents(world, run, t, Outcome.SKIPPED)
    if run.spec.on_failure == "fail_fast" and not run.announced:
        abort(world, run, Outcome.FAILED)


def _lost_for_good(run: Run, t: int, failure: object) -> HostLostError:
    name = run.name_of(t)
    return HostLostError(
        f"the result of task {name!r} was lost after the task had ended, and making it again failed: "
        f"{str(failure).rstrip('.')}.",
        remedy="If the host failed, find out what is wrong there. If the function failed, write it so that it can run "
        "twice, because it runs again if its result is lost.",
        id=name,
        failure=failure,
    )


def end_dependents(world: World, run: Run, root: int, outcome: Outcome) -> None:
    """End all tasks that cannot run any more because ``root`` ended. Tasks whose inputs from ``root`` exist go on.

    Some end in later calls of the core. They cannot start meanwhile, because ``root`` will not make their inputs. A
    task that was handed ahead is given up when its turn comes.
    """
    world.work_on(run, _end_dependents(world, run, root, outcome))


def _end_dependents(world: World, run: Run, root: int, outcome: Outcome) -> Slices[None]:
    stack = [root]
    while stack:
        for o in run.objects_of(stack.pop()):
            if run.objects.replicas[o]:
                continue
            for c in run.objects.consumers[o]:
                if run.ended(c):
                    continue
                if run.state[c] == State.HANDED:
                    give_up_attempts(world, run, c)
                end(world, run, c, outcome, cause=root)
                stack.append(c)
                yield


def cancel(world: World, run: Run, tasks: list[int]) -> None:
    """Cancel tasks and all tasks that depend on them.

    If an agent has one of ``tasks``, this task ends when the agent has reported the end of its attempt.
    """
    run.pause()
    world.work_on(run, _cancel(world, run, tasks))


def _cancel(world: World, run: Run, tasks: list[int]) -> Slices[None]:
    """Do the work of `cancel`. No task of the run is placed meanwhile, because it may be one of ``tasks``."""
    for t in tasks:
        yield
        if run.ended(t):
            withdraw(world, run, t, Outcome.CANCELLED)
            continue
        if run.state[t] == State.HANDED:
            _cancel_handed(world, run, t)
        else:
            end(world, run, t, Outcome.CANCELLED)
        yield from _end_dependents(world, run, t, Outcome.CANCELLED)
    run.unpause()


def _cancel_handed(world: World, run: Run, t: int) -> None:
    if not run.mark_cancelling(t):
        return
    attempts = [(run.host[t], run.attempt[t])]
    if (other := run.second_attempts.get(t)) is not None:
        attempts.append((other.host, other.attempt))
    for index, attempt in attempts:
        if world.fleet.at(index) is not None:
            world.out.cancel(index, run.number, t, attempt)


def abort(world: World, run: Run, outcome: Outcome, error: Exception | None = None) -> None:
    """End a run early: cancel all of its tasks that have not ended.

    The tasks that agents have are cancelled at once. The others end in the present and the next calls of the core. The
    run is over once all of its tasks have ended. After `ABORT_S` seconds, the core does not wait any longer until the
    agents confirm this.
    """
    if run.over or run.aborting:
        return
    run.begin_abort(outcome, error)
    _give_up_reservations(world, run)
    for t in run.handed_tasks():
        _cancel_handed(world, run, t)
    world.work_on(run, _cancel_all(world, run))
    world.timers.set(world.now + ABORT_S, Timer(Wake.ABORT, run.number))


def _cancel_all(world: World, run: Run) -> Slices[None]:
    for t in range(run.task_count):
        if is_slice_end(t):
            yield
        if run.ended(t):
            continue
        if run.state[t] == State.HANDED:
            _cancel_handed(world, run, t)
        else:
            end(world, run, t, Outcome.CANCELLED)
            yield


def abort_due(world: World, timer: Timer) -> None:
    """Give up the remaining attempts of an aborted run, because `ABORT_S` seconds have passed.

    What these attempts have claimed of hosts stays claimed until agents confirm that the attempts have ended.
    """
    run = world.runs.get(timer.run)
    if run is None or run.over or not run.aborting:
        return
    for t in run.handed_tasks():
        give_up_attempts(world, run, t)
        end(world, run, t, Outcome.CANCELLED)


def end_runs(world: World) -> None:
    """End the runs that have no task, output or work to wait for any more, and announce the end of each."""
    for run in sorted(world.ending, key=lambda run: run.number):
        if run.number in world.jobs:
            continue  # this work adds the run to ``ending`` when it is done
        if run.over or run.unended or (run.objects.awaited and not run.aborting):
            continue
        if run.is_lasting and not run.aborting:
            continue  # more tasks may be added to it, or what it keeps may have to be made again
        was_announced, outcome = run.announced, run.end()
        run.durations.remember(world.remembered)
        if not was_announced:
            world.out.add(AnnounceRunEnded(run.number, outcome, run.error))
    world.ending.clear()


def close(world: World, run: Run) -> None:
    """Forget a run: give up its attempts, and drop its objects on the controller and on all hosts."""
    world.jobs.forget(run.number)
    for t in run.handed_tasks():
        give_up_attempts(world, run, t)
        run.move(t, State.CANCELLED)
    _give_back_all(world, run)
    run.end()
    run.durations.remember(world.remembered)
    _give_up_reservations(world, run)
    world.ending.discard(run)
    world.timers.forget(run.number)
    world.fleet.forget(run.spec.profiles)
    del world.runs[run.number]
    world.jobs.begin(run.number, _drop_all(world, run))


def _give_up_reservations(world: World, run: Run) -> None:
    """Let other runs use what was kept free for tasks of a run."""
    for queue in [queue for queue in world.reservations if queue.run is run]:
        world.reservations.pop(queue).reserve(None)
    if world.shared_reservation is not None and world.shared_reservation.run is run:
        world.shared_reservation = None
    world.dirty.update(world.fleet.by_name.values())


def _drop_all(world: World, run: Run) -> Slices[None]:
    """Drop the objects of a closed run, and free the memory of its columns."""
    objects = run.objects
    for o, replicas in enumerate(objects.replicas):
        if is_slice_end(o):
            yield
        for index in replicas:
            if index == 0 or world.fleet.at(index) is not None:
                world.out.drop(index, run.number, o)
                yield
    for o, index in sorted({*objects.copying, *objects.stale_replicas}):
        if index and index not in objects.replicas[o] and world.fleet.at(index) is not None:
            world.out.drop(index, run.number, o)
    yield from empty_run(run)
