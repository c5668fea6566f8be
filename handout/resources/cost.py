"""What a function needs of a host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from handout.errors import CostError
from handout.resources.names import KNOWN_NAMES, nearest_name
from handout.resources.needs import Entry, Needs, read_needs
from handout.resources.units import PARTS

Amount = int | float | str  # 2, 0.5, "2 GB", ">=8.6"


class Cost(BaseModel):
    """What a function needs while it runs: amounts are consumed, everything else must hold.

    Open to any further name; subclass it to type the names of your own.

    Attributes:
        cpu: Cores; 1 unless said otherwise.
        memory: Plain numbers are MB; or ``"2 GB"``, ``"2 GiB"``.
        gpu: Whole devices of its own, or a fraction of one that is shared.
        gpu_memory: Of each device.
        disk: Plain numbers are MB.
        python: ``"3.11"``, or a comparison such as ``">=3.10"``.
        cpu_intensive: A hint: True counts as ``cpu=1``, False as ``cpu=0``, unless ``cpu`` is given.
    Raises:
        CostError: A value means nothing; it names the value and says what to write.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    cpu: Amount = 1
    memory: Amount = 0
    gpu: Amount = 0
    gpu_memory: Amount = 0
    disk: Amount = 0
    python: str | None = None
    cpu_intensive: bool | None = None

    if TYPE_CHECKING:

        def __init__(self, **amounts: Any) -> None: ...

    @field_validator("cpu", "memory", "gpu", "gpu_memory", "disk", "python", mode="before")
    @classmethod
    def _known(cls, value: Any, info: Any) -> Any:
        # Read here, because pydantic would turn True into 1 before anyone could say what is wrong with it.
        read_needs([(info.field_name, value, False)])
        if value is None or value is False:
            return None if info.field_name == "python" else 0
        return value if isinstance(value, int | float | str) else float(value)

    @field_validator("cpu_intensive", mode="before")
    @classmethod
    def _hint(cls, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        raise CostError(
            f"cpu_intensive={value!r} cannot be read: it is a hint, yes or no.",
            remedy="Write True or False; an amount of cores is cpu=...",
            name="cpu_intensive",
            value=value,
        )

    @model_validator(mode="after")
    def _readable(self) -> Cost:
        needs_of(self)
        return self

    @property
    def amounts(self) -> Mapping[str, Fraction]:
        """What is consumed, normalized (sizes in bytes)."""
        return MappingProxyType({n: Fraction(parts, PARTS) for n, parts in needs_of(self).amounts.items()})


CostLike = Cost | Mapping[str, Any] | Sequence[Cost | Mapping[str, Any]]


def as_costs(cost: CostLike | None) -> tuple[Cost, ...]:
    """The variants of a cost, in order of preference; costs that were given stay the very same objects.

    Raises:
        CostError: It is no cost, a list without costs, or one of its values means nothing.
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
                remedy="Leave the cost out, or give at least one.",
                name="cost",
                value=cost,
            )
        return tuple(_variant(one) for one in given)
    raise _no_cost(cost)


def needs_of(cost: Cost) -> Needs:
    """Read a cost's entries as they are now.

    Raises:
        CostError: A value was changed to one that means nothing.
    """
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
        f"{cost!r} is no cost.",
        remedy="Give a mapping such as {'memory': '2 GB'}, a Cost, or a list of these.",
        name="cost",
        value=cost,
    )


def _from_mapping(cost: Mapping[str, Any]) -> Cost:
    """Build a cost, once for equal mappings: graphs write the same literal for thousands of functions."""
    try:
        # The type is part of the key because True == 1 == 1.0, and they do not mean the same.
        return _interned(tuple((name, type(value), value) for name, value in cost.items()))
    except TypeError:
        return _build(dict(cost))


@lru_cache(maxsize=512)
def _interned(entries: tuple[tuple[str, type, Any], ...]) -> Cost:
    return _build({name: value for name, _, value in entries})


def _build(values: dict[str, Any]) -> Cost:
    for name in values:
        if not isinstance(name, str):
            raise CostError(f"{name!r} is no name of a cost.", remedy="Names are text.", name=str(name))
    try:
        return Cost(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        hint = nearest_name(name, KNOWN_NAMES)
        raise CostError(
            f"{name}={first.get('input')!r} cannot be read: {first['msg']}.",
            remedy=f"Did you mean {hint!r}?" if hint else "",
            name=name,
            value=first.get("input"),
        ) from error


@lru_cache(maxsize=256)
def _fields(model: type[Cost]) -> dict[str, bool]:
    """The fields of a model that say something of a host, and whether each is declared as a number."""
    fields = {}
    for name, info in model.model_fields.items():
        if name != "cpu_intensive":
            declared = get_args(info.annotation) or (info.annotation,)
            fields[name] = int in declared or float in declared
    return fields
