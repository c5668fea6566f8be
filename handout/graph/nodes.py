"""Stores the functions and values of a graph, in the order in which they were added."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from handout.graph.function_options import PLAIN, TaskOptions, intern_options
from handout.graph.naming import FunctionIds
from handout.graph.output import Input, Output
from handout.resources.did_you_mean import suggestion

__all__ = ["Nodes", "Policy"]


class Policy(NamedTuple):
    """The options of a function: those of its task, in ``task``, and those that the graph itself handles."""

    id: str | None = None
    task: TaskOptions = PLAIN
    inline: bool = False
    collocate_with: Input[Any] | str | None = None


class Nodes:
    """The functions and values of a graph. Both are called nodes.

    The number of a node is its index in the lists `fns` and `args`. A function with only positional arguments takes no
    more than one entry in each of these lists. Keyword arguments and options are rarer, so dictionaries and sets hold
    them, by node number. Outputs refer to this object and not to the `Graph`, which adds the typed methods.
    """

    __slots__ = (
        "__weakref__",
        "_interned",
        "args",
        "collocated",
        "fns",
        "forward",
        "inline",
        "kwargs",
        "names",
        "options",
    )

    def __init__(self) -> None:
        #: The function of each node, or None if the node is a value.
        self.fns: list[Callable[..., Any] | None] = []
        #: The positional arguments of each node. The entry of a value is a tuple that contains only the value.
        self.args: list[tuple[Any, ...]] = []
        #: The keyword arguments of the nodes that have any. Several nodes may share a mapping, so none is ever changed.
        self.kwargs: dict[int, Mapping[str, Any]] = {}
        #: The options of the nodes whose options are not `PLAIN`.
        self.options: dict[int, TaskOptions] = {}
        #: The nodes of inline functions.
        self.inline: set[int] = set()
        #: The ``collocate_with`` of the nodes that have this option.
        self.collocated: dict[int, Input[Any] | str] = {}
        self.names: FunctionIds = FunctionIds()
        #: True if a node may take the result of a later node. Only then can the graph have a cycle.
        self.forward: bool = False
        self._interned: dict[Hashable, tuple[TaskOptions, object]] = {}

    def policy(self, options: Mapping[str, Any]) -> Policy:
        """Return the `Policy` for options that were checked."""
        if not options:
            return Policy()
        rest = {k: v for k, v in options.items() if k not in ("id", "inline", "collocate_with")}
        return Policy(
            id=options.get("id"),
            task=intern_options(rest, self._interned) if rest else PLAIN,
            inline=options.get("inline", False),
            collocate_with=options.get("collocate_with"),
        )

    def append(
        self,
        fn: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        policy: Policy,
    ) -> Output[Any]:
        """Add a node and return its output.

        Raises:
            GraphError: Another node has the id that the policy asks for.
        """
        node = len(self.fns)
        if policy.id is not None:
            self.names.extend(self.fns, node)
            self.names.claim(policy.id)
        self.fns.append(fn)
        self.args.append(args)
        if kwargs:
            self.kwargs[node] = kwargs
        if policy.task is not PLAIN:
            self.options[node] = policy.task
        if policy.inline:
            self.inline.add(node)
        if policy.collocate_with is not None:
            self.collocated[node] = policy.collocate_with
        return Output(self, node)

    def ids(self) -> list[str]:
        """Return the ids of all nodes. The caller must not change the list."""
        return self.names.extend(self.fns, len(self.fns))

    def id_of(self, node: int, /) -> str:
        """Return the id of a node. The call also generates the ids of all earlier nodes."""
        return self.names.extend(self.fns, max(node + 1, len(self.names.ids)))[node]

    def find(self, id: str) -> int | None:
        """Return the number of the node that has this id, or None."""
        self.ids()
        return self.names.number_of(id)

    def did_you_mean(self, id: str) -> str:
        """Return the remedy for an id that no node has."""
        return suggestion(id, self.ids())
