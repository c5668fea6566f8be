"""What must be true of the core's state after every call; tests check it after every event.

Slow on purpose: everything is counted anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from handout.errors import InternalError
from handout.scheduler.hosts import HostRecord
from handout.scheduler.runs import KEEP, OUTPUT, Run
from handout.scheduler.states import State
from handout.scheduler.world import World

__all__ = ["broken", "check", "stuck"]


def check(world: World) -> None:
    """Raise if anything does not add up.

    Raises:
        InternalError: Says all that is wrong.
    """
    if problems := list(broken(world)):
        raise InternalError("the core broke its own rules: " + "; ".join(problems), remedy="Please report it.")


def broken(world: World) -> Iterator[str]:
    """Each rule that is broken, in words."""
    for run in world.runs.values():
        for problem in (*_columns(run), *_tasks(world, run), *_objects(world, run), *_whole(run)):
            yield f"run {run.number}: {problem}"
    for host in world.fleet.by_name.values():
        for problem in _host(world, host):
            yield f"host {host.name!r}: {problem}"
    yield from _shared(world)
    if world.dirty or world.freed or world.ending:
        yield "something was left to be seen to"


def stuck(world: World) -> list[int]:
    """Runs that nothing that is under way can bring to an end."""
    fleet = world.fleet
    if world.timers.next_s is not None or fleet.expected or not all(h.open for h in fleet.by_name.values()):
        return []
    if any(host.handed or host.lingering for host in fleet.by_name.values()):
        return []
    return [run.number for run in world.runs.values() if not (run.over or run.flying or run.request >= 0)]


def _columns(run: Run) -> Iterator[str]:
    where, inputs = run.where, run.spec.inputs
    uses: Counter[int] = Counter()
    for t, ins in enumerate(inputs):
        if run.ended(t):
            continue
        uses.update(ins)
        missing = sum(1 for o in ins if not where[o])
        if missing != run.missing[t]:
            yield f"task {t} misses {missing} inputs, not {run.missing[t]}"
    for o, count in enumerate(run.uses):
        if uses[o] != count:
            yield f"object {o} has {uses[o]} users, not {count}"


def _tasks(world: World, run: Run) -> Iterator[str]:
    for t in range(run.spec.count):
        state = State(run.state[t])
        if state is State.READY:
            lane = run.lane_of(t)
            place = t if run.order is None else run.order[t]
            if run.missing[t] or run.lane[t] is not lane or place not in lane.heap:
                yield f"task {t} is ready, misses {run.missing[t]} inputs, and is not in its lane"
            if run.lanes.get(lane.key) is not lane:
                yield f"task {t} is in a lane that was forgotten"
        elif state is State.WAITING:
            if not run.missing[t]:
                yield f"task {t} waits for nothing"
            for o in run.spec.inputs[t]:
                producer = run.spec.producer[o]
                if not run.where[o] and (producer < 0 or run.ended(producer)):
                    yield f"task {t} waits for object {o}, which nobody makes"
        elif state is State.HANDED:
            yield from _handed(world, run, t)
        if state is not State.HANDED and (run.claims[t] is not None or t in run.shared or t in run.recalled):
            yield f"task {t} is {state.name} and has claimed something"
        if state is not State.HANDED and t in run.twins:
            yield f"task {t} is {state.name} and has a second attempt"
        if state >= State.DONE and not run.reported[t]:
            yield f"task {t} is {state.name} and was not reported"


def _handed(world: World, run: Run, t: int) -> Iterator[str]:
    index = run.host[t]
    twin = run.twins.get(t)
    if twin is not None:
        if world.fleet.at(twin.host) is None or twin.host == index or twin.attempt == run.attempt[t]:
            yield f"task {t} is attempted as {twin} beside attempt {run.attempt[t]} on host {index}"
        if not run.spec.profiles[run.spec.profile[t]].idempotent:
            yield f"task {t} must not run twice and is attempted twice"
    if world.fleet.at(index) is None:
        yield f"task {t} is handed to lost host {world.fleet.names[index]!r}"
    for o in run.spec.inputs[t]:
        if index in run.where[o] or (o, index) in run.flying:
            continue
        if run.where[o]:
            yield f"task {t} waits on {world.fleet.names[index]!r} for object {o}, which nobody brings"
        elif run.ended(run.spec.producer[o]) and t not in run.cancelling and not run.aborting:
            yield f"task {t} waits on {world.fleet.names[index]!r} for object {o}, which nobody makes"


def _objects(world: World, run: Run) -> Iterator[str]:
    for o, where in enumerate(run.where):
        if list(where) != sorted(set(where)) or any(i and world.fleet.at(i) is None for i in where):
            yield f"object {o} is on {where}"
        if where and not run.uses[o] and not run.flags[o] and run.spec.producer[o] >= 0:
            yield f"object {o} is on {where} and nobody needs it"
        if run.flags[o] & KEEP and run.reported[run.spec.producer[o]] and not where and not run.over:
            if run.spec.producer[o] >= 0 and run.state[run.spec.producer[o]] == State.DONE and not run.aborting:
                yield f"object {o} is to be kept and is gone"
    for (o, target), source in run.flying.items():
        if (target and world.fleet.at(target) is None) or (source and world.fleet.at(source) is None):
            yield f"object {o} is being copied between lost hosts"
        if target in run.where[o]:
            yield f"object {o} is being copied to where it is"


def _whole(run: Run) -> Iterator[str]:
    states = Counter(run.state)
    unended = sum(count for state, count in states.items() if state < State.DONE)
    if unended != run.unended:
        yield f"{unended} tasks have not ended, not {run.unended}"
    if states[State.HANDED] != run.active:
        yield f"{states[State.HANDED]} tasks are handed, not {run.active}"
    awaited = sum(
        1 for o, flags in enumerate(run.flags) if flags & OUTPUT and run.spec.producer[o] >= 0 and 0 not in run.where[o]
    )
    if awaited != run.awaited:
        yield f"{awaited} outputs are awaited, not {run.awaited}"
    if run.over and unended:
        yield "it is over and tasks have not ended"
    if not run.over and not unended and (not awaited or run.aborting):
        yield "it ought to be over"
    limit = run.spec.max_concurrency
    found = sum(1 for t, attempt in run.found.items() if run.state[t] == State.HANDED and run.attempt[t] == attempt)
    if limit is not None and run.active - found > limit:
        yield f"{run.active} tasks are handed where {limit} may be"


def _host(world: World, host: HostRecord) -> Iterator[str]:
    handed = ahead = claims = 0
    used: Counter[str] = Counter()
    for run in world.runs.values():
        for t, claim in enumerate(run.claims):
            if run.state[t] != State.HANDED or run.host[t] != host.index:
                continue
            handed += 1
            if claim is None:
                ahead += 1
            else:
                claims += 1
                used.update(claim.need)
        for twin in run.twins.values():
            if twin.host == host.index and twin.claim is not None:
                handed += 1
                claims += 1
                used.update(twin.claim.need)
    for left in host.lingering.values():
        if left.claim is not None:
            claims += 1
            used.update(left.claim.need)
    if (handed, ahead) != (host.handed, host.ahead_n):
        yield f"{handed} tasks are handed, {ahead} of them ahead, not {host.handed} and {host.ahead_n}"
    if claims != host.ledger.claims:
        yield f"{claims} claims are held, not {host.ledger.claims}"
    counted = {name: parts for name, parts in used.items() if parts and name not in ("gpu", "gpu_memory")}
    if counted != host.ledger.used:
        yield f"{counted} is claimed, not {host.ledger.used}"
    if not host.shrunk and any(parts < 0 for parts in host.ledger.free.values()):
        yield f"it is over-committed: {dict(host.ledger.free)}"
    if host.ahead_s < -1e-6 or (not ahead and host.ahead_s):
        yield f"its backlog is {host.ahead_s} s for {ahead} tasks"


def _shared(world: World) -> Iterator[str]:
    used: Counter[str] = Counter()
    for run in world.runs.values():
        for claim in run.shared.values():
            used.update(claim.need)
        for twin in run.twins.values():
            if twin.shared is not None:
                used.update(twin.shared.need)
    for host in world.fleet.by_name.values():
        for left in host.lingering.values():
            if left.shared is not None:
                used.update(left.shared.need)
    counted = {name: parts for name, parts in used.items() if parts}
    if counted != world.fleet.shared.used:
        yield f"{counted} of what is shared is claimed, not {world.fleet.shared.used}"
