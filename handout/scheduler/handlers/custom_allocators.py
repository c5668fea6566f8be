"""Custom allocators: when they are asked, what they are shown, and what becomes of their answers."""

from __future__ import annotations

from heapq import merge

from handout.errors import AllocatorError
from handout.resources import explain_lacks, nearest_name
from handout.scheduler.commands import AskAllocator
from handout.scheduler.events import AllocatorFailed, PlacementsProposed
from handout.scheduler.handlers.attempts import hand
from handout.scheduler.handlers.cancellation import abort
from handout.scheduler.placing.placement import candidates, claim_on, is_free, room_ahead
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.states import Outcome, State
from handout.scheduler.views import cluster_view, task_view

__all__ = ["allocator_failed", "answer_due", "ask", "ask_again", "note_room", "placements_proposed"]

#: Least number of tasks that a frontier shows where there are that many.
MIN_FRONTIER = 256
#: Tasks that a frontier shows for each free slot.
FRONTIER_PER_SLOT = 4
#: An allocator is not asked again sooner than this, whatever it says.
MIN_ASK_AGAIN_S = 0.01


def note_room(world: World) -> None:
    """Hosts have got room, whoever left it: what found none may be placed now."""
    if world.dirty:
        for run in world.runs.values():
            run.stirred = run.stirred or run.spec.allocator is None


def ask(world: World) -> None:
    """Ask the allocators of runs that have something to place and where something has happened since."""
    for run in world.runs.values():
        if run.spec.allocator is not None or run.request >= 0 or not run.stirred or run.over or run.aborting:
            continue
        if not any(host.open for host in world.fleet.by_name.values()):
            continue
        if run.spec.max_concurrency is not None and run.active >= run.spec.max_concurrency:
            continue
        tasks = _frontier(world, run)
        if not tasks:
            continue
        run.stirred = False
        world.requests += 1
        run.request = world.requests
        run.asked = {run.name_of(t): t for t, _ in tasks}
        run.shown = {host.name: host for host in world.fleet.by_name.values() if host.open}
        run.shown_version = world.fleet.version
        world.timers.set(world.now + run.spec.allocator_timeout_s, Timer(Wake.ANSWER_DUE, run.number, run.request))
        frontier = [task_view(world, run, t, waiting_s) for t, waiting_s in tasks]
        world.out.add(AskAllocator(run.number, run.request, frontier, cluster_view(world), run.asked))


def _frontier(world: World, run: Run) -> list[tuple[int, float]]:
    """Ready tasks that the allocator is to place, most urgent first, with how long each has waited."""
    free = sum(max(0, host.slots - host.handed) for host in world.fleet.by_name.values() if host.open)
    limit = max(MIN_FRONTIER, FRONTIER_PER_SLOT * free)
    heaps = [sorted(lane.heap) for lane in run.lanes.values() if lane.head() >= 0 and is_free(run, lane)]
    tasks: list[tuple[int, float]] = []
    seen: set[int] = set()
    for place in merge(*heaps):
        t = place if run.place_at is None else run.place_at[place]
        if run.state[t] == State.READY and t not in seen:
            seen.add(t)
            tasks.append((t, world.now - run.ready_at.setdefault(t, world.now)))
            if len(tasks) >= limit:
                break
    return tasks


def ask_again(world: World, timer: Timer) -> None:
    """The time that an allocator asked to be asked again at."""
    run = world.runs.get(timer.run)
    if run is not None:
        run.stirred = True
        run.asks_again = max(0, run.asks_again - 1)


def answer_due(world: World, timer: Timer) -> None:
    """An allocator has had its time."""
    run = world.runs.get(timer.run)
    if run is not None and run.request == timer.number and not run.over:
        timeout_s = run.spec.allocator_timeout_s
        _refuse(world, run, f"the allocator did not answer within {timeout_s:g} s", "Raise allocator_timeout_s.")


def allocator_failed(world: World, event: AllocatorFailed) -> None:
    """An allocator raised: its run ends."""
    run = world.runs.get(event.run)
    if run is None or run.request != event.request:
        world.stale += 1
        return
    error = AllocatorError(
        f"the allocator raised {type(event.error).__name__}: {event.error}",
        remedy="Its own traceback is this error's cause.",
    )
    error.__cause__ = event.error
    abort(world, run, Outcome.FAILED, error)


