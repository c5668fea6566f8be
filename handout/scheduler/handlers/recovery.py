"""Recover from lost hosts and failed copies.

The tasks of a lost host return to the frontier. Lost objects that are still needed are made again from lineage.
"""

from __future__ import annotations

from handout.errors import HostLostError, WorkerDiedError
from handout.scheduler.commands import AnnounceObjectsLost
from handout.scheduler.events import CopyFailed, ObjectsStored, ObjectsVanished
from handout.scheduler.handlers.attempts import (
    end_attempt,
    recall,
    release_lingering,
    requeue_group,
    return_to_frontier,
)
from handout.scheduler.handlers.cancellation import (
    abort,
    announce_lost,
    end,
    end_dependents,
    fail,
    fail_borrowers,
    fail_consumers,
    give_up_output,
    is_gone,
    withdraw,
)
from handout.scheduler.handlers.replicas import add_replica, copy_to, mirror, users_of
from handout.scheduler.handlers.retries import MAX_ENVIRONMENT_FAILURES, outcome_unknown, result_lost
from handout.scheduler.state.absent_hosts import AbsentHost
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.object_table import OUTPUT
from handout.scheduler.state.runs import FailureCount, Run
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.task_states import Outcome, State

__all__ = [
    "copy_failed",
    "give_up_later",
    "lose_host",
    "lose_object",
    "objects_stored",
    "objects_vanished",
    "unpin_groups",
]

#: After this many failed copies of an object to one host, the tasks that wait there for the object are placed
#: elsewhere.
MAX_COPIES = 3
#: A task fails for good once this many hosts were lost while the task may have been running on them. This limit is
#: higher than `MAX_DEATHS`, the limit for deaths of the task's worker, because another task may have made the hosts
#: crash.
MAX_LOSSES = 5


def lose_host(world: World, host: HostRecord, reason: str) -> None:
    """Forget a lost host, and recover the tasks and objects that were on it."""
    world.settle()
    release_lingering(world, host)
    give_up_later(world, world.fleet.remove(host, world.now, reason))
    world.out.forget(host.index)
    world.warm.remove_host(host.index)
    world.dirty.discard(host)
    world.leading.discard(host)
    world.pausing.discard(host)
    for queue in [queue for queue, reserved in world.reservations.items() if reserved is host]:
        del world.reservations[queue]
    world.note_change()
    for run in list(world.runs.values()):
        # Replicas are removed before attempts end, because a task without an attempt becomes READY only if all of its
        # inputs still exist.
        lost = run.lose_host(host.index)
        unpin_groups(world, run, host.index)
        _lose_attempts(world, run, host, reason)
        for o in lost:
            lose_object(world, run, o)
        _copy_elsewhere(world, run, host.index)
    for run in list(world.runs.values()):
        for o in list(run.borrowers):
            _mirror(world, run, o)
    world.recheck = True


def _mirror(world: World, home: Run, object_: int) -> None:
    """Note in all runs that borrow an object which hosts have it now. If no host has it, their tasks wait for it."""
    for run, o in mirror(world, home, object_):
        run.object_lost(o)
        lose_object(world, run, o)
        if is_gone(home, object_):
            fail_consumers(world, run, o)  # some of them may have been repeated after `fail_borrowers`


def give_up_later(world: World, host: AbsentHost) -> None:
    """Have custom allocators asked again once the tasks that they place on a lost host no longer wait for it."""
    if host.is_awaited(world.now) and host.state == "lost":
        world.timers.set(host.until_s, Timer(Wake.GIVE_UP))


def unpin_groups(world: World, run: Run, index: int) -> None:
    """Let the groups that are pinned to a host go to other hosts. Each group stays together."""
    for group in run.unpin_groups(index):
        requeue_group(world, run, group)


