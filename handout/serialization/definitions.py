"""Writes and loads definitions: functions, classes and run-time modules that are sent by value.

The bytes of a definition are a row of pickles with one memo. The first pickles hold bare objects: classes without
attributes, functions with empty cells, and empty modules. The others fill them. So definitions may name each other. An
object of a class can need the whole class as soon as it is loaded, and the globals that its methods use, for example
because it is put into a set. Therefore what can hold no such objects comes first, then the other attributes of classes,
and then all the rest. Before a value is written, the definitions in it are completed, with all that these use.

The bytes name namespaces and classes by numbers, so that they do not depend on the run, and equal definitions have
equal digests. The keys of the namespaces and the versions of the classes go beside them.
"""

from __future__ import annotations

import collections
import hashlib
import io
import pickle
import sys
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Callable, NamedTuple

from handout.serialization import classes_by_value, functions_by_value, tokens
from handout.serialization.fill_order import Fill, FillOrder, Group
from handout.serialization.functions_by_value import MAGIC, PYTHON, Key

Function = types.FunctionType


class Blob(NamedTuple):
    """A definition as bytes. All fields but the first are the arguments of `load`.

    Attributes:
        digest: Digest of the data.
        magic: Identifies the version of Python that can load the data.
        python: That version, for messages.
        name: Name of the function, class or module, for messages.
        keys: Keys of the namespaces.
        versions: Versions of the classes, and of the objects of which each process has one copy. The first belongs to
            the class that is defined, if it is one.
        data: The row of pickles.
    """

    digest: bytes
    magic: bytes
    python: str
    name: str
    keys: tuple[Key, ...]
    versions: tuple[int, ...]
    data: bytes


# ---- writing ---------------------------------------------------------------------------------------------


class _Namespace:
    """A namespace, as the target of a `Fill`."""

    def __init__(self, number: int, name: str) -> None:
        self.place = number, name

    def __reduce__(self) -> Any:
        return _globals_of, self.place


def _globals_of(number: int, name: str) -> dict[str, Any]:
    return functions_by_value.namespace(number, name).__dict__