def placements_proposed(world: World, event: PlacementsProposed) -> None:
    """Place what still can be; what the world has overtaken waits; what was never possible ends the run."""
    run = world.runs.get(event.run)
    if run is None or run.request != event.request or run.over:
        world.stale += 1
        return
    run.request = -1
    if event.ask_again_s is not None:
        run.asks_again += 1
        when = world.now + max(event.ask_again_s, MIN_ASK_AGAIN_S)
        world.timers.set(when, Timer(Wake.ASK_AGAIN, run.number))
    placed = 0
    for key, name in event.placements.items():
        t = run.asked.get(key, -1) if isinstance(key, str) else key
        problem = _impossible(world, run, t, key, name)
        if problem is not None:
            _refuse(world, run, *problem)
            return
        placed += _place(world, run, t, name)
    if placed:
        return
    # A host that was let go is closed for good; any other that is closed may open, or be let go.
    busy = any(h.handed or h.lingering or not (h.open or h.released) for h in world.fleet.by_name.values())
    if not (busy or run.stirred or run.asks_again or world.fleet.expected):
        names = ", ".join(map(repr, list(run.asked)[:5])) + (", ..." if len(run.asked) > 5 else "")
        _refuse(
            world,
            run,
            f"the allocator placed none of {len(run.asked)} tasks ({names}) though all hosts are idle",
            "Place at least one, or say view.draft().ask_again(in_s=...) when to be asked again.",
        )


def _impossible(world: World, run: Run, t: int, key: str | int, name: str) -> tuple[str, str] | None:
    """Problem and remedy of a placement that was not possible when the allocator was asked either."""
    if t < 0 or run.asked.get(run.name_of(t) if t < run.spec.count else "") != t:
        nearest = nearest_name(str(key), run.asked)
        return (
            f"the allocator placed task {key!r}, which was not in its frontier",
            f"Did you mean {nearest!r}?" if nearest else "Answer with ids of the tasks that it is given.",
        )
    host = run.shown.get(name)
    id_ = run.name_of(t)
    if host is None:
        nearest = nearest_name(str(name), run.shown)
        return (
            f"the allocator placed task {id_!r} on {name!r}, which is no host of its view",
            f"Did you mean {nearest!r}?" if nearest else "Answer with names from view.hosts.",
        )
    if run.shown_version != world.fleet.version or not host.open:
        return None
    profile = run.spec.profiles[run.spec.profile[t]]
    if not world.fleet.needs(host, profile):
        lacks = explain_lacks(profile.requirements, {name: host.offer}, world.fleet.shared_amounts)
        why = lacks.get(name, f"it has Python {host.python}, the task needs {profile.python}")
        return f"the allocator placed task {id_!r} on host {name!r}, which can never run it: {why}", ""
    return None


def _place(world: World, run: Run, t: int, name: str) -> bool:
    """Place one task if that is still possible."""
    host = world.fleet.by_name.get(name)
    limit = run.spec.max_concurrency
    if host is None or not host.open or run.state[t] != State.READY or (limit is not None and run.active >= limit):
        return False
    lane = run.lane_of(t)
    if not is_free(run, lane):
        return False  # one of its group was placed meanwhile, so its host is fixed
    if all(world.fleet.needs(host, run.spec.profiles[p]) for p in lane.key.together):
        return _place_on(world, run, t, host, lane)
    # Collocated tasks go where all of them can run, whatever the allocator says, who knows nothing of groups.
    return any(_place_on(world, run, t, other, lane) for other in candidates(world, lane))


def _place_on(world: World, run: Run, t: int, host: HostRecord, lane: ReadyQueue) -> bool:
    """Place a task where there is room for it, or where it may wait because it is short."""
    profile = run.spec.profiles[run.spec.profile[t]]
    needs = world.fleet.needs(host, profile)
    if not needs:
        return False
    claimed = claim_on(world, lane, host, needs, t)
    if claimed is not None:
        hand(world, run, t, host, *claimed)
        return True
    if not profile.idempotent:
        return False
    charge = room_ahead(host, needs[0], run.estimates.seconds[run.spec.fn[t]])
    if charge < 0.0:
        return False
    hand(world, run, t, host, needs[0], None, charge)
    return True


def _refuse(world: World, run: Run, problem: str, remedy: str) -> None:
    abort(world, run, Outcome.FAILED, AllocatorError(f"{problem}.", remedy=remedy))
