"""Checks the rules that must hold after every turn of the driver and at the end of a simulation.

In a turn, the driver gives events to the core, and performs the commands that the core returns. A controller that dies
and is started again begins a new life. `docs/howto/simulator.md` explains the rules:

- R1: Each task ends once, with one outcome. The core drops stale reports, which come too late, and counts them.
- R2: Each run and task that has not ended has a deadline, or waits for something that will happen.
- R4: The ledgers add up. The core grants no more than there is. At the end nothing is claimed.
- R7: A task whose results are in the journal does not run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from handout.errors import AllocatorError, InternalError
from handout.protocol import numbering
from handout.protocol.resource_ledger import Ledger
from handout.resources import PARTS
from handout.resources.names import MAX_CONCURRENCY
from handout.scheduler import Outcome, State, invariants
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import Run
from handout.scheduler.state.timers import Wake
from handout.scheduler.state.world import World
from handout.sim.allocators import SimulatedAllocator
from handout.sim.controller import Controller
from handout.sim.host import HandedTask, SimulatedHost

__all__ = ["at_the_end", "began", "performing", "watch_turn"]

#: The names of the amounts that the scenario's hosts share.
_SHARED = frozenset({"seat"})


def _require(holds: bool, rule: str, problem: str) -> None:
    if not holds:
        raise InternalError(f"{rule}: {problem}")


@dataclass(frozen=True, slots=True)
class _Before:
    """Facts that are noted before a turn, for the checks after the turn."""

    #: How many stale reports the core had counted.
    stale: int
    #: How many attempts in the turn's events are reported too late, so that the core must count them as stale.
    late: int
    #: Tasks whose live attempt has finished according to the turn's events, as (run, task).
    finished: frozenset[tuple[int, int]]
    #: The ledgers in which more may be claimed than there is, because their totals may have shrunk. Each ledger is
    #: paired with its claimed amounts.
    used: Sequence[tuple[Ledger, Mapping[str, int]]]

    @classmethod
    def of(cls, controller: Controller, events: Sequence[ev.Event]) -> _Before:
        """Note the facts before the core handles the events."""
        core = controller.core
        late = 0
        finished: set[tuple[int, int]] = set()
        for event in events:
            if isinstance(event, ev.ResultsCommitted):
                controller.committed.update((event.run, t) for t in event.tasks)
            elif isinstance(event, ev.TasksFinished | ev.TasksStarted | ev.TasksRecalled | ev.TaskFailed):
                host = core.world.fleet.by_name.get(event.host)
                for token in _tokens(event):
                    if core.is_live(event.run, token[1], event.host, token[2]):
                        if isinstance(event, ev.TasksFinished):
                            finished.add(token[:2])
                            controller.finished.add(token[:2])
                    elif host is None or token not in host.lingering:
                        late += 1
        fleet = core.world.fleet
        ledgers = (fleet.shared, *(host.ledger for host in fleet.by_name.values() if host.shrunk))
        return cls(core.stale, late, frozenset(finished), [(ledger, ledger.used) for ledger in ledgers])


def _tokens(event: ev.TasksFinished | ev.TasksStarted | ev.TasksRecalled | ev.TaskFailed) -> list[tuple[int, int, int]]:
    """Return the attempts that an event is about, each as (run, task, attempt)."""
    if isinstance(event, ev.TaskFailed):
        return [(event.run, event.task, event.attempt)]
    return [(event.run, t, attempt) for t, attempt in zip(event.tasks, event.attempts, strict=True)]


def watch_turn(controller: Controller, events: Sequence[ev.Event]) -> Callable[[Sequence[cmd.Command]], None]:
    """Note the facts before a turn of the driver, and return a function that checks the rules after the turn."""
    before = _Before.of(controller, events)
    return lambda commands: _after_turn(controller, before, commands)


def _after_turn(controller: Controller, before: _Before, commands: Sequence[cmd.Command]) -> None:
    """Check the rules that hold after any turn.

    Raises:
        InternalError: A rule is broken. The message names it.
    """
    core = controller.core
    invariants.check(core.world)
    _require(
        core.stale - before.stale >= before.late,
        "R1",
        f"{before.late} reports were stale, but the core counted only {core.stale - before.stale} of them",
    )
    for command in commands:
        if isinstance(command, cmd.AnnounceTasksEnded):
            for t, outcome in zip(command.tasks, command.outcomes, strict=True):
                if outcome is Outcome.DONE:
                    finished = controller.finished if command.run in controller.callers else before.finished
                    told = (command.run, t) in finished or (command.run, t) in controller.committed
                    _require(told, "R1", f"task {t} of run {command.run} is done, but no agent reported that")
    stuck = invariants.stuck(core.world)
    _require(not stuck, "R2", f"nothing can bring runs {stuck} to an end")
    for problem in _uncaused(controller):
        raise InternalError(f"R2: {problem}")
    for ledger, used in before.used:
        _grants_no_more(ledger, used)


def performing(controller: Controller, command: cmd.Command) -> None:
    """Check a command that the driver is about to perform.

    Raises:
        InternalError: A rule is broken. The message names it.
    """
    if isinstance(command, cmd.StartTasks):
        for t in command.tasks if controller.spared else ():
            key = (command.run, t)
            _require(
                key not in controller.spared,
                "R7",
                f"the results of (run, task) {key} were committed, but the task is handed over",
            )
    elif isinstance(command, cmd.AnnounceTasksEnded):
        run = controller.driver.runs.get(command.run)
        for t in command.tasks:
            _require(run is None or run.outcomes[t] is None, "R1", f"task {t} of run {command.run} ended twice")
            _require(command.run not in controller.outcomes, "R1", f"task {t} of run {command.run} ended after its run")
    elif isinstance(command, cmd.AnnounceRunEnded):
        _run_ends_once(controller, command)


def _run_ends_once(controller: Controller, command: cmd.AnnounceRunEnded) -> None:
    number = command.run
    _require(number not in controller.outcomes, "R1", f"run {number} ended twice")
    run = controller.driver.runs.get(number)
    if run is None:
        return  # the run's caller has closed the run
    for t, outcome in enumerate(run.outcomes):
        _require(outcome is not None, "R1", f"run {number} is over, but task {t} has not ended")
    allocator = run.policy.allocator
    if isinstance(allocator, SimulatedAllocator) and isinstance(command.error, AllocatorError):
        _require(not allocator.manner.is_faultless, "R2", f"run {number} was ended by a good answer: {command.error}")
        _waited_long_enough(controller, command.error)
    if command.outcome is Outcome.DONE:
        for o in run.spec.outputs:
            _require(o in run.objects, "R1", f"run {number} is done, but object {o}, an output, has not arrived")


def _waited_long_enough(controller: Controller, error: AllocatorError) -> None:
    """Check that no task could wait any longer for the hosts that an allocator named and that were not ready."""
    fleet, now = controller.core.world.fleet, controller.core.world.now
    for name in error.lacks:
        host = fleet.absent.get(name)
        _require(host is None or not host.is_awaited(now), "R2", f"a run ended, although host {name!r} was awaited")


def began(controller: Controller, host: SimulatedHost, task: HandedTask, times: int) -> None:
    """Check that no rule forbids the start of a task.

    Args:
        controller: The controller in its present life.
        host: The agent that starts the task.
        task: The task.
        times: Number of starts of the task, this start included. When a new controller starts, the count begins anew,
            unless the journal has a result of the task, or a start of the task without an end.
    """
    key = (task.plan.number, task.task)
    if task.plan.is_once(task.task) and times > 1:
        raise InternalError(f"R1: the task (run, task) {key} must not run twice, but starts again on {host.name!r}")
    if task.life != controller.life:
        return  # an earlier life handed the task over, so the present life has broken no rule
    _require(
        key not in controller.spared,
        "R7",
        f"the results of (run, task) {key} were committed, but the task runs again on {host.name!r}",
    )
    if controller.alive:
        _shares_what_is_granted(controller)


# ---- R2: what waits has a deadline, or waits for something that will happen --------------------------------------


def _uncaused(controller: Controller) -> Iterator[str]:
    """Yield a problem for each run, task or host that waits without a deadline for something that may never happen."""
    world = controller.core.world
    for run in world.runs.values():
        if run.over:
            continue
        if run.aborting and not _has_timer(world, Wake.ABORT, run.number):
            yield f"run {run.number} is being aborted without a deadline"
        if run.requests.number >= 0 and not _has_timer(world, Wake.ANSWER_DUE, run.number):
            yield f"the allocator of run {run.number} was asked without a deadline"
        for t in range(run.task_count):
            state = run.state[t]
            if state == State.BACKOFF and not _has_timer(world, Wake.BACKOFF, run.number, t):
                yield f"task {t} of run {run.number} pauses without a deadline"
            elif state == State.READY and (problem := _idle(world, run, t)):
                yield f"task {t} of run {run.number} is ready and waits, although {problem}"
    for record in world.fleet.by_name.values():
        paused = any(pause.until > world.now for pause in record.pauses.values())
        if paused and not (record in world.pausing and _has_timer(world, Wake.PAUSE, -1, record.index)):
            yield f"the tasks of a function avoid host {record.name!r}, and this has no deadline"
    for absent in world.fleet.absent.values():
        limited = absent.expected or absent.until_s <= world.now
        if not limited and not _has_timer(world, Wake.GIVE_UP, -1):
            yield f"tasks may wait for host {absent.name!r} without a deadline"
    for host in controller.hosts.values() if controller.settled else ():
        if host.quiet and host.alive and not host.lapsed:
            yield from _forgotten(controller, host)


def _has_timer(world: World, wake: Wake, run: int, number: int | None = None) -> bool:
    return any(t.wake is wake and t.run == run and number in (None, t.number) for t in world.timers.pending())


def _idle(world: World, run: Run, t: int) -> str:
    """Return a text that names a host on which a ready task could start at once, or ``""`` if there is no such host."""
    spec = run.spec
    if (
        not world.may_place(run)
        or spec.allocator is None
        or (spec.max_concurrency is not None and run.active >= spec.max_concurrency)
    ):
        return ""
    if world.reservations or world.shared_reservation is not None:
        return ""
    profile = spec.profiles[spec.profile[t]]
    key = run.queue_of(t).key
    hosts = [host for host in world.fleet.by_name.values() if host.open and not (key.pin and key.pin != host.index)]
    roles = [spec.profiles[p] for p in (key.profile, *key.group_profiles)]
    able = [host for host in hosts if all(world.fleet.feasible(host, role) for role in roles)]
    able = [host for host in able if not any(host.is_paused(role, world.now) for role in roles)] or able
    able = [host for host in able if host.index not in key.unfit] or able
    for host in [host for host in able if host.index not in key.avoid] or able:
        if not host.ahead and any(
            _fits(world, host, demand.host, demand.shared) for demand in world.fleet.feasible(host, profile)
        ):
            return f"host {host.name!r} has room for it"
    return ""


def _fits(world: World, host: HostRecord, need: Mapping[str, int], shared: Mapping[str, int]) -> bool:
    return host.ledger.fits(need) and world.fleet.shared.fits(shared)


def _forgotten(controller: Controller, host: SimulatedHost) -> Iterator[str]:
    """Yield a problem for each task or object for which the core or a host waits in vain.

    The caller must make sure that no message is on its way between the host and the controller.
    """
    world = controller.core.world
    record = world.fleet.by_name.get(host.name)
    if record is None or record.epoch != host.epoch:
        return
    here = {*host.queue, *host.running}
    for value in {value for run in world.runs.values() for value in run.spec.warm.values()}:
        if record.index in world.warm.of(value) and value not in host.warm:
            yield f"the core takes {host.name!r} for a host that has warm value {value}, which it does not have"
    for run in world.runs.values():
        for t in range(run.task_count):
            if run.state[t] == State.HANDED and run.host[t] == record.index:
                attempt = run.attempt[t]
                known = numbering.attempt_id(run.number, t, attempt) in here
                if not known and not controller.is_held(run.number, t, attempt):
                    yield f"task {t} of run {run.number} was handed to {host.name!r}, whose agent does not have it"
        for t, second in run.second_attempts.items():
            if second.host == record.index and numbering.attempt_id(run.number, t, second.attempt) not in here:
                yield f"task {t} of run {run.number} has a second attempt that the agent of {host.name!r} does not have"
    for token in record.lingering:
        if numbering.attempt_id(*token) not in here:
            yield f"the core waits for the end of (run, task, attempt) {token} on {host.name!r}, whose agent lacks it"
    coming = set(host.incoming.values())
    asked = {key for agent in controller.driver.agents.values() for key in agent.fetches.waiting}
    for run in world.runs.values():
        for o, index in run.objects.copying:
            key = numbering.base(run.number) | o
            if index == record.index and key not in coming and key not in asked and key not in host.refused:
                yield f"object {o} of run {run.number} should be copied to {host.name!r}, but is not on its way"
    made = {key for ticket in here for key in (host.queue.get(ticket) or host.running[ticket]).made}
    for task in host.queue.values():
        for key in task.inputs:
            number, o = numbering.key_parts(key)
            flying = world.runs.get(number)
            under_way = flying is not None and (o, record.index) in flying.objects.copying
            if key not in host.store and key not in coming and key not in made and not under_way:
                yield f"{task} waits on {host.name!r} for object {o}, which is not on its way"


# ---- R4: no more is granted than there is, and nothing is left at the end ----------------------------------------


def _grants_no_more(ledger: Ledger, before: Mapping[str, int]) -> None:
    """If more of an amount is claimed than there is, check that the core granted no more of it in this turn."""
    if min(ledger.free.values(), default=0) < 0:
        for name, parts in ledger.used.items():
            if ledger.free[name] < 0 and parts > before.get(name, 0):
                raise InternalError(f"R4: {parts} parts of {name!r} are granted, but {ledger.total.get(name, 0)} exist")


def _shares_what_is_granted(controller: Controller) -> None:
    """Check that running tasks take no more of a shared amount than the core has claimed.

    No agent can check this, because an agent does not know the tasks of other agents.
    """
    taken: Counter[str] = Counter()
    for host in controller.hosts.values():
        for task in host.running.values():
            run = controller.driver.runs.get(task.plan.number)
            if task.life == controller.life and run is not None:
                requirement = run.spec.profiles[run.spec.profile[task.task]].requirements[task.variant]
                taken.update(requirement.needs(_SHARED)[1])
                if MAX_CONCURRENCY in controller.core.world.fleet.shared_amounts:
                    taken[MAX_CONCURRENCY] += PARTS
    granted = controller.core.world.fleet.shared.used
    for name, parts in taken.items():
        _require(
            parts <= granted.get(name, 0), "R4", f"tasks use {parts} parts of {name!r}, but only {granted} is granted"
        )


def at_the_end(controller: Controller, agents: Sequence[SimulatedHost]) -> None:
    """Check that nothing is left after all runs were closed and all events were handled.

    Raises:
        InternalError: A run, task, claim or object is left. The message names it.
    """
    for problem in (*_left_here(controller), *_left_there(agents)):
        raise InternalError(f"R4: {problem}")


def _left_here(controller: Controller) -> Iterator[str]:
    world = controller.core.world
    if world.runs or world.reservations or world.shared_reservation is not None:
        yield (
            f"the core still has runs {list(world.runs)}, reservations of hosts {world.reservations}, or a reservation "
            f"of the shared amounts for {world.shared_reservation}"
        )
    if world.fleet.shared.used:
        yield f"of the shared amounts, {world.fleet.shared.used} is still claimed"
    if controller.driver.runs:
        yield f"the driver still has runs {list(controller.driver.runs)}"
    for host in world.fleet.by_name.values():
        if host.handed or host.ahead_n or host.ahead_s or host.ledger.used or host.ledger.claims or host.lingering:
            yield f"{host!r} still has claims {host.ledger.used} and lingering attempts {list(host.lingering)}"
    if controller.core.next_deadline is not None:
        yield f"the core still has a deadline at {controller.core.next_deadline}"


def _left_there(agents: Sequence[SimulatedHost]) -> Iterator[str]:
    for host in agents:
        if host.running or host.ledger.claims:
            yield f"{list(map(str, host.running.values()))} still run on host {host.name!r}, agent {host.epoch}"
        if (
            host.alive
            and host.line.open
            and not host.lapsed
            and (host.queue or host.store - host.inherited or host.incoming)
        ):
            objects = host.store - host.inherited or host.incoming
            yield f"attempts {list(map(str, host.queue.values()))} and objects {objects} are left on {host.name!r}"
