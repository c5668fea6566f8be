"""Reduces objects of other types that Python's C pickler refuses or gets wrong, and that code often holds.

A reducer takes an object and returns a tuple as ``__reduce__`` does.
"""

from __future__ import annotations

import contextlib
import contextvars
import copyreg
import dataclasses
import functools
import gc
import inspect
import io
import logging
import operator
import random
import struct
import sys
import threading
import types
import typing
import weakref
from typing import Any, Callable

from handout.serialization import functions_by_value, importable, tokens

Reducer = Callable[[Any], Any]
Function = types.FunctionType

#: The base of all streams. `io.IOBase`, which is derived from it, is an abstract class: ``issubclass`` would compare it
#: with other classes, whose metaclass may define ``__eq__``.
_STREAM = io.IOBase.__bases__[0]
#: Types whose objects are useless in another process, but would be copied by dill.
UNPICKLABLE_TYPES: tuple[type, ...] = (
    type(threading.Lock()), type(threading.RLock()), threading.Thread, threading.local, threading.Event,
    threading.Condition, threading.Semaphore, _STREAM, types.GeneratorType, types.CoroutineType,
    types.AsyncGeneratorType, types.FrameType, types.TracebackType,
)  # fmt: skip
#: The modules of those types. The subclasses that programs define are pickled like other objects.
_HOMES = frozenset({"builtins", "io", "_io", "_thread", "threading"})
_TBLIB = "tblib.pickling_support"
_STREAMS = ("__stdin__", "__stdout__", "__stderr__", "stdin", "stdout", "stderr")
_METHODS = ("__reduce__", "__reduce_ex__", "__getstate__")


def registered(kind: type) -> Any:
    """Return the function that a program has registered with `copyreg` to pickle objects of a type, or None.

    tblib does not count. dask has tblib register itself for all exceptions and tracebacks of a process, and another
    process can load these only if it has tblib.
    """
    reduce = copyreg.dispatch_table.get(kind)
    if reduce is not None and getattr(getattr(reduce, "func", reduce), "__module__", None) == _TBLIB:
        return None
    return reduce


def defines(kind: type, name: str) -> bool:
    """Return True if a class or a base has an attribute. ``hasattr`` would also ask the metaclass."""
    return any(name in vars(base) for base in kind.__mro__)


def has_own_pickling(kind: type) -> bool:
    """Return True if a class says in Python how its objects are pickled."""
    return any(defines(kind, name) and isinstance(getattr(kind, name), Function) for name in _METHODS)


def is_unpicklable(kind: type) -> bool:
    """Return True for the types that must be refused before dill sees their objects."""
    return issubclass(kind, UNPICKLABLE_TYPES) and kind.__module__ in _HOMES and kind not in (io.StringIO, io.BytesIO)


def refuse(obj: Any) -> Any:
    """Raise the error for an object of `UNPICKLABLE_TYPES`.

    Raises:
        TypeError: Always.
    """
    raise TypeError(f"cannot pickle {type(obj).__name__!r} object")


# ---- state -----------------------------------------------------------------------------------------------


def set_state(obj: Any, state: Any) -> None:
    """Set an object's attributes without a look-up on the object.

    A ``__getattr__`` of its class may need attributes that are not there yet.
    """
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        obj.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


