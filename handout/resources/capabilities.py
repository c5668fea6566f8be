"""The capabilities of a host: declared in an inventory, probed by the agent, or reported by a tracker."""

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
from handout.serialization.user_objects import brief


class Capabilities(BaseModel):
    """What a host offers. A value is an amount, a text, a set of texts, True or False. Any names are allowed.

    The agent probes the following names on the host, unless they are given here. ``cpu`` is the number of CPU cores.
    ``memory`` and ``disk`` are sizes: numbers of megabytes, or texts such as ``"64 GB"``. ``gpu`` is the number of GPU
    devices. ``gpu_memory`` is the memory of each device, or a list with one size for each device. ``python`` is the
    version of Python. To declare types for your own names, write a subclass of `Capabilities`.

    Raises:
        CostError: A value cannot be read. The message names the value and says what to write.

    Example:
        ```python
        host = handout.Host("gpu1", capabilities=handout.Capabilities(gpu=2, has_cuda=True, camera={"basler"}))
        ```
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
        """The amounts by name. Sizes are in bytes. ``gpu_memory`` is the memory of the largest GPU device."""
        offer = offer_of(self)
        parts = dict(offer.amounts)
        said = stated(self)
        for name in ("gpu", "gpu_memory"):
            if offer.devices or name in said:
                parts[name] = offer.amount(name) or 0
        return MappingProxyType({name: Fraction(amount, PARTS) for name, amount in parts.items()})


CapabilitiesLike = Capabilities | Mapping[str, Any]
"""`Capabilities`, or a mapping of names to values."""


def as_capabilities(capabilities: CapabilitiesLike) -> Capabilities:
    """Return the `Capabilities` that a mapping describes. A `Capabilities` object is returned as it is.

    Raises:
        CostError: The value is neither a mapping nor `Capabilities`, or one of its values cannot be read.
    """
    if isinstance(capabilities, Capabilities):
        return capabilities
    given: object = capabilities
    if isinstance(given, Mapping) and all(isinstance(name, str) for name in given):
        return Capabilities(**given)
    raise CostError(
        f"{brief(capabilities)} cannot be capabilities.",
        remedy="Give a mapping such as {'memory': '8 GB', 'has_cuda': True}, or Capabilities.",
        name="capabilities",
        value=capabilities,
    )


def as_probed(found: Mapping[str, Any]) -> Capabilities:
    """Return the capabilities that an agent probed. Sizes in ``found`` are in bytes, not in megabytes.

    Raises:
        CostError: A probed value cannot be read.
    """
    return as_capabilities({name: _bytes(value) if name in SIZES else value for name, value in found.items()})


def _bytes(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_bytes(one) for one in value]
    return f"{value} B" if isinstance(value, int) else value


def stated(capabilities: Capabilities) -> dict[str, Any]:
    """Return all values of the capabilities that are not None, by name."""
    values = {name: capabilities.__dict__[name] for name in type(capabilities).model_fields}
    values.update(capabilities.__pydantic_extra__ or {})
    return {name: value for name, value in values.items() if value is not None}


def offer_of(capabilities: Capabilities, *, unknown: frozenset[str] = frozenset()) -> Offer:
    """Return the offer that capabilities describe. Each call reads the values anew, because they may have changed."""
    numeric = _numeric_fields(type(capabilities))
    entries = [(name, value, name in numeric) for name, value in stated(capabilities).items()]
    return read_offer(entries, unknown=unknown)


def compile_capabilities(capabilities: CapabilitiesLike, *, complete: bool = True) -> Offer:
    """Return the capabilities of a host as an `Offer`, the form that is compared with costs.

    Args:
        capabilities: The capabilities of the host.
        complete: True: the host has been probed. If the number of CPU cores is not known, the offer has one CPU core.
            False: the host has not been probed. If a name that the agent probes is missing, the name counts as unknown,
            and no cost is refused because of it.

    Raises:
        CostError: A value cannot be read.
    """
    capabilities = as_capabilities(capabilities)
    offer = offer_of(capabilities, unknown=frozenset() if complete else PROBED_NAMES)
    if complete and "cpu" not in offer.amounts:
        return Offer({"cpu": PARTS, **offer.amounts}, offer.labels, offer.devices, offer.sizes)
    return offer


def merge(probed: CapabilitiesLike, declared: CapabilitiesLike) -> Capabilities:
    """Return the declared capabilities, and the probed ones whose names are not declared, as one object.

    If a subclass of `Capabilities` gives a field a default, the default does not count as declared, so a probed value
    replaces it. If ``declared`` is an object of such a subclass, the result is an object of the same subclass.
    """
    below, above = as_capabilities(probed), as_capabilities(declared)
    under, over = stated(below), stated(above)
    defaults = {name for name in over if name in type(above).model_fields and name not in above.model_fields_set}
    merged = {**under, **{name: value for name, value in over.items() if name not in defaults or name not in under}}
    if "gpu_memory" in over and "gpu" not in over and not offer_of(below).devices and not merged.get("gpu"):
        # The probe found no device, but a declared gpu_memory means that there is one. So the probed gpu=0 is dropped.
        merged.pop("gpu", None)
    base = below if type(above) is Capabilities else above
    return _replaced(base, merged)


def effective(
    probed: CapabilitiesLike, declared: CapabilitiesLike, tracked: CapabilitiesLike | None = None
) -> Capabilities:
    """Return what a host offers now. Declared values replace probed ones. Values from the tracker replace both."""
    merged = merge(probed, declared)
    return merged if tracked is None else merge(merged, tracked)


def remaining(total: Capabilities, amounts: Mapping[str, int], devices: tuple[int, ...] | None = None) -> Capabilities:
    """Return a copy of ``total`` with free amounts in place of the total amounts, for users and allocators.

    Args:
        total: All that a host offers. The result has the same class.
        amounts: The free amounts in parts (1/10,000 of a unit), by name. Names that ``total`` does not have are
            ignored, and negative amounts count as 0.
        devices: The free memory, in parts, of each GPU device, without the devices that a task has for itself alone.
            None: the result has the devices of ``total``.
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
    """Return capabilities from which `compile_capabilities` makes this offer."""
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
    """Return an amount as a user would write it. ``size`` is True if the amount is in bytes."""
    if size:
        return format_amount(parts, size=True, exact=True)
    return parts // PARTS if parts % PARTS == 0 else parts / PARTS


def _replaced(base: Capabilities, values: Mapping[str, Any]) -> Capabilities:
    """Return a copy of ``base`` with exactly these values. All other fields are None."""
    copy = base.model_copy(update={name: values.get(name) for name in type(base).model_fields})
    extra = {name: value for name, value in values.items() if name not in type(base).model_fields}
    object.__setattr__(copy, "__pydantic_extra__", extra)
    object.__setattr__(copy, "__pydantic_fields_set__", set(values))
    return copy


@lru_cache(maxsize=256)
def _numeric_fields(model: type[Capabilities]) -> frozenset[str]:
    """Return the fields of a class that are declared as numbers. In these fields, a text such as "2" is an amount."""
    return frozenset(
        name
        for name, info in model.model_fields.items()
        if {int, float} & set(get_args(info.annotation) or (info.annotation,))
    )
