"""The columns of a graph: its functions and values in the order in which they were added."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from handout.graph.function_options import PLAIN, TaskOptions, intern_options
from handout.graph.naming import FunctionIds
from handout.graph.output import Input, Output
from handout.resources.did_you_mean import suggestion

__all__ = ["Nodes", "Policy"]


class Policy(NamedTuple):
    """The options of a function: those that the graph itself honours, and those of the task."""

    id: str | None = None
    task: TaskOptions = PLAIN
    inline: bool = False
    collocate_with: Input[Any] | str | None = None


class Nodes:
    """The functions and values of a graph, in columns by number.

    A function with only positional arguments takes one entry in each of two lists. Keyword arguments and options are
    rarer, so dictionaries and sets by number hold them. Outputs refer to this object and not to the `Graph`, which adds
    the typed methods.
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
        #: By node: its function; None if the node is a value.
        self.fns: list[Callable[..., Any] | None] = []
        #: By node: its positional arguments. For a value: the value alone.
        self.args: list[tuple[Any, ...]] = []
        #: By node: its keyword arguments, if it has any. Nodes share them, so they are never changed.
        self.kwargs: dict[int, Mapping[str, Any]] = {}
        #: By node: its options, if they are not `PLAIN`.
        self.options: dict[int, TaskOptions] = {}
        #: The nodes of inline functions.
        self.inline: set[int] = set()
        #: By node: the output, or the id, that it shares its host with.
        self.collocated: dict[int, Input[Any] | str] = {}
        self.names: FunctionIds = FunctionIds()
        #: True if a node may take the result of a later one. Only then can the graph have a cycle.
        self.forward: bool = False
        self._interned: dict[Hashable, tuple[TaskOptions, object]] = {}

    def policy(self, options: Mapping[str, Any]) -> Policy:
        """Return checked options as a policy."""
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
            GraphError: The id is taken.
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
        """Return the id of a node. This names all nodes before it as well."""
        return self.names.extend(self.fns, max(node + 1, len(self.names.ids)))[node]

    def find(self, id: str) -> int | None:
        """Return the node with an id, or None."""
        self.ids()
        return self.names.number_of(id)

    def did_you_mean(self, id: str) -> str:
        """Return the remedy for an id that no node has."""
        return suggestion(id, self.ids())
