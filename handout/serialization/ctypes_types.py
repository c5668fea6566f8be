"""Reduces the types that ctypes makes of other types: arrays, pointers, functions, and numbers in another byte order.

ctypes makes such a type anew in each process, under no name by which another process could import it. The classes that
a program derives from those of ctypes, such as its structures, are taken apart in `classes_by_value`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any, Callable

from handout.serialization.importable import importable_name

__all__ = ["loaded_ctypes", "reduce_ctypes"]


def loaded_ctypes() -> Any:
    """Return ctypes, if the program has imported it."""
    return sys.modules.get("ctypes")


def reduce_ctypes(cls: Any) -> Any:
    """Return the tuple from which pickle writes a type that ctypes makes of others, or a number in another byte order.

    Return None for any other class, and for a pointer to a class that is sent by value.
    """
    ctypes = loaded_ctypes()
    if ctypes is None:
        return None
    for base in (ctypes.Structure, ctypes.Union, ctypes.Array, ctypes._SimpleCData, ctypes._CFuncPtr, ctypes._Pointer):
        if type(base) is cls:
            return type, (base,)
    if issubclass(cls, ctypes._SimpleCData):
        for other, order in (("__ctype_le__", "__ctype_be__"), ("__ctype_be__", "__ctype_le__")):
            native = getattr(cls, other, cls)
            if native is not cls and getattr(native, order) is cls and importable_name(native) is not None:
                return getattr, (native, order)
    for make, args in _makers_of(cls):
        if make(*args) is cls:  # otherwise it is a subclass that a program defines
            return make, args
    return None


def _makers_of(cls: Any) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Yield how ctypes may have made a type of others."""
    ctypes, own = loaded_ctypes(), vars(cls)
    if issubclass(cls, ctypes.Array) and "_length_" in own and "_type_" in own:
        yield _make_array_type, (cls._type_, cls._length_)
    if issubclass(cls, ctypes._CFuncPtr) and "_argtypes_" in own and "_restype_" in own:
        yield _make_function_type, (cls._flags_, cls._restype_, *cls._argtypes_)
    if issubclass(cls, ctypes._Pointer) and "_type_" in own:
        if importable_name(cls._type_) is not None or reduce_ctypes(cls._type_) is not None:
            yield ctypes.POINTER, (cls._type_,)


def _make_array_type(kind: Any, length: int) -> Any:
    return kind * length


def _make_function_type(flags: int, result: Any, *args: Any) -> Any:
    ctypes: Any = importlib.import_module("ctypes")
    use_errno, use_last_error = flags & ctypes._FUNCFLAG_USE_ERRNO, flags & ctypes._FUNCFLAG_USE_LASTERROR
    return ctypes.CFUNCTYPE(result, *args, use_errno=use_errno, use_last_error=use_last_error)
