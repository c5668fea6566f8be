"""Reading what an untrusted host wrote: data only, so that nothing in it can run.

Pickle is a program for a small machine, and its ordinary reader does whatever the program says. This one knows
only the steps that the C pickler takes to write data, and makes only what is listed here: built-in types, numpy
arrays and scalars of plain numbers and text, and the classes that the caller registered. Everything else is refused by
name before it is looked up, imported or called. It also refuses what would merely cost: lengths that are not
there, keys that take forever to hash. Pure Python, so some ten times slower on many small objects; large
buffers cost the same.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import deque
from typing import Any, Callable, ClassVar

from .makers import RECONSTRUCT, Maker, Pending, RefusedError, allow, find, refuse, register, registered
from .pickling import LoadError, Segment, split

__all__ = ["RefusedError", "allow", "loads", "register", "registered"]

#: What may be hashed: parts of a key, nested ones included.
_MAX_KEY = 10_000


def loads(data: Segment) -> Any:
    """The value that `pickling.dumps` encoded, where it is data.

    Raises:
        RefusedError: It is not; says what it holds.
        LoadError: The bytes are no value at all.
    """
    stream, buffers = split(data)
    try:
        return _Reader(io.BytesIO(stream), buffers=buffers).load()
    except LoadError:
        raise
    except Exception as error:  # whatever a wrong step runs into: an empty stack, a wrong type, a constructor
        raise LoadError(f"it is no value: {type(error).__name__}: {str(error)[:200]}") from None


class _Reader(pickle._Unpickler):
    """Python's own reader in Python, with the steps that data needs and no others."""

    #: By byte: the step.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]]
    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(self, file: Any, *, buffers: Any) -> None:
        super().__init__(file, buffers=buffers)
        #: Stand-ins on the stack that nothing has been made of: at the end there may be none.
        self.loose = 0
        #: Registered classes that objects were made of.
        self.classes: set[type] = set()

    def find_class(self, module: Any, name: Any) -> Any:
        self.loose += 1
        return find(module, name)

    def _push(self, value: Any) -> None:
        if type(value) in (Maker, Pending):
            self.loose += 1
        self.append(value)

    def _take_call(self) -> tuple[Maker, tuple[Any, ...]]:
        args = self.stack.pop()
        maker = self.stack.pop()
        if type(maker) is not Maker or type(args) is not tuple:
            refuse("a call")
        for arg in args:
            if type(arg) is Pending or (type(arg) is Maker and maker is not RECONSTRUCT):
                refuse("a type as an argument")
            self.loose -= type(arg) is Maker
        self.loose -= 1
        if maker.cls is not None:
            self.classes.add(maker.cls)
        return maker, args

    def step_reduce(self) -> None:
        maker, args = self._take_call()
        self._push(maker.make(*args))

    def step_newobj(self) -> None:
        maker, args = self._take_call()
        cls: Any = maker.cls
        self._push(maker.make(*args) if cls is None else cls.__new__(cls, *args))

    def step_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Pending:
            made = target.finish(state)
            self.loose -= 1
            self.stack[-1] = made
            if target.index >= 0:
                self.memo[target.index] = made
            return
        if type(target) not in self.classes:
            refuse(f"a state for a {type(target).__name__}")
        _set_state(target, state)

    def step_memoize(self) -> None:
        value = self.stack[-1]
        if type(value) is Pending:
            value.index = len(self.memo)
        self.memo[len(self.memo)] = value

    def step_binget(self) -> None:
        self._push(self.memo[self.read(1)[0]])

    def step_long_binget(self) -> None:
        self._push(self.memo[int.from_bytes(self.read(4), "little")])

    def step_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        data = self.read(min(size, sys.maxsize))  # not made before the bytes are there
        if len(data) != size:
            raise LoadError("it ends early")
        self.append(bytearray(data))

    def step_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def step_setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def _set(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict):
            refuse(f"items for a {type(target).__name__}")
        for at in range(0, len(items), 2):
            target[_hashable(items[at])] = items[at + 1]

    def step_append(self) -> None:
        value = self.stack.pop()
        self._extend(self.stack[-1], [value])

    def step_appends(self) -> None:
        values = self.pop_mark()
        self._extend(self.stack[-1], values)

    def _extend(self, target: Any, values: list[Any]) -> None:
        if type(target) not in (list, deque):
            refuse(f"items for a {type(target).__name__}")
        target.extend(values)

    def step_additems(self) -> None:
        values = self.pop_mark()
        target = self.stack[-1]
        if type(target) is not set:
            refuse(f"items for a {type(target).__name__}")
        target.update(_hashable(value) for value in values)

    def step_frozenset(self) -> None:
        values = self.pop_mark()
        self.append(frozenset(_hashable(value) for value in values))

    def step_stop(self) -> None:
        if self.loose:
            refuse("a type or a function itself")
        raise pickle._Stop(self.stack.pop())  # type: ignore[attr-defined]


def _steps() -> dict[int, Callable[[Any], None]]:
    own: dict[bytes, Callable[[Any], None]] = {
        pickle.REDUCE: _Reader.step_reduce, pickle.NEWOBJ: _Reader.step_newobj, pickle.BUILD: _Reader.step_build,
        pickle.MEMOIZE: _Reader.step_memoize, pickle.BINGET: _Reader.step_binget,
        pickle.LONG_BINGET: _Reader.step_long_binget, pickle.BYTEARRAY8: _Reader.step_bytearray8,
        pickle.SETITEM: _Reader.step_setitem, pickle.SETITEMS: _Reader.step_setitems,
        pickle.APPEND: _Reader.step_append, pickle.APPENDS: _Reader.step_appends,
        pickle.ADDITEMS: _Reader.step_additems, pickle.FROZENSET: _Reader.step_frozenset,
        pickle.STOP: _Reader.step_stop,
    }  # fmt: skip
    taken = (
        pickle.PROTO, pickle.FRAME, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT,
        pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.LONG4, pickle.BINFLOAT, pickle.SHORT_BINBYTES,
        pickle.BINBYTES, pickle.BINBYTES8, pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8,
        pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1,
        pickle.TUPLE2, pickle.TUPLE3, pickle.STACK_GLOBAL, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
    )  # fmt: skip
    known: dict[int, Callable[[Any], None]] = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in taken}
    steps = dict.fromkeys(range(256), _unknown)
    return {**steps, **known, **{code[0]: step for code, step in own.items()}}


def _unknown(_reader: Any) -> None:
    raise RefusedError("a step that no data needs")


_Reader.dispatch = _steps()


def _set_state(target: Any, state: Any) -> None:
    """What pickle does, with names that are names."""
    own = getattr(type(target), "__setstate__", None)
    if own is not None:
        own(target, state)
        return
    parts: Any = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    for part in parts:
        for name, value in (part or {}).items():
            if not isinstance(name, str) or name.startswith("__"):
                refuse(f"an attribute {name!r}")
            object.__setattr__(target, name, value)


def _hashable(key: Any) -> Any:
    """A key, unless hashing it would go too deep or take too long: tuples may share parts, hashing counts each."""
    if type(key) in (tuple, frozenset):
        left, inside = _MAX_KEY, [key]
        while inside:
            part = inside.pop()
            left -= len(part)
            if left < 0:
                refuse("a key of too many parts")
            inside.extend(each for each in part if type(each) in (tuple, frozenset))
    return key
