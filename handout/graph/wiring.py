"""The edges of a graph: the outputs in the arguments of each node. `Arg` objects add further nodes and edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from handout.errors import GraphError, UnserializableError
from handout.graph.arg import Arg
from handout.graph.naming import name_of
from handout.graph.nodes import Nodes
from handout.graph.order import find_cycle, topological
from handout.graph.output import Input, Output
from handout.graph.scan import Scanner
from handout.graph.stored import Home, Stored, StoredElement
from handout.graph.warm import Warm
from handout.serialization.user_objects import is_interruption, short_name, text, type_name
from handout.slices import Slices, column, is_slice_end

__all__ = ["Wiring", "of_another_graph"]


class Wiring:
    """The nodes that a graph had when this object was made, with the references in their arguments.

    Before it is used, `scan` must find the references.

    References are outputs, `Arg` objects and `Warm` objects. The ``dump`` of an `Arg` becomes a node of its own, a dump
    node, unless the producer of the `Arg` is inline. The numbers of dump nodes follow the numbers of the graph's nodes.
    All functions that take the same ``dump`` of the same output share one dump node. A `Warm` becomes a node, too. Like
    an inline function, it has no task: the tasks that take it also take what its arguments refer to.
    """

    __slots__ = (
        "_dump_ids",
        "_dumps",
        "_elements",
        "_stored",
        "_warm",
        "args",
        "count",
        "dumped",
        "fns",
        "homes",
        "inline",
        "nodes",
        "refs",
        "warm",
    )

    def __init__(self, nodes: Nodes) -> None:
        self.nodes: Nodes = nodes
        #: Number of nodes of the graph. The first dump node has this number.
        self.count: int = len(nodes.fns)
        self.fns: list[Callable[..., Any] | None] = list(nodes.fns)
        self.args: list[tuple[Any, ...]] = list(nodes.args)
        #: The nodes of inline functions and of `Warm` objects, which run inside the tasks that take them.
        self.inline: set[int] = set(nodes.inline)
        #: The `Warm` objects, by their nodes.
        self.warm: dict[int, Warm[Any]] = {}
        #: The node of each `Warm`, by the identity of the object.
        self._warm: dict[int, int] = {}
        #: The references in the arguments of each node, in order, with repetitions. A value has no references.
        self.refs: list[tuple[Input[Any], ...]] = []
        #: The output that each dump node converts.
        self.dumped: dict[int, Output[Any]] = {}
        #: The number of each dump node, by the producer and the identity of the ``dump`` of its `Arg`.
        self._dumps: dict[tuple[Input[Any], int], int] = {}
        self._dump_ids: dict[int, str] = {}
        #: The stored objects that functions take, by the nodes that stand for them. The nodes are values.
        self.homes: dict[int, Home] = {}
        #: The node of each stored object, by the identity of its home.
        self._stored: dict[int, int] = {}
        #: For stored objects of which functions take elements: a node with a function that returns the object. The
        #: elements are taken out of its result, so that they alone travel.
        self._elements: dict[int, int] = {}

    def scan(self) -> Slices[None]:
        """Find the references in the arguments of all nodes.

        Raises:
            GraphError: An output is inside a set, an `Arg` has no producer, or arguments are nested too deeply.
            UnserializableError: An argument raises an error when its items are read.
        """
        references = Scanner().references
        fns, args, refs = self.fns, self.args, self.refs
        node = 0
        while node < len(fns):  # `_enter` appends dump nodes, which this loop scans as well
            if is_slice_end(node):
                yield
            named = self.kwargs_of(node)
            try:
                found = () if fns[node] is None else references(args[node], named)
            except GraphError:
                raise
            except BaseException as error:  # a subclass of list or dict may raise anything
                if is_interruption(error):
                    raise
                raise _unreadable(self.id_of(node), args[node], named or {}, error) from error
            refs.append(found)
            for ref in found:
                if type(ref) is not Output:
                    self._enter(ref)
            node += 1

    def _enter(self, ref: Input[Any]) -> None:
        """Add the nodes of a stored object, the node of a `Warm`, or the dump node of an `Arg`.

        If the producer of an `Arg` is inline, no node is added, because the dump runs in the consumer.
        """
        if isinstance(ref, Stored | StoredElement):
            self._enter_stored(ref)
        elif isinstance(ref, Warm) and id(ref) not in self._warm:
            node = self._warm[id(ref)] = len(self.fns)
            self.warm[node] = ref
            self.inline.add(node)
            self.fns.append(ref.make)
            self.args.append(ref.args)
        if not isinstance(ref, Arg):
            return
        if isinstance(ref.producer, Arg | Stored | StoredElement | Warm):
            self._enter(ref.producer)
        elif not isinstance(ref.producer, Output):
            raise GraphError(f"{ref!r} has no producer.", remedy="Give an output: Arg(out, load=...).")
        if ref.dump is None:
            return
        source = self.base(ref.producer)
        key = (ref.producer, id(ref.dump))
        if key in self._dumps or self.node_of(source) in self.inline:
            return
        node = self._dumps[key] = len(self.fns)
        self.dumped[node] = source
        self.fns.append(ref.dump)
        self.args.append((ref.producer,))

    def _enter_stored(self, ref: Output[Any]) -> None:
        home = cast(Home, ref._origin)
        if id(home) not in self._stored:
            self._stored[id(home)] = node = len(self.fns)
            self.homes[node] = home
            self.fns.append(None)
            self.args.append((home,))
        if ref._path and id(home) not in self._elements:
            self._elements[id(home)] = len(self.fns)
            self.fns.append(cast)  # ``cast(None, value)`` returns the value
            self.args.append((None, Output(self, self._stored[id(home)])))

    def dump_output(self, arg: Arg[Any]) -> Output[Any] | None:
        """Return the output of an `Arg`'s dump node.

        None: the `Arg` has no ``dump``, or its ``dump`` runs inside the consumer.
        """
        if arg.dump is None:
            return None
        node = self._dumps.get((arg.producer, id(arg.dump)))
        return None if node is None else Output(self, node)

    def base(self, ref: Input[Any]) -> Output[Any]:
        """Return the output whose object travels when a function takes a reference.

        The base of an output is the output itself. The base of an `Arg` is the output of its dump node or, if it has no
        dump node, the base of its producer. The base of a `Warm` is the output of its node.

        Raises:
            GraphError: The reference is not an output, an `Arg` or a `Warm`.
        """
        while not isinstance(ref, Output):
            if isinstance(ref, Warm):
                if id(ref) not in self._warm:
                    raise GraphError(f"{ref!r} has no host of its own.", remedy="Name a function that runs as a task.")
                return Output(self, self._warm[id(ref)])
            if not isinstance(ref, Arg):
                raise GraphError(f"{ref!r} cannot be an argument.", remedy="Give an output or an Arg.")
            dumped = self.dump_output(ref)
            ref = ref.producer if dumped is None else dumped
        return ref

    def node_of(self, output: Output[Any]) -> int:
        """Return the node of an output.

        Raises:
            GraphError: The output belongs to another graph, or was added after the run began.
        """
        origin, node = output._origin, output._node
        if origin is self.nodes:
            if node < self.count:
                return node
            raise GraphError(f"{output!r} was added to the graph after this run began.", remedy="Run the graph again.")
        if origin is self:
            return node
        known = (self._elements if output._path else self._stored).get(id(origin))
        if known is not None:
            return known
        raise of_another_graph(output)

    def node_of_warm(self, warm: Warm[Any]) -> int | None:
        """Return the node of a `Warm`, or None if no argument holds it."""
        return self._warm.get(id(warm))

    def kwargs_of(self, node: int) -> Mapping[str, Any] | None:
        """Return the keyword arguments of a node, or None if it has none."""
        if node < self.count:
            return self.nodes.kwargs.get(node)
        return self.warm[node].kwargs if node in self.warm else None

    def producers(self, node: int) -> list[int]:
        """Return the nodes whose results a node takes, in order, with repetitions."""
        nodes = self.nodes
        found = []
        for ref in self.refs[node]:
            output = ref if type(ref) is Output else self.base(ref)
            found.append(output._node if output._origin is nodes else self.node_of(output))
        return found

    def order(self) -> Slices[Sequence[int]]:
        """Return all nodes in an order in which each node comes after the nodes whose results it takes.

        Raises:
            GraphError: The graph has a cycle, which the message names.
        """
        everything = range(len(self.fns))
        if not self.nodes.forward and not any(self.refs[self.count :]):
            return everything if len(self.fns) == self.count else [*everything[self.count :], *range(self.count)]
        producers = yield from column(self.producers, everything)
        order = yield from topological(producers)
        if len(order) < len(everything):
            path = " -> ".join(self.id_of(node) for node in find_cycle(producers, order))
            raise GraphError(
                f"the graph has a cycle: {path}.", remedy="Break the cycle: a function cannot need its own result."
            )
        return order

    def id_of(self, node: int, /) -> str:
        """Return the id of a node. The id of a dump node looks like ``to_bytes(train)``."""
        if node < self.count:
            return self.nodes.id_of(node)
        known = self._dump_ids.get(node)
        if known is None:
            if node in self.dumped:
                stem = f"{name_of(self.fns[node])}({self.dumped[node].id})"
            elif node in self.warm:
                stem = repr(self.warm[node])
            else:
                home = self.homes.get(node) or self.homes[self.args[node][1]._node]
                stem = home.id if node in self.homes else f"elements({home.id})"
            known, more = stem, 1
            while known in self._dump_ids.values() or self.nodes.find(known) is not None:
                more += 1
                known = f"{stem}-{more}"
            self._dump_ids[node] = known
        return known

    def function(self, node: int) -> Callable[..., Any]:
        """Return the function of a node that is not a value."""
        fn = self.fns[node]
        assert fn is not None
        return fn


def of_another_graph(output: Output[Any]) -> GraphError:
    """Return the error for an output that a function of another graph makes."""
    return GraphError(
        f"{output!r} belongs to another graph.",
        remedy="Add its function to this graph, or run the other graph first and pass the value from its results.",
    )


def _unreadable(id: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException) -> UnserializableError:
    """Return the error for a function of which an argument raised an error while its items were read."""
    path, value = next(
        (name, arg)
        for name, arg in [*((f"args[{i}]", arg) for i, arg in enumerate(args)), *kwargs.items(), ("args", args)]
        if name == "args" or not _is_readable(arg)
    )
    return UnserializableError(
        f"{id!r} cannot be sent to a host, because reading the items of {path} ({type_name(value)}), or of a container "
        f"in it, raised {short_name(error)}: {text(error)}.",
        remedy="Pass a plain list, tuple, dict or set.",
        path=path,
        type=type_name(value),
    )


def _is_readable(value: Any) -> bool:
    try:
        Scanner().references((value,), None)
    except BaseException as error:  # see `_unreadable`
        if is_interruption(error):
            raise
        return False
    return True
