"""Computes the identities of classes, and of objects whose type has no rule in `value_digest`.

An identity is a digest by which a later run recognizes the same value (see `identity`). A part "counts" if the identity
depends on it. A module is "installed" if it is not the user's own (see `project_modules`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from handout.journal.code_rules import installed, module_sources
from handout.journal.installed import is_own
from handout.journal.value_walk import ValueWalk, digest
from handout.serialization import reducers
from handout.serialization.importable import importable_name
from handout.serialization.user_objects import is_interruption

__all__ = ["DERIVABLE", "a_class", "an_object"]

#: Entries of a class's dictionary that do not count. Some of them do not change what the class does, such as
#: ``__doc__``. Python makes the others, such as ``__annotations_cache__``, from the entries that count.
_CLASS_MADE = frozenset({
    "__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__", "__static_attributes__", "_abc_impl",
    "__annotations_cache__",
})  # fmt: skip

#: Pydantic's entries in a class's dictionary that count. Its other entries, such as compiled schemas and caches, do not
#: count, because pydantic makes them from the rest of the class. For ``__pydantic_decorators__``, see `_pydantic`.
_PYDANTIC_KEPT = frozenset({
    "__pydantic_fields__", "__pydantic_config__", "__pydantic_generic_metadata__", "__pydantic_root_model__",
    "__pydantic_custom_init__", "__pydantic_post_init__",
})  # fmt: skip

#: The flag of a class that was made at run time, and not by a static definition in C (``Py_TPFLAGS_HEAPTYPE``).
_HEAP_TYPE: Final = 1 << 9

#: The rules for types whose objects cannot be pickled, but can be taken apart. A rule is also used for the objects of
#: subclasses.
DERIVABLE: Mapping[type, Callable[[ValueWalk, Any], bytes]] = {
    property: lambda walk, value: walk.sequence(b"property", (value.fget, value.fset, value.fdel)),
    staticmethod: lambda walk, value: walk.sequence(b"staticmethod", (value.__func__,)),
    classmethod: lambda walk, value: walk.sequence(b"classmethod", (value.__func__,)),
}


def a_class(walk: ValueWalk, cls: type) -> bytes:
    """Return the identity of a class, made from its attributes, bases and metaclass.

    For a class of an installed module, only its name and the module's version count.
    """
    if reducers.registered(type(cls)) is not None:
        return an_object(walk, cls)
    static = not cls.__flags__ & _HEAP_TYPE
    if static or (not is_own(cls.__module__) and importable_name(cls) is not None):
        return installed(cls.__module__, cls.__qualname__)
    held = {k: v for k, v in cls.__dict__.items() if k not in _CLASS_MADE}
    if "__pydantic_decorators__" in held:
        held = _pydantic(held)
    hashed = getattr(held.get("__hash__"), "__code__", None)
    if hashed is not None and hashed.co_filename.startswith("<attrs generated"):
        # attrs writes the hash of a string into the code of ``__hash__``. This hash differs in each process.
        held["__hash__"] = "made"
    registered: Iterable[Any] = ()
    if "_abc_impl" in cls.__dict__ and (dump := getattr(sys.modules.get("_abc"), "_get_dump", None)):
        registered = {found for each in dump(cls)[0] if (found := each()) is not None}
    name = cls.__qualname__.encode()
    parts = [walk.of(type(cls)), walk.sequence(b"bases", cls.__bases__), walk.mapping(held)]
    return digest(b"class", name, *parts, walk.unordered(registered))


def an_object(walk: ValueWalk, value: Any) -> bytes:
    """Return the identity of an object whose type has no rule, made from the parts that pickling would store."""
    kind = type(value)
    reduce = reducers.registered(kind)
    try:
        reduced: Any = reduce(value) if reduce is not None else value.__reduce_ex__(5)
    except BaseException as error:  # a __reduce__ may raise anything
        if is_interruption(error):
            raise
        for base, rule in DERIVABLE.items():
            if issubclass(kind, base):
                state = getattr(value, "__dict__", None)
                return digest(b"derived", walk.of(kind), rule(walk, value), walk.of(state))
        return walk.unknown()
    if isinstance(reduced, str):
        return _named(walk, value, reduced)
    parted: tuple[Any, ...] = (*reduced, None, None, None)
    make, args, state, items, pairs = parted[:5]
    told = [*args, *(each for each in (state, items, pairs) if each is not None)]
    if len(told) == 1 and told[0] is kind and _hides(value):
        return walk.unknown()
    parts = [walk.of(make), walk.of(args), walk.of(state)]
    if items is not None:
        parts.append(walk.sequence(b"items", items))
    if pairs is not None:
        parts.append(walk.sequence(b"pairs", (each for pair in pairs for each in pair)))
    return digest(b"object", f"{kind.__module__}.{kind.__qualname__}".encode(), *parts)


def _named(walk: ValueWalk, value: Any, name: str) -> bytes:
    """Return the identity of an object that pickling would store as a name in a module.

    The identity matches nothing if no module has the object under this name, or if only C code can read the object's
    state.
    """
    for home in (getattr(value, "__module__", None), type(value).__module__, *_holders(value, name)):
        module = sys.modules.get(home) if isinstance(home, str) else None
        if home is None or module is None or getattr(module, name, None) is not value:
            continue
        if not is_own(home):
            return installed(home, name)
        if not _hides(value):
            # Functions that Cython compiled are also stored as names. Only the sources of their module contain their
            # code, so these sources count.
            code = b"" if is_own(type(value).__module__) or home == "__main__" else module_sources(walk, home)
            state = object.__getstate__(value)
            return digest(b"named", name.encode(), code, walk.of(type(value)), walk.of(state))
    return walk.unknown()


def _hides(value: Any) -> bool:
    """Return True if an object may hold state that only C code can read.

    Such an object has neither a dictionary nor slots. A plain ``object()`` has neither of them either, but the result
    is False, because a plain object holds no state.
    """
    kind = type(value)
    return kind is not object and not hasattr(value, "__dict__") and "__slots__" not in vars(kind)


def _holders(value: Any, name: str) -> list[str]:
    """Return the names of the installed modules that have this object under this name.

    The search finds the module of an object that does not name its module, such as one of SciPy's ufuncs.
    """
    found = [each for each, module in list(sys.modules.items()) if getattr(module, "__dict__", {}).get(name) is value]
    return sorted(each for each in found if not is_own(each))


def _pydantic(held: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a pydantic model's dictionary that count.

    The functions of validators are attributes of the class, so they count like all functions of the class. The entry
    `__pydantic_decorators__` tells what each validator is used for, so the names and settings in it count, too.
    """
    used: Any = held["__pydantic_decorators__"]
    kept = {
        k: v
        for k, v in held.items()
        if k in _PYDANTIC_KEPT or not (k.startswith("__pydantic_") or k == "__signature__")
    }
    if not dataclasses.is_dataclass(used):  # an unknown version of pydantic, so all of `used` counts
        return {**kept, "decorators": used}
    pairs = [pair for field in dataclasses.fields(used) for pair in getattr(used, field.name).items()]
    return {**kept, "decorators": [(name, getattr(each, "info", each)) for name, each in pairs]}