def plain(obj: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """Return a function that makes an empty object of the same class, its arguments, and the object's state."""
    slots = {}
    slot_names: Any = copyreg._slotnames  # type: ignore[attr-defined]
    for name in slot_names(type(obj)):
        try:
            slots[name] = object.__getattribute__(obj, name)
        except AttributeError:  # the slot is empty
            continue
    attributes = dict(getattr(obj, "__dict__", {}))
    return bare, (type(obj),), (attributes, slots) if slots else attributes


def new(kind: Any, *args: Any) -> Any:
    """Make an object as `copyreg` does."""
    return kind.__new__(kind, *args)


def bare(kind: Any, *args: Any) -> Any:
    """Make an object without the class's own ``__new__``, which may need what the class does not hold yet."""
    native: Any = _native(kind)
    return native.__new__(kind, *args)


def _native(kind: type) -> type:
    """Return the first base whose ``__new__`` is not written in Python."""
    return next(each for each in kind.__mro__ if "__new__" in vars(each) and not isinstance(each.__new__, Function))


def has_own_new(kind: Any) -> bool:
    """Return True if a class has a ``__new__`` in Python, and `bare` can make its objects without it."""
    return isinstance(kind.__new__, Function) and _native(kind).__module__ == "builtins"


def reduce_held(obj: Any, reduced: Any) -> Any:
    """Reduce an object that may arrive before its class is complete, such as a singleton that its class holds.

    Args:
        obj: The object. `has_own_new` is true for its class.
        reduced: The tuple that ``__reduce_ex__`` returned.
    """
    make, args, *state = reduced
    new_args: Any = getattr(_native(type(obj)), "__getnewargs__", lambda _obj: ())
    return (_make_held, (type(obj), new_args(obj), make, args), *state)


def _make_held(kind: Any, bare_args: tuple[Any, ...], make: Any, args: tuple[Any, ...]) -> Any:
    """Make an object with its class's own ``__new__`` only if this process had the class before."""
    return bare(kind, *bare_args) if id(kind) in tokens.loading.fresh else make(*args)


# ---- objects of which each process has one copy ----------------------------------------------------------


def reduce_named(obj: Any, version: int) -> Any:
    """Reduce an object that pickle would write as a name, because of which each process has one copy of it.

    Args:
        obj: The object.
        version: Its version, or in a definition, the number of the version. An older copy is brought up to date.
    """
    if type(obj) is _ALIAS and not obj.__type_params__ and obj.__name__.isidentifier():
        return _reduce_alias(obj)
    take_apart: Reducer = _NAMED.get(type(obj), plain)
    make, args, state = take_apart(obj)
    filled = None if state is None else (version, state)
    return _named, (tokens.token_of(obj), make, args), filled, None, None, _fill_named


def _named(token: tokens.Token, make: Any, args: Any) -> Any:
    with tokens.lock:
        found = tokens.known(token)
        return tokens.track(make(*args), token, -1) if found is None else found


def _fill_named(obj: Any, filled: Any) -> None:
    number, state = filled
    token, version = tokens.token_of(obj), tokens.loading.version(number)
    if tokens.is_current(token, version):
        return
    tokens.set_version(token, version)
    attributes = state[0] if isinstance(state, tuple) else state
    for name in set(getattr(obj, "__dict__", ())).difference(attributes or (), _CACHE_MADE):
        del obj.__dict__[name]
    set_state(obj, state)
    if type(obj) is _CACHE:  # an earlier function returned what it holds
        obj.cache_clear()


_CACHE: Any = type(functools.lru_cache(maxsize=None)(len))
#: Attributes that `functools.lru_cache` makes.
_CACHE_MADE = frozenset({"cache_parameters"})


def _cache_parts(cached: Any) -> Any:
    limits = cached.cache_parameters()
    state = {name: value for name, value in list(vars(cached).items()) if name not in _CACHE_MADE}
    return _make_cache, (limits["maxsize"], limits["typed"]), state


def _make_cache(maxsize: int | None, typed: bool) -> Any:
    """Return a cache around a function that arrives later, because the function may name the cache."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return cached.__wrapped__(*args, **kwargs)

    cached = functools.lru_cache(maxsize, typed)(call)
    return cached


def _variable_parts(var: Any) -> Any:
    options: dict[str, Any] = {}
    if isinstance(var, typing.TypeVar):
        options = {"bound": var.__bound__, "covariant": var.__covariant__, "contravariant": var.__contravariant__}
        if getattr(var, "__infer_variance__", False):
            options["infer_variance"] = True
    if getattr(var, "has_default", bool)():  # since Python 3.13
        options["default"] = getattr(var, "__default__")  # noqa: B009, because checkers know no such attribute
    if "infer_variance" in options and options["bound"] is not None and var.__name__.isidentifier():
        default = (options["default"],) if "default" in options else ()
        return _make_bounded, (var.__name__, *default), (None, {"handout_bound": options["bound"]})
    return _make_variable, (type(var), var.__name__, getattr(var, "__constraints__", ()), options), None


def _make_variable(kind: Any, name: str, constraints: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return kind(name, *constraints, **options)


def _make_bounded(name: str, *default: Any) -> Any:
    """Return a type variable whose bound arrives later, because the bound may name the variable, as in ``Sorted[T]``.

    Only a variable that Python's own syntax makes evaluates its bound when it is asked for. The syntax exists since
    Python 3.12.
    """
    space: dict[str, Any] = {"default": default}
    exec(f"def f[{name}: {name}.handout_bound{' = default[0]' if default else ''}](): pass", space)
    return space["f"].__type_params__[0]


#: The type of what a ``type`` statement makes. Python has it since version 3.12.
_ALIAS: Any = getattr(typing, "TypeAliasType", None)


def _reduce_alias(alias: Any) -> Any:
    """Reduce an alias. Its value arrives later, because it may name the alias, as in ``type T = list[T]``."""
    space = {"__name__": alias.__module__}
    made = tokens.token_of(alias), _declare_alias, (alias.__name__, space)
    return _named, made, (space, alias.__value__), None, None, _fill_alias


def _declare_alias(name: str, space: dict[str, Any]) -> Any:
    """Return an alias that looks its value up when it is asked for it. Only Python's own syntax makes such an alias."""
    exec(f"type {name} = value", space)
    return space[name]


def _fill_alias(_alias: Any, state: tuple[dict[str, Any], Any]) -> None:
    space, value = state
    space["value"] = value


def _alias_parts(alias: Any) -> Any:
    return _make_alias, (type(alias), alias.__name__, alias.__value__, alias.__type_params__), None


def _make_alias(kind: Any, name: str, value: Any, type_params: tuple[Any, ...]) -> Any:
    return kind(name, value, type_params=type_params)


#: How to take objects apart that are written as names. For other types, see `plain`.
_NAMED: dict[Any, Reducer] = {
    _CACHE: _cache_parts,
    **{getattr(typing, name, None): _variable_parts for name in ("TypeVar", "ParamSpec", "TypeVarTuple")},
    _ALIAS: _alias_parts,
}


def _reduce_context_variable(var: contextvars.ContextVar[Any]) -> Any:
    try:
        default: tuple[Any, ...] = (contextvars.Context().run(var.get),)
    except LookupError:  # it has none
        default = ()
    return _named, (tokens.token_of(var), _make_context_variable, (var.name, *default))


def _make_context_variable(name: str, *default: Any) -> Any:
    return contextvars.ContextVar(name, **({"default": default[0]} if default else {}))


# ---- streams and handlers --------------------------------------------------------------------------------


def _reduce_stream(stream: Any) -> Any:
    """Reduce a standard stream to its name: the receiver uses its own one. Refuse other files."""
    for name in _STREAMS:
        for path in (name, f"{name}.buffer", f"{name}.buffer.raw"):
            try:
                if operator.attrgetter(path)(sys) is stream:
                    return _stream, (path,)
            except AttributeError:  # a program may have put another object in place of the stream
                continue
    return refuse(stream) if is_unpicklable(type(stream)) else NotImplemented


def _stream(path: str) -> Any:
    return operator.attrgetter(path)(sys)


def _reduce_handler(handler: Any) -> Any:
    state = {name: value for name, value in list(vars(handler).items()) if name != "lock"}
    return _make_handler, (type(handler),), state, None, None, set_state


def _make_handler(kind: Any) -> Any:
    handler = kind.__new__(kind)
    handler.createLock()
    return handler


# ---- attributes of classes -------------------------------------------------------------------------------


def _descriptor(base: Any, args_of: Callable[[Any], tuple[Any, ...]]) -> Reducer:
    """Return a reducer. What a descriptor holds arrives later, because it may be a bound method of the descriptor."""

    def reduce(obj: Any) -> Any:
        make, args, state = plain(obj)
        return make, args, (base, args_of(obj), state), None, None, _fill_descriptor

    return reduce


def _fill_descriptor(obj: Any, parts: tuple[Any, tuple[Any, ...], Any]) -> None:
    base, args, state = parts
    base.__init__(obj, *args)
    set_state(obj, state)


def _reduce_cached_property(obj: Any) -> Any:
    _, _, state = plain(obj)
    attributes = state[0] if isinstance(state, tuple) else state
    has_lock = attributes.pop("lock", None) is not None  # before Python 3.12
    return _make_cached_property, (type(obj), has_lock), state, None, None, set_state


def _make_cached_property(kind: Any, has_lock: bool) -> Any:
    obj = kind.__new__(kind)
    if has_lock:
        obj.lock = threading.RLock()
    return obj


def _reduce_key(key: Any) -> Any:
    """Reduce an object of `functools.cmp_to_key`. Only the garbage collector shows what it holds."""
    return _make_key, tuple(each for each in gc.get_referents(key) if each is not type(key))


def _make_key(compare: Any, *wrapped: Any) -> Any:
    key: Any = functools.cmp_to_key(compare)
    return key(*wrapped) if wrapped else key


_MARKERS = ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR")


def _reduce_marker(obj: Any) -> Any:
    """Reduce a marker of `dataclasses` to its name, because it is compared with ``is``."""
    name = next((name for name in _MARKERS if getattr(dataclasses, name, None) is obj), None)
    return NotImplemented if name is None else (getattr, (dataclasses, name))


def _reduce_reference(ref: Any) -> Any:
    """Reduce a text in an annotation, without the class that the text was found to name.

    That class may have the annotation itself, and some classes cannot be made without their annotations.
    """
    state = {"__forward_is_class__": getattr(ref, "__forward_is_class__", False)}
    made = ref.__forward_arg__, ref.__forward_is_argument__, ref.__forward_module__
    return typing.ForwardRef, made, (None, state), None, None, set_state


# ---- types of modules that a program may not have imported -----------------------------------------------


def _reduce_meta(meta: Any) -> Any:
    """Reduce a constraint of msgspec, such as ``Meta(gt=0)``."""
    make: Any = type(meta)
    options = {name: getattr(meta, name) for name in dir(meta) if not name.startswith("_")}
    return functools.partial(make, **{name: value for name, value in options.items() if value is not None}), ()


# ---- memory ----------------------------------------------------------------------------------------------


def _reduce_view(view: memoryview) -> Any:
    data = view.tobytes()
    return _make_view, (data if view.readonly else bytearray(data), view.format, view.shape)


def _make_view(data: Any, format: str, shape: tuple[int, ...]) -> Any:
    view: Any = memoryview(data)
    return view if format == "B" and len(shape) == 1 else view.cast(format, shape)


def _reduce_method(method: Any) -> Any:
    """Return the tuple from which pickle writes a bound method.

    pickle itself writes each method as ``getattr(obj, name)``. That may be another method, because ``super`` has
    returned one of a base, or because the object has an attribute of this name. Or there is no such attribute, because
    the name of the method's function is that of a lambda, of a private method before its name was mangled, or of the
    inner function of a decorator.
    """
    fn, owner = method.__func__, method.__self__
    place = importable.place_of(method)
    if place is not None:
        return importable.attribute, place
    name = getattr(fn, "__name__", None)
    found = inspect.getattr_static(owner, name, None) if isinstance(name, str) else None
    if type(found) is classmethod:
        found = found.__func__
    elif isinstance(owner, type):
        found = None  # ``getattr`` would return the function itself, which is not bound
    if found is fn:
        return getattr, (owner, name)
    return types.MethodType, (fn, owner)


def _reduce_builtin(method: Any) -> Any:
    """Return the tuple from which pickle writes a function of C code, or NotImplemented to leave it to pickle."""
    place = importable.place_of(method)
    return NotImplemented if place is None else (importable.attribute, place)


def _reduce_context_manager(manager: Any) -> Any:
    """Return the tuple from which pickle writes an object that a function of `contextlib.contextmanager` returns.

    Such an object may decorate a function. Then it does not run its generator, which could not be pickled otherwise.
    """
    if inspect.getgeneratorstate(manager.gen) != inspect.GEN_CREATED:
        refuse(manager.gen)
    return _make_context_manager, (type(manager), manager.func, manager.args, manager.kwds)


def _make_context_manager(cls: Any, func: Any, args: Any, kwds: Any) -> Any:
    """Make the object without a call of the function, which may still lack the globals that it uses."""

    def begin() -> Any:
        return (yield from func(*args, **kwds))

    manager = object.__new__(cls)
    manager.gen, manager.func, manager.args, manager.kwds, manager.__doc__ = begin(), func, args, kwds, func.__doc__
    return manager


#: Reducers by type.
REDUCERS: dict[type, Reducer] = {
    types.CodeType: lambda code: (functions_by_value.make_code, functions_by_value.marshalled(code)),
    types.MethodType: _reduce_method,
    types.BuiltinFunctionType: _reduce_builtin,
    random.SystemRandom: lambda source: (random.SystemRandom, ()),  # it has no state
    types.MappingProxyType: lambda proxy: (types.MappingProxyType, (dict(proxy),)),
    types.MemberDescriptorType: lambda slot: (getattr, (slot.__objclass__, slot.__name__)),
    contextvars.ContextVar: _reduce_context_variable,
    contextlib._GeneratorContextManager: _reduce_context_manager,
    type(functools.cmp_to_key(lambda _one, _other: 0)): _reduce_key,
    memoryview: _reduce_view,
    typing.ForwardRef: _reduce_reference,
    struct.Struct: lambda packer: (struct.Struct, (packer.format,)),
    weakref.WeakSet: lambda known: (weakref.WeakSet, (list(known),)),
    weakref.WeakKeyDictionary: lambda known: (weakref.WeakKeyDictionary, (dict(known.items()),)),
    weakref.WeakValueDictionary: lambda known: (weakref.WeakValueDictionary, (dict(known.items()),)),
    weakref.WeakMethod: lambda method: (weakref.WeakMethod, (method(),)),
    **{type(getattr(dataclasses, name)): _reduce_marker for name in _MARKERS if hasattr(dataclasses, name)},
}
#: Reducers for a type and its subclasses.
DERIVED: dict[type, Reducer] = {
    property: _descriptor(property, lambda obj: (obj.fget, obj.fset, obj.fdel, getattr(obj, "__doc__", None))),
    classmethod: _descriptor(classmethod, lambda obj: (obj.__func__,)),
    staticmethod: _descriptor(staticmethod, lambda obj: (obj.__func__,)),
    functools.cached_property: _reduce_cached_property,
    _STREAM: _reduce_stream,
    logging.Handler: _reduce_handler,
}
#: Reducers for a type and its subclasses, by the full name of the type.
BY_NAME: dict[str, Reducer] = {
    "ctypes.CDLL": refuse,  # a copy would hold an address in this process
    "msgspec.Meta": _reduce_meta,
}
