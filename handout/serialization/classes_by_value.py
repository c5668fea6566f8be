"""Takes classes apart that are sent by value, and puts them together in another process.

A class is made bare first, and filled later, so that its own methods may name it. How a bare class is made depends on
its kind: there is one recipe each for enums, named tuples, ctypes' pointers, msgspec's structures and plain classes.
"""

from __future__ import annotations

import abc
import collections
import copy
import copyreg
import enum
import functools
import importlib
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple

from handout.serialization import reducers, tokens
from handout.serialization.ctypes_types import loaded_ctypes
from handout.serialization.importable import importable_name

Function = types.FunctionType

#: Attributes that Python makes with the class. A class may have a ``__weakref__`` and a ``__dict__`` of its own; see
#: `_is_state`.
_NOT_STATE = frozenset({
    "__module__", "__slots__", "_abc_impl", "__abstractmethods__", "__qualname__", "__annotations_cache__",
    "__annotate_func__", "__annotate__", "__slotnames__",
})  # fmt: skip
#: Attributes that the metaclass can store in the class, although it has data descriptors of these names.
_STORED = frozenset({"__doc__", "__annotations__", "__type_params__"})
_ENUM_MADE = frozenset({
    "_generate_next_value_", "_member_names_", "_member_map_", "_member_type_", "_value2member_map_", "_use_args_",
    "_unhashable_values_", "_hashable_values_", "_unhashable_values_map_", "_value_repr_", "__new__", "_flag_mask_",
    "_singles_mask_", "_all_bits_", "_inverted_",
})  # fmt: skip
_MEMBER_MADE = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})
_TUPLE_MADE = (
    "__new__", "_make", "_replace", "__replace__", "_asdict", "__getnewargs__", "__repr__", "__class_getitem__",
    "__match_args__",
)  # fmt: skip
#: Attributes from which the metaclasses of ctypes make a class, and those that they make.
_CTYPES_HEAD = (
    "_fields_", "_pack_", "_anonymous_", "_align_", "_swappedbytes_", "_layout_", "_type_", "_length_", "_flags_",
    "_restype_", "_argtypes_",
)  # fmt: skip
_CTYPES_MADE = ("__ctype_be__", "__ctype_le__")
_STRUCT_OPTIONS = (
    "frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults", "forbid_unknown_fields",
    "weakref", "dict", "cache_hash", "tag", "tag_field",
)  # fmt: skip


class Recipe(NamedTuple):
    """How to make a bare class.

    Attributes:
        kind: The name of the function that makes the class; see `_MAKERS`.
        meta: The metaclass.
        name: The name of the class.
        bases: Its bases as they were written, with generic ones.
        head: Attributes that must be there when the class is made. They may hold an object that holds the class. Then
            pickle writes the class a second time, while it writes the head. So a list in the head, such as ctypes'
            ``_fields_``, is a copy: pickle would write the list itself before it has its items.
        extra: What this kind needs in addition.
    """

    kind: str
    meta: Any
    name: str
    bases: tuple[Any, ...]
    head: dict[str, Any]
    extra: Any = None


class ClassParts(NamedTuple):
    """A class, taken apart.

    Attributes:
        recipe: How to make the bare class.
        state: The attributes that fill it.
        fill: The function that fills what this kind of class has in addition to attributes.
        values: What this function gets, by names.
    """

    recipe: Recipe
    state: dict[str, Any]
    fill: Callable[[Any, dict[str, Any]], None]
    values: dict[str, Any]


def parts(cls: Any, is_simple: Callable[..., bool]) -> ClassParts:
    """Take a class apart. `is_simple` tells which values can hold no object of a class that is sent by value."""
    state = {name: value for name, value in list(vars(cls).items()) if _is_state(name, value)}
    head = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    head.update((name, state.pop(name)) for name in list(state) if _is_hidden(cls, name))
    bases = vars(cls).get("__orig_bases__", cls.__bases__)
    if isinstance(cls, enum.EnumMeta):
        return _enum_parts(cls, state, head, is_simple)
    if tuple in cls.__bases__ and "_fields" in state and "_make" in state:
        return _tuple_parts(cls, state, head)
    if loaded_ctypes() and isinstance(cls, type(loaded_ctypes()._Pointer)) and "_type_" in state:
        return _pointer_parts(cls, state, head)
    if loaded_ctypes() and issubclass(cls, loaded_ctypes()._SimpleCData.__base__):
        recipe = _ctypes_recipe(cls, state, head, bases)
    elif any("__struct_config__" in vars(kind) for kind in type(cls).__mro__):  # msgspec's metaclass made it
        recipe = _struct_recipe(cls, state, head, bases)
    else:
        recipe = _plain_recipe(cls, state, head, bases, is_simple)
    return ClassParts(recipe, state, fill_attributes, {})


