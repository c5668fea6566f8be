"""Tells whether a function would be pickled as before, without pickling it.

A function of a script is sent by value. The script may change the function, or an object that the function uses,
between two calls. But to pickle the function for each call takes longer than all else that the controller does for a
call. So the controller notes what the bytes depend on, and compares this at the next call. This works only for
functions that depend on objects whose changes the controller can see: constants, tuples and aliases such as
``list[int]`` of them, other such functions, and the modules, functions and classes that hosts import. All other
functions are pickled for each call.
"""

from __future__ import annotations

import operator
import sys
import typing
import weakref
from collections.abc import Iterable
from types import BuiltinFunctionType, CodeType, FunctionType, GenericAlias, NoneType, UnionType
from typing import Any, Final, NamedTuple, TypeAlias

from handout.serialization import definitions, functions_by_value, tokens
from handout.serialization.calls import PLAIN_TYPES
from handout.serialization.importable import importable_name, is_importable

__all__ = ["Dependencies", "dependencies_of"]

#: The value of a global that does not exist. Among the attributes of a function, it is the end of a list.
_MISSING: Final = object()
#: A function that uses a tuple with more items is pickled for each call.
_MOST_ITEMS: Final = 64
#: The types of annotations such as ``list[int]`` and ``int | None``, which do not change.
_ALIASES: Final = frozenset({GenericAlias, UnionType})

#: A module, and a name in it. The name is empty for the module itself.
_Name: TypeAlias = tuple[str, str]


class _Uses(NamedTuple):
    """What a function by value uses. It keeps only constants, and objects that hosts import, alive."""

    code: CodeType
    attributes: tuple[Any, ...]
    #: The globals that the code or an annotation names, apart from functions by value. A name that is no global has the
    #: value `_MISSING`.
    globals: tuple[tuple[str, Any], ...]
    #: The functions by value among the globals.
    functions: tuple[tuple[str, weakref.ref[Any]], ...]
    #: The modules that the code imports or reaches through other modules, by their names in `sys.modules`.
    modules: tuple[tuple[str, Any], ...]
    #: The objects among all of these that hosts import, with the names under which hosts import them.
    imported: tuple[tuple[_Name, Any], ...]

    def are_unchanged(self, fn: FunctionType) -> bool:
        """Return True if the function still uses the same."""
        if fn.__code__ is not self.code or not _is_plain(fn) or importable_name(fn) is not None:
            return False
        attributes = _attributes(fn)
        if len(attributes) != len(self.attributes) or not all(map(operator.is_, attributes, self.attributes)):
            return False
        space = fn.__globals__
        if any(space.get(name, _MISSING) is not value for name, value in self.globals):
            return False
        if any(space.get(name, _MISSING) is not reference() for name, reference in self.functions):
            return False
        if any(sys.modules.get(name) is not module for name, module in self.modules):
            return False
        return all(_imported_as(value) == name for name, value in self.imported)


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
        try:
            if self.imported is not None and self.imported != _imported():
                return False
            return all(each.is_unchanged() for each in self.functions)
        except Exception:  # see `dependencies_of`
            return False


def dependencies_of(fn: FunctionType) -> Dependencies | None:
    """Return what the bytes of a function depend on. Return None if they depend on an object that may change unseen."""
    try:
        return _dependencies_of(fn)
    except Exception:
        # An object of the script has raised this, or another thread has changed a dict meanwhile. If the object raises
        # again when the function is pickled, the caller gets an error that names the object.
        return None


def _dependencies_of(fn: FunctionType) -> Dependencies | None:
    name = importable_name(fn)
    if name is not None:
        return Dependencies(None, (_State(weakref.ref(fn), name),))
    imported = _imported()
    found: dict[int, _State] = {}
    queue: list[FunctionType] = [fn]
    while queue:
        each = queue.pop()
        if id(each) in found:
            continue
        uses = _uses_of(each, queue)
        if uses is None:
            return None
        found[id(each)] = _State(weakref.ref(each), uses)
    return Dependencies(imported, tuple(found.values()))