class Definitions:
    """Writes one definition, with all definitions that it uses.

    Args:
        snapshot: The snapshot of the run.
        make_pickler: Takes a file, a snapshot and this object, and returns a pickler that passes functions, classes and
            modules to `define`.
    """

    def __init__(self, snapshot: Any, make_pickler: Callable[..., Any]) -> None:
        self.snapshot, self.make_pickler = snapshot, make_pickler
        self.out = io.BytesIO()
        self.pickler = make_pickler(self.out, snapshot, definitions=self)
        self.defined: set[int] = set()
        self.numbers: dict[int, int] = {}
        self.keys: list[Key] = []
        self.versions: list[int] = []
        self.main: dict[str, Any] | None = None
        #: The globals that are in a queue already, as pairs of a namespace's number and a name.
        self.named: set[tuple[int, str]] = set()
        #: What holds no object of a class that is sent by value; attributes of classes; all else.
        self.simple: collections.deque[Fill] = collections.deque()
        self.attributes: collections.deque[Fill] = collections.deque()
        self.others: collections.deque[Fill] = collections.deque()
        #: How many of the attributes of classes are not written yet.
        self.attributes_left = 0
        #: True while values are written that arrive when their classes are complete.
        self.classes_complete = False
        #: The values that this object has begun to write. Each one waits until the next one is written.
        self.begun: list[Fill] = []
        #: The key of a global is a pair of a namespace's number and a name.
        self.order = FillOrder()

    def write(self, obj: Any) -> Blob:
        """Return a function, class or module as bytes."""
        self.pickler.dump(obj)
        self._write_simple()
        while self.begun or self.attributes or self.others:
            self._write_next(self.begun.pop() if self.begun else (self.attributes or self.others).popleft())
            self._write_simple()
        data = self.out.getvalue()
        name = getattr(obj, "__qualname__", obj.__name__)
        digest = hashlib.sha256(data).digest()[:16]
        return Blob(digest, MAGIC, PYTHON, name, tuple(self.keys), tuple(self.versions), data)

    def _write_simple(self) -> None:
        while self.simple:
            self.pickler.dump(self.simple.popleft())

    def _write_next(self, fill: Fill) -> None:
        """Write a value. If something must come before it, put the value off."""
        if fill.is_written:
            return
        if fill.needs is None:
            fill.needs = self._needs(fill.values)
        before = fill.needs.next_fill()
        if before is not None:
            self.begun += [fill, before]
            return
        fill.is_written = True
        self.attributes_left -= not fill.is_late
        self.classes_complete = fill.is_late and not self.attributes_left
        self.pickler.dump(fill)
        self.classes_complete = False

    def _needs(self, values: Any) -> Group:
        """Return what values need. First write missing definitions bare, with their methods, which may need more."""
        found = _Scout(self).found_in(values)
        for each in found:
            if id(each) not in self.defined:
                self.pickler.dump(each)
        self._write_simple()
        return self.order.needs(map(id, found))

    def define(self, obj: Any) -> Any:
        """Return the tuple from which pickle writes a bare object, and put what fills it into the queues."""
        self.defined.add(id(obj))
        self.snapshot.kept_alive.append(obj)
        if isinstance(obj, types.ModuleType):
            return self._define_module(obj)
        return self._define_class(obj) if isinstance(obj, type) else self._define_function(obj)

    def _fill(
        self, queue: collections.deque[Fill], fill: Callable[[Any, Any], None], target: Any, values: dict[str, Any],
        key_of: Callable[[str], Any],
    ) -> None:  # fmt: skip
        """Put what fills a definition into the queues. `key_of` returns the key in `order` for a name."""
        is_hashed = fill is classes_by_value.fill_members  # an enum finds members by their values
        simple = {name: value for name, value in values.items() if is_simple(value, is_key=is_hashed)}
        if simple:
            self.simple.append(Fill(fill, target, simple))
        for name, value in values.items():
            if name in simple:
                self.order.add_uses(key_of(name), _ids_in(value))
            else:
                queue.append(Fill(fill, target, {name: value}))
                self.order.add_fill(key_of(name), queue[-1])
                self.attributes_left += not queue[-1].is_late

    def _number(self, space: dict[str, Any]) -> int:
        if id(space) not in self.numbers:
            self.numbers[id(space)] = len(self.keys)
            self.keys.append(self.snapshot.key(space))
        return self.numbers[id(space)]

    def number_of_version(self, version: int) -> int:
        """Return the number by which the bytes name a version."""
        self.versions.append(version)
        return len(self.versions) - 1

    def _fill_names(self, space: dict[str, Any], name: str, values: dict[str, Any], user: Any) -> None:
        """Put globals into the queues. `user` is the definition that uses them."""
        number = self._number(space)
        self.order.add_uses(id(user), ((number, key) for key in values))
        fresh = {key: value for key, value in values.items() if (number, key) not in self.named}
        self.named.update((number, key) for key in fresh)
        fill, place = functions_by_value.fill_names, _Namespace(number, name)
        self._fill(self.others, fill, place, fresh, lambda key: (number, key))

    def _define_function(self, fn: Function) -> Any:
        parts, name = functions_by_value.parts(fn), functions_by_value.name_of(fn)
        number = self._number(fn.__globals__)
        if self.main is None and name == "__main__":
            self.main = fn.__globals__
        self._fill_names(fn.__globals__, name, parts.names, fn)
        self._fill(self.others, functions_by_value.fill_attributes, fn, parts.attributes, lambda _name: id(fn))
        for cell, value in parts.cells:
            self._fill(
                self.others, functions_by_value.fill_attributes, cell, {"cell_contents": value}, lambda _name: id(fn)
            )
        if parts.modules:
            self.simple.append(Fill(functions_by_value.fill_modules, None, parts.modules))
        code = self.snapshot.marshalled(fn.__code__)
        return functions_by_value.make_function, (code, (number, name), fn.__name__, fn.__closure__)

    def _define_module(self, module: types.ModuleType) -> Any:
        space, name = module.__dict__, module.__name__
        if name != "__main__":
            functions_by_value.own_module(module)
            own = {key: value for key, value in list(space.items()) if key not in _MODULE_MADE}
            self._fill_names(space, name, own, module)
            if type(module) is not types.ModuleType:  # it gets the class when the class is complete
                self.others.append(Fill(functions_by_value.fill_attributes, module, {"__class__": type(module)}))
                self.order.add_fill(id(module), self.others[-1])
        listed = sys.modules.get(name) is module and name != "__main__"
        return functions_by_value.make_module, (self._number(space), name, listed)

    def _define_class(self, cls: type) -> Any:
        recipe, state, fill, values = classes_by_value.parts(cls, is_simple)
        number, token = self.number_of_version(tokens.version_of(cls, self.snapshot.serial)), tokens.token_of(cls)
        self._fill_annotated(cls)
        self.snapshot.note_parts(cls, state)
        self.simple.append(Fill(classes_by_value.drop_attributes, cls, tuple(state)))
        self._fill(self.attributes, classes_by_value.fill_attributes, cls, state, lambda _name: id(cls))
        self._fill(self.attributes, fill, cls, values, lambda _name: id(cls))
        meta: Any = type(cls)
        self.order.add_uses(id(cls), map(id, (*cls.__mro__[1:], *meta.__mro__)))
        registered, abstract = classes_by_value.registered(cls), vars(cls).get("__abstractmethods__")
        kinds = {"registered": dict.fromkeys(registered), "abstract": abstract}
        self._fill(self.attributes, classes_by_value.fill_abstract, cls, kinds, lambda _name: id(cls))
        return classes_by_value.make_class, (token, number, *recipe)

    def _fill_annotated(self, cls: type) -> None:
        """Add the globals of ``__main__`` that annotations of a class name as text."""
        main = self.main or getattr(sys.modules.get("__main__"), "__dict__", {})
        if cls.__module__ in ("__main__", "__mp_main__"):
            texts = vars(cls).get("__annotations__", {}).values()
            names = {name: main[name] for name in functions_by_value.annotated(texts) if name in main}
            if names:
                self._fill_names(main, "__main__", names, cls)