def _is_state(name: str, value: Any) -> bool:
    is_made = name in ("__weakref__", "__dict__") and isinstance(value, types.GetSetDescriptorType)
    return name not in _NOT_STATE and not is_made


def _is_hidden(cls: Any, name: str) -> bool:
    """Return True for an attribute that cannot be set later, because a data descriptor of the metaclass hides it.

    An example is a property ``__name__`` or ``__class__``. A slot of such a name is made from ``__slots__``.
    """
    metaclass: Any = type(cls)
    found = next((vars(kind)[name] for kind in metaclass.__mro__ if name in vars(kind)), None)
    is_slot = type(vars(cls)[name]) is types.MemberDescriptorType
    return hasattr(type(found), "__set__") and name not in _STORED and not is_slot


def registered(cls: Any) -> list[type]:
    """Return the classes that were registered with an abstract class, in an order that is the same each time."""
    dump: Any = getattr(abc, "_get_dump", None)
    if dump is None or not isinstance(cls, abc.ABCMeta) or "_abc_impl" not in vars(cls):
        return []
    return sorted((kind for reference in dump(cls)[0] if (kind := reference())), key=lambda kind: kind.__qualname__)


# ---- recipes ---------------------------------------------------------------------------------------------


def _enum_parts(cls: Any, state: dict[str, Any], head: dict[str, Any], is_simple: Callable[..., bool]) -> ClassParts:
    for name in (*_ENUM_MADE, *cls.__members__):
        state.pop(name, None)
    found: dict[int, list[Any]] = {}
    for value, member in cls._value2member_map_.items():
        found.setdefault(id(member), []).append(value)
    base, reduce = _content_type(cls)
    made, members = {}, {}
    for name, member in cls.__members__.items():
        args, content = _content(base, reduce, member)
        is_whole = is_simple(member._value_, is_key=True)
        made[name] = member._name_, args, (member._value_,) if is_whole else ()
        own = _own_state(base, member)
        values = [member._value_, *(each for each in found.get(id(member), ()) if each is not member._value_)]
        if member._name_ == name and (own != ({}, {}) or content or len(values) > 1 or not is_whole):
            members[name] = values, own, content
    recipe = Recipe("enum", type(cls), cls.__name__, cls.__bases__, head, (base, made, vars(cls).get("_boundary_")))
    return ClassParts(recipe, state, fill_members, members)


def _content_type(cls: Any) -> tuple[Any, Any]:
    """Return the type of which the members of an enum have the content, such as ``int``, and what reads the content.

    The content is what the attributes of a member do not show. A type that is sent by value cannot make a member,
    because it is bare when the enum is made.
    """
    kinds: list[Any] = [kind for kind in cls.__mro__ if kind is not object and not isinstance(kind, enum.EnumMeta)]
    native = next(
        (kind for kind in kinds if "__new__" in vars(kind) and not isinstance(kind.__new__, Function)), object
    )
    if native is object or not hasattr(native, "__getnewargs__"):
        for kind in kinds:
            is_made = "__reduce__" in vars(kind) and kind.__new__ is not object.__new__
            if kind is native or (is_made and importable_name(kind) is not None):
                return kind, kind.__reduce__
    return native, None


def _content(base: Any, reduce: Any, member: Any) -> tuple[tuple[Any, ...], Any]:
    """Return the arguments from which the type of the content makes a member, and what fills the member.

    What fills the member is None, or the arguments of ``__init__`` with the items and the pairs to add.
    """
    if reduce is None:
        return (() if base is object else base.__getnewargs__(member)), None
    make, args, *rest = reduce(member)
    if make is copyreg._reconstructor:  # type: ignore[attr-defined]
        args = args[2:]
    elif make is not type(member):  # a function in Python may find the member itself
        args = () if isinstance(reduce, Function) else (make(*args),)
    if base.__init__ is object.__init__:
        return args, None
    _, items, pairs = (*rest, None, None, None)[:3]
    return (), (base, args, list(items or ()), list(pairs or ()))


