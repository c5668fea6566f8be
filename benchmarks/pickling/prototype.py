"""A prototype of the recommended combination; see ``docs/design.md``. It does not run in Handout.

Definitions (functions, classes, modules that were made at run time) are written in two steps: first all shells,
then what the shells hold. Values that may contain objects of such a class come last, after the class is
complete. dill writes the objects that Python's C pickler refuses, in the same stream.
"""

from __future__ import annotations

import abc
import builtins
import collections
import contextvars
import copyreg
import ctypes
import enum
import functools
import hashlib
import importlib
import inspect
import io
import logging
import marshal
import operator
import os
import pickle
import re
import struct
import sys
import threading
import time
import types
import typing
import weakref
from typing import Any

from handout.serialization import functions_by_value as fbv
from handout.serialization.pickling import UNPICKLABLE_TYPES

Function = types.FunctionType
ORIGIN: list[str] = [os.urandom(8).hex()]
os.register_at_fork(after_in_child=lambda: ORIGIN.__setitem__(0, os.urandom(8).hex()))


# ---- identity: one copy in each process, which maps back ------------------------------------------------------


class Tokens:
    """Names the objects of this process that travel by value, and knows the copies of other processes' objects."""

    def __init__(self) -> None:
        self.count = 0
        self.by_id: dict[int, tuple[tuple[str, int], Any]] = {}  # the real thing holds weak references
        self.by_token: dict[tuple[str, int], Any] = {}
        self.versions: dict[tuple[str, int], int] = {}

    def of(self, obj: Any) -> tuple[str, int]:
        if id(obj) not in self.by_id:
            self.count += 1
            self.track(obj, (ORIGIN[0], self.count))
        return self.by_id[id(obj)][0]

    def track(self, obj: Any, token: tuple[str, int]) -> Any:
        self.by_id[id(obj)] = token, obj
        self.by_token[token] = obj
        return obj

    def is_current(self, obj: Any, version: int) -> bool:
        """Return True if `obj` need not be filled in: it is this process's own, or as new as the bytes."""
        token = self.by_id[id(obj)][0]
        return token not in self.versions or self.versions[token] >= version


TOKENS = Tokens()
_functions: dict[Any, Function] = {}
_received: dict[int, Any] = {}
_spaces: dict[Any, types.ModuleType] = {}
_mains: dict[int, types.ModuleType] = {}
#: Set in workers: the namespace of the caller's ``__main__`` is the worker's ``__main__``.
IS_WORKER: list[bool] = [False]


class _Context(threading.local):
    serial: int = 0
    spaces: tuple[Any, ...] = ()
    fresh: typing.ClassVar[set[int]] = set()  # each load sets a set of its own


_context = _Context()


def _space(key: Any, name: str) -> types.ModuleType:
    key = _context.spaces[key] if isinstance(key, int) else key
    known = _spaces.get(key)
    if known is None:
        home = key[0] == ORIGIN[0] and _HOMES.get(key[2])
        known = _spaces[key] = home or types.ModuleType(name)
        known.__dict__.setdefault("__builtins__", builtins)
        if IS_WORKER[0] and name == "__main__" and not home and key[1] not in _mains:
            _mains[key[1]] = sys.modules["__main__"] = known
    return known


_HOMES: dict[int, types.ModuleType] = {}


_IN_MEMORY = (io.StringIO, io.BytesIO)


# ---- what a run shares -----------------------------------------------------------------------------------------


class Run:
    """The definitions of one run: each is made into bytes once."""

    _last = 0

    def __init__(self) -> None:
        Run._last = self.serial = max(Run._last + 1, time.time_ns())
        self.blobs: dict[int, tuple[bytes, bytes, tuple[Any, ...]]] = {}
        self.kept: list[Any] = []
        #: Attributes of classes that pickle themselves as "the attribute of that name of my class".
        self.parts: set[int] = set()

    def blob(self, obj: Any) -> tuple[bytes, bytes, tuple[Any, ...]]:
        known = self.blobs.get(id(obj))
        if known is None:
            try:
                data, spaces = Definitions.write(obj, self, Pickler)
            except (TypeError, pickle.PicklingError, AttributeError, ValueError):
                data, spaces = Definitions.write(obj, self, DillPickler)
            known = self.blobs[id(obj)] = hashlib.sha256(data).digest()[:16], data, spaces
            self.kept.append(obj)
        return known

    def key(self, space: dict[str, Any]) -> Any:
        self.kept.append(space)
        return ORIGIN[0], self.serial, id(space)


def main_name() -> str | None:
    name = fbv.main_name()
    return None if name == "__main__" else name


def importable_name(obj: Any) -> tuple[str, str] | None:
    if getattr(obj, "__module__", None) in ("__main__", "__mp_main__") and main_name() is None:
        return None
    return fbv.importable_name(obj)


def is_importable(module: types.ModuleType) -> bool:
    name = module.__name__
    if sys.modules.get(name) is not module or (name == "__main__" and main_name() is None):
        return False
    return module.__spec__ is not None or getattr(module, "__file__", None) is not None


# ---- the pickler -----------------------------------------------------------------------------------------------


