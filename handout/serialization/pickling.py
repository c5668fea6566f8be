"""One C pickler for everything that travels: values, arguments, functions, classes.

Protocol 5 with out-of-band buffers. What can be found by name goes by name; functions and classes that cannot
go by value (see `byvalue`), once per snapshot and under a digest, so that a process loads each one once. Types
that C pickle refuses and dill knows (a mapping proxy, a weak reference) are handed to dill, in a second pass
that only a failure starts. Knows nothing about hosts, tasks or the wire.

An encoded object is either a plain pickle stream, or, where there are buffers::

    "HBUF" | u32 buffers | u64 pickle bytes | u64 length of each buffer | pickle | buffers, each aligned to 64
"""

from __future__ import annotations

import collections
import hashlib
import io
import pickle
import struct
import threading
import time
import types
import weakref
from typing import Any, Callable, Union

from handout.serialization import classes_by_value, functions_by_value

Segment = Union[bytes, bytearray, memoryview]
Function = types.FunctionType

#: Buffers below this ride inside the pickle: a header entry and padding would cost more than the copy.
OUT_OF_BAND = 4096
ALIGN = 64
_MAGIC = b"HBUF"
_HEAD = struct.Struct("<4sIQ")
#: Types whose instances C pickle writes without asking anybody.
_ATOMS = frozenset({type(None), bool, int, float, str, complex})
#: Received functions that a process keeps, so that each is loaded once.
_MAX_FUNCTIONS = 4096

_functions: collections.OrderedDict[tuple[str, bytes], Function] = collections.OrderedDict()
_function_tokens: weakref.WeakKeyDictionary[Function, tuple[str, bytes, bytes]] = weakref.WeakKeyDictionary()
_originals: weakref.WeakValueDictionary[tuple[str, bytes], Function] = weakref.WeakValueDictionary()


class LoadError(Exception):
    """Bytes that were to become a value did not; the cause says why."""


class Snapshot:
    """One look at the code that travels by value: taken once, the same for all that is pickled with it.

    A snapshot belongs to one run. The next one looks again, since globals and classes may have changed.

    Attributes:
        modules: Top-level names of the modules that were referred to by name.
        by_value: Whether anything went by value, which ties the bytes to one minor version of Python.
    """

    _last = 0
    _lock = threading.Lock()

    def __init__(self) -> None:
        with Snapshot._lock:
            # Clock time, not a count: copies of a class are compared across processes' restarts.
            Snapshot._last = max(Snapshot._last + 1, time.time_ns())
            self.serial = Snapshot._last
        self.modules: set[str] = set()
        self.by_value = False
        #: Holds what is cached by id alive.
        self.held: list[Any] = []
        self.classes: dict[int, bytes] = {}
        self.functions: dict[int, tuple[str, bytes, bytes]] = {}

    def class_blob(self, cls: type) -> bytes:
        """`cls` as bytes of its own."""
        blob = self.classes.get(id(cls))
        if blob is None:
            blob = self.classes[id(cls)] = _join(_dump(Body, cls, self))
            self.held.append(cls)
        return blob

    def reduce_function(self, fn: Function) -> functions_by_value.Reduced:
        """`fn` by value, in place."""
        self.by_value = True
        self.held.append(fn)  # its namespace is named by id
        self.modules.update(functions_by_value.names_in(fn.__code__).imported)
        return functions_by_value.reduce_function(fn, self.serial)

    def function_blob(self, fn: Function) -> tuple[str, bytes, bytes]:
        """`fn` as ``(origin, digest, bytes)``; one that was received goes out as it came in."""
        known = self.functions.get(id(fn)) or _function_tokens.get(fn)
        if known is None:
            blob = _join(_dump(Body, fn, self))
            known = functions_by_value.origin(), hashlib.sha256(blob).digest()[:16], blob
            self.functions[id(fn)] = known
            _originals[known[:2]] = fn
            self.held.append(fn)
        return known


class Pickler(pickle.Pickler):
    """Pickles a value; by-value code in it becomes blobs with an identity."""

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
        return NotImplemented

    def _named(self, obj: Any, name: tuple[str, str]) -> Any:
        self.snapshot.modules.add(name[0])
        return NotImplemented if name[0] == obj.__module__ else (functions_by_value.attribute, name)

    def function(self, fn: Function) -> functions_by_value.Reduced:
        if fn.__closure__:  # in place: two closures of one value may share a variable
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


