"""The hosts that the core knows, the amounts that they share, and which hosts are able to run a task.

The core makes the decisions of the controller. The shell is the part of the controller around the core, and contains
the driver. The shell connects to hosts, and reports to the core what happens to them. All tasks of one profile have the
same requirements; see `Profile`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from handout.protocol.resource_ledger import Ledger
from handout.resources import PARTS, explain_lacks
from handout.resources.feasibility import feasible_variants
from handout.resources.names import MAX_CONCURRENCY
from handout.resources.offer import Offer
from handout.resources.requirement import Requirement
from handout.scheduler.run_spec import CONTROLLER, Profile
from handout.scheduler.state.absent_hosts import NOT_DECLARED, AbsentHost, DeclaredHost
from handout.scheduler.state.hosts import Demand, HostRecord

__all__ = ["Fleet"]


class Fleet:
    """The connected hosts, the hosts of the inventory without an agent, and the amounts that all hosts share."""

    __slots__ = (
        "_by_index",
        "_declared",
        "_demands",
        "absent",
        "by_name",
        "leaving",
        "names",
        "shared",
        "shared_amounts",
        "version",
    )

    def __init__(self) -> None:
        #: Names of all hosts, including lost hosts, by index. Index 0 is the controller.
        self.names: list[str] = [CONTROLLER]
        self._by_index: dict[int, HostRecord] = {}
        self.by_name: dict[str, HostRecord] = {}
        self._demands: dict[Profile, tuple[Demand, ...]] = {}
        #: What the inventory says about its hosts, by name.
        self._declared: dict[str, DeclaredHost] = {}
        #: The hosts of the inventory that have no agent which the core can use, by name.
        self.absent: dict[str, AbsentHost] = {}
        #: Names of the hosts that the caller drained before they joined. If such a host joins, it gets no work.
        self.leaving: set[str] = set()
        #: The amounts that all hosts share, by name, in parts (1/10,000 of a unit).
        self.shared_amounts: dict[str, int] = {}
        #: The ledger of the shared amounts, with the claims of tasks on these amounts.
        self.shared = Ledger({}, ())
        #: This number grows whenever the answer to "Which hosts may get this task?" may have changed.
        self.version = 0

    # -- members

    @property
    def expected(self) -> dict[str, str]:
        """The hosts that have not joined yet and for which tasks wait that no other host can run.

        Key: the host's name. Value: why the shell does not connect to the host yet, or "" if the shell is connecting.
        """
        return {name: host.delay for name, host in self.absent.items() if host.expected}

    def expect(self, name: str, declared: DeclaredHost, now: float) -> None:
        """Note that a host of the inventory is expected to join, so that tasks wait for it."""
        self._declared[name] = declared
        if name in self.by_name:
            return
        host = self.absent.get(name)
        if host is None or host.state == "draining":
            host = self.absent[name] = AbsentHost(name, declared, "starting", now)
        host.declared, host.expected = declared, True

    def give_up(self, name: str, now: float, reason: str, *, final: bool) -> AbsentHost | None:
        """Note that tasks which no other host can run no longer wait for a host. The host may still join later.

        Return the host, or None if no such host is absent.
        """
        host = self.absent.get(name)
        if host is not None:
            host.expected = False
            host.lose(now, reason, final=final)
        return host

    def forget_host(self, name: str) -> None:
        """Forget a host that is not in the inventory any more. It has no agent."""
        self._declared.pop(name, None)
        self.absent.pop(name, None)

    def is_known(self, name: str) -> bool:
        """Return True if a host is in the inventory."""
        return name in self.by_name or name in self.absent

    def is_given_up(self, name: str, now: float) -> bool:
        """Return True if a task that a custom allocator places on a host of the inventory must not wait for it."""
        host = self.by_name.get(name)
        return not self.absent[name].is_awaited(now) if host is None else host.draining

    def awaits_some(self, now: float) -> bool:
        """Return True if some task may wait for a host that has not joined."""
        return any(host.expected or host.is_awaited(now) for host in self.absent.values())

    def leave(self, name: str) -> None:
        """Note that a host was drained before it joined. If it joins, it gets no work."""
        self.leaving.add(name)

    def leave_no_more(self, name: str) -> None:
        """Undo `leave`: if the host joins, it gets work."""
        self.leaving.discard(name)

    def join(self, name: str, offer: Offer, python: str, rtt_s: float, epoch: int, price: float) -> HostRecord:
        """Add a host whose agent is ready, and return its record."""
        host = HostRecord(name, len(self.names), offer, python, rtt_s, epoch, price)
        self.names.append(name)
        self._by_index[host.index] = host
        self.by_name[name] = host
        self.absent.pop(name, None)
        if name in self.leaving:
            host.drain()
            host.mark_released()
        self.note_change()
        return host

    def remove(self, host: HostRecord, now: float, reason: str) -> AbsentHost:
        """Forget the record of a lost host. Its index is never used again. Return the host as it is from now on."""
        host.mark_lost()
        del self._by_index[host.index]
        del self.by_name[host.name]
        declared = self._declared.get(host.name, NOT_DECLARED)
        since_s = now if host.abandoned_s is None else host.abandoned_s
        until_s = since_s + declared.patience_s
        lost = AbsentHost(host.name, declared, "lost", since_s, reason, has_joined=True, until_s=until_s)
        self.absent[host.name] = lost
        self.note_change()
        return lost

    def at(self, index: int) -> HostRecord | None:
        """Return the host with this index, or None if that host was lost."""
        return self._by_index.get(index)

    def note_change(self) -> None:
        """Note that some task may now be able to go to other hosts than before."""
        self.version += 1

    def set_shared(self, amounts: Mapping[str, int]) -> None:
        """Set the amounts that all hosts share, by name, in parts (1/10,000 of a unit)."""
        self.shared_amounts = dict(amounts)
        self.shared.resize(amounts, ())
        self._demands.clear()
        for host in self.by_name.values():
            host.feasible.clear()
        self.note_change()

    # -- which hosts are able to run a task

    def demands(self, profile: Profile) -> tuple[Demand, ...]:
        """Return all variants of a profile's cost, in order of preference."""
        demands = self._demands.get(profile)
        if demands is None:
            demands = self._demands[profile] = tuple(self._demand(*each) for each in enumerate(profile.requirements))
        return demands

    def _demand(self, variant: int, requirement: Requirement) -> Demand:
        host, shared = requirement.needs(self.shared_amounts)
        if MAX_CONCURRENCY in self.shared_amounts:
            shared = {**shared, MAX_CONCURRENCY: PARTS}
        return Demand(variant, host, shared)

    def feasible(self, host: HostRecord, profile: Profile) -> tuple[Demand, ...]:
        """Return the variants of a profile's cost that a host can cover when it is idle, in order of preference.

        The result is empty if the host, with its present offer, can never run tasks of the profile.
        """
        feasible = host.feasible.get(profile)
        if feasible is None:
            feasible = host.feasible[profile] = self._feasible(host, profile)
        return feasible

    def _feasible(self, host: HostRecord, profile: Profile) -> tuple[Demand, ...]:
        if profile.host not in (None, host.name) or profile.python not in (None, host.python):
            return ()
        demands = self.demands(profile)
        return tuple(
            demands[variant] for variant in feasible_variants(profile.requirements, host.offer, self.shared_amounts)
        )

    def why_infeasible(self, host: HostRecord, profile: Profile) -> str:
        """Return why a host can never run tasks of a profile, as a clause, or "" if the host can run them."""
        if profile.host not in (None, host.name):
            return f"the task is pinned to {profile.host!r}"
        if profile.python not in (None, host.python):
            return f"has Python {host.python}, but the task needs Python {profile.python}"
        return explain_lacks(profile.requirements, {host.name: host.offer}, self.shared_amounts).get(host.name, "")

    def forget(self, profiles: Iterable[Profile]) -> None:
        """Forget the profiles of a closed run."""
        for profile in profiles:
            self._demands.pop(profile, None)
            for host in self.by_name.values():
                host.forget(profile)
