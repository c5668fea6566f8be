"""Pickles and unpickles everything that is sent between processes: values, arguments, functions and classes.

A function or class is written by name if the receiver can import it. Otherwise it is written by value, which means
that its definition is sent (see `definitions`). A `Snapshot` keeps the bytes of the definitions that a run sends, so
that the bytes are made only once. The bytes of a function have a digest and those of a class have a token, so that the
receiving process loads each function and class only once.

Python's C pickler writes the pickles, with protocol 5. If it refuses a type that dill can write, such as a weak
reference, dill's pickler writes the value anew, with the same rules for functions, classes and locks. This module knows
nothing of hosts, tasks or messages.

Large buffers, such as the contents of arrays, are kept out of the pickle; see `encoded_object`.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import importlib
import io
import operator
import pickle
import struct
import sys
import threading
import time
import types
from typing import Any, Callable

from handout.serialization import (
    ctypes_types,
    definitions,
    exception_parts,
    functions_by_value,
    importable,
    own_objects,
    reducers,
    tokens,
)
from handout.serialization.definitions import Blob, Definitions
from handout.serialization.encoded_object import LoadError, Segment, lay_out, loads
from handout.serialization.reducers import UNPICKLABLE_TYPES
from handout.serialization.user_objects import is_interruption

__all__ = [
    "OUT_OF_BAND", "UNPICKLABLE_TYPES", "WARM", "LoadError", "Pickler", "Segment", "Snapshot", "become_worker", "dumps",
    "encode", "is_refused", "loads", "may_pickle", "never_pickle", "preload", "write_definition",
]  # fmt: skip

Function = types.FunctionType

#: A buffer with fewer bytes is copied into the pickle, because a header entry and padding would cost more than a copy.
OUT_OF_BAND = 4096
#: Types whose instances the C pickler writes without calling ``reducer_override``.
_ATOMS = frozenset({type(None), bool, int, float, str, complex})

become_worker = functions_by_value.become_worker


class Snapshot:
    """The functions and classes that one run sends by value.

    When a class, or a function without a closure, is used for the first time, the snapshot makes separate bytes for it
    and keeps these bytes. Each run has a new snapshot, because globals and classes may change between two runs.

    Attributes:
        modules: Names of the modules that the pickled values refer to.
        by_value: True if a function or class was written by value. The bytes can then be read only by the same minor
            version of Python.
        closures: How many functions were written in place, which is how functions with a closure are written.

    Args:
        serial: The version of the classes in this snapshot. Default: a number that no other snapshot has.
    """

    _last = 0
    _lock = threading.Lock()

    def __init__(self, serial: int | None = None) -> None:
        self.serial = Snapshot._next() if serial is None else serial
        self.modules: set[str] = set()
        self.by_value = False
        self.closures = 0
        #: Objects that are cached by id. This list keeps them alive, so that no other object can get the same id.
        self.kept_alive: list[Any] = []
        self.blobs: dict[int, Blob] = {}
        #: For each entry of `blobs`, the modules that the definition refers to.
        self.blob_modules: dict[int, set[str]] = {}
        #: For each type, the function that reduces its objects. Most objects are of few types.
        self.rules: dict[type, Any] = {}
        #: The ``id`` of each attribute of a class that pickles itself as "the attribute of that name of my class".
        self.parts: set[int] = set()
        self.uses = functions_by_value.Uses()

    @staticmethod
    def _next() -> int:
        with Snapshot._lock:
            # The serial is taken from the clock. A count would begin again when this process is restarted, but versions
            # from before and after a restart may be compared.
            Snapshot._last = max(Snapshot._last + 1, time.time_ns())
            return Snapshot._last

    def blob(self, obj: Any) -> Blob:
        """Return a function, class or module by value. The bytes do not depend on the value that contains it."""
        blob = self.blobs.get(id(obj))
        if blob is None:
            before, self.modules = self.modules, set()
            try:
                blob = definitions.arrived_as(obj) or self.write(obj)
            finally:
                inside, self.modules = self.modules, before
            self.blobs[id(obj)], self.blob_modules[id(obj)] = blob, inside
            self.kept_alive.append(obj)
        self.modules |= self.blob_modules[id(obj)]
        return blob

    def write(self, obj: Any) -> Blob:
        """Write the definition of a function, class or module of this process."""
        made = write_definition(self, obj)
        definitions.remember(obj, made)
        return made

    def marshalled(self, code: types.CodeType) -> tuple[Any, ...]:
        """Return the arguments of `functions_by_value.make_code`."""
        return functions_by_value.marshalled(code)

    def key(self, space: dict[str, Any]) -> functions_by_value.Key:
        """Return the key of a namespace."""
        self.kept_alive.append(space)
        return tokens.origin(), self.serial, id(space)

    def note_parts(self, cls: type, state: dict[str, Any]) -> None:
        """Note the attributes of a class that pickle themselves as attributes of that class."""
        self.parts.update(id(value) for name, value in state.items() if _is_part(value, cls, name))


def write_definition(snapshot: Snapshot, obj: Any) -> Blob:
    """Return a function, class or module as bytes."""
    made: Blob = _dill_if_needed(Pickler, lambda make_pickler: Definitions(snapshot, make_pickler).write(obj))
    return made


def _is_part(value: Any, cls: type, name: str) -> bool:
    if issubclass(type(value), type) or not isinstance(getattr(type(value), "__reduce__", None), Function):
        return False
    try:
        return bool(value.__reduce__()[1] == (cls, name))
    except BaseException as error:  # a __reduce__ may raise anything
        if is_interruption(error):
            raise
        return False


#: The methods by which Python 3.11.0 to 3.11.3 write a member of an enum as ``getattr(cls, name)``. A reader of
#: untrusted data cannot allow ``getattr``. So on these versions `Pickler` writes ``cls(value)``, as other versions of
#: Python do.
_ENUMS_BY_GETATTR: tuple[Any, ...] = (
    (enum.Enum.__reduce_ex__, enum.Flag.__reduce_ex__) if (3, 11) <= sys.version_info < (3, 11, 4) else ()
)


class Pickler(pickle.Pickler):
    """Pickles a value. A function or class that the receiver cannot import is written by value.

    Such a class is written as separate bytes with a token, and such a function as separate bytes with a digest. But a
    function with a closure is written in place, which means inside the value's own pickle, because two closures inside
    one value may share a variable. The exception is a function that `functions_by_value.uses_itself`, such as a
    decorated one that calls itself by its name: it would be written twice.

    Args:
        file: Has a method ``write``.
        snapshot: The snapshot of the run.
        definitions: Writes definitions in place, if the pickle itself is a definition.
        for_dill: True if dill's pickler asks this pickler how to reduce objects.
        **options: Further arguments of the C pickler.
    """

    def __init__(
        self, file: Any, snapshot: Snapshot, definitions: Any = None, for_dill: bool = False, **options: Any
    ) -> None:
        super().__init__(file, 5, **options)
        self.snapshot, self.definitions, self.for_dill = snapshot, definitions, for_dill
        #: The ``id`` of each cell whose contents a function brings.
        self.cells: set[int] = set()

    def reducer_override(self, obj: Any) -> Any:
        if _never and id(obj) in _never:
            raise _refused_warm()
        kind, snapshot = type(obj), self.snapshot
        rule = snapshot.rules.get(kind)
        if rule is None:
            rule = snapshot.rules[kind] = _rule(kind)
        if id(obj) in snapshot.parts:
            return (*reducers.plain(obj), None, None, reducers.set_state)
        return NotImplemented if rule is _no_rule else rule(self, obj)

    def code(self, obj: Any) -> Any:
        """Reduce a function or class."""
        is_class = isinstance(obj, type)
        if is_class and obj.__module__ == "builtins":
            reduced = importable.reduce_builtin(obj)
            if reduced is not None:
                return reduced
        name = importable.importable_name(obj)
        if name is not None:
            self.snapshot.modules.add(name[0])
            by_dill = self.for_dill and is_class  # it would write some classes by value, such as named tuples
            return NotImplemented if name[0] == obj.__module__ and not by_dill else (importable.attribute, name)
        special = ctypes_types.reduce_ctypes(obj) if is_class else functions_by_value.reduce_dispatch(obj)
        if special is not None:
            return special
        if not is_class:
            self.snapshot.modules.update(functions_by_value.imported_by(obj))
            self.cells.update(map(id, obj.__closure__ or ()))
            is_in_place = bool(obj.__closure__) and self.definitions is None
            if is_in_place and not functions_by_value.uses_itself(obj, self.snapshot.uses):
                return self._closure(obj)
        return self._definition(obj)

    def cell(self, cell: types.CellType) -> Any:
        """Reduce a cell. The contents go with it, unless a function brings them later."""
        try:
            state = None if id(cell) in self.cells else {"cell_contents": cell.cell_contents}
        except ValueError:  # the variable has no value yet
            state = None
        return types.CellType, (), state, None, None, functions_by_value.fill_attributes

    def module(self, module: types.ModuleType) -> Any:
        """Reduce a module."""
        if importable.is_importable(module):
            self.snapshot.modules.add(module.__name__)
            return importlib.import_module, (module.__name__,)
        return self._definition(module) if _is_made(module) else NotImplemented

    def _definition(self, obj: Any) -> Any:
        self.snapshot.by_value = True
        if self.definitions is not None:
            return self.definitions.define(obj)
        blob = self.snapshot.blob(obj)
        if isinstance(obj, type):
            return definitions.load_class, (tokens.token_of(obj), blob.versions[0], *blob)
        return definitions.load_function, tuple(blob)

    def with_own_new(self, obj: Any) -> Any:
        """Reduce an object of a class whose own ``__new__`` may need what the class does not hold yet."""
        if self.definitions is None or self.definitions.classes_complete:
            return _reduce_safely(self, obj) if _is_open(type(obj)) else NotImplemented
        return reducers.reduce_held(obj, _reduce_safely(self, obj))

    def _closure(self, fn: Function) -> Any:
        self.snapshot.by_value = True
        self.snapshot.closures += 1
        self.snapshot.kept_alive.append(fn)
        place = self.snapshot.key(fn.__globals__), functions_by_value.name_of(fn)
        args = self.snapshot.marshalled(fn.__code__), place, fn.__name__, fn.__closure__
        state = tuple(functions_by_value.parts(fn))
        return functions_by_value.make_function, args, state, None, None, functions_by_value.fill_closure

    def by_name(self, obj: Any) -> Any:
        """Reduce an object that pickles itself. If it does so as a name that only this process knows, write it anew."""
        reduced = obj.__reduce_ex__(5)
        if not isinstance(reduced, str):
            return reduced
        home = sys.modules.get(pickle.whichmodule(obj, reduced))  # type: ignore[attr-defined]
        if home is not None and importable.is_importable(home) and importable.at(home, reduced) is obj:
            self.snapshot.modules.add(home.__name__)
            return reduced
        self.snapshot.kept_alive.append(obj)
        version = tokens.version_of(obj, self.snapshot.serial)
        if self.definitions is not None:
            version = self.definitions.number_of_version(version)
        return reducers.reduce_named(obj, version)


def _is_made(module: types.ModuleType) -> bool:
    """Return True if another process can make a module of the same class, and fill it.

    A class with slots cannot become the class of a bare module. The class of a worker's ``__main__`` is the worker's.
    """
    kind = type(module)
    if kind is types.ModuleType:
        return True
    is_bare = kind.__basicsize__ == types.ModuleType.__basicsize__
    return is_bare and not reducers.has_own_pickling(kind) and module.__name__ != "__main__"


def _no_rule(_pickler: Pickler, _obj: Any) -> Any:
    return NotImplemented


def _rule(kind: Any) -> Callable[[Pickler, Any], Any]:
    """Return the function that reduces objects of a type."""
    if reducers.registered(kind) is not None:
        return _no_rule
    if kind is Function or issubclass(kind, type):
        return Pickler.code
    if kind is types.CellType:
        return Pickler.cell
    if issubclass(kind, types.ModuleType):
        return Pickler.module
    if issubclass(kind, BaseException):
        return lambda _pickler, error: exception_parts.reduce_exception(error)
    if kind in own_objects.TYPES:
        return lambda pickler, obj: own_objects.reduce(obj, in_code=pickler.definitions is not None)
    reducer = _reducer(kind)
    if reducer is not None:
        return lambda _pickler, obj: reducer(obj)
    if issubclass(kind, enum.Enum):
        values = [each._value_ for each in kind.__members__.values()]
        if not all(map(_is_equal_there, values)):
            return lambda _pickler, member: _reduce_member(member)
        rule = _reduce_member_by_value if kind.__reduce_ex__ in _ENUMS_BY_GETATTR else _no_rule
        if importable.importable_name(kind) is None and not all(definitions.is_simple(v, is_key=True) for v in values):
            # A definition may be read before the enum has the values of its members.
            return lambda pickler, m: rule(pickler, m) if pickler.definitions is None else _reduce_member(m)
        if rule is not _no_rule:
            return rule
    if kind.__reduce_ex__ is object.__reduce_ex__:
        if kind.__reduce__ is not object.__reduce__:
            return Pickler.by_name
        if any("__class__" in vars(base) for base in kind.__mro__[:-1]):
            return _reduce_disguised
        if reducers.has_own_new(kind) and importable.importable_name(kind) is None:
            return Pickler.with_own_new
        if _is_open(kind):
            return _reduce_safely
    return _no_rule


def _is_open(kind: type) -> bool:
    return reducers.defines(kind, "__getattr__") and not reducers.defines(kind, "__dataclass_fields__")


def _reducer(kind: type) -> Callable[[Any], Any] | None:
    exact = reducers.REDUCERS.get(kind)
    if exact is not None or reducers.has_own_pickling(kind):
        return exact
    found = [reducer for base, reducer in reducers.DERIVED.items() if issubclass(kind, base)]
    found += filter(None, (reducers.BY_NAME.get(f"{base.__module__}.{base.__qualname__}") for base in kind.__mro__))
    if reducers.is_unpicklable(kind):
        found.append(reducers.refuse)
    return found[0] if found else None


def _is_equal_there(value: Any) -> bool:
    """Return True if a value is equal to the value that the receiving process makes of it.

    Python compares functions, and objects of classes without an ``__eq__``, by identity.
    """
    kind: Any = type(value)
    if kind in functions_by_value.CONTAINERS:
        return all(map(_is_equal_there, [*value, *value.values()] if kind is dict else value))
    return value is None or kind.__eq__ is not object.__eq__


def _reduce_member(member: Any) -> Any:
    """Return the tuple from which pickle writes a member by its name.

    The receiving process could not find the member by its value, which is another object there, such as a function.
    """
    reduced, kind = member.__reduce_ex__(5), type(member)
    is_by_value = isinstance(reduced, tuple) and reduced[0] is kind and member._name_ in kind.__members__
    return (operator.getitem, (kind, member._name_)) if is_by_value else reduced


def _reduce_member_by_value(_pickler: Pickler, member: Any) -> Any:
    return type(member), (member._value_,)


def _reduce_disguised(pickler: Pickler, obj: Any) -> Any:
    """Have the object made by its type. The C pickler would refuse it, because its ``__class__`` is another one."""
    reduced = _reduce_safely(pickler, obj)
    is_made_by_type = isinstance(reduced, tuple) and reduced[0] is copyreg.__newobj__  # type: ignore[attr-defined]
    return (reducers.new, *reduced[1:]) if is_made_by_type else reduced


def _reduce_safely(_pickler: Pickler, obj: Any) -> Any:
    """Have the state set without a look-up on the object, whose ``__getattr__`` may need the state."""
    reduced = obj.__reduce_ex__(5)
    if not isinstance(reduced, tuple) or len(reduced) != 5 or reducers.defines(type(obj), "__setstate__"):
        return reduced
    return (*reduced, reducers.set_state)


# ---- writing ---------------------------------------------------------------------------------------------


class _Sink:
    """Takes the place of a pickler's file. The pickler passes large bytes to `write` without a copy."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self.write = write


