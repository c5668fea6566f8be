"""Values that replace outputs for one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from handout.errors import GraphError
from handout.graph.output import Output
from handout.graph.path import Path, apply_path, path_key
from handout.graph.wiring import STORED, Wiring

__all__ = ["EarlierRun", "Given", "GivenValue", "Replacements"]

Given = Mapping[str, Any] | Mapping[Output[Any], Any]


@runtime_checkable
class EarlierRun(Protocol):
    """Results of an earlier run: they may know more functions than this graph, and some of them failed."""

    @property
    def failures(self) -> Mapping[str, Any]:
        """What has no result."""
        ...

    def raise_failures(self) -> None:
        """Tells this protocol from a plain mapping."""
        ...


class GivenValue:
    """A value that replaces an output for this run; looked up when it is needed, because results are unpickled then."""

    __slots__ = ("key", "path", "source")

    def __init__(self, source: Mapping[Any, Any], key: Any, path: Path) -> None:
        #: What the caller gave: a mapping, or the results of an earlier run.
        self.source: Mapping[Any, Any] = source
        #: Its key there.
        self.key: Any = key
        #: From what lies there to the value.
        self.path: Path = path

    @property
    def value(self) -> Any:
        """The value."""
        return apply_path(self.source[self.key], self.path)


class Replacements:
    """The given values by node and path."""

    __slots__ = ("_by_node", "_source")

    def __init__(self, wiring: Wiring, given: Given | None) -> None:
        self._by_node: dict[int, dict[Any, Any]] = {}
        self._source: Any = given
        for key in _usable(wiring, given):
            output = self._output(wiring, key)
            self._by_node.setdefault(output._node, {})[path_key(output._path)] = key

    @staticmethod
    def _output(wiring: Wiring, key: object) -> Output[Any]:
        if isinstance(key, str):
            node = wiring.nodes.find(key)
            if node is None:
                raise GraphError(f"given= names {key!r}, which does not exist.", remedy=wiring.nodes.did_you_mean(key))
            return Output(wiring.nodes, node)
        if not isinstance(key, Output) or wiring.node_of(key) == STORED:
            raise GraphError(f"given= cannot replace {key!r}.", remedy="Name outputs of this graph, or ids.")
        return key

    def __bool__(self) -> bool:
        return bool(self._by_node)

    def find(self, node: int, path: Path) -> GivenValue | None:
        """What replaces an output; the element of what replaces an output around it."""
        by_path = self._by_node.get(node)
        if by_path is None:
            return None
        for end in range(len(path), -1, -1):
            key = by_path.get(path_key(path[:end]))
            if key is not None:
                return GivenValue(self._source, key, path[end:])
        return None


def _usable(wiring: Wiring, given: Given | None) -> list[object]:
    """The keys that are to replace something; an earlier run's failures, and functions only it knew, are not."""
    if not isinstance(given, EarlierRun):
        return list(given or ())
    failed, find = given.failures, wiring.nodes.find
    return [key for key in given if key not in failed and (not isinstance(key, str) or find(key) is not None)]