#: Attributes of a module that its loader makes.
_MODULE_MADE = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__", functions_by_value.OWN_MODULE})


class _Scout:
    """Finds the definitions in a value, by pickling the value to nowhere."""

    classes_complete = False

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.seen: dict[int, Any] = {}

    def found_in(self, value: Any) -> list[Any]:
        """Return the functions, classes and modules in a value."""
        sink = types.SimpleNamespace(write=lambda _data: None)
        options: dict[str, Any] = {"definitions": self, "buffer_callback": lambda _buffer: None}
        self.definitions.make_pickler(sink, self.definitions.snapshot, **options).dump(value)
        return list(self.seen.values())

    def define(self, obj: Any) -> Any:
        """Note a function, class or module."""
        self.seen[id(obj)] = obj
        return object, ()

    def number_of_version(self, _version: int) -> int:
        """Return any number."""
        return 0


_SIMPLE = frozenset({
    type(None), bool, int, float, complex, str, bytes, range, type(...), types.FunctionType, types.CodeType,
    types.ModuleType, types.WrapperDescriptorType, types.MethodDescriptorType,
})  # fmt: skip
#: Functions of C code. Those of an object, such as ``table.get``, are pickled with the object.
_BOUND = frozenset({types.BuiltinFunctionType, types.MethodWrapperType})
_WRAPPERS = frozenset({classmethod, staticmethod})


def is_simple(value: Any, depth: int = 3, is_key: bool = False) -> bool:
    """Return True if a value can hold no object of a class that is sent by value.

    Args:
        value: The value.
        depth: Containers inside more than this many containers are not searched.
        is_key: True if a container asks the value for its hash. A class is then an object of its metaclass.
    """
    kind = type(value)
    if issubclass(kind, type):
        return not is_key or kind.__hash__ is type.__hash__
    if kind in _SIMPLE:
        return kind is not Function or not functions_by_value.is_dispatch(value)
    if kind in _BOUND:
        return depth > 0 and is_simple(value.__self__, depth - 1)
    if kind in _WRAPPERS:
        return is_simple(value.__func__, depth)
    if kind is property:
        return all(is_simple(each, depth) for each in (value.fget, value.fset, value.fdel))
    if not depth or kind not in functions_by_value.CONTAINERS or len(value) > 1000:
        return False
    if kind is dict and not all(is_simple(each, depth - 1) for each in value.values()):
        return False
    is_hashed = is_key or not (kind is tuple or kind is list)
    return all(is_simple(each, depth - 1, is_hashed) for each in value)


