"""Note where objects are, copy objects to the hosts that need them, and drop objects that are not needed any more."""

from __future__ import annotations

from collections.abc import Iterator

from handout.scheduler.state.hosts import CONTROLLER_ONLY
from handout.scheduler.state.object_table import KEEP, OUTPUT
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State

__all__ = [
    "add_replica",
    "copy_to",
    "drop_unused",
    "mirror",
    "notify_consumers",
    "release_inputs",
    "users_of",
    "want_output",
]

_WAITING, _HANDED, _DONE = State.WAITING, State.HANDED, State.DONE


def add_replica(world: World, run: Run, o: int, index: int, size: int = -1) -> None:
    """Note that the host ``index`` has an object. Index 0 is the controller. A negative ``size`` means "not known"."""
    objects = run.objects
    before = objects.replicas[o]
    if index in before:
        return
    objects.add_replica(o, index, size)
    if index == 0 and objects.flags[o] & OUTPUT:
        world.ending.add(run)
        if run.spec.is_open and not run.reported[o]:
            run.mark_reported([o])
            world.out.done(run.number, world.fleet.names[run.host[o]], [o])
    if not before:
        notify_consumers(world, run, o, index)
    elif not objects.uses[o]:
        drop_unused(world, run, o)
    if run.borrowers:
        mirror(world, run, o)


def mirror(world: World, home: Run, object_: int) -> list[tuple[Run, int]]:
    """Note in all runs that borrow an object which hosts have it now.

    Returns:
        The runs for which the object is lost now, because no host has it any more, each with the object's number there.
    """
    replicas, lost = home.objects.replicas[object_], []
    for run, o in home.borrowers.get(object_, ()):
        before = run.objects.replicas[o]
        run.objects.set_mirrored(o, replicas, home.objects.nbytes[object_])
        if replicas and not before:
            notify_consumers(world, run, o, replicas[0])
        elif before and not replicas:
            lost.append((run, o))
    return lost


def users_of(run: Run, o: int) -> Iterator[tuple[Run, int]]:
    """Yield each task that takes an object, with its run. Tasks of runs that borrow the object are among them."""
    for c in run.objects.consumers[o]:
        yield run, c
    for other, borrowed in run.borrowers.get(o, ()) if run.borrowers else ():
        for c in other.objects.consumers[borrowed]:
            yield other, c


def notify_consumers(world: World, run: Run, o: int, index: int) -> None:
    """Update the tasks that wait for an object, because it exists now. Its first replica is on host ``index``."""
    state = run.state
    for c in run.objects.consumers[o]:
        s = state[c]
        if s >= _DONE:
            continue
        missing = run.input_made(c)
        if s == _HANDED:
            at = run.host[c]
            if at != index:
                # The task was handed to the host that should have made the object, but another host has the object now.
                copy_to(world, run, o, at)
            if not missing and run.claims[c] is None:
                host = world.fleet.at(at)
                if host is not None:
                    host.wait_for_claim(run.number, c, run.attempt[c], world.now)
                    world.dirty.add(host)
        elif s == _WAITING and not missing:
            run.make_ready(c, world.now)
    if run.objects.flags[o] & OUTPUT and index:
        copy_to(world, run, o, 0)


def copy_to(world: World, run: Run, o: int, index: int) -> None:
    """Begin to copy an object to a host, or to the controller if ``index`` is 0.

    Do nothing if the object has no replica, if the host has a replica of it, or if the copy is under way.
    """
    if run.borrowed and o in run.borrowed:
        run, o = run.borrowed[o]
    replicas = run.objects.replicas[o]
    if not replicas or index in replicas or (o, index) in run.objects.copying:
        return
    source = replicas[0]
    if source and len(replicas) > 1:
        # All copies pass through the controller, so a replica in the controller is the best source. Here the controller
        # has no replica, so the source depends on the numbers of the target and of the object. In this way, the
        # hosts that have the object share the work.
        source = replicas[(index + o) % len(replicas)]
    run.objects.begin_copy(o, index, source)
    world.out.copy(index, run.number, o, source)


def want_output(world: World, run: Run, o: int) -> None:
    """Make an object an output of the run, so that it is copied to the controller as soon as it exists."""
    replicas = run.objects.replicas[o]
    if run.objects.flags[o] & OUTPUT or 0 in replicas or (not replicas and run.ended(run.spec.producer[o])):
        return
    run.objects.add_output(o)
    copy_to(world, run, o, 0)


def release_inputs(world: World, run: Run, t: int) -> None:
    """Note that a task has ended and does not use its inputs any more. Drop inputs that no other task uses."""
    for o in run.objects.release(run.spec.inputs[t]):
        drop_unused(world, run, o)


def drop_unused(world: World, run: Run, o: int) -> None:
    """Drop the replicas of an object that no task will use.

    Drop nothing if the object has the flag `KEEP`, or if it is an output that has not reached the controller yet. If
    the controller has a replica of an output or of a value from the caller, keep this replica.
    """
    objects = run.objects
    flags, replicas = objects.flags[o], objects.replicas[o]
    if flags & KEEP or not replicas:
        return
    kept: tuple[int, ...] = ()
    if replicas[0] == 0 and (flags & OUTPUT or run.spec.producer[o] < 0):
        # An output stays for the caller. A value from the caller stays, because no task can make it again.
        kept = CONTROLLER_ONLY
    elif flags & OUTPUT:
        return  # the output has not reached the controller yet
    if replicas == kept:
        return
    objects.keep_replicas(o, kept)
    for index in replicas[1:] if kept else replicas:
        world.out.drop(index, run.number, o)
