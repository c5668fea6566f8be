"""Custom allocators: when the core asks them, what it shows them, and how it applies their answers."""

from __future__ import annotations

from heapq import merge

from handout.errors import AllocatorError
from handout.resources import nearest_name
from handout.scheduler.commands import AskAllocator
from handout.scheduler.events import AllocatorFailed, PlacementsProposed
from handout.scheduler.handlers.attempts import hand_over
from handout.scheduler.handlers.open_runs import fail_run
from handout.scheduler.placing.placement import ahead_backlog_s, claim_on, eligible_hosts, is_for_allocator
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State
from handout.scheduler.views import cluster_view, task_view

__all__ = ["allocator_failed", "answer_due", "ask_again", "ask_allocators", "note_room", "placements_proposed"]

#: The core shows at least this many tasks to an allocator at a time, if so many are ready.
MIN_FRONTIER = 256
#: If many slots are free, the core shows up to this many tasks for each of them. A host has a slot for each of its CPU
#: cores.
FRONTIER_PER_SLOT = 4
#: If an allocator wants to be asked again, the core waits at least this many seconds. Without this minimum, the
#: allocator could keep the core busy.
MIN_ASK_AGAIN_S = 0.01

#: The core asks the allocator again when such a timer fires. A task may then join the frontier, or a paused host may
#: take tasks again.
_MAY_CHANGE = {Wake.BACKOFF, Wake.PAUSE}


def note_room(world: World) -> None:
    """Have all custom allocators asked again if some host has got room."""
    if world.dirty:
        for run in world.runs.values():
            if run.spec.allocator is None:
                run.requests.note_change()


def ask_allocators(world: World) -> None:
    """Ask the custom allocators of the runs that have tasks to place.

    An allocator is asked only if some host is ready, because it can place no task otherwise, and only if something that
    may change its answer has happened since it was asked last.
    """
    for run in world.runs.values():
        if run.spec.allocator is not None or run.requests.number >= 0 or not run.requests.changed:
            continue
        if not world.may_place(run) or not any(host.open for host in world.fleet.by_name.values()):
            continue
        if run.spec.max_concurrency is not None and run.active >= run.spec.max_concurrency:
            continue
        if tasks := _frontier(world, run):
            _ask(world, run, tasks)


def _ask(world: World, run: Run, tasks: list[int]) -> None:
    world.requests += 1
    number = world.requests
    numbers = {run.name_of(t): t for t in tasks}
    view = cluster_view(world)
    run.requests.open(number, numbers, view.hosts, world.fleet.version)
    world.timers.set(world.now + run.spec.allocator_timeout_s, Timer(Wake.ANSWER_DUE, run.number, number))
    frontier = [task_view(world, run, t, run.requests.waiting_s(t, world.now)) for t in tasks]
    world.out.add(AskAllocator(run.number, number, frontier, view))


def _frontier(world: World, run: Run) -> list[int]:
    """Return the ready tasks to show to the allocator, the most urgent first."""
    free = sum(max(0, host.slots - host.handed) for host in world.fleet.by_name.values() if host.open)
    limit = max(MIN_FRONTIER, FRONTIER_PER_SLOT * free)
    queues = [queue for queue in run.queues.values() if queue.head() >= 0 and is_for_allocator(queue)]
    tasks: dict[int, None] = {}
    for place in merge(*(sorted(queue.heap) for queue in queues)):
        t = place if run.task_at is None else run.task_at[place]
        if run.state[t] == State.READY:
            tasks[t] = None
            if len(tasks) >= limit:
                break
    return list(tasks)


def ask_again(world: World, timer: Timer) -> None:
    """Have an allocator asked again, because the time has come at which it wanted to be asked."""
    run = world.runs.get(timer.run)
    if run is not None:
        run.requests.ask_again()


def answer_due(world: World, timer: Timer) -> None:
    """End a run whose allocator has not answered in time."""
    run = world.runs.get(timer.run)
    if run is not None and run.requests.number == timer.number and not run.over:
        timeout_s = run.spec.allocator_timeout_s
        said = f"the allocator did not answer within {timeout_s:g} s"
        _refuse(world, run, said, "Let it answer sooner: place some tasks, and use ask_again for the others.")


def allocator_failed(world: World, event: AllocatorFailed) -> None:
    """End a run whose allocator raised an exception."""
    run = world.runs.get(event.run)
    if run is None or run.requests.number != event.request:
        world.stale += 1
        return
    fail_run(world, run, event.error)


def placements_proposed(world: World, event: PlacementsProposed) -> None:
    """Place tasks as a custom allocator has proposed.

    A task that is placed on a host which is not ready waits: the allocator is asked again when the host has joined or
    is given up. A placement that has become impossible since the allocator was asked is ignored. A placement that was
    already impossible when the allocator was asked ends the run.
    """
    run = world.runs.get(event.run)
    if run is None or run.requests.number != event.request or run.over:
        world.stale += 1
        return
    run.requests.close()
    if event.ask_again_s is not None:
        run.requests.will_ask_again()
        when = world.now + max(event.ask_again_s, MIN_ASK_AGAIN_S)
        world.timers.set(when, Timer(Wake.ASK_AGAIN, run.number))
    placed = 0
    for id, name in event.placements.items():
        t = run.requests.tasks.get(id, -1)
        error = _impossible(world, run, t, id, name)
        if error is not None:
            fail_run(world, run, error)
            return
        host = world.fleet.by_name.get(name)
        if host is None or not host.open:
            run.requests.wait_for(t, name)
        placed += _place(world, run, t, name)
    if not placed:
        _check_hope(world, run)


