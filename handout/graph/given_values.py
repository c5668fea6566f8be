"""Values that the caller gives to replace outputs in one run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from handout.errors import GraphError
from handout.graph.output import Output
from handout.graph.path import path_key
from handout.graph.stored import Stored, StoredElement
from handout.graph.wiring import Wiring
from handout.serialization.calls import Path, apply_path
from handout.serialization.user_objects import brief
from handout.slices import Slices, is_slice_end

__all__ = ["GivenValue", "GivenValues", "Replacements"]

GivenValues = Mapping[str, Any] | Mapping[Output[Any], Any]
"""A mapping of outputs, or of ids, to the values that replace these outputs in one run.

Such a value replaces the output, whatever the function of the output is.
"""


@runtime_checkable
class _EarlierRun(Protocol):
    """The method that tells the `Results` of a run from any other mapping."""

    def raise_failures(self) -> None:
        """Raise the failures."""
        ...


class GivenValue:
    """A value that replaces an output in this run.

    The value is read only when it is needed.
    """

    __slots__ = ("key", "path", "source")

    def __init__(self, source: Mapping[Any, Any], key: Any, path: Path) -> None:
        #: The mapping that the caller gave.
        self.source: Mapping[Any, Any] = source
        #: Key of an item in `source`. The value is this item or an element of it.
        self.key: Any = key
        #: Path from the item to the value. Empty: the item itself is the value.
        self.path: Path = path

    @property
    def value(self) -> Any:
        """The value that replaces the output."""
        return apply_path(self.source[self.key], self.path)


class Replacements:
    """The values that replace outputs in this run, by node and path."""

    __slots__ = ("_by_node", "_source")

    def __init__(self, given: GivenValues | None) -> None:
        """Start without replacements. `of` adds those in ``given``."""
        self._by_node: dict[int, dict[Any, Any]] = {}
        self._source: Any = given

    @classmethod
    def of(cls, wiring: Wiring, given: GivenValues | None) -> Slices[Replacements]:
        """Return the replacements that the caller gave.

        Raises:
            GraphError: A key is not an output of the graph. Or ``given`` is the `Results` of an earlier run, whose ids
                may be those of other functions in this graph.
        """
        replaced = cls(given)
        if given is None:
            return replaced
        if isinstance(given, _EarlierRun):
            raise GraphError(
                "Results of an earlier run cannot be compiled, because only a run compares them with the graph.",
                remedy="Give them to execute, start, run or evaluate. Or give a mapping: {output: results[output]}.",
            )
        yield from wiring.nodes.names.extend_in_slices(wiring.nodes.fns, wiring.count)  # to find keys that are ids
        for place, key in enumerate(list(given)):  # a copy, because the caller may change the mapping between slices
            if is_slice_end(place):
                yield
            output = cls._output(wiring, key)
            replaced._by_node.setdefault(wiring.node_of(output), {})[path_key(output._path)] = key
        return replaced

    @staticmethod
    def _output(wiring: Wiring, key: object) -> Output[Any]:
        if isinstance(key, str):
            node = wiring.nodes.find(key)
            if node is None:
                raise GraphError(
                    f"given= names {brief(key)}, which does not exist.", remedy=wiring.nodes.did_you_mean(key)
                )
            return Output(wiring.nodes, node)
        if not isinstance(key, Output):
            raise GraphError(
                f"given= cannot replace {brief(key)}.", remedy="As keys, use outputs of this graph, or ids."
            )
        return key

    def __bool__(self) -> bool:
        return bool(self._by_node)

    def check_elements(self, wiring: Wiring, roots: Sequence[Output[Any]]) -> Slices[None]:
        """Check that each element that the caller gave is taken as such. Otherwise the value would have no effect.

        Raises:
            GraphError: No function takes a given element, and it is none of ``roots``, the outputs that the run keeps
                or brings back.
        """
        unused = {id(key): key for keys in self._by_node.values() for path, key in keys.items() if path}
        if not unused:
            return
        refs = (wiring.base(ref) for refs in wiring.refs for ref in refs)
        for place, output in enumerate(itertools.chain(roots, refs)):
            if is_slice_end(place):
                yield
            if (given := self.find(wiring.node_of(output), output._path)) is not None:
                unused.pop(id(given.key), None)
        for key in unused.values():
            whole: Output[Any] = Output(key._origin, key._node)
            raise GraphError(
                f"given= replaces {brief(key.id)}, and no function takes this element alone.",
                remedy=f"Correct the element, or replace all of {brief(whole.id)}.",
            )

    def stored(self, node: int, path: Path) -> tuple[Output[Any], Path] | None:
        """Return the stored object that replaces an output, and the path from it to the output's value.

        None: no stored object replaces the output.
        """
        given = self.find(node, path) if self._by_node else None
        value = None if given is None else given.source[given.key]
        if given is not None and isinstance(value, Stored | StoredElement):
            return value, given.path
        return None

    def find(self, node: int, path: Path) -> GivenValue | None:
        """Return the value that replaces an output, or None if the caller gave none.

        A value that was given for ``out`` also replaces ``out[0]``, unless ``out[0]`` was given a value of its own.
        """
        by_path = self._by_node.get(node)
        if by_path is None:
            return None
        for end in range(len(path), -1, -1):
            key = by_path.get(path_key(path[:end]))
            if key is not None:
                return GivenValue(self._source, key, path[end:])
        return None