def _lose_attempts(world: World, run: Run, host: HostRecord, reason: str) -> None:
    for t in run.handed_tasks():
        if run.reported[t]:
            world.jobs.finish(run.number)  # see `fail`
        if t in run.second_attempts and run.second_attempts[t].host == host.index:
            run.swap_attempts(t)
        if run.state[t] != State.HANDED or run.host[t] != host.index:
            continue
        running = run.claims[t] is not None
        end_attempt(world, run, t)
        if run.continue_with_second(t):
            continue
        if t in run.cancelling:
            end(world, run, t, Outcome.CANCELLED)
        elif not run.spec.profiles[run.spec.profile[t]].idempotent:
            fail(world, run, t, outcome_unknown(run, t, host.name, reason or "the host was lost"))
        elif running and run.count(FailureCount.HOST_LOST, t) >= MAX_LOSSES:
            fail(world, run, t, _takes_hosts_down(run, t, host.name))
        else:
            return_to_frontier(world, run, t)


def _takes_hosts_down(run: Run, t: int, host: str) -> WorkerDiedError:
    return WorkerDiedError(
        f"task {run.name_of(t)!r} may have been running each time that a host was lost, {MAX_LOSSES} times. The last "
        f"of these hosts is {host!r}.",
        remedy="Find out if the task makes hosts crash, for example by its memory use. The task is not tried again.",
        id=run.name_of(t),
        host=host,
        attempt=run.shown_attempt(t),
        hosts=(host,),
    )


def lose_object(world: World, run: Run, o: int) -> None:
    """Have an object that has lost its last replica made again if the object is still needed.

    Before the call, the column ``missing`` must count the object for each task that takes it.
    """
    for c in run.objects.consumers[o]:
        if run.state[c] == State.READY:
            run.move(c, State.WAITING)
        elif run.state[c] == State.HANDED:
            recall(world, run, c)
    if run.over or run.aborting or not run.objects.needed(o):
        return
    producer = run.spec.producer[o]
    if producer < 0 and o not in run.borrowed:
        _lose_value(world, run, o)
    if producer < 0 or not run.ended(producer):
        return
    if run.state[producer] == State.DONE:
        _repeat(world, run, producer)
        return
    # The producer was DONE, was repeated later, and then failed or was cancelled. The object that is lost now was made
    # the first time.
    give_up_output(world, run, o)
    cancelled = run.state[producer] == State.CANCELLED
    end_dependents(world, run, producer, Outcome.CANCELLED if cancelled else Outcome.SKIPPED)
    fail_borrowers(world, run, producer)
    if run.announced:
        announce_lost(world, run, producer, "the task that makes it has failed before")


def _lose_value(world: World, run: Run, o: int) -> None:
    """Fail the tasks that take a value of the caller, because the controller cannot read it any more."""
    fail_consumers(world, run, o)
    for other, borrowed in list(run.borrowers.get(o, ())):
        fail_consumers(world, other, borrowed)
    if run.announced:
        world.out.add(AnnounceObjectsLost(run.number, [o], "the controller cannot read the value any more"))


def _repeat(world: World, run: Run, first: int) -> None:
    """Repeat a finished task whose result was lost, and the finished tasks that must make its lost inputs again."""
    stack = [first]
    while stack:
        t = stack.pop()
        objects = run.objects
        if run.state[t] != State.DONE or not any(
            objects.needed(o) and not objects.replicas[o] for o in run.objects_of(t)
        ):
            continue
        missing = run.use_inputs_again(t)
        stack.extend(producer for o in missing if (producer := run.spec.producer[o]) >= 0)
        if missing:
            run.move(t, State.WAITING)
        else:
            run.make_ready(t, world.now)
        if not run.spec.profiles[run.spec.profile[t]].idempotent:
            name = world.fleet.names[run.host[t]]
            fail(world, run, t, result_lost(run, t, name))
            if run.aborting:
                return
        elif gone := [o for o in missing if o in run.borrowed and is_gone(*run.borrowed[o])]:
            fail_consumers(world, run, gone[0])
        elif any(run.state[p] in (State.FAILED, State.SKIPPED, State.CANCELLED) for p in _makers(run, t)):
            fail(
                world,
                run,
                t,
                HostLostError(
                    f"an input of task {run.name_of(t)!r} was lost and cannot be made again, because the task that "
                    "makes it failed, was skipped or was cancelled. Run the graph again."
                ),
            )