def _imported() -> tuple[Any, ...]:
    """Return what changes when the program imports a module, which functions may then find in its package.

    A reloaded module becomes the last one again, so the last name alone does not tell. The value also differs in each
    process, because the bytes of a function name the process that made them.
    """
    return tokens.origin(), len(sys.modules), next(reversed(sys.modules), "")


def _uses_of(fn: FunctionType, queue: list[FunctionType]) -> _Uses | None:
    """Return what a function by value uses, and add the functions by value that it uses to the queue.

    Return None if the function uses an object that may change unseen.
    """
    space, attributes = fn.__globals__, _attributes(fn)
    imported: dict[_Name, Any] = {}
    if (
        not _is_plain(fn)
        or functions_by_value.OWN_MODULE in space
        or definitions.arrived_as(fn) is not None
        or not all(value is _MISSING or _is_fixed(value, imported) for value in attributes)
    ):
        return None
    names = functions_by_value.names_in(fn.__code__)
    known: list[tuple[str, Any]] = []
    functions: list[tuple[str, weakref.ref[Any]]] = []
    texts = functions_by_value.annotated(fn.__annotations__.values())
    for name in dict.fromkeys(("__name__", *names.used, *texts)):
        value = space.get(name, _MISSING)
        if type(value) is FunctionType and importable_name(value) is None:
            queue.append(value)
            functions.append((name, weakref.ref(value)))
        elif value is _MISSING or _is_fixed(value, imported):
            known.append((name, value))
        else:
            return None
    listed = {*functions_by_value.parts(fn).modules, *_with_packages(names.imported)}
    modules = tuple((name, sys.modules[name]) for name in sorted(listed) if name in sys.modules)
    if not all(_is_fixed(module, imported) for _, module in modules):
        return None
    return _Uses(fn.__code__, attributes, tuple(known), tuple(functions), modules, tuple(imported.items()))


def _is_plain(fn: FunctionType) -> bool:
    """Return True if a function has no closure and no attributes of its own, and its dicts are of no other class."""
    return (
        not (fn.__closure__ or fn.__dict__)
        and type(fn.__globals__) is type(fn.__annotations__) is dict
        and (fn.__kwdefaults__ is None or type(fn.__kwdefaults__) is dict)
    )


def _attributes(fn: FunctionType) -> tuple[Any, ...]:
    """Return the attributes of a function, and what these hold."""
    keywords, annotations = fn.__kwdefaults__ or {}, fn.__annotations__
    return (
        fn.__doc__, fn.__name__, fn.__qualname__, fn.__module__, *(fn.__defaults__ or ()),
        _MISSING, *keywords, *keywords.values(), _MISSING, *annotations, *annotations.values(),
        _MISSING, *getattr(fn, "__type_params__", ()),
    )  # fmt: skip


def _is_fixed(value: Any, imported: dict[_Name, Any]) -> bool:
    """Return True for a constant, an object that hosts import, and a tuple or an alias of such values.

    Add the objects that hosts import to `imported`.
    """
    kind = type(value)
    if kind is tuple and len(value) <= _MOST_ITEMS:
        return all(_is_fixed(each, imported) for each in value)
    if kind in _ALIASES:
        return _is_fixed((typing.get_origin(value), *typing.get_args(value)), imported)
    if not (kind in PLAIN_TYPES or value is ... or value is NoneType):
        name = _imported_as(value)
        if name is None:
            return False
        imported[name] = value
    return True


def _imported_as(value: Any) -> _Name | None:
    """Return the name by which hosts import a function, a class or a module. Return None for any other object."""
    kind = type(value)
    if kind is FunctionType or kind is BuiltinFunctionType or issubclass(kind, type):
        return importable_name(value)
    return (value.__name__, "") if is_importable(value) else None


def _with_packages(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        yield name
        while "." in name:
            name = name.rpartition(".")[0]
            yield name