class Reducers:
    """Reduces what travels by value. A subclass adds Python's C pickler, or dill's pickler."""

    run: Run
    definitions: Definitions | None = None

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        rule = _rules.get(kind)
        if rule is None:
            rule = _rules[kind] = _rule(kind)
        if self.run.parts and id(obj) in self.run.parts:
            make, args, state = _plain(obj)
            return make, args, state, None, None, _set_state
        return NotImplemented if rule is _NO_RULE else rule(self, obj)

    def definition(self, obj: Any) -> Any:
        if isinstance(obj, type) and obj.__module__ == "builtins":
            return _reduce_builtin(obj)
        name = importable_name(obj)
        if name is not None:
            return NotImplemented if name[0] == obj.__module__ else (fbv.attribute, name)
        special = _special_class(obj) if isinstance(obj, type) else _reduce_dispatch(obj)
        if special is not None:
            return special
        if self.definitions is not None:
            return self.definitions.define(obj)
        if isinstance(obj, Function) and obj.__closure__:
            return self.closure(obj)
        return self.reference(obj)

    def reference(self, obj: Any) -> Any:
        arrived = _received.get(id(obj))
        if arrived is not None:
            return _load, arrived
        digest, data, spaces = self.run.blob(obj)
        token = None if isinstance(obj, Function) else TOKENS.of(obj)
        if token is None:
            _functions.setdefault((spaces, digest), obj)
        return _load, (fbv.MAGIC, fbv.PYTHON, self.run.serial, token, spaces, digest, data)

    def closure(self, fn: Function) -> Any:
        """Write a closure in place: two closures inside one value may share a variable."""
        attributes, names, cells = _parts(fn)
        state = attributes, names, cells, _submodules(fn)
        args = (_marshalled(fn.__code__), (self.run.key(fn.__globals__), _name(fn)), fn.__name__, fn.__closure__)
        return _make_function, args, state, None, None, _fill_closure

    def module(self, module: types.ModuleType) -> Any:
        if is_importable(module):
            return importlib.import_module, (module.__name__,)
        if self.definitions is not None:
            return self.definitions.define_module(module)
        return self.reference(module)

    def by_name(self, obj: Any) -> Any:
        """Reduce an object that pickles itself. If only this process knows its name, take its state."""
        reduced = obj.__reduce_ex__(5)
        if not isinstance(reduced, str):
            return reduced
        module = getattr(obj, "__module__", None)
        home = sys.modules.get(module) if isinstance(module, str) else None
        if home is not None and module != "__main__" and _at(home, reduced) is obj and is_importable(home):
            return reduced
        name = main_name()
        if module == "__main__" and name and _at(sys.modules["__main__"], reduced) is obj:
            return fbv.attribute, (name, reduced)
        make, args, state = NAMED.get(type(obj), _plain)(obj)
        self.run.kept.append(obj)
        return _named, (TOKENS.of(obj), make, args), state, None, None, _set_named


def _no_rule(_pickler: Any, _obj: Any) -> Any:
    return NotImplemented


_NO_RULE = _no_rule
#: For each type, the function that reduces its objects. Most objects are of few types, and the search takes long.
_rules: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()


def _rule(kind: Any) -> Any:
    """Return the function that reduces objects of a type."""
    if kind is Function or issubclass(kind, type):
        return Reducers.definition
    reducer = REDUCERS.get(kind) or next((r for base, r in DERIVED.items() if issubclass(kind, base)), None)
    if reducer is not None:
        return lambda _, obj: reducer(obj)
    if issubclass(kind, UNPICKLABLE_TYPES):
        return _refuse
    if kind is types.ModuleType:
        return Reducers.module
    if issubclass(kind, BaseException):
        return lambda _, obj: _reduce_exception(obj)
    if kind.__reduce_ex__ is object.__reduce_ex__:
        if kind.__reduce__ is not object.__reduce__:
            return Reducers.by_name
        if getattr(kind, "__getattr__", None) is not None and kind not in copyreg.dispatch_table:
            return lambda _, obj: _safe_state(obj, obj.__reduce_ex__(5))
    return _NO_RULE


def _refuse(_pickler: Any, obj: Any) -> Any:
    raise TypeError(f"cannot pickle {type(obj).__name__!r} object")


