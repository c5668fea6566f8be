"""How tasks end other than well, what that does to those that depend on them, and how runs end."""

from __future__ import annotations

from handout.errors import HostLostError
from handout.scheduler.commands import AnnounceRunEnded
from handout.scheduler.handlers.attempts import abandon
from handout.scheduler.handlers.replicas import release_inputs, shed
from handout.scheduler.state.runs import OUTPUT, Run
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.states import Outcome, State

__all__ = [
    "ABORT_S",
    "abort",
    "abort_due",
    "cancel",
    "close",
    "end",
    "end_dependents",
    "end_runs",
    "fail",
    "give_up_output",
]

#: A run that is being ended waits this long for agents to confirm that its tasks have.
ABORT_S = 5.0

_STATE = {
    Outcome.FAILED: State.FAILED,
    Outcome.SKIPPED: State.SKIPPED,
    Outcome.CANCELLED: State.CANCELLED,
}


def end(world: World, run: Run, t: int, outcome: Outcome, failure: object = None, cause: int = -1) -> None:
    """A task that is with no agent ends in any way but well."""
    run.state[t] = _STATE[outcome]
    run.unended -= 1
    run.cancelling.discard(t)
    if outcome is Outcome.FAILED:
        run.failed += 1
    elif outcome is Outcome.CANCELLED:
        run.cancelled += 1
    if not run.reported[t]:
        run.reported[t] = 1
        world.out.ended(run.number, t, outcome, world.fleet.names[run.host[t]], failure, cause)
    for o in run.objects_of(t):
        # A replica may be left from an earlier time, when it ended well.
        if not run.where[o]:
            give_up_output(world, run, o)
        elif not run.uses[o]:
            shed(world, run, o)
    release_inputs(world, run, t)
    world.ending.add(run)


def give_up_output(world: World, run: Run, o: int) -> None:
    """An object that the caller wants will not be made (again)."""
    if run.flags[o] & OUTPUT:
        run.flags[o] &= ~OUTPUT
        run.awaited -= 1
        world.ending.add(run)


def fail(world: World, run: Run, t: int, failure: object) -> None:
    """A task fails for good."""
    if run.reported[t]:
        if not any(run.needed(o) and not run.where[o] for o in run.objects_of(t)):
            # It had ended well before, and what it was repeated for is not needed any more.
            run.state[t] = State.DONE
            run.unended -= 1
            release_inputs(world, run, t)
            world.ending.add(run)
            return
        run.error = run.error or _lost_for_good(run, t, failure)
    end(world, run, t, Outcome.FAILED, failure)
    end_dependents(world, run, t, Outcome.SKIPPED)
    if run.spec.on_failure == "fail_fast":
        abort(world, run, Outcome.FAILED)


def _lost_for_good(run: Run, t: int, failure: object) -> HostLostError:
    name = run.name_of(t)
    return HostLostError(
        f"the result of task {name!r} was lost with its host, and making it again failed: {failure}",
        remedy="What is lost with a host is made again: let the function be able to run twice.",
        id=name,
        failure=failure,
    )


def end_dependents(world: World, run: Run, root: int, outcome: Outcome) -> None:
    """End all that cannot run any more because of one task. Objects of it that are left still serve."""
    stack = [root]
    while stack:
        for o in run.objects_of(stack.pop()):
            if run.where[o]:
                continue
            for c in run.consumers[o]:
                if run.ended(c):
                    continue
                if run.state[c] == State.HANDED:
                    abandon(world, run, c)
                end(world, run, c, outcome, cause=root)
                stack.append(c)


def cancel(world: World, run: Run, tasks: list[int]) -> None:
    """End tasks and what depends on them. Those with an agent end when it has confirmed it."""
    for t in tasks:
        if run.ended(t):
            continue
        if run.state[t] == State.HANDED:
            _cancel_handed(world, run, t)
        else:
            end(world, run, t, Outcome.CANCELLED)
        end_dependents(world, run, t, Outcome.CANCELLED)


def _cancel_handed(world: World, run: Run, t: int) -> None:
    if t not in run.cancelling:
        run.cancelling.add(t)
        twin = run.twins.get(t)
        for index, attempt in ((run.host[t], run.attempt[t]), *(() if twin is None else ((twin.host, twin.attempt),))):
            if world.fleet.at(index) is not None:
                world.out.cancel(index, run.number, t, attempt)


def abort(world: World, run: Run, outcome: Outcome, error: Exception | None = None) -> None:
    """End a run before its time; it is over when its agents have confirmed that, or after `ABORT_S`."""
    if run.over or run.aborting:
        return
    run.aborting = True
    run.abort_outcome = outcome
    run.error = run.error or error
    run.request = -1
    for t in range(run.spec.count):
        if run.ended(t):
            continue
        if run.state[t] == State.HANDED:
            _cancel_handed(world, run, t)
        else:
            end(world, run, t, Outcome.CANCELLED)
    world.ending.add(run)
    world.timers.set(world.now + ABORT_S, Timer(Wake.ABORT, run.number))


def abort_due(world: World, timer: Timer) -> None:
    """What agents have not confirmed by now is given up; its claims stay until they do."""
    run = world.runs.get(timer.run)
    if run is None or run.over or not run.aborting:
        return
    for t in range(run.spec.count):
        if run.state[t] == State.HANDED:
            abandon(world, run, t)
            end(world, run, t, Outcome.CANCELLED)


def end_runs(world: World) -> None:
    """Report the runs that are over."""
    for run in sorted(world.ending, key=lambda run: run.number):
        if run.over or run.unended or (run.awaited and not run.aborting):
            continue
        run.over = True
        if run.aborting:
            outcome = run.abort_outcome
        elif run.failed:
            outcome = Outcome.FAILED
        else:
            outcome = Outcome.CANCELLED if run.cancelled else Outcome.DONE
        run.estimates.remember(world.remembered)
        world.out.add(AnnounceRunEnded(run.number, outcome, run.error))
    world.ending.clear()


def close(world: World, run: Run) -> None:
    """Forget a run: end what still runs, drop all that it left anywhere."""
    for t in range(run.spec.count if run.unended else 0):
        if run.state[t] == State.HANDED:
            abandon(world, run, t)
            run.state[t] = State.CANCELLED
    for o, where in enumerate(run.where):
        for index in where:
            if index == 0 or world.fleet.at(index) is not None:
                world.out.drop(index, run.number, o)
    for o, index in sorted({*run.flying, *run.leftovers}):
        if index and index not in run.where[o] and world.fleet.at(index) is not None:
            world.out.drop(index, run.number, o)
    run.over = True
    run.estimates.remember(world.remembered)
    for lane in [lane for lane in world.reservations if lane.run is run]:
        world.reservations.pop(lane).reserved = None
    if world.shared_lane is not None and world.shared_lane.run is run:
        world.shared_lane = None
    world.dirty.update(world.fleet.by_name.values())
    world.ending.discard(run)
    world.timers.forget(run.number)
    world.fleet.forget(run.spec.profiles)
    del world.runs[run.number]
