"""End a run at once if no host can ever run one of its tasks. The run's error has the reason for each host.

Of a lasting run, only the tasks end that no host can ever run; see `Run.is_lasting`.
"""

from __future__ import annotations

from collections.abc import Iterator

from handout.errors import PlacementError
from handout.resources import placement_error
from handout.scheduler.handlers.cancellation import abort, fail
from handout.scheduler.run_spec import Profile
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World
from handout.scheduler.task_states import Outcome, State

__all__ = ["depends_on_host", "end_infeasible_runs"]

#: An error tells why each of at most this many hosts is not there. Its ``lacks`` has all of them.
_TOLD = 8
#: What the user can do about hosts that are not there.
_MEND = "Mend what keeps the host away: Cluster.unavailable has each error. Or add a host that can be reached."


def end_infeasible_runs(world: World) -> None:
    """End the runs that have a task which no connected host can ever run. Hosts that are being drained do not count.

    No run is checked while some host is still expected to join. While the lost capabilities of a host may come back,
    only runs that have never been checked are checked.
    """
    if not world.recheck:
        return
    world.recheck = False
    if world.fleet.expected:
        return
    hosts = [host for host in world.fleet.by_name.values() if not host.draining]
    for run in world.runs.values():
        if run.over or run.aborting or (run.checked and world.now < world.shortage_until):
            continue
        if run.number in world.jobs:
            world.recheck = True  # some of its tasks are about to end
            continue
        run.mark_checked()
        # Tasks that are handed over now do not count, because they have a host already.
        for t, error in _infeasible(world, run, hosts, handed=False):
            if not run.is_lasting:
                abort(world, run, Outcome.FAILED, error)
                break
            fail(world, run, t, error)


def depends_on_host(world: World, name: str) -> PlacementError | None:
    """Return the error of the first task that no other host could run, or None if the host may be drained.

    Tasks that are handed over count, too, because they may have to run again. If the host is connected, only other
    connected hosts count. If the host itself is still expected to join, it may be drained in any case if another host
    is expected, too.
    """
    fleet = world.fleet
    if name not in fleet.by_name and fleet.expected.keys() - {name}:
        return None
    hosts = [host for host in fleet.by_name.values() if not host.draining and host.name != name]
    for run in world.runs.values():
        if run.over or run.aborting:
            continue
        for _, error in _infeasible(world, run, hosts, handed=True):
            return error
    return None


def _infeasible(
    world: World, run: Run, hosts: list[HostRecord], *, handed: bool
) -> Iterator[tuple[int, PlacementError]]:
    """Yield each task that none of these hosts can ever run, and its error. Of a group, yield only one task.

    If ``handed`` is True, tasks that are handed over now count, too.
    """
    feasible, profiles = world.fleet.feasible, run.spec.profiles

    def counts(t: int) -> bool:
        return not run.ended(t) and (handed or run.state[t] != State.HANDED)

    hopeless = {p for p, profile in enumerate(profiles) if not any(feasible(host, profile) for host in hosts)}
    if hopeless:
        for t in range(run.task_count):
            if run.spec.profile[t] in hopeless and counts(t):
                yield t, _placement_error(world, run.name_of(t), profiles[run.spec.profile[t]], hosts)
    for group, members in run.group_profiles.items():
        if any(all(feasible(host, profiles[p]) for p in members) for host in hosts):
            continue
        first = next((t for t in run.groups[group] if counts(t)), None)
        if first is not None:
            names = ", ".join(map(repr, map(run.name_of, run.groups[group][:5])))
            error = PlacementError(
                f"the collocated tasks {names} cannot be placed: no host covers all of them.",
                remedy="Lower the costs of these tasks, add a host that covers all of them, or do not collocate them.",
                id=run.name_of(first),
            )
            yield first, error


def _pinned_elsewhere(world: World, name: str, pin: str, hosts: list[HostRecord]) -> PlacementError:
    """Return the error for a task whose pin names none of these hosts."""
    problem = f"task {name!r} cannot be placed: it is pinned to host {pin!r}"
    if pin in world.fleet.by_name:  # the hosts are those that are not drained
        return PlacementError(
            f"{problem}, which is being drained.",
            remedy="Wait until drain() of that host has returned, and add the host again with Cluster.add(). Or leave "
            "out host=.",
            id=name,
            lacks={pin: "is being drained"},
        )
    if pin in world.fleet.absent:
        story = world.fleet.absent[pin].story(world.now)
        return PlacementError(f"{problem}, which is not there: it {story}.", remedy=_MEND, id=name, lacks={pin: story})
    connected = ", ".join(repr(host.name) for host in hosts) or "none"
    return PlacementError(
        f"{problem}, which is not a host of the inventory. Connected hosts: {connected}.",
        remedy="Correct the name, or add the host to the inventory.",
        id=name,
        lacks={pin: "is not in the inventory"},
    )


def _none_there(world: World, name: str) -> PlacementError:
    """Return the error for a task of a run that no host can get, although the inventory has hosts."""
    lacks = {host.name: "is being drained" for host in world.fleet.by_name.values()}
    lacks |= {host.name: host.story(world.now) for host in world.fleet.absent.values()}
    told = "; ".join(f"host {host!r} {why}" for host, why in list(lacks.items())[:_TOLD])
    more = f"; and {len(lacks) - _TOLD} more" if len(lacks) > _TOLD else ""
    return PlacementError(
        f"task {name!r} cannot be placed, because no host of the inventory is ready: {told}{more}.",
        remedy=_MEND,
        id=name,
        lacks=lacks,
    )


def _placement_error(world: World, name: str, profile: Profile, hosts: list[HostRecord]) -> PlacementError:
    if profile.host is not None:
        pinned = [host for host in hosts if host.name == profile.host]
        if not pinned:
            return _pinned_elsewhere(world, name, profile.host, hosts)
        hosts = pinned
    if not hosts and world.fleet.absent:
        return _none_there(world, name)
    if profile.python is not None and hosts and not any(host.python == profile.python for host in hosts):
        lacks = {host.name: f"has Python {host.python}" for host in hosts}
        clauses = "; ".join(f"host {host!r} {text}" for host, text in lacks.items())
        return PlacementError(
            f"task {name!r} cannot be placed: its function is sent by value and needs Python {profile.python}; "
            f"{clauses}.",
            remedy=f"Move the function into a module, or give the hosts a python= of version {profile.python}.",
            id=name,
            lacks=lacks,
        )
    offers = {host.name: host.offer for host in hosts if profile.python in (None, host.python)}
    return placement_error(name, profile.requirements, offers, world.fleet.shared_amounts, profile.host)
