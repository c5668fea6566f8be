"""The columns of a graph: what was added, in the order in which it was added."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from handout.graph.naming import FunctionIds
from handout.graph.options import PLAIN, TaskOptions, intern_options
from handout.graph.output import Input, Output
from handout.resources.did_you_mean import nearest

__all__ = ["Nodes", "Policy"]


class Policy(NamedTuple):
    """How a function is to be run: its options, sorted by who cares."""

    id: str | None = None
    task: TaskOptions = PLAIN
    inline: bool = False
    collocate_with: Input[Any] | str | None = None


class Nodes:
    """Functions and values by number, in columns.

    A function for which nothing was said but its arguments takes an entry in two lists; everything rarer lies in
    dictionaries by number. Outputs point here and not at the `Graph`, which is only the typed face of this.
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
        #: The function of each node; None where the node is a value.
        self.fns: list[Callable[..., Any] | None] = []
        #: Its positional arguments; of a value, the value alone.
        self.args: list[tuple[Any, ...]] = []
        #: Its keyword arguments, where there are any. May be shared between nodes: never changed.
        self.kwargs: dict[int, Mapping[str, Any]] = {}
        #: Its options, where they are not `PLAIN`.
        self.options: dict[int, TaskOptions] = {}
        #: The inline functions.
        self.inline: set[int] = set()
        #: What a node must share its host with.
        self.collocated: dict[int, Input[Any] | str] = {}
        self.names: FunctionIds = FunctionIds()
        #: Whether a node may refer to a later one; only then can there be a cycle.
        self.forward: bool = False
        self._interned: dict[Hashable, tuple[TaskOptions, object]] = {}

    def policy(self, options: Mapping[str, Any]) -> Policy:
        """Sort checked options."""
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
        """Add a node with everything that was said about it.

        Raises:
            GraphError: Its id is taken.
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
        """The ids of all nodes. The list is this object's own."""
        return self.names.extend(self.fns, len(self.fns))

    def id_of(self, node: int, /) -> str:
        """The id of one node; those before it get theirs, too."""
        return self.names.extend(self.fns, max(node + 1, len(self.names.ids)))[node]

    def find(self, id: str) -> int | None:
        """The node with an id."""
        self.ids()
        return self.names.number_of(id)

    def did_you_mean(self, id: str) -> str:
        """The remedy for an id that no node has."""
        return nearest(id, self.ids())
