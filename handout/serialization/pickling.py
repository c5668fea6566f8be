"""Pickles and unpickles everything that is sent between processes: values, arguments, functions and classes.

A function or class is written by name if the receiver can import it. Otherwise it is written by value, which means
that its definition is sent (see `functions_by_value` and `classes_by_value`). A `Snapshot` keeps the bytes of the
functions and classes that a run sends by value, so that the bytes are made only once. The bytes of a function have a
digest and those of a class have a token, so that the receiving process loads each function and class only once.

Python's C pickler writes the pickles, with protocol 5. If it refuses a type that dill can write, such as a mapping
proxy or a weak reference, the value is pickled again, and dill then writes the objects of that type. This module knows
nothing of hosts, tasks or messages.

Large buffers, such as the contents of arrays, are kept out of the pickle. They are called out-of-band buffers. Without
them, an encoded object is a plain pickle. With them, an encoded object consists of these parts::

    "HBUF" | u32 number of buffers | u64 length of the pickle | u64 length of each buffer | pickle | buffers

Within the object, each buffer begins at a multiple of 64 bytes.
"""

from __future__ import annotations

import collections
import enum
import hashlib
import io
import pickle
import struct
import sys
import threading
import time
import types
import weakref
from typing import Any, Callable, Union

from handout.serialization import classes_by_value, exception_parts, functions_by_value

Segment = Union[bytes, bytearray, memoryview]
Function = types.FunctionType

#: A buffer with fewer bytes is copied into the pickle, because a header entry and padding would cost more than a copy.
OUT_OF_BAND = 4096
ALIGN = 64
_MAGIC = b"HBUF"
_HEAD = struct.Struct("<4sIQ")
#: Types whose instances the C pickler writes without calling ``reducer_override``.
_ATOMS = frozenset({type(None), bool, int, float, str, complex})
#: A process keeps at most this many received functions. It need not load these again when they arrive once more.
_MAX_FUNCTIONS = 4096

_functions: collections.OrderedDict[tuple[str, bytes], Function] = collections.OrderedDict()
_function_tokens: weakref.WeakKeyDictionary[Function, tuple[str, bytes, bytes]] = weakref.WeakKeyDictionary()
_originals: weakref.WeakValueDictionary[tuple[str, bytes], Function] = weakref.WeakValueDictionary()


class LoadError(Exception):
    """Bytes could not be turned into a value. The message says why."""


class Snapshot:
    """The functions and classes that one run sends by value.

    When a class, or a function without a closure, is used for the first time, the snapshot makes separate bytes for it
    and keeps these bytes. Each run has a new snapshot, because globals and classes may change between two runs.

    Attributes:
        modules: Names of the modules that the pickled values refer to.
        by_value: True if a function or class was written by value. The bytes can then be read only by the same minor
            version of Python.
    """

    _last = 0
    _lock = threading.Lock()

    def __init__(self) -> None:
        with Snapshot._lock:
            # The serial is the version of the classes in this snapshot. It is taken from the clock. A count would begin
            # again when this process is restarted, but versions from before and after a restart may be compared.
            Snapshot._last = max(Snapshot._last + 1, time.time_ns())
            self.serial = Snapshot._last
        self.modules: set[str] = set()
        self.by_value = False
        #: Objects that are cached by id. This list keeps them alive, so that no other object can get the same id.
        self.kept_alive: list[Any] = []
        self.classes: dict[int, bytes] = {}
        self.functions: dict[int, tuple[str, bytes, bytes]] = {}

    def class_blob(self, cls: type) -> bytes:
        """Return `cls` by value, as bytes. The bytes do not depend on the value that contains the class."""
        blob = self.classes.get(id(cls))
        if blob is None:
            blob = self.classes[id(cls)] = _join(_dump(InPlacePickler, cls, self))
            self.kept_alive.append(cls)
        return blob

    def reduce_function(self, fn: Function) -> functions_by_value.Reduced:
        """Return the tuple from which pickle writes `fn` by value, inside the pickle that is being written."""
        self.by_value = True
        self.kept_alive.append(fn)  # this keeps the function's globals alive, because the bytes contain their id
        self.modules.update(functions_by_value.names_in(fn.__code__).imported)
        return functions_by_value.reduce_function(fn, self.serial)

    def function_blob(self, fn: Function) -> tuple[str, bytes, bytes]:
        """Return `fn` as ``(origin, digest, bytes)``. The origin names the process that made the bytes.

        For a function that this process received, all three are as they arrived.
        """
        known = self.functions.get(id(fn)) or _function_tokens.get(fn)
        if known is None:
            blob = _join(_dump(InPlacePickler, fn, self))
            known = functions_by_value.origin(), hashlib.sha256(blob).digest()[:16], blob
            self.functions[id(fn)] = known
            _originals[known[:2]] = fn
            self.kept_alive.append(fn)
        return known