def _ids_in(value: Any) -> Iterator[int]:
    """Yield the ``id`` of each function, class and module in a value that `is_simple`."""
    kind = type(value)
    inside: Any = ()
    if kind in _BOUND and type(value.__self__) is not types.ModuleType:
        inside = (value.__self__,)
    elif kind in _WRAPPERS:
        inside = (value.__func__,)
    elif kind is property:
        inside = (value.fget, value.fset, value.fdel)
    elif kind in functions_by_value.CONTAINERS:
        inside = [*value, *value.values()] if kind is dict else value
    elif kind is Function or kind is types.ModuleType or issubclass(kind, type):
        yield id(value)
    for each in inside:
        yield from _ids_in(each)


# ---- loading ---------------------------------------------------------------------------------------------

_FunctionKey = tuple[tuple[Key, ...], bytes]
#: Functions and modules that this process has received. Only a worker keeps them alive; see `functions_by_value.Kept`.
_received: weakref.WeakValueDictionary[_FunctionKey, Any] = weakref.WeakValueDictionary()
#: For each of them, the blob that it arrived as. It is sent on as that blob.
_arrived: weakref.WeakKeyDictionary[Any, Blob] = weakref.WeakKeyDictionary()
_originals: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()


def arrived_as(obj: Any) -> Blob | None:
    """Return the blob as which a function, class or module arrived, or None."""
    if not isinstance(obj, type):
        return _arrived.get(obj)
    blob: Blob | None = tokens.kept(obj)
    return blob if blob is not None and tokens.version_of(obj, -1) == blob.versions[0] else None


def remember(obj: Any, blob: Blob) -> None:
    """Note that a blob of this process is `obj`, so that it maps back."""
    _originals[_original_key(blob)] = obj  # of two equal functions, the one that was sent last counts


def _original_key(blob: Blob) -> Any:
    """Return what equal definitions of one object have in common in all runs.

    With the serials of the snapshots, a function that lives as long as its program would get an entry for each run.
    """
    return tuple((origin, space) for origin, _, space in blob.keys), blob.digest


def load_function(*fields: Any) -> Any:
    """Return the function or module of a blob."""
    blob = Blob(*fields)
    key = blob.keys, blob.digest
    with tokens.lock:
        found = _originals.get(_original_key(blob)) or _received.get(key)
        if found is None:
            found = _received[key] = _load(blob)
            _arrived[found] = blob
            kept = functions_by_value.keep(blob.keys[0])
            if kept is not None:
                kept.functions.append(found)
        else:
            functions_by_value.keep(blob.keys[0])
        return found


def forget(numbers: Iterable[int]) -> list[Any]:
    """In a worker, drop what was loaded only for tasks of these functions; see `functions_by_value.forget`.

    A function of a run that is over may live until the next garbage collection. If another run receives such a function
    later, this process must load it anew, because each run has its own globals.
    """
    with tokens.lock:
        dropped = functions_by_value.forget(numbers)
        for key in [key for key in list(_received) if not all(map(functions_by_value.is_known, key[0]))]:
            _received.pop(key, None)
        spaces = {id(vars(each)) for each in dropped if issubclass(type(each), types.ModuleType)}
        for original, made in list(_originals.items()):
            if type(made) is Function and id(made.__globals__) in spaces:
                _originals.pop(original, None)
        return dropped


def load_class(token: tokens.Token, version: int, *fields: Any) -> type:
    """Return the class that has a token. Its blob is read only if this process lacks this version of the class."""
    with tokens.lock:
        cls = tokens.known_class(token, version)
        if cls is None:
            blob = Blob(*fields)
            cls = _load(blob)
            tokens.keep(token, blob)
    assert isinstance(cls, type)
    return cls


def _load(blob: Blob) -> Any:
    functions_by_value.check_python(blob.magic, blob.python, blob.name)
    before, tokens.loading = tokens.loading, tokens.Loading(blob.keys, blob.versions)
    try:
        stream = io.BytesIO(blob.data)
        unpickler = pickle.Unpickler(stream)
        obj = unpickler.load()
        while stream.tell() < len(blob.data):
            unpickler.load()
        return obj
    except BaseException:
        for token in tokens.loading.fresh.values():  # these classes are incomplete
            tokens.set_version(token, -1)
        raise
    finally:
        tokens.loading = before
