"""What is lost with a host, and how it is made good: attempts go back, objects are made again from lineage."""

from __future__ import annotations

from handout.errors import HostLostError, WorkerDiedError
from handout.scheduler.events import CopyFailed, ObjectsStored
from handout.scheduler.handlers.attempt_reports import MAX_TROUBLES, outcome_unknown
from handout.scheduler.handlers.attempts import recall, release_lingering, to_frontier, unhand
from handout.scheduler.handlers.cancellation import abort, end, end_dependents, fail, give_up_output
from handout.scheduler.handlers.replicas import appear, bring, make_ready
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import OUTPUT, Run
from handout.scheduler.state.second_attempts import survive, swap
from handout.scheduler.state.world import World
from handout.scheduler.states import Outcome, State

__all__ = ["copy_failed", "lose_host", "objects_stored", "unpin_groups"]

#: Tries to get one object to one host before its consumers are placed elsewhere.
MAX_COPIES = 3
#: Hosts that may be lost under one task: more than a worker's deaths, because what else ran there is as suspect.
MAX_LOSSES = 5


def lose_host(world: World, host: HostRecord, reason: str) -> None:
    """A host is gone, with all that was on it."""
    world.fleet.remove(host)
    world.out.forget(host.index)
    world.dirty.discard(host)
    world.tipped.discard(host)
    world.pausing.discard(host)
    for lane in [lane for lane, reserved in world.reservations.items() if reserved is host]:
        del world.reservations[lane]
    release_lingering(world, host)
    for run in list(world.runs.values()):
        run.stirred = True
        # First who is where, then what is left: an attempt that goes back must know which inputs there still are.
        lost = _lose_replicas(run, host.index)
        unpin_groups(world, run, host.index)
        _lose_attempts(world, run, host, reason)
        for o in lost:
            lose_object(world, run, o)
        _copy_elsewhere(world, run, host.index)
    host.ahead.clear()
    host.tips.clear()
    world.recheck = True


def _lose_replicas(run: Run, index: int) -> list[int]:
    """Take a host out of who has what; answers the objects that nobody has now."""
    lost = []
    for o, where in enumerate(run.where):
        if index in where:
            left = run.where[o] = tuple(i for i in where if i != index)
            if not left:
                lost.append(o)
                for c in run.consumers[o]:
                    if not run.ended(c):
                        run.missing[c] += 1
    return lost


def unpin_groups(world: World, run: Run, index: int) -> None:
    """Groups that were on the host may go to another one together."""
    groups = [group for group, at in run.group_at.items() if at == index]
    for group in groups:
        del run.group_at[group]
    for group in groups:
        for t in run.groups[group]:
            if run.state[t] == State.READY:
                make_ready(world, run, t)


def _lose_attempts(world: World, run: Run, host: HostRecord, reason: str) -> None:
    for t in range(run.spec.count):
        if t in run.twins and run.twins[t].host == host.index:
            swap(run, t)
        if run.state[t] == State.HANDED and run.host[t] == host.index:
            running = run.claims[t] is not None
            unhand(world, run, t)
            if survive(run, t):
                continue
            if t in run.cancelling:
                end(world, run, t, Outcome.CANCELLED)
            elif not run.spec.profiles[run.spec.profile[t]].idempotent:
                fail(world, run, t, outcome_unknown(run, t, host.name, reason or "the host was lost"))
            elif running and _is_suspect(run, t):
                fail(world, run, t, _takes_hosts_down(run, t, host.name))
            else:
                to_frontier(world, run, t)


def _is_suspect(run: Run, t: int) -> bool:
    """Whether so many hosts were lost under a task that it is likely to be the reason."""
    losses = run.losses[t] = run.losses.get(t, 0) + 1
    return losses >= MAX_LOSSES


