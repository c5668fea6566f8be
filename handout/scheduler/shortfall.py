"""Says which amounts a host has too little of for a ready task at the moment, and which tasks hold these amounts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from handout.protocol.resource_ledger import Claim, Ledger
from handout.resources import PARTS, Requirement, format_amount
from handout.resources.names import DEVICE_NAMES, SIZES
from handout.scheduler.state.hosts import Demand, HostRecord
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World

__all__ = ["Holder", "holders", "lacking", "shortfall", "shortfall_of_shared"]

#: A text names at most this many of the tasks that hold an amount.
_NAMED = 3


class Holder(NamedTuple):
    """One attempt that has claims, on its host and on the amounts that all hosts share."""

    name: str
    host: int
    claim: Claim | None
    shared: Claim | None
    #: In how many seconds the attempt is expected to end, or None if that is not known.
    left_s: float | None = None

    def says(self, amount: str) -> str:
        """Return the name of the attempt, how much it holds, and for how much longer."""
        left = "" if self.left_s is None else f", about {self.left_s:.0f} s more"
        return f"{self.name} ({amount}{left})"


def holders(world: World, asking: Run) -> list[Holder]:
    """Return all attempts that have claims. The tasks of runs other than ``asking`` are named as such."""
    found: list[Holder] = []
    for run in world.runs.values():
        of = "" if run is asking else " of another run"
        for t in run.handed_tasks():
            found.append(
                Holder(
                    f"{run.name_of(t)!r}{of}", run.host[t], run.claims[t], run.shared.get(t), _left(run, t, world.now)
                )
            )
            if (other := run.second_attempts.get(t)) is not None:
                found.append(
                    Holder(f"another attempt of {run.name_of(t)!r}{of}", other.host, other.claim, other.shared)
                )
    for host in world.fleet.by_name.values():
        for left in host.lingering.values():
            found.append(Holder("an attempt that is being ended", host.index, left.claim, left.shared))
    return found


def _left(run: Run, t: int, now: float) -> float | None:
    """Return in how many seconds a task is expected to end. None: that is not known, or it has taken longer already."""
    began, expected_s = run.started.get(t), run.durations.expected_s[run.spec.fn[t]]
    if began is None or expected_s < 0.0:
        return None
    left_s = began + expected_s - now
    return left_s if left_s >= 0.5 else None


def lacking(ledger: Ledger, demand: Demand) -> list[str]:
    """Return the names of the amounts of which a host has too little free for a demand."""
    names = [name for name, parts in demand.plain.items() if parts > ledger.free.get(name, 0)]
    devices = [name for name, parts in demand.devices.items() if parts and not ledger.fits({name: parts})]
    if not devices and demand.devices and not ledger.fits(demand.devices):
        devices = [name for name, parts in demand.devices.items() if parts]  # each fits, but not on one device
    return names + devices


def shortfall(host: HostRecord, demand: Demand, requirement: Requirement, held: Iterable[Holder]) -> str:
    """Return what a host has too little of for one variant of a task's cost, and which tasks hold it, as clauses.

    Args:
        host: The host. The demand does not fit there now.
        demand: The amounts that the task needs of the host.
        requirement: The variant of the cost from which the demand was made.
        held: All attempts that have claims.
    """
    claims = [(holder, holder.claim) for holder in held if holder.host == host.index]
    sizes = requirement.sizes | host.offer.sizes
    clauses = []
    for name in lacking(host.ledger, demand):
        size = name in sizes
        needed = f"{name}={format_amount(demand.host[name], size=size)}"
        free = _free_device(host.ledger, name) if name in DEVICE_NAMES else _free(host.ledger, name, size=size)
        clauses.append(f"needs {needed}, but {free}{_held_by(name, claims, size=size)}")
    return "; ".join(clauses)


def shortfall_of_shared(ledger: Ledger, demand: Demand, requirement: Requirement, held: Iterable[Holder]) -> str:
    """Return of which shared amounts too little is free, and which tasks hold them, as clauses."""
    claims = [(holder, holder.shared) for holder in held]
    clauses = []
    for name, parts in demand.shared.items():
        if parts > ledger.free.get(name, 0):
            size = name in requirement.sizes or name in SIZES
            free = f"{_free(ledger, name, size=size)} that all hosts share"
            needed = f"{name}={format_amount(parts, size=size)}"
            clauses.append(f"needs {needed}, but {free}{_held_by(name, claims, size=size)}")
    return "; ".join(clauses)


def _free(ledger: Ledger, name: str, *, size: bool) -> str:
    free = format_amount(max(0, ledger.free.get(name, 0)), size=size)
    return f"{free} is free of {format_amount(ledger.total.get(name, 0), size=size)}"


def _free_device(ledger: Ledger, name: str) -> str:
    if name == "gpu":
        return f"{ledger.room({'gpu': PARTS})} of {len(ledger.devices)} GPUs is wholly free"
    most = max(ledger.free_devices, default=0)
    of = format_amount(max(ledger.devices, default=0), size=True)
    return f"at most {format_amount(max(0, most), size=True)} is free on a GPU, of {of}"


def _held_by(name: str, claims: Sequence[tuple[Holder, Claim | None]], *, size: bool) -> str:
    """Return which tasks hold an amount, those that hold most of it first."""
    needs = [(holder, claim.need) for holder, claim in claims if claim is not None]
    if name in DEVICE_NAMES:  # a task that holds a part of a GPU keeps others from the whole of it, and the other way
        found = [(len(need), holder, _devices_text(need)) for holder, need in needs if DEVICE_NAMES & need.keys()]
    else:
        found = [(need[name], h, format_amount(need[name], size=size)) for h, need in needs if need.get(name)]
    if not found:
        return ""
    found.sort(key=lambda each: -each[0])
    more = len(found) - _NAMED
    named = ", ".join(holder.says(text) for _, holder, text in found[:_NAMED])
    return f"; held by {named}" + (f" and {more} more" if more > 0 else "")


def _devices_text(need: Mapping[str, int]) -> str:
    names = [name for name in sorted(DEVICE_NAMES) if need.get(name)]
    return ", ".join(f"{name}={format_amount(need[name], size=name in SIZES)}" for name in names)