def _dump(
    kind: type[Pickler], value: Any, snapshot: Snapshot, buffers: list[memoryview] | None = None, **options: Any
) -> list[Segment]:
    """Pickle `value`. If the C pickler refuses a type in it, pickle `value` again with dill's pickler.

    Args:
        kind: The pickler's class.
        value: The value.
        snapshot: The snapshot of the run.
        buffers: List that receives the large buffers. If this is None, all buffers are written inside the pickle.
        **options: Further arguments of the pickler.
    """
    segments: list[Segment] = []

    def is_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        assert buffers is not None
        buffers.append(raw)
        return False

    callback = None if buffers is None else is_in_band

    def attempt(make_pickler: Callable[..., Any]) -> None:
        segments.clear()
        if buffers is not None:
            buffers.clear()
        make_pickler(_Sink(segments.append), snapshot, buffer_callback=callback, **options).dump(value)

    _dill_if_needed(kind, attempt)
    return segments


def _join(segments: list[Segment]) -> bytes:
    return bytes(segments[0]) if len(segments) == 1 else b"".join(segments)


#: A bytes object up to this size is copied into the pickle, because a copy is cheaper than a separate segment.
_COPIED = 16384


def dumps(value: Any, snapshot: Snapshot | None = None) -> list[Segment]:
    """Encode `value` as segments. Joined together, the segments are the encoded object.

    Large segments may be views of the value's memory. The caller must write or copy them before the value changes.

    Args:
        value: Any value.
        snapshot: The snapshot of the run. Default: a new snapshot.

    Raises:
        Exception: Pickling raised it. `diagnosis.find_unpicklable` finds the part of the value that failed.
    """
    if _never and id(value) in _never:
        raise _refused_warm()
    kind = type(value)
    if kind is bytes and len(value) > _COPIED:
        # This is a pickle of `value` that contains `value` itself instead of a copy.
        return [b"\x80\x05" + pickle.BINBYTES8 + struct.pack("<Q", len(value)), value, pickle.STOP]
    if kind in _ATOMS:
        return [pickle.dumps(value, 5)]
    return encode(_WaryPickler if _has_native() else Pickler, value, snapshot or Snapshot())


