"""What a host offers: said in an inventory, found out on the host, or told by a tracker."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from handout.errors import CostError
from handout.resources.names import PROBED_NAMES, SIZES
from handout.resources.offer import Offer, read_offer
from handout.resources.units import PARTS, format_amount


class Capabilities(BaseModel):
    """What a host offers: amounts, text, sets of texts, yes and no, under any names.

    ``cpu``, ``memory``, ``gpu``, ``gpu_memory`` (of each device, or a list with one amount a device), ``disk`` and
    ``python`` are probed on the host where they are left out. Subclass it to type the names of your own.

    Raises:
        CostError: A value means nothing; it names the value and says what to write.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    if TYPE_CHECKING:

        def __init__(self, **capabilities: Any) -> None: ...

    @model_validator(mode="after")
    def _readable(self) -> Capabilities:
        offer_of(self)
        return self

    @property
    def amounts(self) -> Mapping[str, Fraction]:
        """The amounts among them, normalized (sizes in bytes, ``gpu_memory`` that of the largest device)."""
        offer = offer_of(self)
        parts = dict(offer.amounts)
        said = stated(self)
        for name in ("gpu", "gpu_memory"):
            if offer.devices or name in said:
                parts[name] = offer.amount(name) or 0
        return MappingProxyType({name: Fraction(amount, PARTS) for name, amount in parts.items()})


CapabilitiesLike = Capabilities | Mapping[str, Any]


def as_capabilities(capabilities: CapabilitiesLike) -> Capabilities:
    """Capabilities from what a user may pass for them; an object stays the very same.

    Raises:
        CostError: They are neither a mapping nor `Capabilities`, or one of the values means nothing.
    """
    if isinstance(capabilities, Capabilities):
        return capabilities
    given: object = capabilities
    if isinstance(given, Mapping) and all(isinstance(name, str) for name in given):
        return Capabilities(**given)
    raise CostError(
        f"{capabilities!r} are no capabilities.",
        remedy="Give a mapping such as {'memory': '8 GB', 'has_cuda': True}, or Capabilities.",
        name="capabilities",
        value=capabilities,
    )


def as_probed(found: Mapping[str, Any]) -> Capabilities:
    """Capabilities from an agent's probe, whose plain sizes count bytes rather than megabytes.

    Raises:
        CostError: The probe says what means nothing.
    """
    return as_capabilities({name: _bytes(value) if name in SIZES else value for name, value in found.items()})


def _bytes(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_bytes(one) for one in value]
    return f"{value} B" if isinstance(value, int) else value


def stated(capabilities: Capabilities) -> dict[str, Any]:
    """All values by name, without those that say nothing (None)."""
    values = {name: capabilities.__dict__[name] for name in type(capabilities).model_fields}
    values.update(capabilities.__pydantic_extra__ or {})
    return {name: value for name, value in values.items() if value is not None}


def offer_of(capabilities: Capabilities, *, unknown: frozenset[str] = frozenset()) -> Offer:
    """Read the values as they are now."""
    numeric = _numeric_fields(type(capabilities))
    entries = [(name, value, name in numeric) for name, value in stated(capabilities).items()]
    return read_offer(entries, unknown=unknown)


def compile_capabilities(capabilities: CapabilitiesLike, *, complete: bool = True) -> Offer:
    """Compile what a host offers.

    Args:
        capabilities: What is known of it.
        complete: Whether the host has been probed. Otherwise what an inventory leaves out is only not known
            yet, and refuses nothing. A complete host that does not say how many cores it has, has one.
    Raises:
        CostError: One of the values means nothing.
    """
    capabilities = as_capabilities(capabilities)
    offer = offer_of(capabilities, unknown=frozenset() if complete else PROBED_NAMES)
    if complete and "cpu" not in offer.amounts:
        return Offer({"cpu": PARTS, **offer.amounts}, offer.labels, offer.devices, offer.sizes)
    return offer


def merge(probed: CapabilitiesLike, declared: CapabilitiesLike) -> Capabilities:
    """What was found out, and over it what was declared: per name, the second one wins.

    The defaults of a subclass's fields were not declared by anyone: they stand only where nothing was found out.
    The answer is of the more particular class of the two, that a user's own class survives the merge.
    """
    below, above = as_capabilities(probed), as_capabilities(declared)
    under, over = stated(below), stated(above)
    defaults = {name for name in over if name in type(above).model_fields and name not in above.model_fields_set}
    merged = {**under, **{name: value for name, value in over.items() if name not in defaults or name not in under}}
    if "gpu_memory" in over and "gpu" not in over and not offer_of(below).devices and not merged.get("gpu"):
        # "gpu_memory without gpu is one device" also holds where the probe has found none.
        merged.pop("gpu", None)
    base = below if type(above) is Capabilities else above
    return _replaced(base, merged)


def effective(
    probed: CapabilitiesLike, declared: CapabilitiesLike, tracked: CapabilitiesLike | None = None
) -> Capabilities:
    """What a host offers now: probed, over that declared, over that what its tracker last said."""
    merged = merge(probed, declared)
    return merged if tracked is None else merge(merged, tracked)


def remaining(total: Capabilities, amounts: Mapping[str, int], devices: tuple[int, ...] | None = None) -> Capabilities:
    """``total`` with its amounts replaced by what is free of them, for people and allocators to read.

    Args:
        total: All that a host offers; the answer is of the same class.
        amounts: Free parts by name; names that ``total`` lacks are left out, negative ones count as none.
        devices: Free memory in parts of each device that nobody has whole; None leaves the devices as they are.
    """
    offer = offer_of(total)
    values = stated(total)
    for name in offer.amounts.keys() & amounts.keys():
        values[name] = _plain(max(0, amounts[name]), name in offer.sizes and offer.amounts[name] > 0)
    if devices is not None:
        values["gpu"] = len(devices)
        values["gpu_memory"] = [_plain(max(0, parts), True) for parts in devices]
    return _replaced(total, values)


def capabilities_of(offer: Offer) -> Capabilities:
    """Capabilities that compile to ``offer``."""
    values: dict[str, Any] = {
        name: _plain(parts, name in offer.sizes and (parts > 0 or name in SIZES))
        for name, parts in offer.amounts.items()
    }
    for name, said in offer.labels.items():
        values[name] = next(iter(said)) if isinstance(said, frozenset) and len(said) == 1 else said
    if offer.devices:
        values["gpu"] = len(offer.devices)
        values["gpu_memory"] = [_plain(parts, True) for parts in offer.devices]
    return Capabilities(**values)


def _plain(parts: int, size: bool) -> Any:
    """An amount as a user would have written it."""
    if size:
        return format_amount(parts, size=True, exact=True)
    return parts // PARTS if parts % PARTS == 0 else parts / PARTS


def _replaced(base: Capabilities, values: Mapping[str, Any]) -> Capabilities:
    """A copy of ``base`` with exactly these values; names that are gone say nothing."""
    copy = base.model_copy(update={name: values.get(name) for name in type(base).model_fields})
    extra = {name: value for name, value in values.items() if name not in type(base).model_fields}
    object.__setattr__(copy, "__pydantic_extra__", extra)
    object.__setattr__(copy, "__pydantic_fields_set__", set(values))
    return copy


@lru_cache(maxsize=256)
def _numeric_fields(model: type[Capabilities]) -> frozenset[str]:
    """The fields that are declared as numbers: a numeral in quotes is an amount there."""
    return frozenset(
        name
        for name, info in model.model_fields.items()
        if {int, float} & set(get_args(info.annotation) or (info.annotation,))
    )
