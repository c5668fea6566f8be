"""Explain where a task is, and why it does not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from handout.errors import InternalError
from handout.scheduler.run_spec import Profile
from handout.scheduler.shortfall import Holder, holders, lacking, shortfall, shortfall_of_shared
from handout.scheduler.state.absent_hosts import AbsentHost
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where one task is, and what the task waits for. `Execution.explain` returns an object of this class.

    ``str()`` of the object is a text of a few lines.

    Attributes:
        task: The number of the task in its run.
        id: The id of the function.
        state: ``WAITING`` (for inputs), ``READY`` (for a host), ``HANDED`` (to a host), ``BACKOFF`` (until its
            retry), ``DONE``, ``FAILED``, ``SKIPPED`` or ``CANCELLED``.
        attempt: The number of the task's present or last attempt, or 0. Attempts that never began do not count.
        host: The name of the host that has the task or had it last, or ``""``.
        reason: Why the task is in this state, as one clause.
        waits_for: The ids of the functions whose results are missing.
        hosts: For a ready task: why each host of the inventory does not get the task, by host name. If an amount is
            short there, the text says how much is free, and which tasks hold it.

    Example:
        ```python
        async with handout.start(graph) as execution:
            print(execution.explain("load"))  # task 'load' is ready: no host is connected
            await execution.results()
        ```
    """

    task: int
    id: str
    state: State
    attempt: int
    host: str
    reason: str
    waits_for: tuple[str, ...] = ()
    hosts: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"task {self.id!r} is {self.state.name.lower()}: {self.reason}"]
        lines += [f"  {host}: {why}" for host, why in self.hosts.items()]
        return "\n".join(lines)


def explain(world: World, number: int, t: int) -> Explanation:
    """Return where a task is and, if the task does not run, why not.

    Raises:
        InternalError: There is no such run or task.
    """
    run = world.runs.get(number)
    if run is None or not 0 <= t < run.task_count:
        raise InternalError(f"There is no task {t} in run {number}, or there is no such run. Please report this.")
    state = State(run.state[t])
    host = world.fleet.names[run.host[t]]
    hosts: Mapping[str, str] = {}
    waits_for: tuple[str, ...] = ()
    if state is State.WAITING:
        waits_for = _waits_for(run, t)
        reason = f"waits for {_results_of(waits_for)}" if waits_for else "waits for inputs"
    elif state is State.READY:
        held = holders(world, run)
        hosts = {each.name: _why_not(world, run, t, each, held) for each in world.fleet.by_name.values()}
        hosts |= {each.name: _why_absent(each, world.now) for each in world.fleet.absent.values()}
        reason = _why_ready(world, run, t)
    elif state is State.HANDED:
        reason = _where_handed(world, run, t)
        waits_for = _waits_for(run, t)
    elif state is State.BACKOFF:
        reason = f"failed in attempt {run.shown_attempt(t)} and is tried again after a pause"
    else:
        reason = _how_ended(state, host, run.shown_attempt(t))
    return Explanation(t, run.name_of(t), state, run.shown_attempt(t), host, reason, waits_for, hosts)


def _how_ended(state: State, host: str, attempt: int) -> str:
    """Return how a task ended, as one clause.

    Args:
        state: The state of the task.
        host: The name of the host that had the task last, or ``""``.
        attempt: The number of the last attempt, or 0.
    """
    where = f" on {host!r}, in attempt {attempt}" if host and attempt else ""
    if state is State.DONE:
        return f"has succeeded{where}" if where else "has its result from an earlier run"
    if state is State.FAILED:
        return f"has failed for good{where}"
    return "does not run, because a task that it depends on failed" if state is State.SKIPPED else "was cancelled"


def _waits_for(run: Run, t: int) -> tuple[str, ...]:
    producer, replicas = run.spec.producer, run.objects.replicas
    makers = dict.fromkeys(producer[o] for o in run.spec.inputs[t] if not replicas[o] and producer[o] >= 0)
    return tuple(map(run.name_of, makers))


def _results_of(ids: tuple[str, ...]) -> str:
    return f"the result of {ids[0]!r}" if len(ids) == 1 else f"{len(ids)} results, such as that of {ids[0]!r}"