def encode(kind: type[Pickler], value: Any, snapshot: Snapshot, **options: Any) -> list[Segment]:
    """Encode `value` as `dumps` does, with the given pickler.

    Args:
        kind: The pickler's class.
        value: Any value.
        snapshot: The snapshot of the run.
        **options: Further arguments of the pickler.
    """
    buffers: list[memoryview] = []
    segments = _dump(kind, value, snapshot, buffers, **options)
    return lay_out(segments, buffers) if buffers else segments


# ---- dill for other types --------------------------------------------------------------------------------

_REFUSALS = (TypeError, pickle.PicklingError, AttributeError, ValueError)


def _dill_if_needed(kind: type[Pickler], attempt: Callable[[Callable[..., Any]], Any]) -> Any:
    """Call `attempt` with a pickler class, and again with one that uses dill if the C pickler refuses a type."""
    try:
        return attempt(kind)
    except _REFUSALS as refusal:
        dill_pickler = _dill_pickler()
        if dill_pickler is None:
            raise
        try:
            return attempt(functools.partial(dill_pickler, kind))
        except (*_REFUSALS, RecursionError, KeyError):
            raise refusal from None


#: Types that Python's pure pickler, from which dill's is derived, writes as the C pickler does.
_NATIVE = frozenset({
    type(None), bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, Function,
    pickle.PickleBuffer,
})  # fmt: skip