def _takes_hosts_down(run: Run, t: int, host: str) -> WorkerDiedError:
    return WorkerDiedError(
        f"task {run.name_of(t)!r} may have run on {MAX_LOSSES} hosts as each of them was lost, last on {host!r}.",
        remedy="It is not tried again: see whether it takes the agent or the machine down, by its memory for example.",
        id=run.name_of(t),
        host=host,
        attempt=run.attempt[t],
        hosts=(host,),
    )


def lose_object(world: World, run: Run, o: int) -> None:
    """No replica of an object is left (its consumers' ``missing`` says so already): make it again if it is needed."""
    for c in run.consumers[o]:
        if run.state[c] == State.READY:
            run.state[c] = State.WAITING
        elif run.state[c] == State.HANDED:
            recall(world, run, c)
    if run.over or run.aborting or not run.needed(o):
        return
    producer = run.spec.producer[o]
    if producer < 0 or not run.ended(producer):
        return
    if run.state[producer] == State.DONE:
        _repeat(world, run, producer)
        return
    # It was being made again when that failed or was cancelled; this replica had been left.
    give_up_output(world, run, o)
    cancelled = run.state[producer] == State.CANCELLED
    end_dependents(world, run, producer, Outcome.CANCELLED if cancelled else Outcome.SKIPPED)


def _repeat(world: World, run: Run, first: int) -> None:
    """Run ended tasks again whose results were lost, and those before them as far as their results are gone too."""
    stack = [first]
    while stack:
        t = stack.pop()
        if run.state[t] != State.DONE or not any(run.needed(o) and not run.where[o] for o in run.objects_of(t)):
            continue
        missing = 0
        for o in run.spec.inputs[t]:
            run.uses[o] += 1
            if not run.where[o]:
                missing += 1
                if run.spec.producer[o] >= 0:
                    stack.append(run.spec.producer[o])
        run.unended += 1
        run.missing[t] = missing
        if missing:
            run.state[t] = State.WAITING
        else:
            make_ready(world, run, t)
        if not run.spec.profiles[run.spec.profile[t]].idempotent:
            name = world.fleet.names[run.host[t]]
            fail(world, run, t, outcome_unknown(run, t, name, "its result was lost"))
            if run.aborting:
                return
        elif any(run.state[p] in (State.FAILED, State.SKIPPED, State.CANCELLED) for p in _makers(run, t)):
            fail(world, run, t, HostLostError(f"an input of task {run.name_of(t)!r} was lost and cannot be made again"))


def _makers(run: Run, t: int) -> list[int]:
    """Producers of the inputs that a task misses."""
    producer = run.spec.producer
    return [producer[o] for o in run.spec.inputs[t] if not run.where[o] and producer[o] >= 0]


def _copy_elsewhere(world: World, run: Run, index: int) -> None:
    """Copies to the host are off; those from it need another source."""
    flying = [(key, source) for key, source in run.flying.items() if key[1] == index or source == index]
    for (o, target), _ in flying:
        del run.flying[o, target]
    for (o, target), _ in flying:
        if target != index and _wanted_at(run, o, target):
            bring(world, run, o, target)


def _wanted_at(run: Run, o: int, target: int) -> bool:
    if target == 0:
        return bool(run.flags[o] & OUTPUT)
    return any(run.state[c] == State.HANDED and run.host[c] == target for c in run.consumers[o])


def objects_stored(world: World, event: ObjectsStored) -> None:
    """Copies arrived."""
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
    for o, size in zip(event.objects, event.nbytes, strict=True):
        asked = run.flying.pop((o, index), None) is not None
        if not asked and index:
            world.stale += 1
            if _is_made_on(run, o, index):
                # It may be there by then: that must not be dropped.
                run.leftovers.add((o, index))
            elif index not in run.where[o]:
                world.out.drop(index, run.number, o)
        elif run.uses[o] or run.flags[o]:
            appear(world, run, o, index, size)
        elif index not in run.where[o]:
            # Nobody needs it any more.
            world.out.drop(index, run.number, o)