def _why_ready(world: World, run: Run, t: int) -> str:
    fleet, profile = world.fleet, run.spec.profiles[run.spec.profile[t]]
    limit = run.spec.max_concurrency
    if run.aborting:
        return "the run is being ended"
    if run.pauses:
        return "the controller is noting which tasks have ended or are cancelled"
    if limit is not None and run.active >= limit:
        return f"the run has reached its limit max_concurrency={limit}"
    able = [host for host in fleet.by_name.values() if fleet.feasible(host, profile)]
    if all(host.draining for host in able):
        coming = ", ".join(f"{name} ({why})" if why else name for name, why in sorted(fleet.expected.items()))
        none = "no connected host can run it" if fleet.by_name else "no host is connected"
        if able:
            none = f"the only hosts that can run it are being drained: {', '.join(host.name for host in able)}"
        return f"{none}; expected: {coming}" if coming else none
    if run.spec.allocator is None:
        return _why_not_placed(run, t)
    names = {
        name for host in able for demand in fleet.feasible(host, profile)[:1] for name in lacking(host.ledger, demand)
    }
    return (
        f"no host has room for it (too little is free: {', '.join(sorted(names))})"
        if names
        else "no host has room for it"
    )


def _why_not_placed(run: Run, t: int) -> str:
    """Return why the custom allocator of a run has not placed a task."""
    if run.requests.number >= 0:
        return "its allocator is being asked"
    if t in run.requests.waits_for:
        return f"its allocator has placed it on {run.requests.waits_for[t]!r}, and it waits until this host is ready"
    return "its allocator has not placed it"


def _why_absent(host: AbsentHost, now: float) -> str:
    """Return why a host of the inventory that has no agent does not get a task."""
    story = host.story(now)
    return f"{story}; the controller is connecting to this host" if host.expected and not host.delay else story


def _why_not(world: World, run: Run, t: int, host: HostRecord, held: Sequence[Holder]) -> str:
    profile = run.spec.profiles[run.spec.profile[t]]
    key = run.queue_of(t).key
    if key.pin and key.pin != host.index:
        return f"the task's group is on {world.fleet.names[key.pin]!r}"
    if why := world.fleet.why_infeasible(host, profile):
        return why
    if host.abandoned:
        return "is lost; once its tasks have certainly ended, they run elsewhere"
    if host.draining:
        return "is being drained, and gets no new tasks; to use it again, add it after drain() has returned"
    if host.suspected:
        return "is silent, and gets no tasks until the controller hears from it again"
    if isinstance(host.reserved, ReadyQueue) and host.reserved is not run.queue[t]:
        return f"is kept free for {_first_of(host.reserved, run)}, which has waited for a long time"
    profiles = (run.spec.profiles[p] for p in (key.profile, *key.group_profiles))
    if paused := [host.pauses[each] for each in profiles if host.is_paused(each, world.now)]:
        left_s = max(pause.until for pause in paused) - world.now
        return f"had no room for a result or an argument of this function, and is avoided for {left_s:.0f} s more"
    if host.index in key.avoid:
        return "the task has failed on this host"
    return _why_no_room(world, profile, host, held)


def _first_of(queue: ReadyQueue, asking: Run) -> str:
    """Return the name of the first ready task of a queue, without changing the queue."""
    run = queue.run
    tasks = (place if run.task_at is None else run.task_at[place] for place in sorted(queue.heap))
    first = next((t for t in tasks if run.queue[t] is queue and run.state[t] == State.READY), None)
    if first is None:
        return "another task"
    return f"task {run.name_of(first)!r}" + ("" if run is asking else " of another run")


def _why_no_room(world: World, profile: Profile, host: HostRecord, held: Sequence[Holder]) -> str:
    """Return which amounts lack on a host that could run tasks of a profile if it were idle."""
    demands = world.fleet.feasible(host, profile)
    here = [demand for demand in demands if host.ledger.fits(demand.host)]
    demand = (here or demands)[0]
    requirement = profile.requirements[demand.variant]
    if not here:
        return shortfall(host, demand, requirement, held) or "has no room for it"
    if not any(world.fleet.shared.fits(demand.shared) for demand in here):
        return shortfall_of_shared(world.fleet.shared, demand, requirement, held)
    return "has room"


def _where_handed(world: World, run: Run, t: int) -> str:
    name = world.fleet.names[run.host[t]]
    if t in run.cancelling:
        return f"is being cancelled on {name!r}"
    if (other := run.second_attempts.get(t)) is not None:
        first = world.fleet.names[other.host]
        return (
            f"has run on {first!r} for far longer than similar tasks, and runs a second time on {name!r}; the attempt "
            "that finishes first counts"
        )
    if t in run.started:
        return f"runs on {name!r}"
    if run.missing[t]:
        return f"is with {name!r}, where its inputs are being made"
    coming = sum(1 for o in run.spec.inputs[t] if (o, run.host[t]) in run.objects.copying)
    if coming:
        return f"is with {name!r}, to which {coming} of its inputs are being copied"
    return f"is queued on {name!r}" if run.claims[t] is None else f"is with {name!r}"