def _makers(run: Run, t: int) -> list[int]:
    """Return the producers of a task's missing inputs."""
    producer = run.spec.producer
    return [producer[o] for o in run.spec.inputs[t] if not run.objects.replicas[o] and producer[o] >= 0]


def _copy_elsewhere(world: World, run: Run, index: int) -> None:
    """Give up the copies to a lost host, and begin the copies from this host again from other sources."""
    affected = [key for key, source in run.objects.copying.items() if key[1] == index or source == index]
    for o, target in affected:
        run.objects.end_copy(o, target)
    for o, target in affected:
        if target != index and _is_wanted_at(run, o, target):
            copy_to(world, run, o, target)


def _is_wanted_at(run: Run, o: int, target: int) -> bool:
    if target == 0:
        return bool(run.objects.flags[o] & OUTPUT)
    return any(user.state[c] == State.HANDED and user.host[c] == target for user, c in users_of(run, o))


def objects_stored(world: World, event: ObjectsStored) -> None:
    """Note copies that have arrived. Drop those that are not needed any more."""
    run = world.runs.get(event.run)
    host = world.fleet.by_name.get(event.host)
    if event.host and host is None:
        world.stale += len(event.objects)
        return
    index = 0 if host is None else host.index
    if run is None:
        world.stale += len(event.objects)
        for o in event.objects:
            world.out.drop(index, event.run, o)
        return
    objects = run.objects
    for o, size in zip(event.objects, event.nbytes, strict=True):
        asked = objects.end_copy(o, index)
        if not asked and index:
            world.stale += 1
            if _is_made_on(run, o, index):
                # The copy stays, because an attempt on this host makes the same object, and a drop could delete the
                # object that the attempt makes.
                objects.mark_stale(o, index)
            elif index not in objects.replicas[o]:
                world.out.drop(index, run.number, o)
        elif objects.uses[o] or objects.flags[o]:
            add_replica(world, run, o, index, size)
        elif index not in objects.replicas[o]:
            world.out.drop(index, run.number, o)  # the object is not needed any more


def _is_made_on(run: Run, o: int, index: int) -> bool:
    """Return True if a host has an attempt of the task that makes an object."""
    t = run.spec.producer[o]
    if t < 0 or run.state[t] != State.HANDED:
        return False
    return run.host[t] == index or (t in run.second_attempts and run.second_attempts[t].host == index)


def objects_vanished(world: World, event: ObjectsVanished) -> None:
    """Forget the replicas of objects whose files have vanished from a host. Have lost objects made again."""
    run = world.runs.get(event.run)
    host = world.fleet.by_name.get(event.host)
    if run is None or host is None:
        world.stale += len(event.objects)
        return
    world.settle()
    for o in event.objects:
        if host.index in run.objects.replicas[o]:
            _lose_replica(world, run, o, host.index)


def copy_failed(world: World, event: CopyFailed) -> None:
    """Try a failed copy again. If the source turned out to have no replica of a result, use another source.

    After `MAX_COPIES` failures, the tasks that wait on a host for the copy go to other hosts. If the copy was to go to
    the controller, the run ends instead. If no replica of the object is left, the object is made again.
    """
    run = world.runs.get(event.run)
    host = world.fleet.by_name.get(event.host)
    o = event.object
    index = 0 if host is None else host.index
    if run is None or (event.host and host is None):
        world.stale += 1
        return
    world.settle()
    source = run.objects.copying.get((o, index))
    if source is None or world.fleet.names[source] != event.source:
        world.stale += 1
        return
    run.objects.end_copy(o, index)
    if event.missing and source in run.objects.replicas[o]:
        if _lose_replica(world, run, o, source):
            return
    if not _is_wanted_at(run, o, index):
        if not index:
            _stays_behind(world, run, o, source)
        return
    if run.objects.count_copy_failure(o, index) % MAX_COPIES or event.missing:
        copy_to(world, run, o, index)
    elif host is not None:
        _place_consumers_elsewhere(world, run, o, host)
    else:
        _abort_without_output(world, run, o, event.source)