#: The methods by which Python 3.11.0 to 3.11.3 write a member of an enum as ``getattr(cls, name)``. A reader of
#: untrusted data cannot allow ``getattr``. So on these versions `Pickler` writes ``cls(value)``, as other versions of
#: Python do.
_ENUMS_BY_GETATTR: tuple[Any, ...] = (
    (enum.Enum.__reduce_ex__, enum.Flag.__reduce_ex__) if (3, 11) <= sys.version_info < (3, 11, 4) else ()
)


class Pickler(pickle.Pickler):
    """Pickles a value. A function or class that the receiver cannot import is written by value.

    Such a class is written as separate bytes with a token, and such a function as separate bytes with a digest. But a
    function with a closure is written in place, which means inside the value's own pickle.
    """

    def __init__(self, file: Any, snapshot: Snapshot, **options: Any) -> None:
        super().__init__(file, 5, **options)
        self.snapshot = snapshot

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is Function:
            name = functions_by_value.importable_name(obj)
            return self.function(obj) if name is None else self._named(obj, name)
        reducer = functions_by_value.REDUCERS.get(kind)
        if reducer is not None:
            home = obj.__name__ if kind is types.ModuleType else getattr(obj, "__module__", None)
            if isinstance(home, str):
                self.snapshot.modules.add(home)
            return reducer(obj)
        if issubclass(kind, type):
            if obj.__module__ == "builtins":
                return functions_by_value.reduce_builtin(obj)
            name = functions_by_value.importable_name(obj)
            return self.cls(obj) if name is None else self._named(obj, name)
        if issubclass(kind, BaseException):
            return exception_parts.reduce_exception(obj)
        if _ENUMS_BY_GETATTR and isinstance(kind, enum.EnumMeta) and kind.__reduce_ex__ in _ENUMS_BY_GETATTR:
            return kind, (obj._value_,)
        return NotImplemented

    def _named(self, obj: Any, name: tuple[str, str]) -> Any:
        self.snapshot.modules.add(name[0])
        return NotImplemented if name[0] == obj.__module__ else (functions_by_value.attribute, name)

    def function(self, fn: Function) -> functions_by_value.Reduced:
        if fn.__closure__:  # written in place, because two closures inside one value may share a variable
            return self.snapshot.reduce_function(fn)
        self.snapshot.by_value = True
        return _load_function, (
            functions_by_value.MAGIC,
            functions_by_value.PYTHON,
            fn.__qualname__,
            *self.snapshot.function_blob(fn),
        )

    def cls(self, cls: type) -> functions_by_value.Reduced:
        self.snapshot.by_value = True
        token, version = classes_by_value.class_token(cls), classes_by_value.class_version(cls, self.snapshot.serial)
        return _load_class, (token, version, self.snapshot.class_blob(cls))


