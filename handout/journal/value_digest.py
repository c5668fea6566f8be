"""The identity of a value: the same in every process, whatever the hash seed, the addresses and the order of imports.

Two different values never have the same identity. A value that cannot be taken apart gets an identity that matches
nothing, so its task is run anew. One table has the rules by type. A value of a type without a rule is taken apart as
pickling would take it apart.
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

#: Types whose values cannot change what a function computes. Only the class of such a value counts.
_HARMLESS: tuple[type, ...] = (
    type(threading.Lock()),  # decides which thread waits, not what is computed
    type(threading.RLock()),
    threading.local,  # empty in the thread that runs the function
    asyncio.AbstractEventLoop,  # belongs to this process; the function runs under another loop
)


def new_walk(
    promise: Callable[[Any, ValueWalk], bytes] | None = None, sources: dict[str, bytes] | None = None
) -> ValueWalk:
    """Return a walk by the rules of this module; see `ValueWalk`."""
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
    """Take a type variable apart. Its kinds have different attributes. Before 3.12 they are written in Python."""
    asked = ("__name__", "__bound__", "__constraints__", "__covariant__", "__contravariant__", "__default__")
    return walk.sequence(type(value).__name__.encode(), [getattr(value, each, None) for each in asked])


def _descriptor(walk: ValueWalk, value: Any) -> bytes:
    """Take a class's descriptor apart: its class and name, and for one made in C its module's version."""
    cls, name = value.__objclass__, value.__name__
    made_in_c = type(value) is not types.MemberDescriptorType
    return digest(walk.of(cls), name.encode(), code_rules.installed(cls.__module__, name) if made_in_c else b"slot")


def _context_variable(walk: ValueWalk, value: contextvars.ContextVar[Any]) -> bytes:
    """Take a context variable apart: by name and default. Its value in the controller is not the one on the host."""
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
    # Only the garbage collector can read the key's comparison function.
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
