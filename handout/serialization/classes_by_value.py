"""Classes that travel by value: one copy in each process, which maps back to the original where that is.

A class is named by a token for as long as the process that made it lives. What arrives under a token that is
known becomes the class that is there: the original as it is, a copy brought up to date.
"""

from __future__ import annotations

import abc
import collections
import enum
import types
import weakref
from typing import Any, Callable

from handout.serialization.functions_by_value import Reduced, origin

#: ``(origin, number)``.
Token = tuple[str, int]

_count: int = 0
_tokens: weakref.WeakKeyDictionary[type, Token] = weakref.WeakKeyDictionary()
_classes: weakref.WeakValueDictionary[Token, type] = weakref.WeakValueDictionary()
#: Version of the definition that a received class has; own classes are absent.
_versions: weakref.WeakKeyDictionary[type, int] = weakref.WeakKeyDictionary()


def class_token(cls: type) -> Token:
    """What names `cls` on every process: the same for the original and for its copies."""
    global _count
    token = _tokens.get(cls)
    if token is None:
        _count += 1
        token = _tokens[cls] = (origin(), _count)
        _classes[token] = cls
    return token


def known_class(token: Token, version: int) -> type | None:
    """The class of `token` here, unless what it is here is older than `version`."""
    cls = _classes.get(token)
    if cls is None or _versions.get(cls, version) < version:
        return None
    return cls


def own_classes() -> list[tuple[Token, str, str]]:
    """The tokens that this process has given to classes of its own, with their modules and qualified names."""
    return [(t, c.__module__, c.__qualname__) for c, t in list(_tokens.items()) if t[0] == origin()]


def adopt(token: Token, cls: type) -> None:
    """Have what an earlier process called `token` be `cls` here: what it left behind is of that class."""
    _classes.setdefault(token, cls)


def class_version(cls: type, serial: int) -> int:
    """A copy keeps the version that it came with; the original has the snapshot's."""
    return _versions.get(cls, serial)


def _track(cls: type, token: Token) -> type:
    _tokens[cls] = token
    _classes[token] = cls
    _versions[cls] = -1
    return cls