class InPlacePickler(Pickler):
    """Pickles the contents of one function or class.

    Functions and classes in these contents are written in place, so that pickle notices cycles among them.
    """

    def function(self, fn: Function) -> functions_by_value.Reduced:
        return self.snapshot.reduce_function(fn)

    def cls(self, cls: type) -> functions_by_value.Reduced:
        self.snapshot.by_value = True
        self.snapshot.kept_alive.append(cls)
        return classes_by_value.reduce_class(cls, self.snapshot.serial)


def _load_function(magic: bytes, python: str, name: str, origin: str, digest: bytes, blob: bytes) -> Function:
    key = (origin, digest)
    fn = _originals.get(key) or _functions.get(key)
    if fn is None:
        functions_by_value.check_python(magic, python, name)
        loaded = loads(blob)
        assert isinstance(loaded, Function)
        fn = _functions[key] = loaded
        _function_tokens[fn] = (origin, digest, blob)
        while len(_functions) > _MAX_FUNCTIONS:
            _functions.popitem(last=False)
    return fn


def _load_class(token: classes_by_value.Token, version: int, blob: bytes) -> type:
    cls = classes_by_value.known_class(token, version)
    if cls is None:
        cls = loads(blob)
    assert isinstance(cls, type)
    return cls


# ---- writing ---------------------------------------------------------------------------------------------


class _Sink:
    """Takes the place of a pickler's file. The pickler passes large bytes to `write` without a copy."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self.write = write


def _dump(
    kind: type[Pickler], value: Any, snapshot: Snapshot, buffers: list[memoryview] | None = None, **options: Any
) -> list[Segment]:
    """Pickle `value`. If the C pickler refuses a type in it, pickle `value` again with dill for such types.

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
    try:
        kind(_Sink(segments.append), snapshot, buffer_callback=callback, **options).dump(value)
    except (TypeError, pickle.PicklingError, AttributeError, ValueError) as refusal:
        dill_pickler = _dill_pickler(kind)
        if dill_pickler is None:
            raise
        segments.clear()
        if buffers is not None:
            buffers.clear()
        try:
            dill_pickler(_Sink(segments.append), snapshot, buffer_callback=callback, **options).dump(value)
        except (TypeError, pickle.PicklingError, AttributeError, ValueError, RecursionError):
            raise refusal from None
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
    kind = type(value)
    if kind is bytes and len(value) > _COPIED:
        # This is a pickle of `value` that contains `value` itself instead of a copy.
        return [b"\x80\x05" + pickle.BINBYTES8 + struct.pack("<Q", len(value)), value, pickle.STOP]
    if kind in _ATOMS:
        return [pickle.dumps(value, 5)]
    return encode(Pickler, value, snapshot or Snapshot())


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
    if not buffers:
        return segments
    nbytes = sum(len(segment) for segment in segments)
    head = _HEAD.pack(_MAGIC, len(buffers), nbytes) + struct.pack(f"<{len(buffers)}Q", *(b.nbytes for b in buffers))
    out: list[Segment] = [head, *segments]
    end = len(head) + nbytes
    for buffer in buffers:
        out.append(bytes(-end % ALIGN))
        out.append(buffer)
        end += -end % ALIGN + buffer.nbytes
    return [segment for segment in out if len(segment)]


# ---- reading ---------------------------------------------------------------------------------------------


class _MainUnpickler(pickle.Unpickler):
    """In a process that was started as ``python -m pkg.mod``, looks up names of ``pkg.mod`` in ``__main__``."""

    def find_class(self, module_name: str, name: str) -> Any:
        return super().find_class("__main__" if module_name == functions_by_value.main_name() else module_name, name)


def loads(data: Segment) -> Any:
    """Return the value that `dumps` encoded.

    If `data` is writable, such as a private mapping, the buffers of the value are views of `data`. If `data` is
    read-only, the buffers are copies, because the caller may write to the value.

    Raises:
        LoadError: `data` ends before the end of the encoded object.
        Exception: Unpickling raised it.
    """
    stream, buffers = split(data)
    if functions_by_value.main_name() is None:
        return pickle.loads(stream, buffers=buffers)
    return _MainUnpickler(io.BytesIO(stream), buffers=buffers).load()


