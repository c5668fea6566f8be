"""Reads the pickled data of an untrusted host, so that nothing in it can run.

A pickle is a program for a small machine, and Python's ordinary reader runs any such program. The machine has a stack
of values, and a memo of values that the program uses again later. After the program has made an object, it may set the
object's state, such as its attributes.

This reader knows only the opcodes that the C pickler uses to write data. It makes only values of the types on the
allowlist: built-in types, numpy arrays and scalars of plain numbers and text, and classes that the caller registered.
If a pickle names any other type or function, the reader refuses the pickle before it imports or calls anything by that
name. It also refuses bytes that serve only to waste time or memory, such as lengths beyond the bytes that arrived, or
keys that take very long to hash.

The reader is pure Python. For many small objects, it is about ten times slower than the ordinary reader. For large
buffers, it is as fast.
"""

from __future__ import annotations

import copyreg
import datetime
import decimal
import enum
import fractions
import io
import pickle
import sys
import types
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any, Callable, ClassVar

from handout.serialization.encoded_object import LoadError, Segment, split
from handout.serialization.untrusted import allowlist
from handout.serialization.untrusted.allowlist import (
    Allowed,
    Pending,
    RefusedError,
    allow,
    look_up,
    printable,
    refuse,
    register,
    registered,
)

__all__ = ["RefusedError", "allow", "loads", "register", "registered"]

#: The budget for reading a pickle is `_COST_OF_ANY`, plus `_COST_OF_BYTE` for each of its bytes. The reader spends this
#: budget on hashing the parts of keys, on comparing a key with each earlier key of the same hash, on the arguments of
#: calls, and on states. A limit on the size of the pickle would not be enough, because values may share parts: a few
#: bytes can describe a value with very many parts.
_COST_OF_BYTE, _COST_OF_ANY = 10, 100_000
#: Largest depth of nesting in a key. Python hashes a nested key recursively in C, which could overflow the stack.
_MAX_DEPTH = 200
#: A key costs nothing if it is a text of fewer than `_SHORT` characters, or an int between -`_SMALL` and `_SMALL`,
#: because a host cannot choose many such keys with the same hash. The hashes of texts are random. The hashes of these
#: ints all differ, except those of -1 and -2.
_SHORT, _SMALL = 256, sys.hash_info.modulus


def loads(data: Segment) -> Any:
    """Return the value that `pickling.dumps` encoded, if it is data.

    Raises:
        RefusedError: The bytes contain something that is not data. The error says what.
        LoadError: The bytes are not an encoded value.
    """
    stream, buffers = split(data)
    try:
        return _Reader(stream, buffers=buffers).load()
    except LoadError:
        raise
    except Exception as error:  # bad bytes can lead to any exception, also in a constructor
        raise LoadError(f"the bytes are no encoded value: {type(error).__name__}: {printable(str(error))}") from None


class _ArrayArgs:
    """The arguments of `allowlist.RECONSTRUCT`, one of which is the placeholder `allowlist.NDARRAY`.

    No tuple may contain a placeholder. So an object of this class takes the place of the tuple of these arguments. The
    object is a placeholder itself, so that no value can contain it.
    """

    __slots__ = ("args",)

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args


#: The types of placeholders, which are objects that the reader uses but that are not data. A placeholder may be on the
#: stack or in the memo, but never inside a value.
_PLACEHOLDERS = frozenset({Allowed, Pending, _ArrayArgs})


def _require_data(values: Iterable[Any]) -> None:
    """Raise `RefusedError` if a placeholder is among the values."""
    if not _PLACEHOLDERS.isdisjoint(map(type, values)):
        refuse("a type or a function itself")


