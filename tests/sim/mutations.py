"""Mutations: each one breaks the core or the driver in one place, and the simulator must find the defect.

`python -m tests.sim.mutations` prints, for each mutation, which of the first 300 seeds find it. Seeds that fail without
a mutation are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from handout.execution.shell.driver import Driver
from handout.execution.shell.handovers import Handovers
from handout.protocol.resource_ledger import Claim, Ledger
from handout.scheduler import commands as do
from handout.scheduler import core
from handout.scheduler import events as ev
from handout.scheduler.handlers import (
    attempt_reports,
    attempts,
    cancellation,
    custom_allocators,
    membership,
    recovery,
    replicas,
)
from handout.scheduler.state.fleet import Fleet
from handout.scheduler.state.object_table import ObjectTable
from handout.scheduler.state.runs import Run
from handout.scheduler.state.warm_hosts import WarmHosts
from handout.scheduler.task_states import State
from handout.sim import SimulationError, simulate

Mutation = Callable[[pytest.MonkeyPatch], None]
#: All mutations of this module.
ALL: list[Mutation] = []


def _listed(mutation: Mutation) -> Mutation:
    ALL.append(mutation)
    return mutation


def _ignore(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    monkeypatch.setitem(core._HANDLERS, kind, lambda world, event: None)


@_listed
def reports_count_for_any_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core takes a report about any attempt of a task for a report about the present attempt."""

    def is_present(run: Any, host: Any, t: int, attempt: int) -> bool:
        return run.state[t] == State.HANDED and run.host[t] == host.index

    monkeypatch.setattr(attempt_reports, "_is_present", is_present)


@_listed
def results_count_for_any_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core takes the result of any attempt of a task for the result of the present attempt.

    `tasks_finished` is on the hot path and has its own check of attempts, which this mutation bypasses.
    """

    def finished(world: Any, event: ev.TasksFinished) -> None:
        run = world.runs.get(event.run)
        attempts = event.attempts if run is None else [run.attempt[t] for t in event.tasks]
        columns = (event.durations_s, event.sizes, event.held)
        attempt_reports.tasks_finished(world, ev.TasksFinished(event.host, event.run, event.tasks, attempts, *columns))

    monkeypatch.setitem(core._HANDLERS, ev.TasksFinished, finished)


@_listed
def copies_are_not_sought_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core forgets that objects that were being copied from a lost host must be copied from another place."""
    monkeypatch.setattr(recovery, "_copy_elsewhere", lambda world, run, index: None)


@_listed
def a_host_that_is_not_ready_is_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A placement on a host of the inventory that is not ready ends the run, as if the inventory had no such host."""
    real = custom_allocators._impossible

    def impossible(world: Any, run: Any, t: int, id: str, name: str) -> Any:
        host = world.fleet.by_name.get(name)
        if t >= 0 and (host is None or not host.open):
            return custom_allocators._unknown_host(run, id, name)
        return real(world, run, t, id, name)

    monkeypatch.setattr(custom_allocators, "_impossible", impossible)


@_listed
def lost_hosts_are_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core sets no timer for the end of the time for which tasks wait for a lost host."""
    for module in (recovery, membership):
        monkeypatch.setattr(module, "give_up_later", lambda world, host: None)


@_listed
def allocators_do_not_learn_that_a_host_has_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core does not ask the allocators again when a host joins, for which a task may wait."""
    monkeypatch.setattr(membership, "_has_room", lambda world, host: None)


@_listed
def values_that_have_cooled_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    _ignore(monkeypatch, ev.ValueCooled)


@_listed
def lost_hosts_keep_their_warm_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WarmHosts, "remove_host", lambda values, index: None)


@_listed
def failed_copies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    _ignore(monkeypatch, ev.CopyFailed)


@_listed
def a_lost_replica_of_the_controller_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """If an output is lost at the controller, the run ends without it, or never."""
    real = ObjectTable.remove_replica

    def remove_replica(table: ObjectTable, o: int, index: int) -> tuple[int, ...]:
        awaited = table.awaited
        left = real(table, o, index)
        table.awaited = awaited
        return left

    monkeypatch.setattr(ObjectTable, "remove_replica", remove_replica)


@_listed
def an_open_run_ends_with_its_last_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core announces the end of an open run, although more tasks may be added to it."""

    def end_runs(world: Any) -> None:
        for run in list(world.ending):
            if run.spec.is_open and not (run.over or run.unended or run.objects.awaited):
                world.out.add(do.AnnounceRunEnded(run.number, run.end(), None))
        cancellation.end_runs(world)

    monkeypatch.setattr(core, "end_runs", end_runs)


