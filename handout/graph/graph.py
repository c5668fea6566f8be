"""`Graph`: the object to which the user adds functions and values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NoReturn, TypeVar, Unpack

from handout.errors import GraphError
from handout.graph._overloads import TypedCalls
from handout.graph.arg import Arg
from handout.graph.call_checks import CallChecks
from handout.graph.check import check_placement
from handout.graph.compile import GivenValues, Outs, compile_nodes
from handout.graph.function import Function
from handout.graph.function_options import Options, check_options
from handout.graph.map_rows import items_of, rows_of
from handout.graph.naming import name_of
from handout.graph.nodes import Nodes, Policy
from handout.graph.options_decorator import MARKS, mark_of
from handout.graph.output import Input, Output, is_function
from handout.graph.partials import joined, unbound, unwrapped
from handout.graph.plan import Plan
from handout.graph.render import to_dot, to_mermaid
from handout.graph.unfinished import UNFINISHED, refusal
from handout.graph.warm import Warm
from handout.project.loaded import REMEMBERED, remember_loaded
from handout.resources.inventory import InventoryLike
from handout.resources.numbers import is_whole
from handout.serialization.user_objects import brief
from handout.slices import Slices, at_once

__all__ = ["Graph", "Runnable", "as_graph"]

A = TypeVar("A")


class Graph(TypedCalls):
    """A DAG of functions. Nothing runs while it is built. It can be run many times, and can grow between two runs.

    Args:
        functions: Functions in the explicit form; see `function`. Default: none.

    Raises:
        GraphError: An entry of ``functions`` is wrong, or two entries have the same id.

    Example:
        ```python
        graph = handout.Graph()
        raw = graph.add(load, "data.csv")
        model = graph.add(train, raw, cost={"memory": "20 MB"})
        results = await handout.execute(graph)
        results[model]
        ```
    """

    __slots__ = ("__weakref__", "_args", "_checked_count", "_checked_fn", "_checks", "_fns", "_nodes")

    def __init__(self, functions: Iterable[Function[Any]] = ()) -> None:
        self._nodes = Nodes()
        # For a call without options, `_add` appends to these two lists directly, because that is faster.
        self._fns = self._nodes.fns
        self._args = self._nodes.args
        self._checks = CallChecks(self._nodes)
        #: The function and the number of arguments of the last call on the shorter path of `_add`, which was checked.
        self._checked_fn: Callable[..., Any] | None = None
        self._checked_count = 0
        self._add_explicit(list(functions))

    def value(self, value: A, /, *, id: str | None = None) -> Output[A]:
        """Add a value as an object of its own. It travels to a host only once, however many functions there take it.

        A run can use another value instead: ``execute(graph, given={output: other})``.

        Args:
            value: Any value that can be pickled.
            id: Name of the value, unique in the graph. Default: ``value`` for the first value, ``value-2`` for the
                second.

        Returns:
            The output to give to functions in place of the value.

        Raises:
            GraphError: The value is an `Output`, an `Arg` or a `Warm`, or another node has the id.

        Example:
            ```python
            table = graph.value(load_table())
            scores = graph.map(score, range(100), table)
            ```
        """
        if type(value) in UNFINISHED:
            raise refusal("graph.value", "this value", value)
        if issubclass(type(value), Input):  # not `isinstance`, which asks the value for its ``__class__``
            raise GraphError(
                f"{value!r} is a promise of a value, not a value.", remedy="Pass it to functions as it is."
            )
        if id is not None:
            check_options({"id": id}, "graph.value")
        return self._nodes.append(None, (value,), {}, Policy(id=id))

    def reduce(
        self,
        fn: Callable[[list[A]], A],
        parts: Iterable[A | Input[A]],
        /,
        *,
        width: int = 16,
        **options: Unpack[Options],
    ) -> Output[A]:
        """Add a tree of calls that reduces many parts to one. Each call takes a list of at most ``width`` parts.

        The order of the parts is kept. On each level of the tree, the lists differ in length by at most one. If there
        is only one part, ``fn`` is still called, with a list that contains this part.

        Args:
            fn: Function that takes a list of parts and returns a part.
            parts: Values or outputs; at least one.
            width: Largest number of parts that one call takes; at least 2.
            **options: Options of every call. If ``id`` is given, only the last call gets this id, and every other call
                gets ``id[level,number]``. Levels, and the calls on a level, are numbered from 0.

        Returns:
            The output of the last call.

        Raises:
            GraphError: There are no parts, ``width`` is below 2, or an option is wrong.

        Example:
            ```python
            total = graph.reduce(sum, graph.map(count, files), width=8)
            ```
        """
        if not is_whole(width) or width < 2:
            raise GraphError(
                f"graph.reduce: width={brief(width)} is not a whole number above 1.", remedy="Give 2 or more."
            )
        level = items_of(f"graph.reduce of {name_of(fn)!r}: the parts", parts)
        if not level:
            raise GraphError(f"graph.reduce: there are no parts for {name_of(fn)!r}.", remedy="Give at least one part.")
        given = self._checks.only_options("graph.reduce", fn, options)
        policy = self._nodes.policy({k: v for k, v in given.items() if k != "id"})
        id_ = given.get("id")
        bound = unbound(unwrapped(fn))
        depth = 0
        while len(level) > width:
            count = -(-len(level) // width)
            cuts = [len(level) * i // count for i in range(count + 1)]
            groups = [level[a:b] for a, b in pairwise(cuts)]
            level = [
                group[0]
                if len(group) == 1
                else self._nodes.append(
                    *self._checks.bind(bound, (group,), {}, id_),
                    policy if id_ is None else policy._replace(id=f"{id_}[{depth},{i}]"),
                )
                for i, group in enumerate(groups)
            ]
            depth += 1
        return self._nodes.append(*self._checks.bind(bound, (level,), {}, id_), policy._replace(id=id_))

    def check(self, inventory: InventoryLike = None) -> None:
        """Check the graph, and compare its costs with the capabilities in an inventory. No host is contacted.

        A capability that the inventory does not declare, but that an agent or a tracker may report, does not count as
        missing.

        Args:
            inventory: The hosts. Default: this machine alone.

        Raises:
            GraphError: The graph is wrong.
            PlacementError: A function, or a group of functions that must share one host, can run on no host of the
                inventory.
            InventoryError: The inventory cannot be read.

        Example:
            ```python
            graph.check("hosts.toml")
            ```
        """
        at_once(check_placement(self.compile(), inventory))

    def compile(self, *, outputs: Outs = None, given: GivenValues | None = None) -> Plan:
        """Check the graph and number the tasks and objects of one run.

        Args:
            outputs: The outputs that the caller wants. None: all results that no function of the graph takes.
            given: Values that replace outputs, by output or by id.

        Returns:
            The plan that a run executes.

        Raises:
            GraphError: The graph, or one of the arguments, is wrong.
        """
        return at_once(self._compile(outputs, given))

    def _compile(self, outputs: Outs, given: GivenValues | None, keep: Outs = None) -> Slices[Plan]:
        """Do the work of `compile` in slices."""
        return compile_nodes(self._nodes, self._checks.signatures, outputs=outputs, given=given, keep=keep)

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        return to_mermaid(self._nodes)

    def to_dot(self) -> str:
        """Return the graph in the DOT language of Graphviz."""
        return to_dot(self._nodes)

    def __repr__(self) -> str:
        return f"<Graph of {len(self._fns)} functions and values>"

    def __reduce__(self) -> NoReturn:
        raise GraphError(
            "a Graph cannot be copied, pickled, or sent to a host.",
            remedy="Build it where it is needed: for a second graph, call the code that builds it again, and in a "
            "function, pass the values that it is built from.",
        )

    def _add(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Output[Any]:
        if kwargs or (MARKS and mark_of(fn) is not None) or type(fn) is partial or not is_function(fn):
            given, own = self._checks.split(fn, kwargs)
            policy = self._nodes.policy(given)
            return self._nodes.append(*self._checks.bind(unbound(unwrapped(fn)), args, own, policy.id), policy)
        # In a large graph, most calls have no options and no keyword arguments. This shorter path is for such calls.
        if getattr(fn, "__module__", None) not in REMEMBERED:
            remember_loaded(fn)
        count = len(args)
        if self._checked_fn is not fn or self._checked_count != count:
            self._checks.signatures.check(fn, count, (), None)
            self._checked_fn, self._checked_count = fn, count
        nodes = self._nodes
        for arg in args:
            kind = type(arg)
            if kind in UNFINISHED or kind is Warm or (kind is Output and arg._origin is not nodes):
                self._checks.check_arguments(fn, None, args, {})
        fns = self._fns
        node = len(fns)
        fns.append(fn)
        self._args.append(args)
        return Output(nodes, node)

    def _map(self, fn: Callable[..., Any], columns: tuple[Any, ...], options: Mapping[str, Any]) -> list[Output[Any]]:
        policy = self._nodes.policy(self._checks.only_options("graph.map", fn, options))
        rows = rows_of(name_of(fn), columns)
        if not rows:
            return []
        bound = unbound(unwrapped(fn))
        try:
            inner, first, own = self._checks.bind(bound, rows[0], {}, policy.id)
        except GraphError as error:
            if len(columns) == 1 and type(rows[0][0]) is tuple:
                error.remedy = (
                    f"If each item holds all arguments of a call, write graph.map({name_of(fn)}, *zip(*items))."
                )
            raise
        for row in rows:
            self._checks.check_arguments(fn, policy.id, row, {})
        if first is not rows[0]:
            rows = [joined(bound[1], row) for row in rows]
        append = self._nodes.append
        if policy.id is None:
            return [append(inner, row, own, policy) for row in rows]
        return [append(inner, row, own, policy._replace(id=f"{policy.id}[{i}]")) for i, row in enumerate(rows)]

    def _add_explicit(self, functions: Sequence[Function[Any]]) -> None:
        nodes = self._nodes
        for function in functions:
            if not isinstance(function, Function):
                raise GraphError(
                    f"{brief(function)} is not an entry that handout.function made.",
                    remedy="Write handout.function('id', f, ...), or add the function with graph.add(f, ...).",
                )
            options = {**(mark_of(function.fn) or {}), **function.options, "id": function.id}
            check_options(options, f"function {function.id!r}")
            nodes.append(function.fn, (), function.kwargs, nodes.policy(options))
        for node, function in enumerate(functions):
            producers = tuple([self._producer(node, function, named) for named in function.args])
            bound, args = unbound(unwrapped(function.fn)), producers + function.extra_args
            fn, args, kwargs = self._checks.bind(bound, args, function.kwargs, function.id)
            nodes.fns[node], nodes.args[node] = fn, args
            if kwargs:
                nodes.kwargs[node] = kwargs

    def _producer(self, node: int, function: Function[Any], named: Any) -> Input[Any]:
        """Return the producer for ``named``, an entry of ``args``: an id, an id with keys, an output or an `Arg`."""
        if isinstance(named, Arg) and isinstance(named.producer, str | tuple):
            again: Any = Arg
            arg: Input[Any] = again(self._producer(node, function, named.producer), dump=named.dump, load=named.load)
            return arg
        if isinstance(named, Input):
            return named
        id_, keys = (named[0], named[1:]) if isinstance(named, tuple) and named else (named, ())
        if not isinstance(id_, str):
            raise GraphError(
                f"function {function.id!r}: the entry {brief(named)} in args= does not name a function.",
                remedy="Put plain values in extra_args=. In args=, give ids, or (id, key) for an element of a result.",
            )
        producer = self._nodes.find(id_)
        if producer is None:
            raise GraphError(
                f"function {function.id!r} takes the result of {id_!r}, which does not exist.",
                remedy=self._nodes.did_you_mean(id_),
            )
        self._nodes.forward = self._nodes.forward or producer >= node
        output: Output[Any] = Output(self._nodes, producer)
        for key in keys:
            output = output[key]
        return output


Runnable = Graph | Sequence[Function[Any]]
"""A `Graph`, or a list of `function` entries. `execute`, `start` and `run` take either."""


def as_graph(graph: Runnable) -> Graph:
    """Return the graph itself, or the graph that a list of functions describes.

    Raises:
        GraphError: The value is neither a graph nor a list of functions.
    """
    if isinstance(graph, Graph):
        return graph
    functions: Any = graph
    if isinstance(functions, Sequence) and not isinstance(functions, str):
        return Graph(functions)
    raise GraphError(f"{brief(graph)} is not a graph.", remedy="Give a Graph, or a list of handout.function(...).")
