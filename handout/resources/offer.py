"""`Offer`: the capabilities of a host in compiled form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from numbers import Real
from typing import Any, NoReturn

from handout.errors import CostError
from handout.resources.condition import read_conditions
from handout.resources.names import DEVICE_NAMES, KNOWN_AMOUNTS, SIZES
from handout.resources.needs import as_size
from handout.resources.units import PARTS, read_amount, split_number
from handout.serialization.user_objects import brief

#: One entry of capabilities: the name, the value, and a flag. The flag is True if the class of the capabilities
#: declares the field of this name as a number.
Entry = tuple[str, Any, bool]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a host offers, in the form that is compared with costs.

    Attributes:
        amounts: The amounts in parts (1/10,000 of a unit), by name. ``gpu`` and ``gpu_memory`` are not among them,
            because ``devices`` replaces them.
        labels: The values that are not amounts, by name. Each is either a bool or a set of texts.
        devices: The memory of each GPU device, in parts. 0: the memory is not known.
        sizes: The names in ``amounts`` that are sizes.
        unknown: Names whose values are not known before the agent runs. No cost is refused because of these names.
    """

    amounts: Mapping[str, int]
    labels: Mapping[str, frozenset[str] | bool] = field(default_factory=dict)
    devices: tuple[int, ...] = ()
    sizes: frozenset[str] = SIZES
    unknown: frozenset[str] = frozenset()

    def amount(self, name: str) -> int | None:
        """Return the amount under a name in parts, or None. ``gpu_memory`` is the memory of the largest device."""
        if name == "gpu":
            return len(self.devices) * PARTS
        if name == "gpu_memory":
            return max(self.devices, default=0)
        return self.amounts.get(name)

    def names(self) -> set[str]:
        """Return every name that has a value."""
        return {*self.amounts, *self.labels, *(DEVICE_NAMES if self.devices else ())}


def read_offer(entries: Iterable[Entry], *, unknown: frozenset[str] = frozenset()) -> Offer:
    """Return the offer that the entries of capabilities describe.

    Raises:
        CostError: An entry cannot be read. The message names the entry and says what to write.
    """
    amounts: dict[str, int] = {}
    labels: dict[str, frozenset[str] | bool] = {}
    sizes = set(SIZES)
    device_memory: list[int] = []
    stated: set[str] = set()
    for name, value, numeric in entries:
        value = value.value if isinstance(value, Enum) else value
        if value is None:
            continue
        stated.add(name)
        if name == "gpu_memory" and isinstance(value, list | tuple):
            device_memory = [_amount(name, one)[0] for one in value]
            continue
        read = _read(name, value, numeric)
        if isinstance(read, tuple):
            amounts[name], sized = read
            if sized:
                sizes.add(name)
        else:
            labels[name] = read
    if "gpu_memory" in amounts:
        device_memory = [amounts.pop("gpu_memory")]
    count = amounts.pop("gpu", None)
    devices = _devices(None if count is None else count // PARTS, device_memory)
    return Offer(amounts, labels, devices, frozenset(sizes), unknown - stated)


def _read(name: str, value: Any, numeric: bool) -> tuple[int, bool] | frozenset[str] | bool:
    if name == "cpu_intensive":
        _refuse(name, value, "this name belongs in a cost", "Give the host's number of CPU cores with cpu=...")
    if name in KNOWN_AMOUNTS:
        parts, sized = _amount(name, 0 if value is False else value)
        if name == "gpu" and parts % PARTS:
            _refuse(name, value, "it is not a whole number", "Write how many devices there are.")
        return parts, sized
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _read_text(name, value, numeric)
    if isinstance(value, Real):
        if name == "python":
            _refuse(name, value, "as numbers, versions 3.10 and 3.1 are equal", f'Write "{value}" in quotes.')
        return read_amount(value, size=False, name=name)
    if isinstance(value, set | frozenset | list | tuple):
        texts = frozenset(one.value if isinstance(one, Enum) else one for one in value)
        if all(isinstance(one, str) for one in texts):
            return texts
    _refuse(
        name,
        value,
        f"a value of type {type(value).__name__} means nothing in capabilities",
        "Write a number, a size such as '2 GB', True or False, text, or a set of texts.",
    )


def _read_text(name: str, text: str, numeric: bool) -> tuple[int, bool] | frozenset[str]:
    if read_conditions(name, text) is not None:
        _refuse(name, text, "a comparison belongs in a cost", "Write what the host has.")
    if numeric:
        return read_amount(text, size=name in SIZES, name=name)
    split = split_number(text)
    if split is not None and split[1] and name != "python":
        parts = as_size(name, text, split[1])
        if parts is not None:
            return parts, True
    return frozenset((text,))


def _amount(name: str, value: Any) -> tuple[int, bool]:
    if isinstance(value, str) and read_conditions(name, value) is not None:
        _refuse(name, value, "a comparison belongs in a cost", "Write what the host has.")
    return read_amount(value, size=name in SIZES, name=name)


def _devices(count: int | None, memory: list[int]) -> tuple[int, ...]:
    """Return the memory of each device. If ``count`` is None, each entry of ``memory`` stands for one device."""
    if count is None:
        return tuple(memory) if any(memory) else ()
    if len(memory) == 1:
        memory = memory * count
    # A declared count may differ from the length of the probed list. Devices that are not in the list get the smallest
    # amount in it.
    return tuple(memory[:count]) + (min(memory, default=0),) * (count - len(memory))


def _refuse(name: str, value: Any, why: str, remedy: str) -> NoReturn:
    raise CostError(f"{name}={brief(value)} cannot be read: {why}.", remedy=remedy, name=name, value=value)