def split(data: Segment) -> tuple[memoryview, list[Any]]:
    """Return the pickle stream of an encoded object, and its buffers.

    Raises:
        LoadError: `data` ends before the end of the encoded object.
    """
    view = memoryview(data)
    buffers: list[Any] = []
    if view[:4] != _MAGIC:
        return view, buffers
    try:
        _, count, nbytes = _HEAD.unpack_from(view)
        lengths = struct.unpack_from(f"<{count}Q", view, _HEAD.size)
    except struct.error as error:
        raise LoadError(f"the object of {view.nbytes} bytes ends within its header: {error}") from None
    end = _HEAD.size + 8 * count + nbytes
    stream = view[end - nbytes : end]
    for length in lengths:
        end += -end % ALIGN
        part = view[end : end + length]
        if part.nbytes != length:
            raise LoadError(f"the object of {view.nbytes} bytes ends {length - part.nbytes} bytes early")
        buffers.append(bytearray(part) if part.readonly else part)
        end += length
    return stream, buffers


# ---- dill for other types --------------------------------------------------------------------------------

#: Types that dill would copy although a copy is useless in another process.
UNPICKLABLE_TYPES: tuple[type, ...] = (
    type(threading.Lock()), type(threading.RLock()), threading.Thread, threading.local, threading.Event,
    threading.Condition, threading.Semaphore, io.IOBase, types.GeneratorType, types.CoroutineType,
    types.AsyncGeneratorType, types.FrameType, types.TracebackType,
)  # fmt: skip
_dill_picklers: dict[type, Any] = {}


#: Types that dill must not write, because `Pickler` or the C pickler writes them.
_NATIVE: tuple[type, ...] = (
    type(None), int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, type, Function,
    pickle.PickleBuffer,
)  # fmt: skip


def _reducible(obj: Any) -> bool:
    try:
        obj.__reduce_ex__(5)
    except TypeError:
        return False
    return True


def _undill(blob: bytes) -> Any:
    import dill

    return dill.loads(blob)


def _dill_pickler(kind: type[Pickler]) -> Any:
    """Return a subclass of `kind` that uses dill for the types that the C pickler cannot write.

    Return None if dill is not installed.
    """
    try:
        import dill
    except ImportError:
        return None
    known = _dill_picklers.get(kind)
    if known is not None:
        return known
    # All types that dill knows, apart from locks, `UNPICKLABLE_TYPES` and `_NATIVE`. Python's own table
    # (pickle._Pickler.dispatch) cannot show which types only dill can write, because importing dill adds these types to
    # that table.
    dill_types = {
        k
        for k in dill.Pickler.dispatch
        if not issubclass(k, (*UNPICKLABLE_TYPES, *_NATIVE)) and "lock" not in k.__name__
    }

    class ObjectPickler(dill.Pickler):  # type: ignore[misc]
        """Writes one object that the C pickler cannot write. It writes functions and classes as `Pickler` does."""

        def __init__(self, file: Any, snapshot: Snapshot) -> None:
            super().__init__(file, protocol=5, byref=False, recurse=True)
            self.reducer = Pickler(io.BytesIO(), snapshot)

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, UNPICKLABLE_TYPES):
                raise TypeError(f"cannot pickle {type(obj).__name__!r} object")
            return self.reducer.reducer_override(obj)

    class WithDill(kind):  # type: ignore[misc, valid-type]
        def reducer_override(self, obj: Any) -> Any:
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented and type(obj) in dill_types and not _reducible(obj):
                file = io.BytesIO()
                ObjectPickler(file, self.snapshot).dump(obj)
                return _undill, (file.getvalue(),)
            return reduced

    _dill_picklers[kind] = WithDill
    return WithDill


def preload() -> None:
    """Import dill in advance, if it is installed. The supervisor calls this before it forks workers."""
    _dill_pickler(Pickler)
