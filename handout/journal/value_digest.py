"""Computes the identity of a value: a digest by which a later run recognizes the same value.

The identity is the same in every process. It does not depend on the hash seed, on memory addresses or on the order of
imports. Two values that can make a function compute different results never have the same identity.

A value's identity is made from the value's parts, by a rule for the value's type. The table `_RULES` has rules for many
types. Most values of other types are taken apart into the parts that pickling would store. A value that cannot be taken
apart gets an identity that matches nothing, so a task with such a value is run anew in each run.
"""

from __future__ import annotations

import asyncio
import contextlib
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

#: Types whose values have no effect on a function's result. The identity of such a value is made only from its class.
_HARMLESS: tuple[type, ...] = (
    type(threading.Lock()),  # a lock decides which thread waits, but not what a function returns
    type(threading.RLock()),
    threading.local,  # a thread-local object is empty in the thread that runs the function
    asyncio.AbstractEventLoop,  # the function runs under the event loop of another process
)


def new_walk(
    promise: Callable[[Any, ValueWalk], bytes] | None = None, sources: dict[str, bytes] | None = None
) -> ValueWalk:
    """Return a `ValueWalk` that uses the rules of this file. For the arguments, see `ValueWalk`."""
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
    """Return the identity of a type variable, made from its attributes. An attribute that it does not have is None.

    The attributes are read by name, and not from ``__dict__``, because type variables keep them there only before
    Python 3.12. Since then, type variables are written in C.
    """
    asked = ("__name__", "__bound__", "__constraints__", "__covariant__", "__contravariant__", "__default__")
    return walk.sequence(type(value).__name__.encode(), [getattr(value, each, None) for each in asked])


def _descriptor(walk: ValueWalk, value: Any) -> bytes:
    """Return the identity of a class's descriptor, made from the class and the descriptor's name.

    A descriptor that does not belong to a slot is written in C. For such a descriptor, the version of its module enters
    the identity, too.
    """
    cls, name = value.__objclass__, value.__name__
    made_in_c = type(value) is not types.MemberDescriptorType
    return digest(walk.of(cls), name.encode(), code_rules.installed(cls.__module__, name) if made_in_c else b"slot")


def _context_variable(walk: ValueWalk, value: contextvars.ContextVar[Any]) -> bytes:
    """Return the identity of a context variable, made from its name and its default.

    The present value of the variable does not enter the identity, because the variable has another value on the host.
    """
    try:
        return walk.sequence(b"variable", (value.name, contextvars.Context().run(value.get)))
    except LookupError:  # the variable has no default
        return walk.sequence(b"variable", (value.name,))


_DESCRIPTORS = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)

#: The rules by type. A rule is used only for values of exactly this type, not for values of subclasses.
_RULES: dict[type, Rule] = {
    list: lambda walk, value: walk.sequence(b"list", value),
    tuple: lambda walk, value: walk.sequence(b"tuple", value),
    dict: ValueWalk.mapping,
    types.MappingProxyType: ValueWalk.mapping,
    set: ValueWalk.unordered,
    frozenset: ValueWalk.unordered,
    bytearray: lambda _, value: digest(b"bytearray", value),
    memoryview: lambda _, value: digest(b"view", digest(f"{value.format}{value.shape}".encode()), value.tobytes()),
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
    # The result of `cmp_to_key` hides its comparison function. Only the garbage collector can find the function.
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
    # Such an object lacks these attributes when its generator has begun. Then its identity matches nothing.
    contextlib._GeneratorContextManager: lambda walk, value: walk.sequence(
        b"context manager", (value.func, value.args, value.kwds)
    ),
    contextvars.ContextVar: _context_variable,
}
