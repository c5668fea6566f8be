"""`Requirement`: a cost in compiled form, which is compared with the offers of many hosts."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from handout.resources.condition import HAS, IS, Condition
from handout.resources.cost import Cost, needs_of
from handout.resources.did_you_mean import nearest_name
from handout.resources.lack import Lack
from handout.resources.names import DEVICE_NAMES, KNOWN_NAMES, SIZES
from handout.resources.offer import Offer
from handout.resources.units import PARTS, format_amount
from handout.serialization.printable import printable


@dataclass(frozen=True, slots=True, eq=False)
class Requirement:
    """One variant of a cost in the form that the scheduler computes with.

    Two requirements are equal if they have the same amounts and conditions. The objects in `cost` may differ.

    Attributes:
        consumed: Amounts that a task consumes, in parts (1/10,000 of a unit), by name. Each is above 0.
        conditions: Conditions that the host must meet.
        cost: The object that was compiled. Allocators read it.
        sizes: The names in ``consumed`` that are sizes.
    """

    consumed: Mapping[str, int]
    conditions: tuple[Condition, ...]
    cost: Cost
    sizes: frozenset[str] = frozenset()
    _key: tuple[frozenset[tuple[str, int]], frozenset[Condition]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_key", (frozenset(self.consumed.items()), frozenset(self.conditions)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Requirement) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        """Return the requirement as messages show it: ``cpu=1, memory=2 GB, has_cuda``."""
        amounts = [f"{name}={self._amount_text(name, parts)}" for name, parts in self.consumed.items()]
        return ", ".join([*amounts, *map(str, self.conditions)])

    def needs(self, shared: Container[str]) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Return what a task consumes of its host, and what it consumes of the shared amounts, both in parts, by name.

        Args:
            shared: Names of the amounts that all hosts share.
        """
        ours = {name: parts for name, parts in self.consumed.items() if name in shared}
        if not ours:
            return self.consumed, ours
        return {name: parts for name, parts in self.consumed.items() if name not in shared}, ours

    def lacks(self, offer: Offer, shared: Mapping[str, int]) -> tuple[Lack, ...]:
        """Return everything that an idle host lacks for this requirement. Empty: the host can cover it.

        Args:
            offer: All that the host offers.
            shared: Amounts that all hosts share, in parts, by name.
        """
        lacks: list[Lack] = []
        for name, parts in self.consumed.items():
            if name in shared:
                if parts > shared[name]:
                    lacks.append(self._lacks_shared(name, parts, shared[name]))
            elif name not in DEVICE_NAMES and name not in offer.unknown:
                has = offer.amounts.get(name)
                if has is None or parts > has or self._mismatch(name, offer):
                    lacks.append(self._lacks_amount(name, parts, offer, shared))
        if "gpu" in self.consumed or "gpu_memory" in self.consumed:
            lacks.extend(self._lacks_devices(offer))
        for condition in self.conditions:
            if condition.name not in offer.unknown and not _met(condition, offer, shared):
                lacks.append(_lacks_condition(condition, offer, shared))
        return tuple(lacks)

    def _mismatch(self, name: str, offer: Offer) -> bool:
        """Return True if only one of cost and offer has this amount in bytes. The two cannot be compared then."""
        return offer.amounts[name] > 0 and (name in self.sizes) is not (name in offer.sizes)

    def _amount_text(self, name: str, parts: int, than: int | None = None) -> str:
        size = name in self.sizes or name in SIZES
        text = format_amount(parts, size=size)
        if than is not None and text == format_amount(than, size=size):
            return format_amount(parts, size=size, exact=True)
        return text

    def _lacks_shared(self, name: str, parts: int, has: int) -> Lack:
        needs = f"{name}={self._amount_text(name, parts, has)}"
        return Lack(name, needs, f"all hosts share {self._amount_text(name, has, parts)}", "", shared=True)

    def _lacks_amount(self, name: str, parts: int, offer: Offer, shared: Mapping[str, int]) -> Lack:
        has = offer.amounts.get(name)
        if has is None:
            needs = f"{name}={self._amount_text(name, parts)}"
            return Lack(name, needs, _said(name, offer), _hint(name, offer, shared, amount=True))
        if self._mismatch(name, offer):
            sized = format_amount(has, size=name in offer.sizes)
            needs = f"{name}={self._amount_text(name, parts)}"
            return Lack(name, needs, f"{name}={sized}", "only one of these two amounts has a unit of size")
        needs = f"{name}={self._amount_text(name, parts, has)}"
        return Lack(name, needs, f"{name}={self._amount_text(name, has, parts)}", "")

    def _lacks_devices(self, offer: Offer) -> list[Lack]:
        asked, memory = self.consumed.get("gpu", 0), self.consumed.get("gpu_memory", 0)
        count = max(1, asked // PARTS)
        if "gpu" not in offer.unknown and len(offer.devices) < count:
            offers = f"gpu={len(offer.devices)}"
            if asked:
                return [Lack("gpu", f"gpu={format_amount(asked, size=False)}", offers, "")]
            return [Lack("gpu_memory", f"gpu_memory={format_amount(memory, size=True)}", offers, "")]
        enough = sum(1 for device in offer.devices if device >= memory)
        if not memory or "gpu_memory" in offer.unknown or enough >= min(count, len(offer.devices) or count):
            return []
        of = f" on {count} devices" if count > 1 else ""
        best = max(offer.devices, default=0)
        needs = f"gpu_memory={self._amount_text('gpu_memory', memory, best)}{of}"
        if not best:
            return [Lack("gpu_memory", needs, "gpu_memory of unknown size", "declare gpu_memory in the inventory")]
        offers = f"gpu_memory={self._amount_text('gpu_memory', best, memory)}" + (f" on {enough}" if enough else "")
        return [Lack("gpu_memory", needs, offers, "")]


def compile_cost(cost: Cost) -> Requirement:
    """Return one variant of a cost in the form that is compared with the offers of hosts."""
    needs = needs_of(cost)
    consumed = {name: parts for name, parts in needs.amounts.items() if parts}
    return Requirement(consumed, needs.conditions, cost, needs.sizes)


def _met(condition: Condition, offer: Offer, shared: Mapping[str, int]) -> bool:
    name = condition.name
    said = offer.labels.get(name)
    if isinstance(said, bool):
        return said and condition.op == HAS
    if said is not None:
        # The host may offer several texts. All of them must meet a "!=". To meet another condition, one is enough.
        of = all if condition.op == "!=" else any
        return of(map(condition.met_by_text, said))
    parts = offer.amount(name)
    if parts is None:
        parts = shared.get(name)
    elif parts and condition.parts and condition.sized is not (name in offer.sizes):
        return False
    return parts is not None and condition.met_by_amount(parts)


def _lacks_condition(condition: Condition, offer: Offer, shared: Mapping[str, int]) -> Lack:
    name = condition.name
    hint = ""
    if offer.amount(name) is not None:
        if condition.op == IS:
            hint = f"the host offers an amount: write {condition.text} without quotes, or '==' before it"
        elif condition.parts is not None and condition.sized is not (name in offer.sizes):
            hint = "only one of these two amounts has a unit of size"
    elif name in offer.labels:
        if condition.op == HAS and not isinstance(offer.labels[name], bool):
            hint = "the host offers text: ask for the text instead of True"
    else:
        hint = _hint(name, offer, shared, amount=False)
    return Lack(name, str(condition), _said(name, offer), hint)


def _said(name: str, offer: Offer) -> str:
    """Return what the host offers under a name, for a message."""
    said = offer.labels.get(name)
    if isinstance(said, bool):
        return f"{name}={said}"
    if said is not None:
        texts = printable(", ".join(sorted(said)))  # the host chose them
        return f"{name}={texts}" if len(said) == 1 else f"{name} one of {{{texts}}}"
    parts = offer.amount(name)
    return f"no {name}" if parts is None else f"{name}={format_amount(parts, size=name in offer.sizes)}"


def _hint(name: str, offer: Offer, shared: Mapping[str, int], *, amount: bool) -> str:
    if name in offer.labels:
        return "the host does not give an amount" if amount else ""
    nearest = nearest_name(name, {*offer.names(), *shared, *KNOWN_NAMES})
    return f"did you mean {nearest!r}?" if nearest else ""