def _check_hope(world: World, run: Run) -> None:
    """End a run whose allocator placed nothing, if nothing will happen that could change the allocator's answer."""
    # A drained host that was released gets no work any more. Any other host that gets no work now may get work again or
    # be lost, which may change the answer.
    busy = any(h.handed or h.lingering or not (h.open or h.released) for h in world.fleet.by_name.values())
    # The tasks of another run may have ended in this call of the core, so that hosts have got room; see `note_room`.
    if busy or world.dirty or run.requests.changed or run.requests.asks_again:
        return
    if world.fleet.awaits_some(world.now):
        return
    if any(timer.wake in _MAY_CHANGE and timer.run in (-1, run.number) for timer in world.timers.pending()):
        return
    if world.now < world.shortage_until and any(_has_no_host(world, run, t) for t in run.requests.tasks.values()):
        return  # a host may offer again what it lacks now
    tasks = run.requests.tasks
    names = ", ".join(map(repr, list(tasks)[:5])) + (", ..." if len(tasks) > 5 else "")
    _refuse(
        world,
        run,
        f"the allocator placed none of {len(tasks)} tasks ({names}) though all hosts are idle",
        "Place at least one task. To be asked again later, return a draft on which ask_again(in_s=...) was called.",
    )


def _has_no_host(world: World, run: Run, t: int) -> bool:
    """Return True if no host covers the cost of a task now."""
    profile = run.spec.profiles[run.spec.profile[t]]
    return not any(world.fleet.feasible(host, profile) for host in world.fleet.by_name.values() if host.open)


def _impossible(world: World, run: Run, t: int, id: str, name: str) -> AllocatorError | None:
    """Return the error for a placement that was impossible already when the allocator was asked.

    Return None if the placement was possible then, or if the task may wait for the host.
    """
    shown, fleet = run.requests, world.fleet
    if t < 0:
        nearest = nearest_name(id, shown.tasks)
        return AllocatorError(
            f"the allocator placed task {id!r}, which was not in its frontier.",
            remedy=f"Did you mean {nearest!r}?" if nearest else "Answer with the ids of tasks in the frontier.",
            id=id,
        )
    if not fleet.is_known(name):
        # The allocator cannot know that a host was removed while it thought.
        return None if name in shown.hosts else _unknown_host(run, id, name)
    host = fleet.by_name.get(name)
    if host is None or not host.open:
        # The allocator cannot know that a host was given up while it thought.
        known = name in shown.hosts and shown.hosts[name].given_up and fleet.is_given_up(name, world.now)
        return _given_up(world, id, name) if known else None
    if shown.fleet_version != fleet.version:
        return None
    why = fleet.why_infeasible(host, run.spec.profiles[run.spec.profile[t]])
    if not why:
        return None
    return AllocatorError(
        f"the allocator placed task {id!r} on host {name!r}, which can never run it: {why}.",
        remedy="Choose another host for the task.",
        id=id,
        lacks={name: why},
    )


def _unknown_host(run: Run, id: str, name: str) -> AllocatorError:
    nearest = nearest_name(name, run.requests.hosts)
    return AllocatorError(
        f"the allocator placed task {id!r} on {name!r}, which is not a host of the inventory.",
        remedy=f"Did you mean {nearest!r}?" if nearest else "Answer with names from view.hosts.",
        id=id,
        lacks={name: "is not in the inventory"},
    )


def _given_up(world: World, id: str, name: str) -> AllocatorError:
    absent = world.fleet.absent.get(name)
    why = "is being drained" if absent is None else absent.story(world.now)
    return AllocatorError(
        f"the allocator placed task {id!r} on host {name!r}, for which no task waits any longer: the host {why}.",
        remedy="Place tasks only on hosts whose given_up is False in view.hosts, for example on those for which "
        "draft.fits returns True. Or find out why this host is not there.",
        id=id,
        lacks={name: why},
    )


def _place(world: World, run: Run, t: int, name: str) -> bool:
    """Place one task if that is still possible. Return True if it was placed."""
    host = world.fleet.by_name.get(name)
    limit = run.spec.max_concurrency
    if host is None or not host.open or run.state[t] != State.READY or (limit is not None and run.active >= limit):
        return False
    queue = run.queue_of(t)
    if not is_for_allocator(queue):
        return False  # another task of the same group was placed meanwhile, which fixes the host of this task, too
    if all(world.fleet.feasible(host, run.spec.profiles[p]) for p in queue.key.group_profiles):
        return _place_on(world, run, t, host, queue)
    # All tasks of a group must run on one host, but the allocator does not know the groups. The allocator's host cannot
    # run the whole group of this task, so the task goes to a host that can.
    return any(_place_on(world, run, t, other, queue) for other in eligible_hosts(world, queue))


def _place_on(world: World, run: Run, t: int, host: HostRecord, queue: ReadyQueue) -> bool:
    """Place a task on a host if possible.

    If the host has room for the task's cost, the task gets a claim on this room. Otherwise, if not too much other work
    waits on the host already, the task is handed ahead: it waits there without a claim.

    Returns:
        True if the task was placed.
    """
    profile = run.spec.profiles[run.spec.profile[t]]
    demands = world.fleet.feasible(host, profile)
    if not demands:
        return False
    claimed = claim_on(world, queue, host, demands, t)
    if claimed is not None:
        hand_over(world, run, t, host, *claimed)
        return True
    if not profile.idempotent:
        return False
    backlog_s = ahead_backlog_s(host, demands[0], run.durations.expected_s[run.spec.fn[t]])
    if backlog_s < 0.0:
        return False
    hand_over(world, run, t, host, demands[0], backlog_s)
    return True


def _refuse(world: World, run: Run, problem: str, remedy: str) -> None:
    fail_run(world, run, AllocatorError(f"{problem}.", remedy=remedy))
