"""What data may be made of: the list of what an untrusted host's bytes may name, and how each is made here.

Nothing that is named is looked up, imported or called but what stands here or was registered by the caller. Arguments
are of the types that are asked for here, to the last part: what is odd is refused before anything compares, hashes,
counts or prints it. Nothing allocates by a number that the bytes hold, only by the bytes themselves.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import importlib
import math
import re
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Callable, TypeVar

from handout.serialization import classes_by_value, functions_by_value
from handout.serialization.pickling import LoadError

C = TypeVar("C", bound=type)
#: Spends some of what reading one stream may cost; refuses it where that is used up.
Spend = Callable[[int], None]

_MAX_TEXT = 300
#: A ratio's greatest common divisor takes the square of its length: so much text, or so many bits.
_MAX_RATIO_TEXT, _MAX_RATIO_BITS = 10_000, 20_000

#: Classes that the caller registered, by module and qualified name.
_registered: dict[tuple[str, str], type] = {}
#: What the caller registered elsewhere: such classes are found here by their names.
_names: set[tuple[str, str]] = set()


def legible(text: str) -> str:
    """Text of a host, for a message: no longer than one, with nothing that steers a terminal or has no encoding."""
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_TEXT])


class RefusedError(LoadError):
    """The bytes hold something that data from an untrusted host may not be.

    Attributes:
        name: What: the name of a type or a function, or of a step.
    """

    def __init__(self, name: str) -> None:
        self.name = legible(name)
        super().__init__(f"it holds {self.name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,)


def register(cls: C) -> C:
    """Let objects of a class be made of what an untrusted host sends.

    Raises:
        TypeError: It is neither a dataclass nor an enum.
    """
    given: Any = cls
    if not isinstance(given, type) or not (dataclasses.is_dataclass(given) or issubclass(given, enum.Enum)):
        raise TypeError(f"handout.trust takes a dataclass or an Enum, not {cls!r}")
    _registered[cls.__module__, cls.__qualname__] = cls
    return cls


def registered() -> list[tuple[str, str]]:
    """Module and qualified name of each class that was registered, as other processes know it."""
    main = functions_by_value.main_name()
    return [(main if main is not None and module == "__main__" else module, name) for module, name in _registered]


def allow(names: Iterable[Any]) -> None:
    """Classes of these names were registered where the graph is: they may be made here, too."""
    _names.update((module, name) for module, name in names)


class Maker:
    """Stands for something that is named in a stream: can be called there, and is not the thing itself."""

    __slots__ = ("cls", "make", "name")

    def __init__(self, name: str, make: Callable[..., Any], cls: type | None = None) -> None:
        self.name, self.make = name, make
        #: The registered dataclass that it stands for: never called, objects of it are made bare and given a state.
        self.cls = cls


class Pending:
    """Stands for an object whose state comes after it; `finish` makes it of that."""

    __slots__ = ("finish", "index")

    def __init__(self, finish: Callable[[Any, Spend], Any]) -> None:
        self.finish = finish
        self.index = -1


def _of_class(cls: type) -> Maker:
    name = f"{cls.__module__}.{cls.__qualname__}"
    if issubclass(cls, enum.Enum):
        return Maker(name, functools.partial(_member, cls))
    return Maker(name, lambda *_: refuse(f"{name} made by a call"), cls)


def _member(cls: Any, value: Any) -> Any:
    """Not `cls(value)`: for a value that it does not have, that asks the caller's ``_missing_``."""
    members = cls.__members__.values()
    if type(value) in (int, str):
        found = cls._value2member_map_.get(value)
    else:  # no hash: it may be long, or none
        found = next((m for m in members if type(m._value_) is type(value) and m._value_ == value), None)
    if found is None and issubclass(cls, enum.Flag) and type(value) is int:
        known = functools.reduce(lambda bits, member: bits | member._value_, members, 0)
        found = cls(value) if not value & ~known else None
    return refuse(f"a {cls.__qualname__} that there is not") if found is None else found


def _plain(kind: type, *accepted: type) -> Maker:
    """A type of the standard library, made of such arguments alone."""

    def make(*args: Any) -> Any:
        for arg in args:
            if type(arg) not in accepted:
                raise RefusedError(f"a {kind.__name__} made of a {type(arg).__name__}")
        return kind(*args)

    return Maker(f"{kind.__module__}.{kind.__qualname__}", make)


