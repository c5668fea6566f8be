"""A task as an allocator sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from handout.resources import Cost, CostLike, Requirement, as_costs, compile_cost

__all__ = ["InputView", "Task"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class InputView:
    """One input of a task: how large it is and where it lies.

    Args:
        id: The function that makes it.
        nbytes: Its size, None while it is still promised.
        hosts: The hosts that have it.
    """

    __slots__ = ("hosts", "id", "nbytes")

    id: str
    nbytes: int | None
    hosts: frozenset[str]

    def __init__(self, id: str, *, nbytes: int | None = None, hosts: Iterable[str] = ()) -> None:
        self.id = id
        self.nbytes = nbytes
        self.hosts = frozenset(hosts)

    def __repr__(self) -> str:
        return f"InputView({self.id!r}, nbytes={self.nbytes}, hosts={sorted(self.hosts)})"


class Task:
    """A task of the frontier. Read-only in spirit: changing it changes nothing.

    Args:
        id: The function's id.
        cost: What it needs; a list of costs are variants, in order of preference.
        inputs: What it takes from other functions.
        priority: Higher goes first.
        rank: How many tasks follow it on the longest way to an end.
        expected_s: How long such a task takes, as far as that was seen.
        waiting_s: For how long it has been ready.
        labels: What the graph's author attached to it.
        not_on: Hosts where it has failed, or that just had no room for what its function makes or takes: to be avoided
            where there are others.
    """

    __slots__ = (
        "_requirements",
        "cost",
        "expected_s",
        "id",
        "inputs",
        "labels",
        "not_on",
        "priority",
        "rank",
        "waiting_s",
    )

    id: str
    #: The very objects that were given; more than one: variants.
    cost: tuple[Cost, ...]
    inputs: Sequence[InputView]
    priority: float
    rank: float
    expected_s: float | None
    waiting_s: float
    labels: Mapping[str, Any]
    not_on: frozenset[str]

    def __init__(
        self,
        id: str,
        *,
        cost: CostLike = _NOTHING,
        inputs: Iterable[InputView] = (),
        priority: float = 0,
        rank: float = 0,
        expected_s: float | None = None,
        waiting_s: float = 0,
        labels: Mapping[str, Any] = _NOTHING,
        not_on: Iterable[str] = (),
    ) -> None:
        self.id = id
        self.cost = as_costs(cost)
        self.inputs = tuple(inputs)
        self.priority = priority
        self.rank = rank
        self.expected_s = expected_s
        self.waiting_s = waiting_s
        self.labels = labels
        self.not_on = frozenset(not_on)
        self._requirements: tuple[Requirement, ...] | None = None

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """The costs, compiled."""
        if self._requirements is None:
            self._requirements = tuple(map(compile_cost, self.cost))
        return self._requirements

    @classmethod
    def compiled(cls, id: str, requirements: tuple[Requirement, ...], **fields: Any) -> Task:
        """A task whose costs have been compiled before."""
        task = cls(id, cost=tuple(requirement.cost for requirement in requirements), **fields)
        task._requirements = requirements
        return task

    def __repr__(self) -> str:
        return f"<task {self.id!r}>"
