"""Tells whether a function would be pickled as before, without pickling it.

Each call of a function of a script sends the function by value, because the script may have changed the function, or an
object that the function uses. To pickle such a function takes longer than all else that the controller does for a call.
So the controller notes what the bytes depend on, and compares this at the next call. That is possible only for
functions that depend on few kinds of objects: on constants, on other such functions, and on the modules, functions and
classes that hosts import. All other functions are pickled for each call.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Final, NamedTuple, TypeAlias

from handout.serialization import definitions, functions_by_value, tokens
from handout.serialization.calls import PLAIN_TYPES
from handout.serialization.importable import importable_name, is_importable

__all__ = ["Dependencies", "dependencies_of"]

#: Longer constants are not compared, because the table of dependencies would keep them alive.
_MOST_BYTES: Final = 4096
#: A function that uses more functions is pickled for each call.
_MOST_FUNCTIONS: Final = 64
#: The value of a global that does not exist.
_MISSING: Final = object()
#: The types of the objects, apart from modules, that hosts import by the object's own name.
_NAMED_TYPES: Final = frozenset({FunctionType, BuiltinFunctionType, type})

#: A module, and a name in it.
_Name: TypeAlias = tuple[str, str]


class _Uses(NamedTuple):
    """What a function by value uses. Only constants are kept alive."""

    code: CodeType
    attributes: tuple[Any, ...]
    annotations: tuple[tuple[str, Any], ...]
    #: The constants among the globals that the code or an annotation names. `_MISSING` is the value of a name that is
    #: no global.
    constants: tuple[tuple[str, Any], ...]
    #: The other globals. The last item is the name by which hosts import a function or a class, and None for modules
    #: and for functions by value.
    objects: tuple[tuple[str, weakref.ref[Any], _Name | None], ...]
    #: The modules that the code imports or reaches through other modules, by their names in `sys.modules`.
    modules: tuple[tuple[str, weakref.ref[Any]], ...]

    def are_unchanged(self, fn: FunctionType) -> bool:
        """Return True if the function still uses the same."""
        if fn.__code__ is not self.code or fn.__dict__ or importable_name(fn) is not None:
            return False
        if not _are_same(_attributes(fn), self.attributes):
            return False
        annotations = fn.__annotations__
        if tuple(annotations) != tuple(name for name, _ in self.annotations):
            return False
        if not _are_same(annotations.values(), (value for _, value in self.annotations)):
            return False
        space = fn.__globals__
        if any(space.get(name, _MISSING) is not value for name, value in self.constants):
            return False
        for name, reference, importable in self.objects:
            value = space.get(name)
            if value is None or value is not reference():
                return False
            if importable is not None and importable_name(value) != importable:
                return False
            if type(value) is ModuleType and not is_importable(value):
                return False
        return all(_is_listed(name, reference) for name, reference in self.modules)


class _State(NamedTuple):
    """A function, and what its bytes depend on."""

    function: weakref.ref[Any]
    #: The name by which hosts import the function, or what it uses if it is sent by value.
    sent_as: _Name | _Uses

    def is_unchanged(self) -> bool:
        fn = self.function()
        if fn is None:
            return False
        if isinstance(self.sent_as, _Uses):
            return self.sent_as.are_unchanged(fn)
        return importable_name(fn) == self.sent_as


class Dependencies(NamedTuple):
    """What the bytes of a function depend on."""

    #: See `_imported`. It is None for a function that hosts import.
    imported: tuple[Any, ...] | None
    #: The function, and each function by value that it uses, directly or not.
    functions: tuple[_State, ...]

    def are_unchanged(self) -> bool:
        """Return True if the function would be pickled as before."""
        if self.imported is not None and self.imported != _imported():
            return False
        return all(each.is_unchanged() for each in self.functions)


def dependencies_of(fn: Callable[..., Any]) -> Dependencies | None:
    """Return what the bytes of a function depend on. Return None if they may depend on anything else, too."""
    if type(fn) is not FunctionType:
        return None
    name = importable_name(fn)
    if name is not None:
        return Dependencies(None, (_State(weakref.ref(fn), name),))
    found: dict[int, _State] = {}
    queue: list[FunctionType] = [fn]
    while queue:
        each = queue.pop()
        if id(each) in found:
            continue
        uses = _uses_of(each, queue)
        if uses is None or len(found) >= _MOST_FUNCTIONS:
            return None
        found[id(each)] = _State(weakref.ref(each), uses)
    return Dependencies(_imported(), tuple(found.values()))


def _imported() -> tuple[Any, ...]:
    """Return what changes when the program imports a module, which functions may then find in its package.

    It is also different in each process, because the bytes of a function name the process that made them.
    """
    last = next(reversed(sys.modules), "")
    return tokens.origin(), len(sys.modules), last, id(sys.modules.get(last))


def _uses_of(fn: FunctionType, queue: list[FunctionType]) -> _Uses | None:
    """Return what a function by value uses, and add the functions by value among it to the queue.

    Return None if the function uses an object of another kind.
    """
    parts, names = functions_by_value.parts(fn), functions_by_value.names_in(fn.__code__)
    annotations = tuple(fn.__annotations__.items())
    if (
        fn.__closure__
        or fn.__dict__
        or fn.__kwdefaults__
        or getattr(fn, "__type_params__", None)
        or functions_by_value.OWN_MODULE in fn.__globals__
        or definitions.arrived_as(fn) is not None
        or not all(map(_is_constant, fn.__defaults__ or ()))
        or not all(_is_constant(each) or _is_built_in(each) for _, each in annotations)
        or any(module is not None for module in parts.modules.values())
    ):
        return None
    constants: list[tuple[str, Any]] = []
    objects: list[tuple[str, weakref.ref[Any], _Name | None]] = []
    texts = functions_by_value.annotated(fn.__annotations__.values())
    for name in dict.fromkeys(("__name__", *names.used, *texts)):
        value = fn.__globals__.get(name, _MISSING)
        if value is _MISSING or _is_constant(value):
            constants.append((name, value))
            continue
        kind = type(value)
        importable = importable_name(value) if kind in _NAMED_TYPES else None
        if importable is None and kind is FunctionType:
            queue.append(value)
        elif importable is None and not (kind is ModuleType and is_importable(value)):
            return None
        objects.append((name, weakref.ref(value), importable))
    modules = _listed({*parts.modules, *_with_packages(names.imported)})
    if modules is None:
        return None
    return _Uses(fn.__code__, _attributes(fn), annotations, tuple(constants), tuple(objects), modules)


def _attributes(fn: FunctionType) -> tuple[Any, ...]:
    return (
        fn.__defaults__, fn.__kwdefaults__, fn.__doc__, fn.__name__, fn.__qualname__, fn.__module__,
        getattr(fn, "__type_params__", None) or None,
    )  # fmt: skip


def _is_constant(value: Any) -> bool:
    kind = type(value)
    return kind in PLAIN_TYPES and (kind not in (str, bytes) or len(value) <= _MOST_BYTES)


def _is_built_in(value: Any) -> bool:
    return type(value) is type and value.__module__ == "builtins"


def _are_same(these: Iterable[Any], those: Iterable[Any]) -> bool:
    return all(this is that for this, that in zip(these, those, strict=True))


def _with_packages(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        yield name
        while "." in name:
            name = name.rpartition(".")[0]
            yield name


def _listed(names: Iterable[str]) -> tuple[tuple[str, weakref.ref[Any]], ...] | None:
    """Return the modules of these names. Return None if a name leads to an object of another kind."""
    found = [(name, sys.modules[name]) for name in sorted(names) if name in sys.modules]
    if not all(type(module) is ModuleType for _, module in found):
        return None
    return tuple((name, weakref.ref(module)) for name, module in found)


def _is_listed(name: str, module: weakref.ref[Any]) -> bool:
    found = sys.modules.get(name)
    return found is not None and found is module()