def _own_state(base: Any, member: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes that a program has given a member, and the slots that are not part of its content."""
    _, _, state = reducers.plain(member)
    attributes, slots = state if isinstance(state, tuple) else (state, {})
    slot_names: Any = copyreg._slotnames  # type: ignore[attr-defined]
    of_base = slot_names(base)
    own = {name: value for name, value in attributes.items() if name not in _MEMBER_MADE}
    return own, {name: value for name, value in slots.items() if name not in of_base}


def _tuple_parts(cls: Any, state: dict[str, Any], head: dict[str, Any]) -> ClassParts:
    for name in (*cls._fields, *_TUPLE_MADE):
        if name in state and _is_made(cls, state[name]):
            del state[name]
    recipe = Recipe("tuple", type, cls.__name__, cls.__bases__, head, cls._fields)
    # A program may have set other defaults than those in `_field_defaults`, or another `__new__`.
    values = {} if "__new__" in state else {"__defaults__": cls.__new__.__defaults__ or ()}
    return ClassParts(recipe, state, fill_defaults, values)


def _is_made(cls: type, value: Any) -> bool:
    """Return True for an attribute that Python made with a named tuple."""
    fn = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
    homes = ("collections", "typing", f"namedtuple_{cls.__name__}")
    return not isinstance(fn, Function) or getattr(fn, "__module__", "") in homes


def _ctypes_recipe(cls: Any, state: dict[str, Any], head: dict[str, Any], bases: Any) -> Recipe:
    made = {name: copy.copy(state.pop(name)) for name in _CTYPES_HEAD if name in state}
    for name, value in list(state.items()):
        if name in _CTYPES_MADE or type(value).__name__ == "CField":
            del state[name]
    return Recipe("plain", type(cls), cls.__name__, bases, {**head, **made})


def _pointer_parts(cls: Any, state: dict[str, Any], head: dict[str, Any]) -> ClassParts:
    """Take a pointer type apart. What it points to arrives later, because it may be a structure with such a pointer."""
    target = state.pop("_type_")
    is_usual = loaded_ctypes().POINTER(target) is cls
    token = tokens.token_of(target) if is_usual else None
    recipe = Recipe("pointer", type(cls), cls.__name__, cls.__bases__, head, token)
    return ClassParts(recipe, state, fill_pointer, {"target": target, "is_usual": is_usual})


def _struct_recipe(cls: Any, state: dict[str, Any], head: dict[str, Any], bases: Any) -> Recipe:
    """Return the recipe of a msgspec class: its metaclass makes it from the names of its fields, defaults and options.

    The metaclass takes the names from annotations. Those of the bare class say nothing about the types, because
    msgspec reads the types when it converts the first object. The true annotations may name what has not arrived, such
    as the module of a ``typing.ClassVar``, and `msgspec.structs.fields` would evaluate them.
    """
    names, defaults, annotations = cls.__struct_fields__, cls.__struct_defaults__, state.get("__annotations__", {})
    options = {name: getattr(cls.__struct_config__, name, None) for name in _STRUCT_OPTIONS}
    options = {name: value for name, value in options.items() if value is not None}
    own = [name for name in annotations if name in names]
    options["kw_only"] = bool(own) and own[0] not in cls.__match_args__
    none = (sys.modules["msgspec"].NODEFAULT,) * (len(names) - len(defaults))  # the first fields have no default
    fields = zip(names, cls.__struct_encode_fields__, (*none, *defaults))
    made = {name: _StructField(encoded, default) for name, encoded, default in fields if name in own}
    head = {**head, "__annotations__": dict.fromkeys(own), **made}
    if "__post_init__" in state:  # the metaclass looks for it
        head["__post_init__"] = state["__post_init__"]
    for name, value in list(state.items()):
        is_made = name.startswith(("__struct_", "__match_args")) or name == "__signature__"
        if is_made or isinstance(value, types.MemberDescriptorType) or name in names:
            del state[name]
    return Recipe("struct", type(cls), cls.__name__, bases, head, options)


class _StructField:
    """A field of a msgspec class."""

    def __init__(self, encode_name: str, default: Any) -> None:
        self.options = {"name": encode_name}
        if type(default).__module__ == "msgspec._core" and hasattr(default, "factory"):
            self.options["default_factory"] = default.factory
        elif default is not sys.modules["msgspec"].NODEFAULT:
            self.options["default"] = default

    def __reduce__(self) -> Any:
        return functools.partial(sys.modules["msgspec"].field, **self.options), ()


def _plain_recipe(
    cls: Any, state: dict[str, Any], head: dict[str, Any], bases: Any, is_simple: Callable[..., bool]
) -> Recipe:
    slots = vars(cls).get("__slots__")
    if slots is not None:
        head = {**head, "__slots__": slots}
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            is_private = name.startswith("__") and not name.endswith("__")
            state.pop(f"_{cls.__name__.lstrip('_')}{name}" if is_private else name, None)
    generic = state.get("__pydantic_generic_metadata__") or {}
    if generic.get("origin") and all(_is_type(arg, is_simple) for arg in generic["args"]):
        return Recipe("parametrised", type(cls), cls.__name__, bases, head, (generic["origin"], generic["args"]))
    return Recipe("plain", type(cls), cls.__name__, bases, head)


def _is_type(arg: Any, is_simple: Callable[..., bool]) -> bool:
    """Return True for an argument of a generic class that holds no object of a class, such as ``list[int]``."""
    inside = typing.get_args(arg)
    return all(_is_type(each, is_simple) for each in inside) if inside else is_simple(arg, is_key=True)


# ---- making ----------------------------------------------------------------------------------------------


def make_class(token: tokens.Token, number: int, *recipe: Any) -> type:
    """Return the class that has a token in this process. If there is none, make it bare.

    A class that is older than the bytes, or new, is noted in `tokens.loading`, so that it is filled.

    Args:
        token: The token of the class.
        number: The number of the class in the definition that is being loaded.
        *recipe: The fields of a `Recipe`.
    """
    version = tokens.loading.versions[number]
    cls: Any = tokens.known(token)
    if cls is None:
        made = Recipe(*recipe)
        own = _OWN[made.kind](made.extra) if made.kind in _OWN else None
        if own is not None:
            tokens.alias(token, own)
            return typing.cast(type, own)
        cls = tokens.track(_MAKERS[made.kind](made), token, version)
    elif tokens.is_current(token, version):
        return typing.cast(type, cls)
    tokens.set_version(token, version)
    tokens.loading.fresh[id(cls)] = token
    return typing.cast(type, cls)


def _quiet(slots: tuple[str, ...]) -> type:
    """Return a class that takes the first place among the bases for a moment, so that no user's hook runs.

    What an ``__init_subclass__`` did to the class, it did in the sending process, and the attributes of the class show
    it.
    """
    return type("_Quiet", (), {"__slots__": slots, "__init_subclass__": lambda cls, **_options: None})


#: One of them has the layout in memory that the first base has. Python exchanges bases only within one layout.
_QUIET = tuple(_quiet(slots) for slots in (("__dict__", "__weakref__"), (), ("__weakref__",), ("__dict__",)))


def _make_plain(recipe: Recipe) -> Any:
    bases, head = _resolved(recipe)
    # A metaclass that is sent by value may need options that the class does not keep. What it did to the class, the
    # attributes of the class show. So the first metaclass that is not sent by value makes the class.
    native = next(kind for kind in recipe.meta.__mro__ if not tokens.is_tracked(kind))
    make = recipe.meta if native is recipe.meta else functools.partial(_make_natively, native, recipe.meta)
    for quiet in _QUIET if _has_hook(bases) else ():
        try:
            cls = make(recipe.name, (quiet, *bases), dict(head))
            cls.__bases__ = bases
            return cls
        except TypeError:  # another layout in memory than theirs
            continue
    return make(recipe.name, bases, dict(head))


def _make_natively(native: Any, meta: Any, *args: Any) -> Any:
    """Make a class of a metaclass as `native` does, which is a base of the metaclass."""
    cls = native.__new__(meta, *args)
    if native.__module__ == "_ctypes":  # since Python 3.13, the layout is made there
        native.__init__(cls, *args)
    return cls


def _resolved(recipe: Recipe) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the bases of a class as classes, and the head with the bases as they were written, as Python does."""
    bases = types.resolve_bases(recipe.bases)
    return bases, recipe.head if bases is recipe.bases else {**recipe.head, "__orig_bases__": recipe.bases}


def _has_hook(bases: tuple[Any, ...]) -> bool:
    kinds = {kind for base in bases for kind in base.__mro__}
    return any("__init_subclass__" in vars(k) and k.__module__ not in ("builtins", "typing") for k in kinds)


@contextmanager
def _without_hooks(bases: tuple[Any, ...]) -> Iterator[None]:
    """Take the ``__init_subclass__`` of classes that were sent by value off them for a moment; see `_quiet`.

    The metaclasses of enums and of msgspec do not let a class of another kind stand among the bases.
    """
    name = "__init_subclass__"
    kinds = {kind for base in bases for kind in base.__mro__ if name in vars(kind) and tokens.is_tracked(kind)}
    hooks = [(kind, vars(kind)[name]) for kind in kinds]
    for kind, _ in hooks:
        type.__delattr__(kind, name)
    try:
        yield
    finally:
        for kind, hook in hooks:
            type.__setattr__(kind, name, hook)


def _parametrised(extra: tuple[Any, tuple[Any, ...]]) -> Any:
    """Return the class that ``origin[args]`` is in this process already, or None. The origin is a class of pydantic."""
    find = _of_pydantic("get_cached_generic_type_early")
    return None if find is None else find(*extra)


def _make_parametrised(recipe: Recipe) -> Any:
    """Make a class of pydantic that ``origin[args]`` finds. The origin itself cannot make it before it is complete."""
    cls, (origin, args) = _make_plain(recipe), recipe.extra
    enter = _of_pydantic("set_cached_generic_type")
    if enter is not None:
        enter(origin, args, cls, origin, args)
    return cls


def _of_pydantic(name: str) -> Any:
    """Return a function for the table of parametrised classes. pydantic does not document the table."""
    try:
        return getattr(importlib.import_module("pydantic._internal._generics"), name, None)
    except ImportError:
        return None


def _pointer(token: tokens.Token | None) -> Any:
    """Return the pointer type of this process for the class that has a token, or None if there is no such class."""
    target: Any = None if token is None else tokens.known(token)
    return None if target is None else importlib.import_module("ctypes").POINTER(target)


def _make_pointer(recipe: Recipe) -> Any:
    """Make a pointer type for a structure that is empty. Of a pointer type for nothing, ctypes makes no array."""
    ctypes: Any = importlib.import_module("ctypes")
    later = type(ctypes.Structure)("_Later", (ctypes.Structure,), {})
    return _make_plain(recipe._replace(head={**recipe.head, "_type_": later}))


def _make_struct(recipe: Recipe) -> Any:
    bases, head = _resolved(recipe)
    with _without_hooks(bases):
        return recipe.meta(recipe.name, bases, dict(head), **recipe.extra)


def _generic_getitem() -> Any:
    """Return the ``__class_getitem__`` that `typing` adds to generic named tuples, which exist since Python 3.11."""

    class Sample(typing.NamedTuple, typing.Generic[typing.AnyStr]):
        x: int

    return vars(Sample)["__class_getitem__"]


def _make_tuple(recipe: Recipe) -> Any:
    make: Any = collections.namedtuple
    # The names of fields may be those that ``rename=True`` has made.
    cls: Any = make(recipe.name, recipe.extra, rename=True, module=recipe.head["__module__"])
    cls.__qualname__ = recipe.head["__qualname__"]
    if recipe.bases != (tuple,):
        cls.__bases__ = recipe.bases
        cls.__class_getitem__ = _generic_getitem()
    return cls


def _make_enum(recipe: Recipe) -> Any:
    """Make an enum without the user's own ``__new__`` and ``__init__``, which ran in the sending process."""
    base, members, boundary = recipe.extra
    space = recipe.meta.__prepare__(recipe.name, recipe.bases)
    space.update(recipe.head, __new__=_member_maker(base), __init__=lambda self, *_args: None)
    given: dict[str, Any] = {}
    for name, (canonical, args, value) in members.items():  # an alias gets the value of its member
        space[name] = given.setdefault(canonical, (args, *(value or (object(),))))
    options = {} if boundary is None else {"boundary": boundary}
    with _without_hooks(recipe.bases):
        cls = recipe.meta.__new__(recipe.meta, recipe.name, recipe.bases, space, **options)
    type.__delattr__(cls, "__init__")
    return cls


def _member_maker(base: Any) -> Any:
    """Return a ``__new__`` for an enum whose members are written as the arguments of `base` and the value of each."""

    def new(cls: Any, *args: Any) -> Any:
        new_args, value = args[0] if len(args) == 1 else args
        member = base.__new__(cls, *new_args)
        member._value_ = value
        return member

    return new


_MAKERS: dict[str, Callable[[Recipe], Any]] = {
    "enum": _make_enum,
    "tuple": _make_tuple,
    "pointer": _make_pointer,
    "struct": _make_struct,
    "plain": _make_plain,
    "parametrised": _make_parametrised,
}
#: How to find a class that this process may have made itself, from `Recipe.extra`.
_OWN: dict[str, Callable[[Any], Any]] = {"pointer": _pointer, "parametrised": _parametrised}


# ---- filling ---------------------------------------------------------------------------------------------


def fill_attributes(cls: Any, values: dict[str, Any]) -> None:
    """Set attributes of a class without a ``__setattr__`` of its metaclass that is written in Python."""
    if id(cls) not in tokens.loading.fresh:
        return
    native = _native(cls, "__setattr__")
    for name, value in values.items():
        native(cls, name, value)


def _native(cls: Any, method: str) -> Any:
    found = [vars(kind)[method] for kind in type(cls).__mro__ if method in vars(kind)]
    return next(each for each in found if not isinstance(each, Function))  # ctypes has its own


def drop_attributes(cls: Any, names: tuple[str, ...]) -> None:
    """Delete the attributes that an earlier definition of the class brought and this one lacks."""
    token = tokens.loading.fresh.get(id(cls))
    for name in tokens.replace_names(token, names) if token else ():
        if name in vars(cls):
            _native(cls, "__delattr__")(cls, name)


def fill_members(cls: Any, members: dict[str, Any]) -> None:
    """Set the values of members of an enum, their attributes, slots and content."""
    if id(cls) not in tokens.loading.fresh:
        return
    for name, (values, state, content) in members.items():
        member = cls._member_map_[name]
        if content is not None:
            _fill_content(member, *content)
        # An earlier run may have filled this enum already.
        cls._value2member_map_ = {k: m for k, m in cls._value2member_map_.items() if m is not member}
        unhashable = vars(cls).get("_unhashable_values_", [])  # of some versions of Python
        unhashable[:] = [value for value in unhashable if value is not member._value_]
        vars(cls).get("_unhashable_values_map_", {}).pop(name, None)  # since Python 3.13
        member._value_ = values[0]
        reducers.set_state(member, state)
        for value in values:
            try:
                cls._value2member_map_[value] = member
            except TypeError:  # a value without a hash, which Enum finds by comparison
                unhashable.append(value)
                vars(cls).get("_unhashable_values_map_", {}).setdefault(name, []).append(value)


def _fill_content(member: Any, base: Any, args: Any, items: list[Any], pairs: list[Any]) -> None:
    base.__init__(member, *args)
    if items:
        base.extend(member, items)
    if pairs:
        base.update(member, pairs)


def fill_defaults(cls: Any, values: dict[str, Any]) -> None:
    """Set the defaults of a named tuple. They may be objects of classes that were not complete when it was made."""
    if id(cls) in tokens.loading.fresh:
        cls.__new__.__defaults__ = values["__defaults__"] or None


def fill_pointer(cls: Any, values: dict[str, Any]) -> None:
    """Set what a pointer type of ctypes points to."""
    if id(cls) not in tokens.loading.fresh:
        return
    cls.set_type(values["target"])
    if values["is_usual"]:  # ``POINTER(target)`` finds it
        importlib.import_module("ctypes")._pointer_type_cache[values["target"]] = cls


def fill_abstract(cls: Any, values: dict[str, Any]) -> None:
    """Set the abstract methods of a class, and register its virtual subclasses."""
    if id(cls) not in tokens.loading.fresh:
        return
    if values.get("abstract") is not None:
        cls.__abstractmethods__ = values["abstract"]
    for each in values.get("registered", ()):
        cls.register(each)
