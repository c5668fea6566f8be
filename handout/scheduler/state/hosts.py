"""The hosts as the core sees them: what they offer, what is claimed of it, and what has been handed over."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from handout.protocol.ledger import Claim, Ledger
from handout.resources.offer import Offer
from handout.resources.units import PARTS
from handout.scheduler.spec import CONTROLLER, Profile

__all__ = ["AHEAD_LIMIT", "CONTROLLER_INDEX", "HOME", "AheadTask", "Fleet", "HostRecord", "Lingering", "Need", "Pause"]

#: Tasks handed ahead to one host, at most.
AHEAD_LIMIT = 1024
#: Shortest stretch of work that a slot's backlog may cover.
MIN_TARGET_S = 0.010

#: The controller's place among host indices.
CONTROLLER_INDEX = 0
#: Replicas of an object that only the controller has.
HOME = (CONTROLLER_INDEX,)


class Need:
    """One variant of a profile on the ledgers: what it takes of a host, and of what the inventory shares."""

    __slots__ = ("devices", "host", "names", "plain", "shared", "variant")

    def __init__(self, variant: int, host: Mapping[str, int], shared: Mapping[str, int]) -> None:
        self.variant = variant
        self.host = host
        self.shared = shared
        #: What of it lies on devices: empty where it needs no GPU nor part of one.
        self.devices = {name: parts for name, parts in host.items() if name in ("gpu", "gpu_memory")}
        #: The rest, without zeros.
        self.plain = {name: parts for name, parts in host.items() if parts and name not in self.devices}
        #: What it takes anything of.
        self.names = frozenset(name for name, parts in host.items() if parts)


class AheadTask(NamedTuple):
    """A task that was handed ahead and waits on its host for a claim."""

    run: int
    task: int
    attempt: int
    #: When it began to wait, in the core's time.
    since_s: float


class Lingering(NamedTuple):
    """What an attempt leaves until its agent has confirmed its end."""

    claim: Claim | None
    shared: Claim | None
    #: What it will have made if it finishes all the same.
    objects: Sequence[int]


@dataclass(slots=True)
class Pause:
    """A host had no room for what a function made or took: its tasks prefer other hosts for a while."""

    until: float
    length_s: float
    #: Bytes that found no room, 0 where not known.
    need: int
    #: Bytes that were dropped there since.
    freed: float = 0.0


class HostRecord:
    """One epoch of one host. A host that comes back is a new record with a new index."""

    __slots__ = (
        "ahead",
        "ahead_n",
        "ahead_s",
        "alive",
        "both",
        "budget_s",
        "draining",
        "epoch",
        "handed",
        "index",
        "ledger",
        "lingering",
        "name",
        "needs",
        "offer",
        "only",
        "pauses",
        "price_per_hour",
        "python",
        "released",
        "reserved",
        "rtt_s",
        "shrunk",
        "slots",
        "suspected",
        "target_s",
        "tips",
    )

    def __init__(
        self, name: str, index: int, offer: Offer, python: str, rtt_s: float, epoch: int, price: float
    ) -> None:
        self.name = name
        self.index = index
        self.epoch = epoch
        #: First two numbers of its Python's version.
        self.python = ".".join(python.split(".")[:2])
        self.rtt_s = rtt_s
        self.price_per_hour = price
        self.alive = True
        self.suspected = False
        self.draining = False
        #: Whether the shell has been told that it may let a drained host go.
        self.released = False
        #: The one ready queue that may have what becomes free here, or None. It is only compared by identity.
        self.reserved: object | None = None
        #: What tasks that are believed to run have claimed.
        self.ledger = Ledger(offer.amounts, offer.devices)
        #: Tasks with its agent, ahead ones included.
        self.handed = 0
        #: Tasks that were handed ahead, have their inputs and wait for a claim. Stale entries stay until they come
        #: to the front.
        self.ahead: deque[AheadTask] = deque()
        #: Tasks without a claim: those in ``ahead`` and those whose inputs are still being made here.
        self.ahead_n = 0
        #: Their expected durations, summed.
        self.ahead_s = 0.0
        #: Whether it offers less than it once did: then more may be claimed than there is.
        self.shrunk = False
        #: Handed tasks, as (run, task), whose followers may be handed here too, first come first.
        self.tips: deque[tuple[int, int]] = deque()
        #: Attempts that the core has given up and the agent has not confirmed the end of.
        self.lingering: dict[tuple[int, int, int], Lingering] = {}
        #: By profile: the variants that this host can ever cover.
        self.needs: dict[Profile, tuple[Need, ...]] = {}
        #: By profile: its last pause here, which may be over.
        self.pauses: dict[Profile, Pause] = {}
        #: Replicas of an object that only this host has, and of one that the controller has too: shared tuples.
        self.only = (index,)
        self.both = (CONTROLLER_INDEX, index)
        self.offered(offer)

    def offered(self, offer: Offer) -> None:
        """Take over what it offers now."""
        self.offer = offer
        self.shrunk = self.shrunk or any(offer.amounts.get(n, 0) < parts for n, parts in self.ledger.total.items())
        self.ledger.resize(offer.amounts, offer.devices)
        self.slots = max(1, offer.amounts.get("cpu", PARTS) // PARTS)
        self.target_s = max(2 * self.rtt_s, MIN_TARGET_S)
        # A hair more, so that sums of binary fractions which should just fit do.
        self.budget_s = self.target_s * self.slots * (1.0 + 1e-9)
        self.needs.clear()

    @property
    def open(self) -> bool:
        """Whether it may get new work."""
        return self.alive and not self.suspected and not self.draining

    def room(self, expected_s: float) -> float:
        """What a task of this expected duration (negative: not known) would add to the backlog; -1: too much.

        Of functions of unknown duration two a slot are let in: the first results tell how many more.
        """
        cost = expected_s if expected_s >= 0.0 else self.target_s * 0.5
        if cost > self.target_s or self.ahead_n >= AHEAD_LIMIT or self.ahead_s + cost > self.budget_s:
            return -1.0
        return cost

    def is_too_long(self, expected_s: float) -> bool:
        """Whether a task of this expected duration finds no room in a backlog, however short that is."""
        return expected_s > self.target_s

    def is_paused(self, profile: Profile, now: float) -> bool:
        """Whether tasks of a profile are to prefer other hosts."""
        pause = self.pauses.get(profile)
        return pause is not None and pause.until > now

    def load(self) -> float:
        """Tasks a slot."""
        return self.handed / self.slots

    def __repr__(self) -> str:
        return f"<host {self.name!r} #{self.index} handed={self.handed} ahead={self.ahead_n}>"


class Fleet:
    """All hosts, by name and by index, and what they share."""

    __slots__ = (
        "_by_index",
        "_needs",
        "by_name",
        "expected",
        "leaving",
        "names",
        "shared",
        "shared_amounts",
        "version",
    )

    def __init__(self) -> None:
        #: Names by index, of lost hosts too; 0 is the controller.
        self.names: list[str] = [CONTROLLER]
        self._by_index: dict[int, HostRecord] = {}
        self.by_name: dict[str, HostRecord] = {}
        self._needs: dict[Profile, tuple[Need, ...]] = {}
        #: Hosts that are being reached, or will be: by name what there is to say of it, mostly "".
        self.expected: dict[str, str] = {}
        #: Hosts that were drained while they were being reached: should they join all the same, they get no work.
        self.leaving: set[str] = set()
        self.shared_amounts: dict[str, int] = {}
        self.shared = Ledger({}, ())
        #: Changes whenever the answer to "which hosts could ever run this" may have.
        self.version = 0

    def join(self, name: str, offer: Offer, python: str, rtt_s: float, epoch: int, price: float) -> HostRecord:
        """Make a record for a host that is ready."""
        host = HostRecord(name, len(self.names), offer, python, rtt_s, epoch, price)
        self.names.append(name)
        self._by_index[host.index] = host
        self.by_name[name] = host
        self.expected.pop(name, None)
        host.draining = host.released = name in self.leaving
        self.version += 1
        return host

    def remove(self, host: HostRecord) -> None:
        """Forget a lost host; its index is never used again."""
        host.alive = False
        del self._by_index[host.index]
        del self.by_name[host.name]
        self.version += 1

    def at(self, index: int) -> HostRecord | None:
        """The living host of an index."""
        return self._by_index.get(index)

    def set_shared(self, amounts: Mapping[str, int]) -> None:
        """Take over what the inventory shares."""
        self.shared_amounts = dict(amounts)
        self.shared.resize(amounts, ())
        self._needs.clear()
        for host in self.by_name.values():
            host.needs.clear()
        self.version += 1

    def all_needs(self, profile: Profile) -> tuple[Need, ...]:
        """All variants of a profile."""
        needs = self._needs.get(profile)
        if needs is None:
            needs = self._needs[profile] = tuple(
                Need(variant, *requirement.needs(self.shared_amounts))
                for variant, requirement in enumerate(profile.requirements)
            )
        return needs

    def needs(self, host: HostRecord, profile: Profile) -> tuple[Need, ...]:
        """The variants of a profile that a host can cover when it is idle, in order of preference."""
        needs = host.needs.get(profile)
        if needs is None:
            needs = host.needs[profile] = self._covered(host, profile)
        return needs

    def _covered(self, host: HostRecord, profile: Profile) -> tuple[Need, ...]:
        if profile.host is not None and profile.host != host.name:
            return ()
        if profile.python is not None and profile.python != host.python:
            return ()
        shared = self.shared_amounts
        return tuple(
            need
            for need, requirement in zip(self.all_needs(profile), profile.requirements, strict=True)
            if not requirement.lacks(host.offer, shared)
        )

    def forget(self, profiles: Iterable[Profile]) -> None:
        """A run is closed: its profiles will not be asked about again."""
        for profile in profiles:
            self._needs.pop(profile, None)
            for host in self.by_name.values():
                host.needs.pop(profile, None)
                host.pauses.pop(profile, None)