@_listed
def results_that_arrive_are_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core does not announce the end of an open run's task when its result arrives at the controller."""
    real = replicas.add_replica

    def add_replica(world: Any, run: Any, o: int, index: int, size: int = -1) -> None:
        before = bytes(run.reported)
        real(world, run, o, index, size)
        if run.spec.is_open and bytes(run.reported) != before:
            world.out._ended.pop(run.number, None)

    monkeypatch.setattr(recovery, "add_replica", add_replica)


@_listed
def borrowed_objects_are_given_back_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of an open run gives back what it has borrowed only when the run is closed, after many other tasks."""
    monkeypatch.setattr(Run, "give_back_inputs", lambda run, t: None)


@_listed
def borrowers_do_not_learn_where_an_object_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that borrow an object do not learn that a host with it was lost."""
    monkeypatch.setattr(recovery, "mirror", lambda world, run, o: [])


@_listed
def the_values_of_calls_stay_on_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values that a task of an open run has taken are dropped on hosts only when the run is closed."""
    real = replicas.drop_unused

    def drop_unused(world: Any, run: Any, o: int) -> None:
        if not run.spec.is_open or run.spec.producer[o] >= 0:
            real(world, run, o)

    monkeypatch.setattr(replicas, "drop_unused", drop_unused)


@_listed
def returns_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    _ignore(monkeypatch, ev.TasksRecalled)


@_listed
def committed_results_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    _ignore(monkeypatch, ev.ResultsCommitted)


@_listed
def unknown_attempts_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    _ignore(monkeypatch, ev.AttemptsUnknown)


@_listed
def found_attempts_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    _ignore(monkeypatch, ev.AttemptsFound)


@_listed
def attempts_that_were_given_up_give_back_what_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core frees the shared amounts of an attempt that it gave up, although the attempt may still run."""
    real = attempts.end_attempt

    def end_attempt(world: Any, run: Any, t: int, *, linger: bool = False) -> Any:
        host = real(world, run, t, linger=linger)
        if linger and host is not None:
            token = (run.number, t, run.attempt[t])
            left = host.lingering[token]
            attempts._release_shared(world, left.shared)
            host.lingering[token] = left._replace(shared=None)
        return host

    monkeypatch.setattr(attempts, "end_attempt", end_attempt)


@_listed
def shared_amounts_are_granted_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Fleet.set_shared

    def set_shared(fleet: Fleet, amounts: Any) -> None:
        real(fleet, amounts)
        fleet.shared = _Endless(amounts)

    monkeypatch.setattr(Fleet, "set_shared", set_shared)


class _Endless(Ledger):
    """A ledger that grants every claim."""

    def fits(self, need: Any) -> bool:
        return True

    def claim(self, need: Any) -> Claim:
        for name, parts in need.items():
            self._free[name] -= parts
        self.claims += 1
        return Claim(need)


@_listed
def events_of_a_command_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver loses events that occur while it performs a command, such as a failed copy from a lost host."""
    real = Driver.turn

    def turn(driver: Driver, events: Sequence[ev.Event]) -> None:
        real(driver, events)
        driver._inbox.clear()

    monkeypatch.setattr(Driver, "turn", turn)


@_listed
def starts_are_performed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver hands over the tasks of each command twice."""
    real = Handovers.start

    def start(handovers: Handovers, command: do.StartTasks) -> None:
        real(handovers, command)
        real(handovers, command)

    monkeypatch.setattr(Handovers, "start", start)


@_listed
def the_timer_is_not_armed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver arms its timer only for the first deadline of the core."""
    real = Driver._arm

    def arm(driver: Driver) -> None:
        if driver._timer is None:
            real(driver)

    monkeypatch.setattr(Driver, "_arm", arm)


def _is_broken(seed: int) -> bool:
    try:
        simulate(seed)
    except SimulationError:
        return True
    return False


def main() -> None:
    logging.getLogger("handout").setLevel(logging.CRITICAL)
    sound = [seed for seed in range(300) if not _is_broken(seed)]
    for mutation in ALL:
        with pytest.MonkeyPatch.context() as monkeypatch:
            mutation(monkeypatch)
            print(mutation.__name__, [seed for seed in sound if _is_broken(seed)], flush=True)


if __name__ == "__main__":
    main()