def _slots_of(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_namedtuple(cls: type) -> bool:
    return cls.__bases__ == (tuple,) and hasattr(cls, "_fields") and hasattr(cls, "_make")


#: Made anew with the class, or bound to the one object that it was made for.
_NOT_STATE = frozenset({
    "__weakref__", "__dict__", "__module__", "__slots__", "_abc_impl", "__abstractmethods__",
    "_abc_registry", "_abc_cache", "_abc_negative_cache", "_abc_negative_cache_version",
})  # fmt: skip
_ENUM_MADE = frozenset({
    "_generate_next_value_", "_member_names_", "_member_map_", "_member_type_", "_value2member_map_",
    "_new_member_", "_use_args_", "_unhashable_values_", "_hashable_values_", "_unhashable_values_map_",
    "_value_repr_", "__new__", "_flag_mask_", "_singles_mask_", "_all_bits_", "_inverted_",
})  # fmt: skip


def _class_state(cls: type) -> dict[str, Any]:
    state = {k: v for k, v in cls.__dict__.items() if k not in _NOT_STATE}
    for slot in _slots_of(cls):
        mangled = f"_{cls.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot
        state.pop(mangled, None)
    if isinstance(cls, enum.EnumMeta):
        drop = _ENUM_MADE | set(cls.__members__)
        state = {k: v for k, v in state.items() if k not in drop}
    elif _is_namedtuple(cls):
        fields = cls._fields  # type: ignore[attr-defined]
        state = {k: v for k, v in state.items() if k not in fields}
        for made in ("__new__", "_make", "_replace", "__replace__", "_asdict", "__getnewargs__", "__repr__"):
            if getattr(getattr(state.get(made), "__func__", state.get(made)), "__module__", "") in (
                "collections", f"namedtuple_{cls.__name__}"
            ):  # fmt: skip
                state.pop(made, None)
    return state


def _members(cls: Any) -> list[tuple[str, Any]]:
    return list(cls.__members__.items())


def _member_attributes(cls: type) -> dict[str, dict[str, Any]]:
    """What an enum's own ``__init__`` gave its members: it is not there yet when they are made again."""
    if not isinstance(cls, enum.EnumMeta):
        return {}
    made = ("_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_")
    return {name: {k: v for k, v in vars(member).items() if k not in made} for name, member in _members(cls)}


def reduce_class(cls: type, serial: int) -> Reduced:
    """`cls` as a bare class first, then what it holds: so that its own methods may name it."""
    token, version = class_token(cls), class_version(cls, serial)
    head = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    if isinstance(cls, enum.EnumMeta):
        members = {name: member._value_ for name, member in _members(cls)}
        make: Reduced = (_make_enum, (token, type(cls), cls.__name__, cls.__bases__, head, members))
    elif _is_namedtuple(cls):
        fields, defaults = cls._fields, cls._field_defaults  # type: ignore[attr-defined]
        make = (_make_namedtuple, (token, cls.__name__, fields, tuple(defaults.values()), head))
    else:
        if "__slots__" in cls.__dict__:
            head["__slots__"] = cls.__dict__["__slots__"]
        bases = cls.__dict__.get("__orig_bases__", cls.__bases__)
        make = (_make_class, (token, type(cls), cls.__name__, bases, head))
    registered: list[type] = []
    if isinstance(cls, abc.ABCMeta):
        dump: Callable[[type], Any] | None = getattr(abc, "_get_dump", None)
        if dump is not None:
            registered = [known for known in (ref() for ref in dump(cls)[0]) if known is not None]
    abstract = getattr(cls, "__abstractmethods__", None) if isinstance(cls, abc.ABCMeta) else None
    state = (version, _class_state(cls), abstract, registered, _member_attributes(cls))
    return (*make, state, None, None, _fill_class)


def _make_class(token: Token, meta: type, name: str, bases: tuple[Any, ...], head: dict[str, Any]) -> type:
    known = _classes.get(token)
    if known is not None:
        return known
    options = {"metaclass": meta}
    resolved = types.resolve_bases(bases)
    for quiet in (_Quiet, _QuietSlots) if _has_hook(resolved) else ():
        cls = types.new_class(name, (quiet, *bases), options, lambda space: space.update(head))
        try:
            cls.__bases__ = resolved
        except TypeError:  # another layout than theirs
            continue
        return _track(cls, token)
    return _track(types.new_class(name, bases, options, lambda space: space.update(head)), token)


class _Quiet:
    """A first base for a moment: what a user's ``__init_subclass__`` did, it did at home, and it came along."""

    def __init_subclass__(cls, **_options: Any) -> None:
        pass


class _QuietSlots:
    """`_Quiet` for classes without a ``__dict__``."""

    __slots__ = ()

    def __init_subclass__(cls, **_options: Any) -> None:
        pass


def _has_hook(bases: tuple[Any, ...]) -> bool:
    kinds = {kind for base in bases for kind in base.__mro__}
    return any("__init_subclass__" in vars(k) and k.__module__ not in ("builtins", "typing") for k in kinds)


def _make_enum(
    token: Token, meta: Any, name: str, bases: tuple[Any, ...], head: dict[str, Any], members: dict[str, Any]
) -> type:
    known = _classes.get(token)
    if known is not None:
        return known
    space = meta.__prepare__(name, bases)
    space.update(head)
    for member, value in members.items():
        space[member] = value
    return _track(meta.__new__(meta, name, bases, space), token)


def _make_namedtuple(
    token: Token, name: str, fields: tuple[str, ...], defaults: tuple[Any, ...], head: dict[str, Any]
) -> type:
    known = _classes.get(token)
    if known is not None:
        return known
    cls: Any = collections.namedtuple(name, fields, defaults=defaults, module=head["__module__"])  # type: ignore[misc]
    cls.__qualname__ = head["__qualname__"]
    return _track(cls, token)


def _fill_class(cls: type, state: tuple[Any, ...]) -> None:
    version, members, abstract, registered, attributes = state
    if _versions.get(cls, version) >= version:  # the original, or a copy as new as this one
        return
    _versions[cls] = version
    for name, value in members.items():
        type.__setattr__(cls, name, value)
    if abstract is not None:
        cls.__abstractmethods__ = abstract  # type: ignore[attr-defined]
    for known in registered:
        cls.register(known)  # type: ignore[attr-defined]
    for name, extra in attributes.items():
        cls.__members__[name].__dict__.update(extra)  # type: ignore[attr-defined]
