"""A task as an allocator sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from handout.resources import Cost, CostLike, Requirement, as_costs, compile_cost

__all__ = ["InputView", "Task", "requirements_of", "task_of_core"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class InputView:
    """One input of a task: how large the input is, and which hosts have it.

    Args:
        id: Id of the task that makes the input. An input that the caller gave has the id ``value-N``, where N is a
            number.
        nbytes: The input's size in bytes; None while the size is not known.
        hosts: Names of the hosts that have the input.
        warming_s: For a warm value: the seconds that it takes to make it on any other host.

    Example:
        ```python
        view = handout.InputView("load", nbytes=10**6, hosts={"node1"})
        assert "node1" in view.hosts
        ```
    """

    __slots__ = ("hosts", "id", "nbytes", "warming_s")

    id: str
    """Id of the task that makes the input.

    An input that the caller gave has the id ``value-N``, where N is a number.
    """
    nbytes: int | None
    """The input's size in bytes; None while the size is not known."""
    hosts: frozenset[str]
    """Names of the hosts that have the input."""
    warming_s: float
    """For a warm value: the seconds that it takes to make it on any other host. 0 if no host has made it yet."""

    def __init__(
        self, id: str, *, nbytes: int | None = None, hosts: Iterable[str] = (), warming_s: float = 0.0
    ) -> None:
        self.id = id
        self.nbytes = nbytes
        self.hosts = frozenset(hosts)
        self.warming_s = warming_s

    def __repr__(self) -> str:
        return f"InputView({self.id!r}, nbytes={self.nbytes}, hosts={sorted(self.hosts)})"


class Task:
    """A task of the frontier. Changes to this object have no effect on the run.

    Args:
        id: The task's id.
        cost: What the task needs. A list of costs holds alternatives, in order of preference.
        inputs: The inputs of the task: results of other tasks, and values that the caller gave.
        priority: Tasks of a higher priority go first.
        rank: Number of tasks after this task on the longest path from this task to an end of the graph.
        expected_s: Expected duration in seconds. It is a moving average over the finished calls of the task's function,
            including calls in earlier runs on the same cluster. None: no call has finished yet.
        waiting_s: Seconds since the scheduler first showed the task to an allocator. At that time, all inputs of the
            task existed.
        labels: The labels that the graph's author attached to the task.
        not_on: Names of the hosts to avoid while other hosts can run the task. The task has failed on such a host, or
            the host recently had no room for a result or an argument of the task's function.

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
    """The cost objects that the graph's author gave. Several costs are alternatives, in order of preference."""
    inputs: Sequence[InputView]
    """The inputs of the task: results of other tasks, and values that the caller gave."""
    priority: float
    """Tasks of a higher priority go first."""
    rank: float
    """Number of tasks after this task on the longest path from this task to an end of the graph."""
    expected_s: float | None
    """Expected duration in seconds. None: no call of the task's function has finished yet.

    The expected duration is a moving average over the finished calls of the function, including calls in earlier runs
    on the same cluster.
    """
    waiting_s: float
    """Seconds since the scheduler first showed the task to an allocator.

    At that time, all inputs of the task existed.
    """
    labels: Mapping[str, Any]
    """The labels that the graph's author attached to the task."""
    not_on: frozenset[str]
    """Names of the hosts to avoid while other hosts can run the task."""

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
    """Return a task's costs in compiled form.

    If the task was not made by `task_of_core`, the first call compiles the costs.
    """
    if task._requirements is None:
        task._requirements = tuple(map(compile_cost, task.cost))
    return task._requirements


def task_of_core(id: str, requirements: tuple[Requirement, ...], **fields: Any) -> Task:
    """Make a task from costs that the scheduler has compiled already. ``fields`` are the other arguments of `Task`."""
    task = Task(id, cost=tuple(requirement.cost for requirement in requirements), **fields)
    task._requirements = requirements
    return task