def _lose_replica(world: World, run: Run, o: int, index: int) -> bool:
    """Forget the replica of an object that a host does not have or cannot send. Return True if it was the last one."""
    if run.objects.remove_replica(o, index):
        _mirror(world, run, o)
        if _is_wanted_at(run, o, index):
            copy_to(world, run, o, index)
        return False
    run.object_lost(o)
    lose_object(world, run, o)
    _mirror(world, run, o)
    return True


def _stays_behind(world: World, run: Run, o: int, source: int) -> None:
    """Count a failed copy from a host that is being drained. After `MAX_COPIES` failures, give up this replica."""
    host = world.fleet.at(source)
    if host is None or not host.draining or source not in run.objects.replicas[o]:
        return
    if run.objects.count_copy_failure(o, 0) >= MAX_COPIES:
        _lose_replica(world, run, o, source)


def _place_consumers_elsewhere(world: World, run: Run, o: int, host: HostRecord) -> None:
    """End the attempts that wait on a host for an object that cannot be copied to this host.

    Each of these attempts counts as a failure that its task's own code did not cause. The task then goes to another
    host. After `MAX_ENVIRONMENT_FAILURES` such failures, it fails for good instead.
    """
    for user, c in list(users_of(run, o)):
        _place_elsewhere(world, user, c, host)


def _place_elsewhere(world: World, run: Run, c: int, host: HostRecord) -> None:
    if run.state[c] != State.HANDED or run.host[c] != host.index:
        return
    world.out.cancel(host.index, run.number, c, run.attempt[c])
    run.begun.note_unbegun(c, run.attempt[c])
    end_attempt(world, run, c)
    if run.continue_with_second(c):
        return
    failures = run.count(FailureCount.ENVIRONMENT, c)
    if c in run.cancelling:
        end(world, run, c, Outcome.CANCELLED)
    elif failures >= MAX_ENVIRONMENT_FAILURES:
        fail(world, run, c, _input_not_copied(world, run, c, host, failures))
    else:
        run.avoid_host(c, host.index)
        return_to_frontier(world, run, c)


def _input_not_copied(world: World, run: Run, t: int, host: HostRecord, failures: int) -> HostLostError:
    name = run.name_of(t)
    tried = [world.fleet.names[index] for index in sorted({*run.avoid.get(t, ()), host.index})]
    others = f", on hosts {', '.join(map(repr, tried))}" if len(tried) > 1 else ""
    return HostLostError(
        f"task {name!r} could not get one of its inputs on host {host.name!r}; "
        f"the task was tried {failures} times{others}.",
        remedy="Check the free disk space on that host and the connection to it. If a warning says that this program "
        "has too many open files, close files, or raise the limit that `ulimit -n` shows.",
        host=host.name,
        id=name,
    )


def _abort_without_output(world: World, run: Run, o: int, source: str) -> None:
    """End a run, or a task of an open run, because an output cannot be copied to the controller."""
    name = run.name_of(run.spec.producer[o])
    error = HostLostError(
        f"the result of task {name!r} could not be copied from host {source!r} to the controller; "
        f"the copy was tried {MAX_COPIES} times.",
        remedy="Check the controller's free memory and disk space.",
        host=source,
        id=name,
    )
    if run.spec.is_open:
        withdraw(world, run, o, Outcome.FAILED, error)
    else:
        abort(world, run, Outcome.FAILED, error)
