"""What agents report about attempts: started, finished, returned, failed."""

from __future__ import annotations

from collections.abc import Sequence

from handout.errors import OutcomeUnknownError
from handout.scheduler.events import TaskFailed, TasksFinished, TasksRecalled, TasksStarted
from handout.scheduler.handlers.attempts import dismiss, recall_followers, settle, to_frontier, unhand
from handout.scheduler.handlers.cancellation import end, fail, give_up_output
from handout.scheduler.handlers.replicas import appear, bring, release_inputs, shed, wake
from handout.scheduler.placing.disk_pressure import found_no_room
from handout.scheduler.placing.speculation import may_have_second
from handout.scheduler.spec import Profile
from handout.scheduler.state.hosts import HOME, HostRecord
from handout.scheduler.state.runs import KEEP, OUTPUT, Run
from handout.scheduler.state.second_attempts import survive, swap
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.states import Outcome, State

__all__ = ["may_repeat", "task_failed", "tasks_finished", "tasks_returned", "tasks_started"]

#: Times that a task may have its process die under it.
MAX_DEATHS = 3
#: Times that a task may fail through no fault of its own code.
MAX_TROUBLES = 3
#: Kinds of failure that are not.
TROUBLES = ("input", "disk", "host", "cancelled")
#: Kinds of failure that leave open what has happened, and those where Handout itself ended the code in the middle.
_UNKNOWN = ("died", "disk", "host", "cancelled")
_KILLED = ("timeout", "memory")
#: What became of an attempt whose end nobody saw.
_HOW = {
    "died": "its worker died",
    "disk": "there was no room for its result",
    "host": "its host gave it up",
    "cancelled": "it was ended there",
}
#: Longest pause before a retry.
MAX_BACKOFF_S = 60.0

_HANDED = State.HANDED


def tasks_started(world: World, event: TasksStarted) -> None:
    """They cannot be taken back any more."""
    run, host = world.runs.get(event.run), world.fleet.by_name.get(event.host)
    if run is None or host is None:
        world.stale += len(event.tasks)
        return
    for t, attempt in zip(event.tasks, event.attempts, strict=True):
        if _current(run, host, t, attempt):
            run.begun.add(t)
            if run.pace is not None and may_have_second(run, t):
                run.pace.began(t, world.now)
        else:
            world.stale += 1


def tasks_returned(world: World, event: TasksRecalled) -> None:
    """They go back to the frontier, or end if that was what they were wanted back for."""
    run, host = world.runs.get(event.run), world.fleet.by_name.get(event.host)
    for t, attempt in zip(event.tasks, event.attempts, strict=True):
        if run is None or host is None or not _live(run, host, t, attempt):
            settle(world, host, event.run, t, attempt)
            continue
        unhand(world, run, t)
        if survive(run, t):
            continue
        if t in run.cancelling:
            end(world, run, t, Outcome.CANCELLED)
        else:
            recall_followers(world, run, t)
            to_frontier(world, run, t)