def _fraction(*args: Any) -> fractions.Fraction:
    for arg in args:
        if type(arg) is str:  # not "1e999999999"
            fits = len(arg) <= _MAX_RATIO_TEXT and re.fullmatch(r"-?\d+(/\d+)?", arg) is not None
        else:
            fits = type(arg) is int and arg.bit_length() <= _MAX_RATIO_BITS
        if not fits:
            raise RefusedError("a Fraction that is no ratio, or takes too long")
    return fractions.Fraction(*args)


def _date(kind: Any) -> Maker:
    """One in the calendar: what is made of bytes looks at none of them, `replace` looks at all."""
    plain = _plain(kind, bytes, datetime.timezone)
    return Maker(plain.name, lambda *args: plain.make(*args).replace())


_MAKERS: dict[tuple[str, str], Maker] = {
    ("builtins", "complex"): _plain(complex, float, int),
    ("builtins", "range"): _plain(range, int),
    ("builtins", "slice"): _plain(slice, int, type(None)),
    ("collections", "OrderedDict"): _plain(OrderedDict),
    ("collections", "deque"): _plain(deque, tuple, int, type(None)),
    ("datetime", "date"): _date(datetime.date),
    ("datetime", "time"): _date(datetime.time),
    ("datetime", "datetime"): _date(datetime.datetime),
    ("datetime", "timedelta"): _plain(datetime.timedelta, int),
    ("datetime", "timezone"): _plain(datetime.timezone, datetime.timedelta, str),
    ("decimal", "Decimal"): _plain(decimal.Decimal, str),
    ("fractions", "Fraction"): Maker("fractions.Fraction", _fraction),
}


# ---- numpy: imported only where somebody has, or where there are arrays to be read --------------------------


#: More than numpy has; and records in records.
_MAX_AXES, _MAX_NESTED = 64, 16


def _numpy() -> Any:
    return importlib.import_module("numpy")


def _real(kind: Any) -> Any:
    """A numpy dtype that holds no references: bytes of any value are safe in it."""
    numpy = _numpy()
    if not isinstance(kind, numpy.dtype) or kind.hasobject:
        raise RefusedError("a numpy array of objects")  # unnamed: what shares parts takes for ever to print
    return kind


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise RefusedError(f"a {type(value).__name__} in a numpy array's description")
    return value