def _reduce(obj: Any) -> Any:
    """Reduce an object as the C pickler does, or return NotImplemented if the C pickler refuses its type.

    dill would take some other objects apart in its own way, such as arrays, whose buffers it writes inside the pickle.
    """
    reduce = reducers.registered(type(obj))
    try:
        return obj.__reduce_ex__(5) if reduce is None else reduce(obj)
    except TypeError:
        return NotImplemented


@functools.lru_cache(maxsize=1)
def _dill_pickler() -> Any:
    """Return a subclass of dill's pickler that asks one of `Pickler` how to reduce objects.

    Return None if dill is not installed.
    """
    try:
        import dill
    except ImportError:
        return None

    class DillPickler(dill.Pickler):  # type: ignore[misc]
        def __init__(
            self, kind: type[Pickler], file: Any, snapshot: Snapshot, buffer_callback: Any = None, **options: Any
        ) -> None:
            super().__init__(file, protocol=5, byref=False, recurse=True, buffer_callback=buffer_callback)
            self.reducer = kind(io.BytesIO(), snapshot, for_dill=True, **options)
            self.is_wary = issubclass(kind, _WaryPickler)

        def persistent_id(self, obj: Any) -> Any:
            return self.reducer.persistent_id(obj) if self.is_wary else None

        def reducer_override(self, obj: Any) -> Any:
            reduced = self.reducer.reducer_override(obj)
            is_native = type(obj) in _NATIVE or isinstance(obj, type)
            return _reduce(obj) if reduced is NotImplemented and not is_native else reduced

    return DillPickler