class Body(Pickler):
    """Pickles the inside of one function or class: by-value code in it is written in place, so cycles end."""

    def function(self, fn: Function) -> functions_by_value.Reduced:
        return self.snapshot.reduce_function(fn)

    def cls(self, cls: type) -> functions_by_value.Reduced:
        self.snapshot.by_value = True
        self.snapshot.held.append(cls)
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
    """Collects what a pickler writes. Large bytes arrive as the very object, so they are not copied."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self.write = write


def _dump(
    kind: type[Pickler], value: Any, snapshot: Snapshot, buffers: list[memoryview] | None = None, **options: Any
) -> list[Segment]:
    """Pickle `value`, and once more with dill's help where C pickle refuses."""
    segments: list[Segment] = []

    def keep_out(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        assert buffers is not None
        buffers.append(raw)
        return False

    callback = None if buffers is None else keep_out
    try:
        kind(_Sink(segments.append), snapshot, buffer_callback=callback, **options).dump(value)
    except (TypeError, pickle.PicklingError, AttributeError, ValueError) as refusal:
        helped = _dill_pickler(kind)
        if helped is None:
            raise
        segments.clear()
        if buffers is not None:
            buffers.clear()
        try:
            helped(_Sink(segments.append), snapshot, buffer_callback=callback, **options).dump(value)
        except (TypeError, pickle.PicklingError, AttributeError, ValueError, RecursionError):
            raise refusal from None
    return segments


def _join(segments: list[Segment]) -> bytes:
    return bytes(segments[0]) if len(segments) == 1 else b"".join(segments)


#: Bytes that are cheaper to copy than to keep as a segment of their own.
_COPIED = 16384


def dumps(value: Any, snapshot: Snapshot | None = None) -> list[Segment]:
    """Encode `value`; the segments, one after the other, are the object.

    Large segments may be views of the value's own memory: write or copy them before it changes.

    Raises:
        Exception: Whatever pickling raised; `diagnosis.find_unpicklable` says where.
    """
    kind = type(value)
    if kind is bytes and len(value) > _COPIED:
        # What the pickler would write, without copying the bytes into it.
        return [b"\x80\x05" + pickle.BINBYTES8 + struct.pack("<Q", len(value)), value, pickle.STOP]
    if kind in _ATOMS:
        return [pickle.dumps(value, 5)]
    return encode(Pickler, value, snapshot or Snapshot())


def encode(kind: type[Pickler], value: Any, snapshot: Snapshot, **options: Any) -> list[Segment]:
    """`dumps` with a pickler of one's own."""
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
    """For a process run as ``python -m pkg.mod``: what others call ``pkg.mod`` is its own ``__main__``."""

    def find_class(self, module_name: str, name: str) -> Any:
        return super().find_class("__main__" if module_name == functions_by_value.main_name() else module_name, name)


def loads(data: Segment) -> Any:
    """The value that `dumps` encoded.

    Buffers are views of `data` where it can be written to (a private mapping); else they are copied, since
    what was writable must stay so.
    """
    stream, buffers = split(data)
    if functions_by_value.main_name() is None:
        return pickle.loads(stream, buffers=buffers)
    return _MainUnpickler(io.BytesIO(stream), buffers=buffers).load()


def split(data: Segment) -> tuple[memoryview, list[Any]]:
    """The pickle stream of an encoded object, and its buffers.

    Raises:
        LoadError: It ends early.
    """
    view = memoryview(data)
    buffers: list[Any] = []
    if view[:4] != _MAGIC:
        return view, buffers
    try:
        _, count, nbytes = _HEAD.unpack_from(view)
        lengths = struct.unpack_from(f"<{count}Q", view, _HEAD.size)
    except struct.error as error:
        raise LoadError(f"an object ends within its header: {error}") from None
    end = _HEAD.size + 8 * count + nbytes
    stream = view[end - nbytes : end]
    for length in lengths:
        end += -end % ALIGN
        part = view[end : end + length]
        if part.nbytes != length:
            raise LoadError(f"an object ends {length - part.nbytes} bytes early")
        buffers.append(bytearray(part) if part.readonly else part)
        end += length
    return stream, buffers


# ---- dill for the rest -----------------------------------------------------------------------------------

#: Copying one of these would run, and be wrong.
UNPICKLABLE_TYPES: tuple[type, ...] = (
    type(threading.Lock()), type(threading.RLock()), threading.Thread, threading.local, threading.Event,
    threading.Condition, threading.Semaphore, io.IOBase, types.GeneratorType, types.CoroutineType,
    types.AsyncGeneratorType, types.FrameType, types.TracebackType,
)  # fmt: skip
_dill_picklers: dict[type, Any] = {}


#: What dill must leave to us, or to C.
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
    """`kind` with dill for the types that it knows and C pickle does not; None where there is no dill."""
    try:
        import dill
    except ImportError:
        return None
    made = _dill_picklers.get(kind)
    if made is not None:
        return made
    # Importing dill adds its types to those of pickle's own Python pickler, so the difference is not to be asked for.
    odd = {
        k
        for k in dill.Pickler.dispatch
        if not issubclass(k, (*UNPICKLABLE_TYPES, *_NATIVE)) and "lock" not in k.__name__
    }

    class Inner(dill.Pickler):  # type: ignore[misc]
        """Carries the odd object; code inside it keeps to our rules."""

        def __init__(self, file: Any, snapshot: Snapshot) -> None:
            super().__init__(file, protocol=5, byref=False, recurse=True)
            self.ours = Pickler(io.BytesIO(), snapshot)

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, UNPICKLABLE_TYPES):
                raise TypeError(f"cannot pickle {type(obj).__name__!r} object")
            return self.ours.reducer_override(obj)

    class Helped(kind):  # type: ignore[misc, valid-type]
        def reducer_override(self, obj: Any) -> Any:
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented and type(obj) in odd and not _reducible(obj):
                file = io.BytesIO()
                Inner(file, self.snapshot).dump(obj)
                return _undill, (file.getvalue(),)
            return reduced

    _dill_picklers[kind] = Helped
    return Helped


def preload() -> None:
    """Import what a first use would: for the supervisor, before it forks."""
    _dill_pickler(Pickler)