def _dtype(code: Any, _align: Any = False, _copy: Any = True) -> Pending:
    numpy = _numpy()
    if type(code) is not str or not re.fullmatch(r"[biufcSUVMm][0-9]{1,9}", code):
        raise RefusedError(f"a numpy array of {code!r}" if type(code) is str else "a numpy array of no type")

    def finish(state: Any, spend: Spend) -> Any:
        """Ours, not numpy's: that believes sizes and flags that would make it read what it should not."""
        order, subarray, names, fields = state[1:5]
        if subarray is not None:
            raise RefusedError("a numpy array with subarrays")
        if names is not None:
            formats, offsets = [], []
            for name in _typed(names, tuple):
                field = _typed(_typed(fields, dict)[_typed(name, str)], tuple)
                formats.append(_real(field[0]))
                offsets.append(_typed(field[1], int))
                _count(field[0], spend)
            itemsize = _typed(state[5], int)
            layout = {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": itemsize}
            return _real(numpy.dtype(layout))
        if code[0] in "Mm":
            unit, count = state[8][1][:2]
            if not re.fullmatch(rb"[a-zA-Z]{1,2}|generic", _typed(unit, bytes)):
                raise RefusedError("a numpy array of times without a unit")
            scale = f"[{_typed(count, int)}{unit.decode()}]" if unit != b"generic" else ""
            return _real(numpy.dtype(code + scale)).newbyteorder(_typed(order, str))
        return _real(numpy.dtype(code)).newbyteorder(_typed(order, str))

    return Pending(finish)


def _count(kind: Any, spend: Spend) -> None:
    """Spend on each field within: those may share parts, and numpy looks at each again, some of it recursively."""
    inside = [(kind, 1)]
    while inside:
        part, depth = inside.pop()
        spend(1)
        if depth > _MAX_NESTED:
            raise RefusedError("a numpy array of what is nested too deep")
        inside.extend((field[0], depth + 1) for field in (part.fields or {}).values())


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or len(shape) > _MAX_AXES:
        raise RefusedError("a numpy array without a shape")
    for length in shape:
        if type(length) is not int or not 0 <= length < 1 << 63:
            raise RefusedError("a numpy array of no such length")
    return shape


def _array(data: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    numpy = _numpy()
    if type(data) not in (bytes, bytearray, memoryview):
        raise RefusedError(f"a numpy array in a {type(data).__name__}")
    flat = numpy.frombuffer(data, _real(kind))
    if axes is not None:
        return flat.reshape(_shape(shape)).transpose(_shape(axes))
    return flat.reshape(_shape(shape), order="F" if _typed(order, str) == "F" else "C")


def _reconstruct(kind: Any, _shape_of_none: Any, _code: Any) -> Pending:
    """What arrays that are not contiguous, or hold no bytes at all, are written as."""
    numpy = _numpy()
    if kind is not NDARRAY:
        raise RefusedError("a kind of numpy array of its own")

    def finish(state: Any, _spend: Spend) -> Any:
        _, shape, dtype, is_fortran, raw = state
        if type(raw) is not bytes:
            raise RefusedError("a numpy array of objects")
        if len(raw) != math.prod(_shape(shape)) * _real(dtype).itemsize:
            raise RefusedError("a numpy array of a size that is not there")
        order = "F" if is_fortran is True else "C"
        if not raw:
            if 0 not in shape:
                raise RefusedError("a numpy array of what has no size")
            # In memory that is there: numpy would allocate what the other axes multiply to.
            return numpy.ndarray(shape, dtype, bytearray(1), order=order)
        return _array(bytearray(raw), dtype, shape, order)  # a copy: what comes of bytes could not be written to

    return Pending(finish)


def _scalar(kind: Any, raw: Any) -> Any:
    numpy = _numpy()
    if type(raw) is not bytes or len(raw) != _real(kind).itemsize:
        raise RefusedError("a numpy scalar of a size that is not there")
    return numpy.frombuffer(raw, kind)[0] if raw else numpy.zeros((), kind)[()]


#: The one that takes another as its argument: the array type itself.
RECONSTRUCT = Maker("numpy._reconstruct", _reconstruct)
NDARRAY = Maker("numpy.ndarray", lambda *_: refuse("a numpy array made by hand"))
_NUMPY: dict[str, Maker] = {
    "dtype": Maker("numpy.dtype", _dtype),
    "ndarray": NDARRAY,
    "_frombuffer": Maker("numpy._frombuffer", _array),
    "_reconstruct": RECONSTRUCT,
    "scalar": Maker("numpy.scalar", _scalar),
}
_NUMPY_HOMES = ("numpy", "numpy.core", "numpy._core", "numpy.core.multiarray", "numpy._core.multiarray",
                "numpy.core.numeric", "numpy._core.numeric")  # fmt: skip


def refuse(name: str) -> Any:
    raise RefusedError(name)


def find(module: Any, name: Any) -> Maker:
    """What a stream may name; nothing is imported for it but where a registered class is."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise RefusedError("a name that is no text")
    known = _MAKERS.get((module, name)) or _SPECIAL.get((module, name))
    if known is None and module in _NUMPY_HOMES:
        known = _NUMPY.get(name)
    if known is None:
        cls = _class(module, name)
        known = _of_class(cls) if cls is not None else None
    return known or refuse(f"{module}.{name}" if module != "builtins" else name)


def _class(module: str, name: str) -> type | None:
    cls = _registered.get((module, name))
    if cls is None and module == functions_by_value.main_name():
        # A program run as `python -m pkg.mod`: hosts know its classes as `pkg.mod`.
        cls = _registered.get(("__main__", name))
    if cls is None and (module, name) in _names:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        cls = register(found)
    return cls


def _by_value(token: Any, version: Any, _blob: Any) -> Maker:
    """A class that travelled by value is the one that is here, or nothing: its code is not read."""
    named = type(token) is tuple and tuple(map(type, token)) == (str, int) and type(version) is int
    cls = classes_by_value.known_class(token, version) if named else None
    key = (cls.__module__, cls.__qualname__) if cls is not None else None
    if cls is None or not (_registered.get(key) is cls or key in _names):  # type: ignore[arg-type]
        raise RefusedError("an object of a class that is not registered" if cls is None else ".".join(key or ()))
    return _of_class(cls)


def _uuid(*args: Any) -> Pending:
    def finish(state: Any, _spend: Spend) -> uuid.UUID:
        if type(state) is not dict or type(state.get("int")) is not int:
            raise RefusedError("a UUID without a number")
        return uuid.UUID(int=state["int"])

    return Pending(finish) if not args else refuse("a UUID made by hand")


_SPECIAL: dict[tuple[str, str], Maker] = {
    ("uuid", "UUID"): Maker("uuid.UUID", _uuid),
    ("handout.serialization.pickling", "_load_class"): Maker("a class", _by_value),
    ("handout.serialization.functions_by_value", "attribute"): Maker("a name", find),
}