def _at(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


class Pickler(Reducers, pickle.Pickler):
    """Python's C pickler."""

    def __init__(self, file: Any, run: Run, definitions: Definitions | None = None) -> None:
        pickle.Pickler.__init__(self, file, 5)
        self.run, self.definitions = run, definitions


def _make_dill_pickler() -> Any:
    import dill

    class _DillPickler(Reducers, dill.Pickler):
        def __init__(self, file: Any, run: Run, definitions: Definitions | None = None) -> None:
            dill.Pickler.__init__(self, file, protocol=5, byref=False, recurse=True)
            self.run, self.definitions = run, definitions

    return _DillPickler


DillPickler = _make_dill_pickler()


# ---- definitions: shells first, then what they hold -----------------------------------------------------------------


class Fill(typing.NamedTuple):
    """Values that belong into a shell."""

    target: Any
    how: str
    values: dict[str, Any]


class Definitions:
    """Writes one definition, and all definitions that it uses, as a row of pickles with one memo."""

    def __init__(self, run: Run, pickler: Any) -> None:
        self.run, self.out = run, io.BytesIO()
        self.pickler = pickler(self.out, run, self)
        self.kind = pickler
        self.spaces: dict[int, int] = {}
        self.keys: list[Any] = []
        self.defined: set[int] = set()
        self.main: dict[str, Any] | None = None
        self.named: set[tuple[int, str]] = set()
        #: What is known to hold no object of a class that travels by value; attributes of classes; all else.
        self.queues: tuple[collections.deque[Any], ...] = (
            collections.deque(),
            collections.deque(),
            collections.deque(),
        )

    @classmethod
    def write(cls, obj: Any, run: Run, pickler: Any) -> tuple[bytes, tuple[Any, ...]]:
        self = cls(run, pickler)
        self.pickler.dump(obj)
        while any(self.queues):
            self.step()
        return self.out.getvalue(), tuple(self.keys)

    def step(self) -> None:
        queue = next(queue for queue in self.queues if queue)
        fill = queue.popleft()
        if queue is not self.queues[0]:
            fresh = self.scout(fill)
            if fresh:  # the classes in it must be complete before an object of them is made
                before = len(queue)
                for each in fresh:
                    self.pickler.dump(each)
                added = [queue.pop() for _ in range(len(queue) - before)]
                queue.appendleft(fill)
                queue.extendleft(added)
                return
        self.pickler.dump(_Filled(fill))

    def scout(self, fill: Fill) -> list[Any]:
        """Return the definitions that a value contains and that are not written yet."""
        found = _Scout(self)
        found.pickler.dump(fill.values)
        return found.fresh

    def space(self, space: dict[str, Any], name: str) -> int:
        if id(space) not in self.spaces:
            self.spaces[id(space)] = len(self.keys)
            self.keys.append(self.run.key(space))
        return self.spaces[id(space)]

    def fill(self, target: Any, how: str, values: dict[str, Any], queue: int) -> None:
        simple = {k: v for k, v in values.items() if _is_simple(v)}
        if simple:
            self.queues[0].append(Fill(target, how, simple))
        for key, value in values.items():
            if key not in simple:
                self.queues[queue].append(Fill(target, how, {key: value}))

    def define(self, obj: Any) -> Any:
        self.defined.add(id(obj))
        self.run.kept.append(obj)
        return self.define_class(obj) if isinstance(obj, type) else self.define_function(obj)

    def define_function(self, fn: Function) -> Any:
        attributes, names, cells = _parts(fn)
        space = self.space(fn.__globals__, _name(fn))
        if self.main is None and _name(fn) == "__main__":
            self.main = fn.__globals__
        self.fill_names(fn.__globals__, _name(fn), names)
        self.fill(fn, "function", attributes, 2)
        for cell, value in cells:
            self.fill(cell, "cell", {"cell_contents": value}, 2)
        submodules = _submodules(fn)
        if submodules:
            self.queues[0].append(Fill(None, "import", submodules))
        return _make_function, (_marshalled(fn.__code__), (space, _name(fn)), fn.__name__, fn.__closure__)

    def fill_names(self, space: dict[str, Any], name: str, values: dict[str, Any]) -> None:
        fresh = {k: v for k, v in values.items() if (id(space), k) not in self.named}
        self.named.update((id(space), k) for k in fresh)
        self.fill(_SpaceOf(self.space(space, name), name), "space", fresh, 2)

    def define_module(self, module: types.ModuleType) -> Any:
        self.defined.add(id(module))
        space, name = module.__dict__, module.__name__
        _HOMES[id(space)] = module
        listed = sys.modules.get(name) is module and name != "__main__"
        if name != "__main__":
            kept = {k: v for k, v in space.items() if k not in ("__builtins__", "__loader__", "__spec__", "__cached__")}
            self.fill_names(space, name, kept)
        return _make_module, (self.space(space, name), name, listed)

    def define_class(self, cls: type) -> Any:
        make, state, members = _class_parts(cls)
        texts = [v for v in vars(cls).get("__annotations__", {}).values() if isinstance(v, str)]
        space = (
            self.main if cls.__module__ == "__main__" and self.main else vars(sys.modules.get(cls.__module__, object))
        )
        names = {name: space[name] for name in _words(texts) if name in space}
        if names and cls.__module__ in ("__main__", "__mp_main__"):
            self.fill_names(typing.cast(Any, space), "__main__", names)
        self.run.parts.update(id(value) for name, value in state.items() if _is_part(value, cls, name))
        self.fill(cls, "class", state, 1)
        for name, values in members.items():
            self.queues[1].append(Fill(cls, "member", {name: values}))
        self.queues[0].append(
            Fill(cls, "abc", {"registered": _registered(cls), "abstract": vars(cls).get("__abstractmethods__")})
        )
        return _make_class, (TOKENS.of(cls), *make)


class _Scout:
    """Finds definitions in a value, by pickling the value to nowhere."""

    def __init__(self, definitions: Definitions) -> None:
        self.known, self.fresh, self.seen = definitions, [], set[int]()
        sink = types.SimpleNamespace(write=lambda data: None)
        self.pickler = definitions.kind(sink, definitions.run, self)

    def define(self, obj: Any) -> Any:
        if id(obj) not in self.known.defined and id(obj) not in self.seen:
            self.seen.add(id(obj))
            self.fresh.append(obj)
        return object, ()

    define_module = define


class _Filled:
    """A fill in the stream: loading it fills the shell."""

    def __init__(self, fill: Fill) -> None:
        self.fill = fill

    def __reduce__(self) -> Any:
        return _fill, tuple(self.fill)


class _SpaceOf:
    def __init__(self, key: int, name: str) -> None:
        self.key, self.name = key, name

    def __reduce__(self) -> Any:
        return _space, (self.key, self.name)


_SIMPLE = (
    type(None), bool, int, float, complex, str, bytes, types.FunctionType, types.BuiltinFunctionType, types.CodeType,
    types.ModuleType, type, range, type(...), types.WrapperDescriptorType, types.MethodDescriptorType,
    types.MethodWrapperType,
)  # fmt: skip


def _is_simple(value: Any, depth: int = 3) -> bool:
    """Return True if a value can hold no object of a class that travels by value."""
    kind = type(value)
    if kind in _SIMPLE or isinstance(value, type):
        return True
    if kind in (classmethod, staticmethod):
        return _is_simple(value.__func__, depth)
    if kind is property:
        return all(_is_simple(each, depth) for each in (value.fget, value.fset, value.fdel))
    if not depth or kind not in (tuple, list, dict, set, frozenset) or len(value) > 1000:
        return False
    if kind is dict:
        return all(_is_simple(k, depth - 1) and _is_simple(v, depth - 1) for k, v in value.items())
    return all(_is_simple(each, depth - 1) for each in value)


# ---- functions -----------------------------------------------------------------------------------------------------


def _name(fn: Function) -> str:
    return str(fn.__globals__.get("__name__", "__main__"))


def _marshalled(code: types.CodeType) -> tuple[bytes, str, str, bytes]:
    return fbv.MAGIC, fbv.PYTHON, code.co_name, marshal.dumps(code, 2)  # version 2 does not depend on reference counts


def _words(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(word for text in texts for word in re.findall(r"[^\W\d]\w*", text)))


def _parts(fn: Function) -> tuple[dict[str, Any], dict[str, Any], list[tuple[Any, Any]]]:
    space = fn.__globals__
    texts = [v for v in fn.__annotations__.values() if isinstance(v, str)]
    used = {*fbv.names_in(fn.__code__).used, *_words(texts)}
    names = {name: space[name] for name in used if name in space}
    if len(used) > 1:  # in the order of their definition
        places = {name: at for at, name in enumerate(space)}
        names = dict(sorted(names.items(), key=lambda item: places[item[0]]))
    cells = []
    for cell in fn.__closure__ or ():
        try:
            cells.append((cell, cell.cell_contents))
        except ValueError:
            continue
    attributes = {
        "__qualname__": fn.__qualname__, "__module__": fn.__module__, "__doc__": fn.__doc__,
        "__defaults__": fn.__defaults__, "__kwdefaults__": fn.__kwdefaults__, "__annotations__": fn.__annotations__,
        **fn.__dict__,
    }  # fmt: skip
    return {k: v for k, v in attributes.items() if v or k in fn.__dict__ or k == "__module__"}, names, cells


def _submodules(fn: Function) -> dict[str, Any]:
    """Return the modules that a function reaches by dotted names or imports; those made at run time with the module."""
    names = {name for code in fbv.codes(fn.__code__) for name in code.co_names}
    held = [fn.__globals__.get(name) for name in names]
    for cell in fn.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:
            continue
    packages = [each.__name__ for each in held if isinstance(each, types.ModuleType) and hasattr(each, "__path__")]
    found = [
        name for package in packages for name in list(sys.modules)
        if name.startswith(f"{package}.") and names.issuperset(name[len(package) + 1 :].split("."))
    ]  # fmt: skip
    modules = {name: sys.modules[name] for name in sorted(found)}
    imported = {name: sys.modules.get(name) for name in fbv.names_in(fn.__code__).imported}
    made = {name: each for name, each in imported.items() if each is not None and name != "__main__"}
    return {
        **{name: None for name, each in modules.items() if is_importable(each)},
        **{name: each for name, each in {**modules, **made}.items() if not is_importable(each)},
    }  # fmt: skip


def _make_function(code: Any, space: Any, name: str, cells: Any) -> Function:
    fbv.check_python(*code[:3])
    return Function(marshal.loads(code[3]), _space(*space).__dict__, name, None, cells)


def _fill_closure(fn: Function, state: Any) -> None:
    attributes, names, cells, submodules = state
    _fill(None, "import", submodules)
    for name, value in names.items():
        fn.__globals__.setdefault(name, value)
    _fill(fn, "function", attributes)
    for cell, value in cells:
        cell.cell_contents = value


def _fill(target: Any, how: str, values: dict[str, Any]) -> None:
    if how == "import":
        for name, made in values.items():
            if made is None:
                importlib.import_module(name)
    elif how == "space":
        for name, value in values.items():
            target.__dict__.setdefault(name, value)
    elif how in ("function", "cell"):
        for name, value in values.items():
            setattr(target, name, value)
    elif id(target) in _context.fresh:
        _fill_class(target, how, values)


_DISPATCH = functools.singledispatch(len).__code__


def _reduce_dispatch(fn: Function) -> Any:
    if fn.__code__ is not _DISPATCH:
        return None
    own = {
        k: v
        for k, v in vars(fn).items()
        if k not in ("register", "dispatch", "registry", "_clear_cache", "__wrapped__")
    }
    state = (
        dict(fn.registry),
        {"__name__": fn.__name__, "__qualname__": fn.__qualname__, "__module__": fn.__module__, **own},
    )
    return _new_dispatch, (), state, None, None, _fill_dispatch


def _new_dispatch() -> Any:
    return functools.singledispatch(_new_dispatch)


def _fill_dispatch(fn: Any, state: Any) -> None:
    for kind, implementation in state[0].items():
        fn.register(kind, implementation)
    for name, value in state[1].items():
        setattr(fn, name, value)
    fn.__wrapped__ = state[0][object]


def _make_module(key: Any, name: str, listed: bool) -> types.ModuleType:
    module = _space(key, name)
    return sys.modules.setdefault(name, module) if listed else module


# ---- classes -------------------------------------------------------------------------------------------------------

_NOT_STATE = frozenset({
    "__weakref__", "__dict__", "__module__", "__slots__", "_abc_impl", "__abstractmethods__", "__qualname__",
    "__annotations_cache__", "__annotate_func__", "__annotate__",
})  # fmt: skip
_ENUM_MADE = frozenset({
    "_generate_next_value_", "_member_names_", "_member_map_", "_member_type_", "_value2member_map_", "_use_args_",
    "_unhashable_values_", "_hashable_values_", "_unhashable_values_map_", "_value_repr_", "__new__", "_flag_mask_",
    "_singles_mask_", "_all_bits_", "_inverted_",
})  # fmt: skip
_CTYPES = (ctypes.Structure, ctypes.Union)
_CTYPES_MADE = ("_fields_", "_pack_", "_anonymous_", "_align_", "_swappedbytes_", "_layout_")


def _class_parts(cls: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return how to make the bare class, what it holds, and what the members of an enum hold."""
    state = {k: v for k, v in vars(cls).items() if k not in _NOT_STATE}
    head = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    bases = vars(cls).get("__orig_bases__", cls.__bases__)
    members: dict[str, Any] = {}
    if isinstance(cls, enum.EnumMeta):
        named = cls.__members__
        for name in (*_ENUM_MADE, *named):
            state.pop(name, None)
        members = {
            n: (m._value_, {k: v for k, v in vars(m).items() if k not in _MEMBER_MADE})
            for n, m in named.items()
            if m._name_ == n
        }
        made = {n: (m._name_, _new_args(cls, m), m._value_ if _is_simple(m._value_) else n) for n, m in named.items()}
        return (
            ("enum", type(cls), cls.__name__, cls.__bases__, head, (made, getattr(cls, "_boundary_", None))),
            state,
            members,
        )
    if tuple in cls.__bases__ and hasattr(cls, "_fields") and hasattr(cls, "_make"):
        for name in (*cls._fields, *_TUPLE_MADE):
            if name not in state or _is_made(cls, state[name]):
                state.pop(name, None)
        extra = cls._fields, tuple(cls._field_defaults.values())
        return ("tuple", type, cls.__name__, cls.__bases__, head, extra), state, members
    if issubclass(cls, _CTYPES):
        made = {k: state.pop(k) for k in _CTYPES_MADE if k in state}
        for name, *_ in made.get("_fields_", ()):
            state.pop(name, None)
        return ("ctypes", type, cls.__name__, bases, {**head, **made}, None), state, members
    if hasattr(cls, "__struct_config__"):
        return _struct_parts(cls, state, head, bases)
    slots = vars(cls).get("__slots__")
    for name in () if slots is None else (slots,) if isinstance(slots, str) else tuple(slots):
        mangled = f"_{cls.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
        state.pop(mangled, None)
    if slots is not None:
        head["__slots__"] = slots
    return ("plain", type(cls), cls.__name__, bases, head, None), state, members


_MEMBER_MADE = ("_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_")
_TUPLE_MADE = (
    "__new__",
    "_make",
    "_replace",
    "__replace__",
    "_asdict",
    "__getnewargs__",
    "__repr__",
    "__class_getitem__",
    "__match_args__",
)


def _is_made(cls: Any, value: Any) -> bool:
    fn = getattr(value, "__func__", value)
    return not isinstance(fn, Function) or getattr(fn, "__module__", "") in (
        "collections",
        f"namedtuple_{cls.__name__}",
        "typing",
    )


def _new_args(cls: Any, member: Any) -> tuple[Any, ...]:
    args = getattr(cls._member_type_, "__getnewargs__", None)
    return args(member) if args is not None and cls._member_type_ is not object else ()


def _struct_parts(cls: Any, state: dict[str, Any], head: dict[str, Any], bases: Any) -> Any:
    """Return the parts of a msgspec class: its metaclass makes it from annotations, defaults and options."""
    import msgspec

    config = cls.__struct_config__
    names = (
        "frozen",
        "eq",
        "order",
        "array_like",
        "gc",
        "repr_omit_defaults",
        "omit_defaults",
        "forbid_unknown_fields",
        "weakref",
        "dict",
        "cache_hash",
    )
    options = {name: getattr(config, name) for name in names if hasattr(config, name)}
    options.update(tag=config.tag, tag_field=config.tag_field)
    own = vars(cls).get("__annotations__", {})
    # The metaclass looks for this method while it makes the class.
    space = {**head, "__annotations__": own, **{k: state[k] for k in ("__post_init__",) if k in state}}
    for field in msgspec.structs.fields(cls):
        if field.name in own:
            made = {"name": field.encode_name}
            if field.default is not msgspec.NODEFAULT:
                made["default"] = field.default
            elif field.default_factory is not msgspec.NODEFAULT:
                made["default_factory"] = field.default_factory
            space[field.name] = _Field(made)
    required = [f.name for f in msgspec.structs.fields(cls)]
    options["kw_only"] = (
        inspect.signature(cls).parameters[next(iter(own))].kind is inspect.Parameter.KEYWORD_ONLY if own else False
    )
    kept = {
        k: v
        for k, v in state.items()
        if k not in required
        and not k.startswith("__struct_")
        and not k.startswith("__match_args")
        and k not in ("__annotations__", "__signature__")
    }
    kept = {k: v for k, v in kept.items() if not isinstance(v, types.MemberDescriptorType)}
    return ("struct", type(cls), cls.__name__, bases, space, options), kept, {}


class _Field:
    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return _make_field, (self.made,)


def _make_field(made: dict[str, Any]) -> Any:
    import msgspec

    return msgspec.field(**made)


def _is_part(value: Any, cls: type, name: str) -> bool:
    kind = type(value)
    if isinstance(value, type) or kind.__reduce__ is object.__reduce__ or "__reduce__" not in vars(kind):
        return False
    try:
        return value.__reduce__()[1] == (cls, name)
    except Exception:  # a __reduce__ may raise anything
        return False


def _registered(cls: type) -> list[type]:
    if not isinstance(cls, abc.ABCMeta) or "_abc_impl" not in vars(cls):
        return []
    dump: Any = getattr(abc, "_get_dump", None)
    return sorted((found for ref in dump(cls)[0] if (found := ref()) is not None), key=lambda kind: kind.__qualname__)


def _special_class(cls: Any) -> Any:
    """Reduce a class that ctypes makes: an array or pointer type, or a number in another order of bytes."""
    if issubclass(cls, ctypes._SimpleCData):
        for other, order in (("__ctype_le__", "__ctype_be__"), ("__ctype_be__", "__ctype_le__")):
            native = getattr(cls, other, cls)
            if native is not cls and getattr(native, order) is cls and importable_name(native) is not None:
                return getattr, (native, order)
    if issubclass(cls, ctypes.Array) and cls is not ctypes.Array and cls.__bases__ == (ctypes.Array,):
        return operator.mul, (cls._type_, cls._length_)
    if isinstance(cls, type(ctypes._Pointer)) and cls is not ctypes._Pointer:
        return ctypes.POINTER, (cls._type_,)
    return None


def _make_class(token: Any, how: str, meta: Any, name: str, bases: Any, head: dict[str, Any], extra: Any) -> type:
    known = TOKENS.by_token.get(token)
    if known is not None:
        if not TOKENS.is_current(known, _context.serial):
            TOKENS.versions[token] = _context.serial
            _context.fresh.add(id(known))
        return typing.cast(type, known)
    if how == "enum":
        cls = _make_enum(meta, name, bases, head, *extra)
    elif how == "tuple":
        cls = collections.namedtuple(name, extra[0], defaults=extra[1], module=head["__module__"])
        cls.__qualname__ = head["__qualname__"]
        if bases != (tuple,):
            cls.__bases__ = bases
            cls.__class_getitem__ = vars(_GenericTuple)["__class_getitem__"]
    elif how == "struct":
        cls = meta(name, types.resolve_bases(bases), dict(head), **extra)
    else:
        cls = _make_plain(type(bases[0]) if how == "ctypes" else meta, name, bases, head)
    TOKENS.versions[token] = _context.serial
    _context.fresh.add(id(cls))
    return TOKENS.track(cls, token)


_T = typing.TypeVar("_T")


class _GenericTuple(typing.NamedTuple, typing.Generic[_T]):
    x: int


class _Quiet:
    """A first base for a moment: what ``__init_subclass__`` did, it did at home, and the class's state shows it."""

    def __init_subclass__(cls, **_options: Any) -> None:
        pass


class _QuietSlots:
    __slots__ = ()

    def __init_subclass__(cls, **_options: Any) -> None:
        pass


def _make_plain(meta: Any, name: str, bases: Any, head: dict[str, Any]) -> type:
    resolved = types.resolve_bases(bases)
    space = {**head, "__orig_bases__": bases} if resolved is not bases else dict(head)
    # What a metaclass of the script did, the class's state shows. So the first other metaclass makes the class.
    maker = next(kind for kind in meta.__mro__ if id(kind) not in TOKENS.by_id)
    hooked = any(
        "__init_subclass__" in vars(k) and k.__module__ not in ("builtins", "typing")
        for b in resolved
        for k in b.__mro__
    )
    if maker is not meta:
        make = functools.partial(maker.__new__, meta)
    else:
        make = meta
    for quiet in (_Quiet, _QuietSlots) if hooked else ():
        try:
            cls = make(name, (quiet, *resolved), space)
            cls.__bases__ = resolved
            return cls
        except TypeError:  # another layout than theirs
            continue
    return typing.cast(type, make(name, resolved, space))


def _make_enum(meta: Any, name: str, bases: Any, head: dict[str, Any], made: dict[str, Any], boundary: Any) -> Any:
    space = meta.__prepare__(name, bases)
    kinds = [
        kind for base in bases for kind in base.__mro__ if not isinstance(kind, enum.EnumMeta) and kind is not object
    ]
    base: Any = next((kind for kind in kinds if "__new__" in vars(kind) or kind.__flags__ & 1 << 9 == 0), object)

    def new(cls: Any, *args: Any) -> Any:
        args = args[0] if len(args) == 1 else args
        member = base.__new__(cls, *args[0]) if base is not object else object.__new__(cls)
        member._value_ = args[1]
        return member

    space.update(head)
    space["__new__"] = new
    space["__init__"] = lambda self, *args: None
    for member, (canonical, args, value) in made.items():
        if canonical == member:
            space[member] = (args, value)
    cls = meta.__new__(meta, name, bases, space, **({"boundary": boundary} if boundary is not None else {}))
    type.__delattr__(cls, "__init__")
    for member, (canonical, _, _) in made.items():
        if canonical != member:
            cls._member_map_[member] = cls._member_map_[canonical]
            type.__setattr__(cls, member, cls._member_map_[canonical])
    return cls


def _fill_class(cls: Any, how: str, values: dict[str, Any]) -> None:
    if how == "class":
        setters = [vars(kind)["__setattr__"] for kind in type(cls).__mro__ if "__setattr__" in vars(kind)]
        set_attribute = next(each for each in setters if not isinstance(each, Function))  # ctypes has its own
        for name, value in values.items():
            set_attribute(cls, name, value)
    elif how == "member":
        for name, (value, attributes) in values.items():
            member = cls._member_map_[name]
            member._value_ = value
            vars(member).update(attributes)
            try:
                cls._value2member_map_ = {k: m for k, m in cls._value2member_map_.items() if m is not member}
                cls._value2member_map_[value] = member
            except TypeError:  # not hashable: found by comparison
                continue
    else:
        if values["abstract"] is not None:
            cls.__abstractmethods__ = values["abstract"]
        for each in values["registered"]:
            cls.register(each)


# ---- loading -------------------------------------------------------------------------------------------------------


def _load(magic: bytes, python: str, serial: int, token: Any, spaces: Any, digest: bytes, data: bytes) -> Any:
    if token is not None:
        known = TOKENS.by_token.get(token)
        if known is not None and TOKENS.is_current(known, serial):
            return known
    elif (spaces, digest) in _functions:
        return _functions[spaces, digest]
    fbv.check_python(magic, python, "a definition")
    before = _context.serial, _context.spaces, _context.fresh
    _context.serial, _context.spaces, _context.fresh = serial, spaces, set()
    try:
        stream = io.BytesIO(data)
        unpickler = MainUnpickler(stream)
        obj = unpickler.load()
        while stream.tell() < len(data):
            unpickler.load()
    finally:
        _context.serial, _context.spaces, _context.fresh = before
    if token is None:
        _functions[spaces, digest] = obj
        _received[id(obj)] = (magic, python, serial, token, spaces, digest, data)
    elif isinstance(obj, types.ModuleType):
        TOKENS.versions[token] = serial
        TOKENS.track(obj, token)
    return obj


class MainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "__builtin__":
            module = "builtins"
        return super().find_class("__main__" if module == main_name() else module, name)


# ---- other kinds ---------------------------------------------------------------------------------------------------


def _reduce_builtin(cls: Any) -> Any:
    if getattr(builtins, cls.__qualname__, None) is cls:
        return NotImplemented
    found = fbv.reduce_builtin(cls)
    if found is not NotImplemented:
        return found
    import dill

    return dill._dill._load_type, (dill._dill._typemap[cls],)


def _streams() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in ("__stdin__", "__stdout__", "__stderr__", "stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        for path, each in (
            (f"{name}.buffer.raw", None),
            (f"{name}.buffer", getattr(stream, "buffer", None)),
            (name, stream),
        ):
            if each is not None:
                found[id(each)] = path
    return found


def _reduce_stream(stream: Any) -> Any:
    path = _streams().get(id(stream))
    if path is not None:
        return _stream, (path,)
    return NotImplemented if isinstance(stream, _IN_MEMORY) else _refuse(None, stream)


def _stream(path: str) -> Any:
    return operator.attrgetter(path)(sys)


def _reduce_exception(error: BaseException) -> Any:
    reduced = error.__reduce_ex__(5)
    kind = type(error)
    if not isinstance(reduced, tuple) or reduced[0] is not kind or not isinstance(kind.__init__, Function):
        return reduced
    return _make_exception, (kind, reduced[1]), *reduced[2:]


def _make_exception(kind: Any, args: Any) -> BaseException:
    """Make an exception without its ``__init__``, whose arguments are not kept anywhere."""
    error = kind.__new__(kind, *args)
    base = next(each for each in kind.__mro__ if "__init__" in vars(each) and not isinstance(each.__init__, Function))
    base.__init__(error, *args)
    return typing.cast(BaseException, error)


def _safe_state(obj: Any, reduced: Any) -> Any:
    """Set the state without a look-up on the object: a ``__getattr__`` may need the state that is not there yet."""
    if not isinstance(reduced, tuple) or hasattr(type(obj), "__setstate__") or len(reduced) < 3 or reduced[2] is None:
        return reduced
    return (*(*reduced, None, None)[:5], _set_state)


def _set_state(obj: Any, state: Any) -> None:
    state, slots = state if isinstance(state, tuple) else (state, None)
    if state:
        obj.__dict__.update(state)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


def _named(token: Any, make: Any, args: Any) -> Any:
    known = TOKENS.by_token.get(token)
    if known is not None:
        return known
    obj = make(*args)
    TOKENS.versions[token] = -1
    return TOKENS.track(obj, token)


def _set_named(obj: Any, state: Any) -> None:
    token = TOKENS.by_id[id(obj)][0]
    if TOKENS.versions.get(token) == -1:  # not this process's own, and not complete yet
        TOKENS.versions[token] = 0
        _set_state(obj, state)


def _plain(obj: Any) -> Any:
    return _bare, (type(obj),), object.__getstate__(obj)  # type: ignore[attr-defined]


def _bare(kind: Any) -> Any:
    """Make an object without the class's own ``__new__``, which may need what the class does not hold yet."""
    base = next(each for each in kind.__mro__ if "__new__" in vars(each) and not isinstance(each.__new__, Function))
    return base.__new__(kind)


def _lru(obj: Any) -> Any:
    limits = obj.cache_parameters() if callable(obj.cache_parameters) else {"maxsize": 128, "typed": False}
    own = {k: v for k, v in vars(obj).items() if k not in ("cache_parameters",)}
    return _make_lru, (limits["maxsize"], limits["typed"]), own


def _make_lru(maxsize: Any, typed: bool) -> Any:
    return _LateCache.make(maxsize, typed)


class _LateCache:
    @staticmethod
    def make(maxsize: Any, typed: bool) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return cached.__wrapped__(*args, **kwargs)

        cached = functools.lru_cache(maxsize, typed)(call)
        return cached


def _typevar(var: Any) -> Any:
    if isinstance(var, typing.TypeVar):
        variance = var.__covariant__, var.__contravariant__
        return fbv._make_typevar, (type(var), var.__name__, var.__bound__, var.__constraints__, variance), None
    return type(var), (var.__name__,), None


#: How to take apart what pickles itself by a name that only this process knows.
NAMED: dict[type, Any] = {
    type(functools.lru_cache(len)): _lru,
    **{kind: _typevar for name in ("TypeVar", "ParamSpec", "TypeVarTuple") if (kind := getattr(typing, name, None))},
}


def _reduce_contextvar(var: Any) -> Any:
    TOKENS_KEPT.append(var)
    try:
        default: tuple[Any, ...] = (contextvars.Context().run(var.get),)
    except LookupError:  # it has none
        default = ()
    return _named, (TOKENS.of(var), _make_contextvar, (var.name, *default))


TOKENS_KEPT: list[Any] = []


def _make_contextvar(name: str, *default: Any) -> Any:
    return contextvars.ContextVar(name, **({"default": default[0]} if default else {}))


def _descriptor(base: Any, parts: Any) -> Any:
    def reduce(obj: Any) -> Any:
        own = dict(getattr(obj, "__dict__", {}))
        args = parts(obj)
        return _make_descriptor, (base, type(obj), args), own or None, None, None, _set_state

    return reduce


def _make_descriptor(base: Any, kind: Any, args: Any) -> Any:
    obj = kind.__new__(kind)
    base.__init__(obj, *args)
    return obj


def _reduce_cached_property(obj: Any) -> Any:
    state = {k: v for k, v in vars(obj).items() if k != "lock"}
    return _make_cached_property, (type(obj), "lock" in vars(obj)), state, None, None, _set_state


def _make_cached_property(kind: Any, locked: bool) -> Any:
    obj = kind.__new__(kind)
    if locked:
        obj.lock = threading.RLock()
    return obj


def _reduce_handler(handler: Any) -> Any:
    state = {k: v for k, v in vars(handler).items() if k != "lock"}
    return _make_handler, (type(handler),), state, None, None, _set_state


def _make_handler(kind: Any) -> Any:
    handler = kind.__new__(kind)
    handler.createLock()
    return handler


_property = _descriptor(property, lambda obj: (obj.fget, obj.fset, obj.fdel, obj.__doc__))
#: Reducers by exact type.
REDUCERS: dict[type, Any] = {
    types.CodeType: lambda code: (fbv._make_code, _marshalled(code)),
    types.MappingProxyType: lambda obj: (types.MappingProxyType, (dict(obj),)),  # dill can, but each dataclass has one
    types.CellType: lambda cell: (types.CellType, ()),
    property: _property,
    types.MemberDescriptorType: lambda obj: (getattr, (obj.__objclass__, obj.__name__)),
    contextvars.ContextVar: _reduce_contextvar,
    struct.Struct: lambda obj: (struct.Struct, (obj.format,)),
    memoryview: lambda obj: (memoryview, (obj.tobytes(),)),
    weakref.WeakSet: lambda obj: (weakref.WeakSet, (list(obj),)),
    weakref.WeakKeyDictionary: lambda obj: (weakref.WeakKeyDictionary, (), None, None, iter(list(obj.items()))),
    weakref.WeakValueDictionary: lambda obj: (weakref.WeakValueDictionary, (), None, None, iter(list(obj.items()))),
    weakref.WeakMethod: lambda obj: (weakref.WeakMethod, (obj(),)),
    **{type(v): fbv.REDUCERS[type(v)] for v in map(fbv._dataclass_marker, fbv._MARKERS.values())},
}
#: Reducers for a type and its subclasses.
DERIVED: dict[type, Any] = {
    property: _property,
    classmethod: _descriptor(classmethod, lambda obj: (obj.__func__,)),
    staticmethod: _descriptor(staticmethod, lambda obj: (obj.__func__,)),
    functools.cached_property: _reduce_cached_property,
    io.IOBase: _reduce_stream,
    logging.Handler: _reduce_handler,
}


# ---- the strategy --------------------------------------------------------------------------------------------------


def dumps(value: Any, run: Run) -> bytes:
    """Pickle a value."""
    out = io.BytesIO()
    try:
        Pickler(out, run).dump(value)
    except (TypeError, pickle.PicklingError, AttributeError, ValueError) as refusal:
        out = io.BytesIO()
        try:
            DillPickler(out, run).dump(value)
        except (TypeError, pickle.PicklingError, AttributeError, ValueError, RecursionError, KeyError):
            raise refusal from None
    return out.getvalue()


def loads(data: bytes) -> Any:
    """Unpickle a value."""
    return MainUnpickler(io.BytesIO(data)).load()
