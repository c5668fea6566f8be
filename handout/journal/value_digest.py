"""Computes the identity of a value, which is the same in every process.

The identity does not depend on the hash seed, on addresses or on the order of imports.

Two values that can make a function compute different results never have the same identity. A value that cannot be taken
apart gets an identity that matches nothing, so its task is run anew. The table `_RULES` has a rule for each of many
types. A value of any other type is taken apart into the parts that pickling would store.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import pickle
import struct
import threading
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

from handout.journal import code_rules
from handout.journal.object_rules import DERIVABLE, a_class, an_object
from handout.journal.value_walk import Rule, ValueWalk, digest

__all__ = ["new_walk"]

#: Types whose values have no effect on a function's result. Only the class of such a value counts.
_HARMLESS: tuple[type, ...] = (
    type(threading.Lock()),  # a lock decides which thread waits, not the result
    type(threading.RLock()),
    threading.local,  # it is empty in the thread that runs the function
    asyncio.AbstractEventLoop,  # the function runs under the event loop of another process
)


def new_walk(
    promise: Callable[[Any, ValueWalk], bytes] | None = None, sources: dict[str, bytes] | None = None
) -> ValueWalk:
    """Return a walk that uses the rules of this module. `ValueWalk` explains the arguments."""
    return ValueWalk(_rule_for, promise, sources)


def _rule_for(kind: type) -> Rule:
    rule = _RULES.get(kind)
    if rule is not None:
        return rule
    if issubclass(kind, types.ModuleType):
        return code_rules.module
    if issubclass(kind, type):
        return a_class
    return _harmless if issubclass(kind, _HARMLESS) else an_object


def _harmless(walk: ValueWalk, value: Any) -> bytes:
    return digest(b"harmless", walk.of(type(value)))


def _type_variable(walk: ValueWalk, value: Any) -> bytes:
    """Return the identity of a type variable, made from the attributes that its kind has.

    The attributes are read by name, because the classes are written in Python before 3.12, and in C since then.
    """
    asked = ("__name__", "__bound__", "__constraints__", "__covariant__", "__contravariant__", "__default__")
    return walk.sequence(type(value).__name__.encode(), [getattr(value, each, None) for each in asked])


def _descriptor(walk: ValueWalk, value: Any) -> bytes:
    """Return the identity of a class's descriptor, made from the class and the descriptor's name.

    If the descriptor is not a slot, it was made in C, and its module's version counts, too.
    """
    cls, name = value.__objclass__, value.__name__
    made_in_c = type(value) is not types.MemberDescriptorType
    return digest(walk.of(cls), name.encode(), code_rules.installed(cls.__module__, name) if made_in_c else b"slot")


def _context_variable(walk: ValueWalk, value: contextvars.ContextVar[Any]) -> bytes:
    """Return the identity of a context variable, made from its name and its default.

    Its value in the controller does not count, because the variable has another value on the host.
    """
    try:
        return walk.sequence(b"variable", (value.name, contextvars.Context().run(value.get)))
    except LookupError:  # no default
        return walk.sequence(b"variable", (value.name,))


_DESCRIPTORS = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)

#: The rule for each exact type.
_RULES: dict[type, Rule] = {
    list: lambda walk, value: walk.sequence(b"list", value),
    tuple: lambda walk, value: walk.sequence(b"tuple", value),
    dict: ValueWalk.mapping,
    types.MappingProxyType: ValueWalk.mapping,
    set: ValueWalk.unordered,
    frozenset: ValueWalk.unordered,
    bytearray: lambda _, value: digest(b"buffer", value),
    memoryview: lambda _, value: digest(b"buffer", f"{value.format}{value.shape}".encode(), value.tobytes()),
    pickle.PickleBuffer: lambda _, value: digest(b"buffer", value.raw()),
    struct.Struct: lambda walk, value: walk.sequence(b"struct", (value.format,)),
    # Code.
    types.FunctionType: code_rules.function,
    types.CodeType: code_rules.code,
    types.CellType: code_rules.cell,
    types.MethodType: lambda walk, value: code_rules.bound_method(walk, value, value.__func__),
    types.BuiltinFunctionType: lambda walk, value: code_rules.bound_method(walk, value, value.__name__),
    functools.partial: lambda walk, value: walk.sequence(
        b"partial", (value.func, value.args, value.keywords, value.__dict__)
    ),
    type(functools.cache(len)): lambda walk, value: walk.sequence(
        b"cached", (value.__wrapped__, value.cache_parameters(), value.__dict__)
    ),
    # The key hides its comparison function. Only the garbage collector can read it.
    type(functools.cmp_to_key(lambda one, other: 0)): lambda walk, value: walk.sequence(
        b"key", gc.get_referents(value)
    ),
    # Attributes of classes.
    **DERIVABLE,
    **dict.fromkeys(_DESCRIPTORS, _descriptor),
    # Parts of annotations.
    typing.NewType: lambda walk, value: walk.sequence(b"new type", (value.__name__, value.__supertype__)),
    types.GenericAlias: lambda walk, value: walk.sequence(
        b"alias", (value.__origin__, value.__args__, value.__unpacked__)
    ),
    **{
        getattr(typing, name): _type_variable
        for name in ("TypeVar", "ParamSpec", "TypeVarTuple", "TypeAliasType")
        if hasattr(typing, name)
    },
    # Objects that refer to other values.
    weakref.ref: lambda walk, value: walk.sequence(b"reference", (value(),)),
    contextvars.ContextVar: _context_variable,
}
