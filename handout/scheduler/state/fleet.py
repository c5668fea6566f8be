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
from handout.scheduler.state.hosts import Demand, HostRecord

__all__ = ["Fleet"]


class Fleet:
    """The connected hosts, the expected hosts, and the amounts that all hosts of the inventory share."""

    __slots__ = (
        "_by_index",
        "_demands",
        "by_name",
        "expected",
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
        #: The expected hosts: they have not joined yet, and tasks wait for them. Key: the host's name. Value: why the
        #: shell does not connect to the host yet, or "" if the shell is connecting.
        self.expected: dict[str, str] = {}
        #: Names of the hosts that the caller drained before they joined. If such a host joins, it gets no work.
        self.leaving: set[str] = set()
        #: The amounts that all hosts share, by name, in parts (1/10,000 of a unit).
        self.shared_amounts: dict[str, int] = {}
        #: The ledger of the shared amounts, with the claims of tasks on these amounts.
        self.shared = Ledger({}, ())
        #: This number grows whenever the answer to "Which hosts may get this task?" may have changed.
        self.version = 0

    # -- members

    def expect(self, name: str, reason: str = "") -> None:
        """Note that a host is expected to join, so that tasks wait for it.

        Args:
            name: The host's name.
            reason: Why the shell does not connect to the host yet, or "" if the shell is connecting.
        """
        self.expected[name] = reason

    def expect_no_more(self, name: str) -> None:
        """Note that tasks no longer wait for a host to join. The host may have joined, or may still join later."""
        self.expected.pop(name, None)

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
        self.expect_no_more(name)
        if name in self.leaving:
            host.drain()
            host.mark_released()
        self.note_change()
        return host

    def remove(self, host: HostRecord) -> None:
        """Forget a lost host. Its index is never used again."""
        host.mark_lost()
        del self._by_index[host.index]
        del self.by_name[host.name]
        self.note_change()

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
