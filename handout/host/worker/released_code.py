"""Frees the functions and the globals that a run has sent by value, when the run is over.

They refer to each other, so only a garbage collection frees them. It visits all objects of the worker, which takes a
tenth of a second if a package such as torch is loaded. So the worker collects at once only if the run leaves something
that may be large or hold a resource, such as an array, a file or an object of a class. What runs leave of mere code and
of small constants is freed together with that of the next runs.
"""

from __future__ import annotations

import builtins
import gc
import sys
import types
from collections.abc import Iterable
from typing import Any

from handout.serialization import functions_by_value, tokens

__all__ = ["ReleasedCode", "is_small"]

#: At most this many runs leave code that is not freed.
_MAX_RUNS = 32
#: Code of more bytes is freed at once.
_MAX_BYTES = 100_000
#: The types of code and constants, whose objects hold no resource. The set has their ``id``, because a metaclass may
#: define ``__hash__``.
_TYPES = frozenset(map(id, (
    type(None), bool, int, float, complex, str, bytes, tuple, list, dict, set, frozenset, types.FunctionType,
    types.CodeType, types.CellType, types.ModuleType, types.BuiltinFunctionType,
)))  # fmt: skip


class ReleasedCode:
    """Decides when a worker collects what runs have left."""

    def __init__(self) -> None:
        self._runs = 0

    def free(self, dropped: list[Any]) -> None:
        """Free what the worker has dropped of a run, now or later. This empties the list.

        Args:
            dropped: The functions and namespaces. The caller holds no other reference to them.
        """
        if not dropped:
            return
        self._runs += 1
        is_due = self._runs >= _MAX_RUNS or not is_small(dropped)
        dropped.clear()
        if is_due:
            self._runs = 0
            gc.collect()


def is_small(roots: Iterable[Any]) -> bool:
    """Return True if functions and namespaces hold only code and small constants. This runs no user code."""
    seen, nbytes, reached = {id(vars(builtins))}, 0, list(roots)
    for each in reached:  # it grows while it is read
        if id(each) in seen or _is_of_host(each):
            continue
        seen.add(id(each))
        nbytes += sys.getsizeof(each) if id(type(each)) in _TYPES else _MAX_BYTES
        if nbytes >= _MAX_BYTES:
            return False
        reached += gc.get_referents(each)
    return True


def _is_of_host(value: Any) -> bool:
    """Return True for a module, function or class that the worker has imported, and so keeps in any case."""
    kind = type(value)
    if issubclass(kind, type):
        return not tokens.is_tracked(value)
    if kind is types.ModuleType:
        return functions_by_value.OWN_MODULE not in vars(value)
    return kind is types.FunctionType and functions_by_value.OWN_MODULE not in value.__globals__