class _Reader(pickle._Unpickler):
    """Python's own pure-Python reader of pickles, restricted to the opcodes that data needs."""

    #: For each opcode, the method that executes it.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]]
    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(self, stream: memoryview, *, buffers: Any) -> None:
        super().__init__(io.BytesIO(stream), buffers=buffers)
        #: The part of the budget that is left.
        self.left = _COST_OF_ANY + _COST_OF_BYTE * len(stream)
        #: Objects of registered classes, by id, until they get their states. Apart from `Pending` placeholders, only
        #: these objects may get a state.
        self.bare: dict[int, Any] = {}
        #: For each dict or set, by id: the dict or set itself, and how many of its keys have each hash. The dict or set
        #: is kept here so that no other object can get its id. Keys that cost nothing are not counted.
        self.hashes: dict[int, tuple[Any, dict[int, int]]] = {}

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            refuse("data that takes too long to read")

    def find_class(self, module: Any, name: Any) -> Any:
        return look_up(module, name)

    def _take_call(self) -> tuple[Allowed, tuple[Any, ...]]:
        args = self.stack.pop()
        allowed = self.stack.pop()
        if allowed is allowlist.RECONSTRUCT and type(args) is _ArrayArgs:
            args = args.args
        if type(allowed) is not Allowed or type(args) is not tuple:
            refuse("a call")
        self.spend(_length(args))
        return allowed, args

    def step_reduce(self) -> None:
        allowed, args = self._take_call()
        self.append(allowed.make(*args))

    def step_newobj(self) -> None:
        allowed, args = self._take_call()
        if allowed.cls is None:
            self.append(allowed.make(*args))
            return
        if args:
            refuse(f"{allowed.name} made of arguments")
        made: Any = object.__new__(allowed.cls)
        self.bare[id(made)] = made
        self.append(made)

    def step_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        _require_data((state,))
        self.spend(_length(state if type(state) is tuple else (state,)))
        if type(target) is Pending:
            self.stack[-1] = made = target.finish(state, self.spend)
            if target.index >= 0:
                self.memo[target.index] = made
            return
        if self.bare.pop(id(target), None) is None:
            refuse(f"a state for a {type(target).__name__}")
        _set_state(target, state)

    def step_memoize(self) -> None:
        value = self.stack[-1]
        if type(value) is Pending:
            value.index = len(self.memo)
        self.memo[len(self.memo)] = value

    def step_binget(self) -> None:
        self.append(self.memo[self.read(1)[0]])

    def step_long_binget(self) -> None:
        self.append(self.memo[int.from_bytes(self.read(4), "little")])

    def step_tuple1(self) -> None:
        _require_data(self.stack[-1:])
        self.stack[-1] = (self.stack[-1],)

    def step_tuple2(self) -> None:
        _require_data(self.stack[-2:])
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def step_tuple3(self) -> None:
        items = (self.stack[-3], self.stack[-2], self.stack[-1])
        is_array = items[0] is allowlist.NDARRAY
        _require_data(items[is_array:])
        self.stack[-3:] = [_ArrayArgs(items) if is_array else items]

    def step_tuple(self) -> None:
        items = self.pop_mark()
        _require_data(items)
        self.append(tuple(items))

    def step_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        data = self.read(min(size, sys.maxsize))  # allocates memory only for bytes that arrived
        if len(data) != size:
            raise LoadError(f"the bytes end {size - len(data)} bytes early, within a bytearray of {size} bytes")
        self.append(bytearray(data))

    def step_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def step_setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def _set(self, target: Any, items: list[Any]) -> None:
        if type(target) not in (dict, OrderedDict):
            refuse(f"items for a {type(target).__name__}")
        _require_data(items)
        for at in range(0, len(items), 2):
            target[self._key(items[at], target)] = items[at + 1]

    def _key(self, key: Any, target: Any) -> Any:
        """Spend the cost of hashing a key and of comparing it with earlier keys of the same hash. Return the key."""
        if (type(key) is str and len(key) < _SHORT) or (type(key) is int and -_SMALL < key < _SMALL):
            return key
        cost = self._cost(key)
        hashed = hash(key)
        hashes = self.hashes.setdefault(id(target), (target, {}))[1]
        before = hashes.get(hashed, 0)
        self.spend(cost * before)
        hashes[hashed] = before + 1
        return key

    def _cost(self, key: Any) -> int:
        """Spend the cost of hashing a key, and return this cost. A part of the key counts each time it is hashed."""
        left = self.left
        inside = [(key, 0)]
        while inside:
            part, depth = inside.pop()
            parts = _parts(part)
            if parts is None:
                self.spend(1 + (sys.getsizeof(part) >> 8))
                continue
            if depth > _MAX_DEPTH:
                refuse("a key that is nested too deep")
            self.spend(1 + len(parts))
            inside.extend((each, depth + 1) for each in parts)
        return left - self.left

    def step_append(self) -> None:
        value = self.stack.pop()
        self._extend(self.stack[-1], [value])

    def step_appends(self) -> None:
        values = self.pop_mark()
        self._extend(self.stack[-1], values)

    def _extend(self, target: Any, values: list[Any]) -> None:
        if type(target) not in (list, deque):
            refuse(f"items for a {type(target).__name__}")
        _require_data(values)
        target.extend(values)

    def step_additems(self) -> None:
        values = self.pop_mark()
        target = self.stack[-1]
        if type(target) is not set:
            refuse(f"items for a {type(target).__name__}")
        _require_data(values)
        target.update(self._key(value, target) for value in values)

    def step_frozenset(self) -> None:
        values = self.pop_mark()
        _require_data(values)
        self.append(frozenset(self._key(value, values) for value in values))

    def step_stop(self) -> None:
        value = self.stack.pop()
        _require_data((value,))
        raise pickle._Stop(value)  # type: ignore[attr-defined]


