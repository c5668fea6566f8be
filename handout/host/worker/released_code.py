"""Frees the functions and the globals that a run has sent by value, when the run is over.

They refer to each other, so only a garbage collection frees them. It visits all objects of the worker, which takes a
tenth of a second if a package such as torch is loaded. So the worker collects at once only if the run leaves something
that may be large or hold a resource, such as an array, a file or an object of a class. What runs leave of mere code and
of small constants is freed together with that of the next runs.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable
from typing import Any

from handout.host.worker import main_module

__all__ = ["ReleasedCode", "is_small"]

#: At most this many runs leave code that is not freed.
_MAX_RUNS = 32
#: Code of more bytes is freed at once.
_MAX_BYTES = 100_000
#: The types of code and constants, whose objects hold no resource. The set has their ``id``, because a metaclass may
#: define ``__hash__``.
_TYPES = frozenset(map(id, (
    type(None), bool, int, float, complex, str, bytes, tuple, list, dict, set, frozenset, types.FunctionType,
    types.CodeType, types.CellType, types.ModuleType, types.BuiltinFunctionType, main_module.MainModule,
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
    listed, nbytes, reached = list(sys.modules.values()), 0, list(roots)
    # The worker keeps the imported modules in any case, with all that they name.
    seen = {*map(id, listed), *(id(_NAMESPACE.__get__(each)) for each in listed if _is_module(each))}
    for each in reached:  # it grows while it is read
        if id(each) in seen or _is_imported(each):
            continue
        seen.add(id(each))
        nbytes += sys.getsizeof(each) if id(type(each)) in _TYPES else _MAX_BYTES
        if nbytes >= _MAX_BYTES:
            return False
        reached += gc.get_referents(each)
    return True


#: These descriptors read what objects have, even if their types have attributes of the same names.
_NAMESPACE: Any = vars(types.ModuleType)["__dict__"]
_ATTRIBUTES, _MODULE, _QUALNAME = (vars(type)[name] for name in ("__dict__", "__module__", "__qualname__"))


def _is_module(value: Any) -> bool:
    return issubclass(type(value), types.ModuleType)


def _is_imported(value: Any) -> bool:
    """Return True for a class or a function that an imported module has under the name that the object gives."""
    if type(value) is types.FunctionType:
        home, path = value.__module__, value.__qualname__
    elif issubclass(type(value), type):
        home, path = _MODULE.__get__(value), _QUALNAME.__get__(value)
    else:
        return False
    if type(home) is not str or type(path) is not str:
        return False
    found: Any = sys.modules.get(home)
    for name in path.split("."):
        if _is_module(found):
            found = _NAMESPACE.__get__(found).get(name)
        elif issubclass(type(found), type):
            found = _ATTRIBUTES.__get__(found).get(name)
        else:
            return False
    return found is value