#: The values that no pickle may contain, by ``id``: the warm values of a worker.
_never: dict[int, Any] = {}


def never_pickle(value: Any) -> None:
    """Refuse to pickle a warm value from now on.

    Constants, functions and classes are left out. The process has one object for all uses of ``None`` or of ``f``.
    """
    kind = type(value)
    is_code = issubclass(kind, (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType))
    if not (is_code or kind in _ATOMS or (kind in (bytes, tuple, frozenset) and len(value) < 2)):
        _never[id(value)] = value


def is_refused(value: Any) -> bool:
    """Return True if a value is a warm value, which cannot be pickled."""
    return id(value) in _never


def may_pickle(value: Any) -> None:
    """Undo `never_pickle`, because the worker drops the value."""
    _never.pop(id(value), None)


#: Why a warm value cannot be pickled.
WARM = "it is a warm value, which stays in the worker that has made it"


def _refused_warm() -> pickle.PicklingError:
    return pickle.PicklingError(WARM)


def _has_native() -> bool:
    """Return True if a warm value has a type that the C pickler writes without asking `Pickler.reducer_override`."""
    return any(type(value) in _NATIVE for value in _never.values())


class _WaryPickler(Pickler):
    """Also finds warm values that are dicts, lists and the like. It is slower, because Python code sees each object."""

    def persistent_id(self, obj: Any) -> None:
        if id(obj) in _never:
            raise _refused_warm()


def preload() -> None:
    """Import dill in advance, if it is installed. The supervisor calls this before it forks workers."""
    _dill_pickler()
