"""What no host can ever run ends its run at once, with the reason for each host."""

from __future__ import annotations

from handout.errors import PlacementError
from handout.resources import placement_error
from handout.scheduler.handlers.cancellation import abort
from handout.scheduler.spec import Profile
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World
from handout.scheduler.states import Outcome, State

__all__ = ["check_satisfiable", "needs_host"]


def check_satisfiable(world: World) -> None:
    """End runs with tasks that no host, present or expected, can ever run.

    While capabilities that dropped may come back, only new runs are checked.
    """
    if not world.recheck:
        return
    world.recheck = False
    if world.fleet.expected:
        return
    for run in world.runs.values():
        if run.over or run.aborting or (run.checked and world.now < world.short_until):
            continue
        run.checked = True
        if (error := _impossible(world, run)) is not None:
            abort(world, run, Outcome.FAILED, error)


def needs_host(world: World, name: str) -> PlacementError | None:
    """The error of the first task that nothing but this host could run, or None: it may go.

    A task that is with it now counts, too: it may have to be tried again. Hosts that are only expected to come do not
    count, except where this one is no more than that itself.
    """
    fleet = world.fleet
    if name not in fleet.by_name and fleet.expected.keys() - {name}:
        return None
    hosts = [host for host in fleet.by_name.values() if not host.draining and host.name != name]
    for run in world.runs.values():
        if not run.over and not run.aborting and (error := _unrunnable(world, run, hosts, handed=True)) is not None:
            return error
    return None


def _impossible(world: World, run: Run) -> PlacementError | None:
    """The error of the first task that can be run nowhere. One that is with an agent has found its host."""
    hosts = [host for host in world.fleet.by_name.values() if not host.draining]
    return _unrunnable(world, run, hosts, handed=False)


def _unrunnable(world: World, run: Run, hosts: list[HostRecord], *, handed: bool) -> PlacementError | None:
    """The error of the first task that none of these hosts can run; ``handed``: of those with an agent, too."""
    fleet, profiles = world.fleet, run.spec.profiles
    hopeless = {p for p, profile in enumerate(profiles) if not any(fleet.needs(host, profile) for host in hosts)}
    if hopeless:
        for t in range(run.spec.count):
            if run.spec.profile[t] in hopeless and not run.ended(t) and (handed or run.state[t] != State.HANDED):
                return _placement_error(world, run.name_of(t), profiles[run.spec.profile[t]], hosts)
    for group, together in run.together.items():
        if any(all(fleet.needs(host, profiles[p]) for p in together) for host in hosts):
            continue
        members = [t for t in run.groups[group] if not run.ended(t) and (handed or run.state[t] != State.HANDED)]
        if members:
            names = ", ".join(map(repr, map(run.name_of, run.groups[group][:5])))
            return PlacementError(
                f"the collocated tasks {names} cannot be placed: no host covers all of them.",
                remedy="Lower their costs, add a host that covers them all, or do not collocate them.",
                id=run.name_of(members[0]),
            )
    return None


def _placement_error(world: World, name: str, profile: Profile, hosts: list[HostRecord]) -> PlacementError:
    if profile.host is not None:
        asked = [host for host in hosts if host.name == profile.host]
        if not asked:
            there = ", ".join(repr(host.name) for host in hosts) or "none"
            return PlacementError(
                f"task {name!r} cannot be placed: it is pinned to host {profile.host!r}, which is not there. "
                f"Hosts that are: {there}.",
                remedy="Correct the name, or find out why that host could not be reached.",
                id=name,
                lacks={profile.host: "is not there"},
            )
        hosts = asked
    if profile.python is not None and hosts and not any(host.python == profile.python for host in hosts):
        lacks = {host.name: f"has Python {host.python}" for host in hosts}
        said = "; ".join(f"host {host!r} {text}" for host, text in lacks.items())
        return PlacementError(
            f"task {name!r} cannot be placed: its function travels by value and needs Python {profile.python}; {said}.",
            remedy=f"Move the function into a module, or give the hosts a python= of version {profile.python}.",
            id=name,
            lacks=lacks,
        )
    offers = {host.name: host.offer for host in hosts if profile.python in (None, host.python)}
    return placement_error(name, profile.requirements, offers, world.fleet.shared_amounts)