def tasks_finished(world: World, event: TasksFinished) -> None:
    """Results exist: their consumers may run, their inputs may go. The hottest path of all."""
    run, host = world.runs.get(event.run), world.fleet.by_name.get(event.host)
    if run is None or host is None:
        _finished_after_all(world, event, host)
        return
    index, ledger, picks = host.index, host.ledger, run.picks
    state, attempts, at, claims, reported = run.state, run.attempt, run.host, run.claims, run.reported
    inputs, fn, learn = run.spec.inputs, run.spec.fn, run.estimates.learn
    sparse = bool(run.cancelling or run.shared or run.begun or run.recalled or run.twins)
    pace = run.pace
    done: list[int] = []
    for i, t in enumerate(event.tasks):
        if (state[t] != _HANDED or attempts[t] != event.attempts[i] or at[t] != index) and not (
            run.twins and _live(run, host, t, event.attempts[i])
        ):
            _finished_late(world, run, host, t, event.attempts[i])
            continue
        if sparse:
            if t in run.cancelling:
                unhand(world, run, t)
                if not survive(run, t):
                    end(world, run, t, Outcome.CANCELLED)
                _discard_all(world, run, host, t)
                continue
            if t in run.twins:
                dismiss(world, run, t)
            unhand(world, run, t)
        else:
            claim = claims[t]
            host.handed -= 1
            run.active -= 1
            if claim is None:
                host.ahead_n -= 1
                host.ahead_s -= run.charge[t]
            else:
                claims[t] = None
                ledger.release(claim)
        state[t] = State.DONE
        run.unended -= 1
        learn(fn[t], event.durations_s[i])
        if pace is not None:
            pace.ended(t, event.durations_s[i], world.now)
        if not reported[t]:
            reported[t] = 1
            done.append(t)
        sizes = event.sizes[i]
        if run.found and event.held[i] and run.found.get(t) == event.attempts[i]:
            _told_again(world, run, host, t, sizes)
        elif picks and t in picks:
            for o, size in zip(run.objects_of(t), sizes, strict=False):
                _made(world, run, host, o, size, event.held[i], True)
        elif sizes:
            _made(world, run, host, t, sizes[0], event.held[i], False)
        if inputs[t]:
            release_inputs(world, run, t)
    if not host.ahead_n:
        host.ahead_s = 0.0
    run.stirred = True
    world.dirty.add(host)
    world.ending.add(run)
    if done:
        world.out.done(run.number, host.name, done)


def _made(world: World, run: Run, host: HostRecord, o: int, size: int, held: bool, stored: bool) -> None:
    """An object was made on a host; ``held``: the controller got it too; ``stored``: the host has it whatever."""
    if size < 0:
        give_up_output(world, run, o)  # it was asked for after the task was handed over
        return
    if run.flying:
        run.flying.pop((o, host.index), None)
        if held:
            run.flying.pop((o, 0), None)
    if run.where[o]:
        # Made again while another replica is left.
        appear(world, run, o, host.index, size)
        if held:
            appear(world, run, o, 0, size)
        return
    flags, users = run.flags[o], run.uses[o]
    run.nbytes[o] = size
    if held:
        if flags & OUTPUT:
            run.awaited -= 1
        if users or flags & KEEP or stored or run.consumers[o]:
            run.where[o] = host.both
            if not users:
                shed(world, run, o)
        elif flags:
            run.where[o] = HOME  # `StartTasks.keep` was False: the host has not kept it
        else:
            world.out.drop(0, run.number, o)
    else:
        if not users and not flags:
            world.out.drop(host.index, run.number, o)
            return
        run.where[o] = host.only
        if flags & OUTPUT:
            bring(world, run, o, 0)
    if users:
        wake(world, run, o, host.index)


def _told_again(world: World, run: Run, host: HostRecord, t: int, sizes: Sequence[int]) -> None:
    """A result that an earlier controller may have had, too, and had dropped on the host: the copy here is sure."""
    for o, size in zip(run.objects_of(t), sizes, strict=False):
        if size < 0:
            give_up_output(world, run, o)
            continue
        run.flying.pop((o, 0), None)
        if run.uses[o] or run.flags[o]:
            appear(world, run, o, 0, size)
        else:
            world.out.drop(0, run.number, o)
        if host.index not in run.where[o]:
            run.leftovers.add((o, host.index))


def _finished_after_all(world: World, event: TasksFinished, host: HostRecord | None) -> None:
    """Results of a run that is closed: nobody will ask for what they left."""
    for t, attempt, held in zip(event.tasks, event.attempts, event.held, strict=True):
        for o in settle(world, host, event.run, t, attempt):
            if host is not None:
                world.out.drop(host.index, event.run, o)
            if held:
                world.out.drop(0, event.run, o)


def _finished_late(world: World, run: Run, host: HostRecord, t: int, attempt: int) -> None:
    """A result of an attempt that counts no more: what it left on the host must go."""
    settle(world, host, run.number, t, attempt)
    if run.state[t] == _HANDED and run.host[t] == host.index:
        # The present attempt may leave its result in the same place: that must not be dropped.
        run.leftovers.update((o, host.index) for o in run.objects_of(t))
    else:
        _discard_all(world, run, host, t)


