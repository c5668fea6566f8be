"""`Cost`: what a function needs of a host while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, field_validator, model_validator

from handout.errors import CostError
from handout.resources.did_you_mean import nearest_name
from handout.resources.names import KNOWN_NAMES
from handout.resources.needs import Entry, Needs, read_needs
from handout.resources.units import PARTS
from handout.serialization.user_objects import brief, text

Amount = int | float | str
"""An amount of a cost: ``2``, ``0.5``, ``"2 GB"``; or a comparison such as ``">=8.6"``."""


class Cost(BaseModel):
    """What a function needs of a host while it runs. Its task consumes the amounts. Everything else is a condition.

    Names other than the fields below are allowed. A number or a size such as ``"2 GB"`` is an amount. True, text or a
    comparison such as ``">=8.6"`` is a condition. To declare types for your own names, write a subclass of `Cost`. A
    cost cannot be changed.

    Raises:
        CostError: A value cannot be read. The message names the value and says what to write.

    Example:
        ```python
        graph.add(train, data, cost=handout.Cost(gpu=1, memory="8 GB", has_cuda=True, python=">=3.11"))
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)

    cpu: Amount = 1
    """CPU cores. Default: 1."""
    memory: Amount = 0
    """Main memory: megabytes, or text such as ``"2 GB"`` or ``"2 GiB"``. Default: 0."""
    gpu: Amount = 0
    """GPU devices: a whole number of devices that no other task uses, or a fraction of one device. Default: 0."""
    gpu_memory: Amount = 0
    """Memory of each GPU device: megabytes, or text such as ``"8 GB"``. Default: 0."""
    disk: Amount = 0
    """Disk space: megabytes, or text such as ``"20 GB"``. Default: 0."""
    python: str | None = None
    """Version of Python on the host: ``"3.11"``, or a comparison such as ``">=3.10"``. Default: any."""
    cpu_intensive: bool | None = None
    """A hint instead of ``cpu``: True counts as ``cpu=1``, False as ``cpu=0``. Ignored if ``cpu`` is given."""

    _needs: Needs = PrivateAttr()

    if TYPE_CHECKING:

        def __init__(self, **amounts: Any) -> None: ...

    @field_validator("cpu", "memory", "gpu", "gpu_memory", "disk", "python", mode="before")
    @classmethod
    def _known(cls, value: Any, info: Any) -> Any:
        plain: Any = str if info.field_name == "python" else int | float | str
        if value is None or value is False:
            return None if info.field_name == "python" else 0
        if isinstance(value, plain) and value is not True:
            return value
        # This call refuses a wrong type, with an error that has a remedy. pydantic would turn True into 1, and the
        # errors of pydantic have no remedy.
        read_needs([(info.field_name, value, False)])
        return float(value)

    @field_validator("cpu_intensive", mode="before")
    @classmethod
    def _hint(cls, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        raise CostError(
            f"cpu_intensive={brief(value)} cannot be read: the hint is neither True nor False.",
            remedy="Write True or False. For a number of CPU cores, write cpu=...",
            name="cpu_intensive",
            value=value,
        )

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self._needs = _read(self)
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some values replaced. Unlike pydantic's own method, this one checks the new values.

        Raises:
            CostError: A new value cannot be read.
        """
        copy = super().model_copy(update=update, deep=deep)
        copy._needs = _read(copy)
        return copy

    def copy(self, **how: Any) -> Self:
        """Return a copy with some values replaced, as `model_copy` does. pydantic has deprecated this older method.

        Raises:
            CostError: A new value cannot be read.
        """
        copy = super().copy(**how)
        copy._needs = _read(copy)
        return copy

    @property
    def amounts(self) -> Mapping[str, Fraction]:
        """The amounts that a task consumes, by name. Sizes are in bytes."""
        return MappingProxyType({n: Fraction(parts, PARTS) for n, parts in needs_of(self).amounts.items()})


CostLike = Cost | Mapping[str, Any] | Sequence[Cost | Mapping[str, Any]]
"""A `Cost`, a mapping of names to values, or a list of these. A list holds variants in order of preference."""


def as_costs(cost: CostLike | None) -> tuple[Cost, ...]:
    """Return the variants of a cost, in order of preference. A variant that is a `Cost` object is returned as it is.

    Raises:
        CostError: The value is not a cost or is an empty list, or one of its values cannot be read.
    """
    if isinstance(cost, Cost):
        return (cost,)
    if cost is None:
        return (_from_mapping({}),)
    if isinstance(cost, Mapping):
        return (_from_mapping(cost),)
    given: object = cost
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        if not given:
            raise CostError(
                "cost=[] has no variants.",
                remedy="Leave the cost out, or give at least one variant.",
                name="cost",
                value=cost,
            )
        return tuple(_variant(one) for one in given)
    raise _no_cost(cost)


def needs_of(cost: Cost) -> Needs:
    """Return the needs that were read from a cost when it was made.

    Raises:
        CostError: A value cannot be read. This happens only if the cost was made by pydantic's ``model_construct``,
            which checks nothing.
    """
    try:
        return cost._needs
    except AttributeError:
        cost._needs = _read(cost)
        return cost._needs


def _read(cost: Cost) -> Needs:
    given = cost.__dict__
    entries: list[Entry] = [(name, given[name], number) for name, number in _fields(type(cost)).items()]
    if cost.cpu_intensive is not None and "cpu" not in cost.model_fields_set:
        entries = [entry for entry in entries if entry[0] != "cpu"]
        entries.append(("cpu", int(cost.cpu_intensive), True))
    if cost.__pydantic_extra__:
        entries += [(name, value, False) for name, value in cost.__pydantic_extra__.items()]
    return read_needs(entries)


def _variant(cost: object) -> Cost:
    if isinstance(cost, Cost):
        return cost
    if isinstance(cost, Mapping):
        return _from_mapping(cost)
    raise _no_cost(cost)


def _no_cost(cost: object) -> CostError:
    return CostError(
        f"{brief(cost)} is not a cost.",
        remedy="Give a mapping such as {'memory': '2 GB'}, a Cost, or a list of these.",
        name="cost",
        value=cost,
    )


def _from_mapping(cost: Mapping[str, Any]) -> Cost:
    """Return the cost that a mapping describes. Equal mappings share one `Cost`, because graphs repeat a few costs."""
    try:
        # The type is part of the key, because True == 1, but True is a condition and 1 is an amount.
        return _interned(tuple((name, type(value), value) for name, value in cost.items()))
    except TypeError:
        return _build(dict(cost))


@lru_cache(maxsize=512)
def _interned(entries: tuple[tuple[str, type, Any], ...]) -> Cost:
    return _build({name: value for name, _, value in entries})


def _build(values: dict[str, Any]) -> Cost:
    for name in values:
        if not isinstance(name, str):
            raise CostError(
                f"{brief(name)} cannot be a name in a cost.", remedy="Write names as text.", name=text(name)
            )
    try:
        return Cost(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        hint = nearest_name(name, KNOWN_NAMES)
        raise CostError(
            f"{name}={brief(first.get('input'))} cannot be read: {first['msg']}.",
            remedy=f"Did you mean {hint!r}?" if hint else "",
            name=name,
            value=first.get("input"),
        ) from error


@lru_cache(maxsize=256)
def _fields(model: type[Cost]) -> dict[str, bool]:
    """Return the fields of a class except ``cpu_intensive``, each with True if the field is declared as a number."""
    fields = {}
    for name, info in model.model_fields.items():
        if name != "cpu_intensive":
            declared = get_args(info.annotation) or (info.annotation,)
            fields[name] = int in declared or float in declared
    return fields