def _steps() -> dict[int, Callable[[Any], None]]:
    own: dict[bytes, Callable[[Any], None]] = {
        pickle.REDUCE: _Reader.step_reduce, pickle.NEWOBJ: _Reader.step_newobj, pickle.BUILD: _Reader.step_build,
        pickle.MEMOIZE: _Reader.step_memoize, pickle.BINGET: _Reader.step_binget,
        pickle.LONG_BINGET: _Reader.step_long_binget, pickle.BYTEARRAY8: _Reader.step_bytearray8,
        pickle.SETITEM: _Reader.step_setitem, pickle.SETITEMS: _Reader.step_setitems,
        pickle.APPEND: _Reader.step_append, pickle.APPENDS: _Reader.step_appends,
        pickle.ADDITEMS: _Reader.step_additems, pickle.FROZENSET: _Reader.step_frozenset,
        pickle.TUPLE: _Reader.step_tuple, pickle.TUPLE1: _Reader.step_tuple1, pickle.TUPLE2: _Reader.step_tuple2,
        pickle.TUPLE3: _Reader.step_tuple3, pickle.STOP: _Reader.step_stop,
    }  # fmt: skip
    taken = (
        pickle.PROTO, pickle.FRAME, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT,
        pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.LONG4, pickle.BINFLOAT, pickle.SHORT_BINBYTES,
        pickle.BINBYTES, pickle.BINBYTES8, pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8,
        pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.EMPTY_TUPLE, pickle.STACK_GLOBAL,
        pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
    )  # fmt: skip
    known: dict[int, Callable[[Any], None]] = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in taken}
    steps = dict.fromkeys(range(256), _unknown)
    return {**steps, **known, **{code[0]: step for code, step in own.items()}}


def _unknown(_reader: Any) -> None:
    raise RefusedError("an opcode that no data needs")


_Reader.dispatch = _steps()


def _set_state(target: Any, state: Any) -> None:
    """Set an object's state. If its class has a ``__setstate__``, call this method.

    Otherwise, set the attributes as pickle does, but check their names, and call no ``__setattr__`` and no setter.
    """
    cls = type(target)
    own = getattr(cls, "__setstate__", None)
    if own is not None:
        own(target, state)
        return
    inside, slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    for part in (inside, slots):
        if part is not None and type(part) is not dict:
            refuse(f"a {type(part).__name__} as the state of a {cls.__name__}")
        for name in part or ():
            if type(name) is not str or name.startswith("__"):
                refuse(f"an attribute {name}" if type(name) is str else "an attribute without a name")
    if inside:
        target.__dict__.update(inside)
    for name, value in (slots or {}).items():
        if type(getattr(cls, name, None)) is not types.MemberDescriptorType:
            refuse(f"an attribute {name}")
        object.__setattr__(target, name, value)


def _length(parts: tuple[Any, ...]) -> int:
    """Return the cost of making a value from these arguments. A constructor may copy them, so their lengths count."""
    return sum(len(p) if type(p) in _LONG else p.bit_length() >> 3 if type(p) is int else 1 for p in parts)


#: Types of arguments whose cost is their length. Bytearrays and memoryviews are not among them, because no constructor
#: on the allowlist copies those.
_LONG = frozenset({str, bytes, tuple, list, dict, set, frozenset, deque, OrderedDict})
_SEQUENCES = frozenset({tuple, list, set, frozenset, deque})
_ATOMS = frozenset({
    type(None), bool, int, float, complex, str, bytes, decimal.Decimal, uuid.UUID, slice, datetime.date, datetime.time,
    datetime.datetime, datetime.timedelta, datetime.timezone,
})  # fmt: skip


def _parts(part: Any) -> Any:
    """Return the direct parts of a key, which are hashed or compared too. Return None if the key has no parts."""
    kind = type(part)
    if kind in _ATOMS or isinstance(part, enum.Enum):
        return None
    if kind in _SEQUENCES:
        return part
    if kind in (dict, OrderedDict):
        return [*part, *part.values()]
    if kind is range:
        return part.start, part.stop, part.step
    if kind is fractions.Fraction:
        return part.numerator, part.denominator
    if kind.__module__ == "numpy" and kind.__name__ != "void":
        return None  # a numpy scalar without parts (it is no array, because an array cannot be hashed)
    if hasattr(kind, "__dataclass_fields__"):
        return [*getattr(part, "__dict__", {}).values(), *_in_slots(part)]
    return refuse(f"a key of type {kind.__name__}")


def _in_slots(part: Any) -> Iterator[Any]:
    for name in copyreg._slotnames(type(part)):  # type: ignore[attr-defined]
        try:
            yield object.__getattribute__(part, name)
        except AttributeError:
            pass  # the slot is empty