def _discard_all(world: World, run: Run, host: HostRecord, t: int) -> None:
    for o in run.objects_of(t):
        if host.index in run.where[o]:
            continue
        if (o, host.index) in run.flying:
            # A copy of what counts is on its way there: dropping might hit the copy.
            run.leftovers.add((o, host.index))
        else:
            world.out.drop(host.index, run.number, o)


def task_failed(world: World, event: TaskFailed) -> None:
    """Try again, elsewhere first, or let the task fail for good, by what kind of failure it was."""
    run, host = world.runs.get(event.run), world.fleet.by_name.get(event.host)
    t = event.task
    if run is None or host is None or not _live(run, host, t, event.attempt):
        settle(world, host, event.run, t, event.attempt)
        return
    unhand(world, run, t)
    if event.kind == "disk":
        found_no_room(world, run, t, host, event.need)
    if survive(run, t):
        return  # the other attempt may do better; this one was an extra, and is not counted
    if t in run.cancelling:
        end(world, run, t, Outcome.CANCELLED)
        return
    profile = run.spec.profiles[run.spec.profile[t]]
    again: bool
    pause_s = 0.0
    if event.kind == "died":
        deaths = run.deaths[t] = run.deaths.get(t, 0) + 1
        again = deaths < MAX_DEATHS
    elif event.kind in TROUBLES:
        troubles = run.troubles[t] = run.troubles.get(t, 0) + 1
        again = troubles < MAX_TROUBLES
    else:
        tries = run.tries[t] = run.tries.get(t, 0) + 1
        again = event.retryable and tries <= profile.retries and may_repeat(profile, event.kind)
        if profile.backoff_s > 0.0:
            pause_s = min(profile.backoff_s * 2.0 ** min(tries - 1, 60), MAX_BACKOFF_S)
    if again and not profile.idempotent and event.kind in _UNKNOWN and event.called:
        fail(world, run, t, outcome_unknown(run, t, host.name, _HOW.get(event.kind, event.kind)))
    elif not again:
        fail(world, run, t, event.failure)
    else:
        recall_followers(world, run, t)
        run.avoid[t] = tuple(sorted({*run.avoid.get(t, ()), host.index}))
        if pause_s > 0.0:
            run.state[t] = State.BACKOFF
            world.timers.set(world.now + pause_s, Timer(Wake.BACKOFF, run.number, t, run.attempt[t]))
        else:
            to_frontier(world, run, t)


def may_repeat(profile: Profile, kind: str) -> bool:
    """Whether a task that failed like this may use its retries: not what was killed midway and must not run twice."""
    return profile.idempotent or kind not in _KILLED


def backoff_over(world: World, timer: Timer) -> None:
    """A task's pause before its next try is over."""
    run = world.runs.get(timer.run)
    t = timer.number
    if run is not None and run.state[t] == State.BACKOFF and run.attempt[t] == timer.attempt:
        to_frontier(world, run, t)


def outcome_unknown(run: Run, t: int, host: str, how: str) -> OutcomeUnknownError:
    """The error of a task that may have run and must not run twice."""
    name = run.name_of(t)
    first = "Free some space there, or give it a disk cost. " if how == _HOW["disk"] else ""
    return OutcomeUnknownError(
        f"task {name!r} was lost on host {host!r} ({how}) in attempt {run.attempt[t]}; it may have run, and it is "
        "marked idempotent=False, so it is not run again.",
        remedy=f"{first}Find out whether it took effect; mark it idempotent=True, if only for once, to run it again.",
        id=name,
        host=host,
        attempt=run.attempt[t],
    )


def _live(run: Run, host: HostRecord, t: int, attempt: int) -> bool:
    """Whether an attempt counts; where it is the older of two, it is looked at as the present one from now on."""
    twin = run.twins.get(t) if run.twins else None
    if twin is not None and twin.host == host.index and twin.attempt == attempt:
        swap(run, t)
        return True
    return _current(run, host, t, attempt)


def _current(run: Run, host: HostRecord, t: int, attempt: int) -> bool:
    return run.state[t] == _HANDED and run.attempt[t] == attempt and run.host[t] == host.index