def _is_made_on(run: Run, o: int, index: int) -> bool:
    """Whether a host has an attempt of the task that makes an object."""
    t = run.spec.producer[o]
    if t < 0 or run.state[t] != State.HANDED:
        return False
    return run.host[t] == index or (t in run.twins and run.twins[t].host == index)


def copy_failed(world: World, event: CopyFailed) -> None:
    """Try another source; give up on the host after some tries; make the object again where nobody has it."""
    run = world.runs.get(event.run)
    host = world.fleet.by_name.get(event.host)
    o = event.object
    index = 0 if host is None else host.index
    if run is None or (event.host and host is None):
        world.stale += 1
        return
    source = run.flying.get((o, index))
    if source is None or world.fleet.names[source] != event.source:
        world.stale += 1
        return
    del run.flying[o, index]
    if event.missing and source and source in run.where[o]:
        if _lose_replica(world, run, o, source):
            return
    if not _wanted_at(run, o, index):
        if not index:
            _stays_behind(world, run, o, source)
        return
    failures = run.copy_failures[o, index] = run.copy_failures.get((o, index), 0) + 1
    if failures % MAX_COPIES or event.missing:
        bring(world, run, o, index)
    elif host is not None:
        _place_consumers_elsewhere(world, run, o, host)
    else:
        _give_up_output(world, run, o, event.source)


def _lose_replica(world: World, run: Run, o: int, index: int) -> bool:
    """A host does not have an object. Answers whether it was the only one."""
    left = run.where[o] = tuple(i for i in run.where[o] if i != index)
    if left:
        if _wanted_at(run, o, index):
            bring(world, run, o, index)
        return False
    for c in run.consumers[o]:
        if not run.ended(c):
            run.missing[c] += 1
    lose_object(world, run, o)
    return True


def _stays_behind(world: World, run: Run, o: int, source: int) -> None:
    """An object was not brought away from a host that is being drained: after some tries it is made again instead."""
    host = world.fleet.at(source)
    if host is None or not host.draining or source not in run.where[o]:
        return
    failures = run.copy_failures[o, 0] = run.copy_failures.get((o, 0), 0) + 1
    if failures >= MAX_COPIES:
        _lose_replica(world, run, o, source)


def _place_consumers_elsewhere(world: World, run: Run, o: int, host: HostRecord) -> None:
    """An object does not get to a host: what waits for it there is to run elsewhere, or fails after some tries."""
    for c in run.consumers[o]:
        if run.state[c] != State.HANDED or run.host[c] != host.index:
            continue
        world.out.cancel(host.index, run.number, c, run.attempt[c])
        unhand(world, run, c)
        if survive(run, c):
            continue
        troubles = run.troubles[c] = run.troubles.get(c, 0) + 1
        if c in run.cancelling:
            end(world, run, c, Outcome.CANCELLED)
        elif troubles >= MAX_TROUBLES:
            name = run.name_of(c)
            tried = [world.fleet.names[index] for index in sorted({*run.avoid.get(c, ()), host.index})]
            others = f", on hosts {', '.join(map(repr, tried))}" if len(tried) > 1 else ""
            fail(
                world,
                run,
                c,
                HostLostError(
                    f"task {name!r} could not get one of its inputs on host {host.name!r}; "
                    f"it was tried {troubles} times{others}.",
                    remedy="Look at the free space there and at the connection to it.",
                    host=host.name,
                    id=name,
                ),
            )
        else:
            run.avoid[c] = tuple(sorted({*run.avoid.get(c, ()), host.index}))
            to_frontier(world, run, c)


def _give_up_output(world: World, run: Run, o: int, source: str) -> None:
    name = run.name_of(run.spec.producer[o])
    abort(
        world,
        run,
        Outcome.FAILED,
        HostLostError(
            f"the result of task {name!r} could not be brought to the controller from {source!r}, "
            f"tried {MAX_COPIES} times.",
            remedy="Look at the controller's free memory and disk space.",
            host=source,
            id=name,
        ),
    )
