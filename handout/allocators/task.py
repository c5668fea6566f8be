"""A task as an allocator sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from handout.resources import Cost, CostLike, Requirement, as_costs, compile_cost

__all__ = ["InputView", "Task", "requirements_of", "task_of_core"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class InputView:
    """One input of a task: how large it is and which hosts have it.

    Args:
        id: Id of the task that makes the input, or ``value-N`` for a value that the caller gave.
        nbytes: Its size in bytes; None while it does not exist yet.
        hosts: Names of the hosts that have it.

    Example:
        ```python
        view = handout.InputView("load", nbytes=10**6, hosts={"node1"})
        assert "node1" in view.hosts
        ```
    """

    __slots__ = ("hosts", "id", "nbytes")

    id: str
    """Id of the task that makes the input, or ``value-N`` for a value that the caller gave."""
    nbytes: int | None
    """The input's size in bytes; None while the input does not exist yet."""
    hosts: frozenset[str]
    """Names of the hosts that have the input."""

    def __init__(self, id: str, *, nbytes: int | None = None, hosts: Iterable[str] = ()) -> None:
        self.id = id
        self.nbytes = nbytes
        self.hosts = frozenset(hosts)

    def __repr__(self) -> str:
        return f"InputView({self.id!r}, nbytes={self.nbytes}, hosts={sorted(self.hosts)})"


class Task:
    """A task of the frontier. Changing one changes nothing in the run.

    Args:
        id: The task's id.
        cost: What it needs. A list of costs holds alternatives, in order of preference.
        inputs: What it takes from other tasks.
        priority: Tasks of a higher priority go first.
        rank: How many tasks follow it on the longest path to an end of the graph.
        expected_s: Average seconds that calls of its function have taken; None before the first one has finished.
        waiting_s: Seconds since an allocator was first shown the task, whose inputs existed by then.
        labels: What the graph's author attached to it.
        not_on: Hosts to avoid while there are others: the task has failed there, or the host just had no room for what
            the task's function makes or takes.

    Example:
        ```python
        task = handout.Task("train", cost={"gpu": 1}, inputs=[handout.InputView("load", nbytes=10**6, hosts={"node1"})])
        view = handout.ClusterView([handout.Host("node1", capabilities={"gpu": 2})])
        assert await handout.locality([task], view) == {"train": "node1"}
        ```
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
    """The task's id."""
    cost: tuple[Cost, ...]
    """What the task needs: the cost objects that the author gave. Several are alternatives, in order of preference."""
    inputs: Sequence[InputView]
    """What the task takes from other tasks."""
    priority: float
    """Tasks of a higher priority go first."""
    rank: float
    """How many tasks follow this one on the longest path to an end of the graph."""
    expected_s: float | None
    """Average seconds that calls of the task's function have taken; None before the first one has finished."""
    waiting_s: float
    """Seconds since an allocator was first shown the task, whose inputs existed by then."""
    labels: Mapping[str, Any]
    """What the graph's author attached to the task."""
    not_on: frozenset[str]
    """Hosts to avoid while there are others."""

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

    def __repr__(self) -> str:
        return f"<task {self.id!r}>"


def requirements_of(task: Task) -> tuple[Requirement, ...]:
    """Return a task's costs, compiled. A task that was made by hand compiles them at the first call."""
    if task._requirements is None:
        task._requirements = tuple(map(compile_cost, task.cost))
    return task._requirements


def task_of_core(id: str, requirements: tuple[Requirement, ...], **fields: Any) -> Task:
    """Make a task whose costs were compiled before; ``fields`` are the other arguments of `Task`."""
    task = Task(id, cost=tuple(requirement.cost for requirement in requirements), **fields)
    task._requirements = requirements
    return task
