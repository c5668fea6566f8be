"""The allowlist: the names that an untrusted host's bytes may contain, and how the reader makes a value for each.

The bytes are a pickle, which is called the stream here. They contain names of types and functions. A named type or
function is imported or called only if its name is in this list, or if the caller registered it. The functions below
check the types of all arguments and of their parts before any other code compares, hashes, counts or prints them. These
functions allocate memory only for bytes that arrived, never for a length that the bytes claim.
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

from handout.serialization import importable, tokens
from handout.serialization.pickling import LoadError

C = TypeVar("C", bound=type)
#: A function that takes a cost from the budget for reading one stream. It raises `RefusedError` if too little is left.
Spend = Callable[[int], None]

_MAX_TEXT = 300
#: A fraction may be made of a text of up to 10,000 characters, or of numbers of up to 20,000 bits. There are limits
#: because the time for reducing a fraction to lowest terms grows with the square of these sizes.
_MAX_RATIO_TEXT, _MAX_RATIO_BITS = 10_000, 20_000

#: Classes that were registered in this process, by module and qualified name.
_registered: dict[tuple[str, str], type] = {}
#: In a worker: the module and the qualified name of each class that was registered in the caller's program. The worker
#: imports such a class when a stream first names it, unless the class was sent by value.
_allowed_names: set[tuple[str, str]] = set()


def printable(text: str) -> str:
    """Make a host's text safe for a message: cut it to 300 characters, and print unprintable ones as ``?``."""
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_TEXT])


class RefusedError(LoadError):
    """An untrusted host's bytes contain something that is not data.

    The message continues a sentence, such as "the result came from host 'h', and it holds os.system".

    Attributes:
        name: Name of the type or function that was refused, or a description of it.
    """

    def __init__(self, name: str) -> None:
        self.name = printable(name)
        super().__init__(f"it holds {self.name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,)


def register(cls: C) -> C:
    """Allow objects of a class in the bytes of untrusted hosts, and return the class.

    Raises:
        TypeError: The class is neither a dataclass nor an enum.
    """
    given: Any = cls
    if not isinstance(given, type) or not (dataclasses.is_dataclass(given) or issubclass(given, enum.Enum)):
        raise TypeError(
            f"handout.trust() takes a dataclass or an Enum, not {cls!r}. "
            "Return objects of such classes or of built-in types."
        )
    _registered[cls.__module__, cls.__qualname__] = cls
    return cls


def registered() -> list[tuple[str, str]]:
    """Return the module and the qualified name of each registered class."""
    return list(_registered)


def registered_by_value() -> list[type]:
    """Return the registered classes that other processes cannot import, such as those of a script."""
    return [cls for cls in _registered.values() if importable.importable_name(cls) is None]


def allow(names: Iterable[Any]) -> None:
    """Allow the classes with these names in this process. They were registered in the caller's program."""
    _allowed_names.update((module, name) for module, name in names)


class Allowed:
    """The object that the reader uses in the place of an allowed name.

    If the stream calls an allowed name, the reader calls ``make``. No value from the stream can contain the named class
    or function itself.

    Args:
        name: The name, for messages.
        make: Makes a value from the arguments of a call, or raises `RefusedError`.
        cls: The class with that name, if it is a registered dataclass. The reader never calls the class. It makes an
            empty object of the class instead, and sets the object's state.
    """

    __slots__ = ("cls", "make", "name")

    def __init__(self, name: str, make: Callable[..., Any], cls: type | None = None) -> None:
        self.name, self.make, self.cls = name, make, cls


class Pending:
    """A placeholder for an object whose state comes later in the stream.

    Args:
        finish: Makes the object from its state. The second argument is a `Spend`.
    """

    __slots__ = ("finish", "index")

    def __init__(self, finish: Callable[[Any, Spend], Any]) -> None:
        self.finish = finish
        #: Number of this placeholder in the reader's memo, or -1 if it is not there. The memo contains the objects that
        #: the stream can use again.
        self.index = -1


def _of_class(cls: type) -> Allowed:
    name = f"{cls.__module__}.{cls.__qualname__}"
    if issubclass(cls, enum.Enum):
        return Allowed(name, functools.partial(_member, cls))
    return Allowed(name, lambda *_: refuse(f"{name} made by a call"), cls)


def _member(cls: Any, value: Any) -> Any:
    """Return the member of an enum that has this value.

    ``cls(value)`` is used for combinations of flags only, because this call can run the class's own ``_missing_``.
    """
    members = cls.__members__.values()
    if type(value) in (int, str):
        found = cls._value2member_map_.get(value)
    else:  # a search and not a look-up in a dict, because hashing the value may take long or fail
        found = next((m for m in members if type(m._value_) is type(value) and m._value_ == value), None)
    if found is None and issubclass(cls, enum.Flag) and type(value) is int:
        known = functools.reduce(lambda bits, member: bits | member._value_, members, 0)
        found = cls(value) if not value & ~known else None
    return refuse(f"a {cls.__qualname__} that does not exist") if found is None else found


def _plain(kind: type, *accepted: type) -> Allowed:
    """Return the `Allowed` for a type of the standard library that may be called with arguments of the given types."""

    def make(*args: Any) -> Any:
        for arg in args:
            if type(arg) not in accepted:
                raise RefusedError(f"a {kind.__name__} made of a {type(arg).__name__}")
        return kind(*args)

    return Allowed(f"{kind.__module__}.{kind.__qualname__}", make)


def _fraction(*args: Any) -> fractions.Fraction:
    for arg in args:
        if type(arg) is str:  # Fraction("1e999999999") would compute that power
            fits = len(arg) <= _MAX_RATIO_TEXT and re.fullmatch(r"-?\d+(/\d+)?", arg) is not None
        else:
            fits = type(arg) is int and arg.bit_length() <= _MAX_RATIO_BITS
        if not fits:
            raise RefusedError("a Fraction that is no ratio, or is too long")
    return fractions.Fraction(*args)


def _date(kind: Any) -> Allowed:
    """Return the `Allowed` for a type of ``datetime``.

    The constructor of such a type does not check the bytes that it gets. So ``replace``, which checks every field, is
    called on the result.
    """
    plain = _plain(kind, bytes, datetime.timezone)
    return Allowed(plain.name, lambda *args: plain.make(*args).replace())


_STANDARD_LIBRARY: dict[tuple[str, str], Allowed] = {
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
    ("fractions", "Fraction"): Allowed("fractions.Fraction", _fraction),
}


# ---- numpy: imported when the first array is read ----------------------------------------------------------


#: The largest number of axes of an array, which is also numpy's limit, and the greatest depth of nested records.
_MAX_AXES, _MAX_NESTED = 64, 16


def _numpy() -> Any:
    return importlib.import_module("numpy")


def _without_references(kind: Any) -> Any:
    """Return ``kind`` if it is a numpy dtype without references to Python objects. Any bytes are then valid elements.

    Raises:
        RefusedError: ``kind`` is not a dtype, or it has such references.
    """
    numpy = _numpy()
    if not isinstance(kind, numpy.dtype) or kind.hasobject:
        # The message does not name the dtype, because printing a dtype with shared parts may take very long.
        raise RefusedError("a numpy array of objects")
    return kind


def _require(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise RefusedError(f"a {type(value).__name__} in a numpy array's description")
    return value


def _dtype(code: Any, _align: Any = False, _copy: Any = True) -> Pending:
    numpy = _numpy()
    if type(code) is not str or not re.fullmatch(r"[biufcSUVMm][0-9]{1,9}", code):
        raise RefusedError(f"a numpy array of {code!r}" if type(code) is str else "a numpy array of no type")

    def finish(state: Any, spend: Spend) -> Any:
        """Make the dtype without numpy's ``__setstate__``.

        That method trusts the sizes and flags in the state. With false ones, numpy could read memory out of bounds.
        """
        order, subarray, names, fields = state[1:5]
        if subarray is not None:
            raise RefusedError("a numpy array with subarrays")
        if names is not None:
            return _record_dtype(_require(names, tuple), _require(fields, dict), _require(state[5], int), spend)
        if code[0] in "Mm":
            unit, count = state[8][1][:2]
            if not re.fullmatch(rb"[a-zA-Z]{1,2}|generic", _require(unit, bytes)):
                raise RefusedError("a numpy array of times without a unit")
            scale = f"[{_require(count, int)}{unit.decode()}]" if unit != b"generic" else ""
            return _without_references(numpy.dtype(code + scale)).newbyteorder(_require(order, str))
        return _without_references(numpy.dtype(code)).newbyteorder(_require(order, str))

    return Pending(finish)


def _record_dtype(names: tuple[Any, ...], fields: dict[Any, Any], itemsize: int, spend: Spend) -> Any:
    formats, offsets = [], []
    for name in names:
        field = _require(fields[_require(name, str)], tuple)
        formats.append(_without_references(field[0]))
        offsets.append(_require(field[1], int))
        _spend_on_fields(field[0], spend)
    layout = {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": itemsize}
    return _without_references(_numpy().dtype(layout))


def _spend_on_fields(kind: Any, spend: Spend) -> None:
    """Spend a cost of 1 for a dtype and for each field in it, at any depth.

    If several fields share a dtype, it counts for each of these fields, because numpy visits it each time.
    """
    inside = [(kind, 1)]
    while inside:
        part, depth = inside.pop()
        spend(1)
        if depth > _MAX_NESTED:
            raise RefusedError("a numpy array of records that are nested too deep")
        inside.extend((field[0], depth + 1) for field in (part.fields or {}).values())


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or len(shape) > _MAX_AXES:
        raise RefusedError("a numpy array without a shape")
    for length in shape:
        if type(length) is not int or not 0 <= length < 1 << 63:
            raise RefusedError("a numpy array of an impossible length")
    return shape


def _array(data: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    numpy = _numpy()
    if type(data) not in (bytes, bytearray, memoryview):
        raise RefusedError(f"a numpy array in a {type(data).__name__}")
    flat = numpy.frombuffer(data, _without_references(kind))
    if axes is not None:
        return flat.reshape(_shape(shape)).transpose(_shape(axes))
    return flat.reshape(_shape(shape), order="F" if _require(order, str) == "F" else "C")


def _reconstruct(kind: Any, _shape_of_none: Any, _code: Any) -> Pending:
    """Return a placeholder for an array that was not contiguous, or that has no bytes."""
    numpy = _numpy()
    if kind is not NDARRAY:
        raise RefusedError("a subclass of numpy's array")

    def finish(state: Any, _spend: Spend) -> Any:
        _, shape, dtype, is_fortran, raw = state
        if type(raw) is not bytes:
            raise RefusedError("a numpy array of objects")
        if len(raw) != math.prod(_shape(shape)) * _without_references(dtype).itemsize:
            raise RefusedError("a numpy array whose size differs from its bytes")
        order = "F" if is_fortran is True else "C"
        if not raw:
            if 0 not in shape:
                raise RefusedError("a numpy array of elements without a size")
            # The array has no elements, so one byte of memory is enough. Without this byte, numpy would allocate memory
            # for the product of all lengths that are not 0.
            return numpy.ndarray(shape, dtype, bytearray(1), order=order)
        return _array(bytearray(raw), dtype, shape, order)  # a copy, because an array over bytes is read-only

    return Pending(finish)


def _scalar(kind: Any, raw: Any) -> Any:
    numpy = _numpy()
    if type(raw) is not bytes or len(raw) != _without_references(kind).itemsize:
        raise RefusedError("a numpy scalar whose size differs from its bytes")
    return numpy.frombuffer(raw, kind)[0] if raw else numpy.zeros((), kind)[()]


#: This is the only allowed name that may get another allowed name as an argument. That argument is `NDARRAY`.
RECONSTRUCT = Allowed("numpy._reconstruct", _reconstruct)
NDARRAY = Allowed("numpy.ndarray", lambda *_: refuse("a numpy array made by a call of its type"))
_NUMPY: dict[str, Allowed] = {
    "dtype": Allowed("numpy.dtype", _dtype),
    "ndarray": NDARRAY,
    "_frombuffer": Allowed("numpy._frombuffer", _array),
    "_reconstruct": RECONSTRUCT,
    "scalar": Allowed("numpy.scalar", _scalar),
}
_NUMPY_HOMES = ("numpy", "numpy.core", "numpy._core", "numpy.core.multiarray", "numpy._core.multiarray",
                "numpy.core.numeric", "numpy._core.numeric")  # fmt: skip


def refuse(name: str) -> Any:
    """Raise `RefusedError`. The declared return type allows this call inside an expression."""
    raise RefusedError(name)


def look_up(module: Any, name: Any) -> Allowed:
    """Return the `Allowed` for a name in a stream. Only the module of a registered class is imported.

    Raises:
        RefusedError: The name is not allowed.
    """
    if not isinstance(module, str) or not isinstance(name, str):
        raise RefusedError("a name that is no text")
    known = _STANDARD_LIBRARY.get((module, name)) or _SPECIAL.get((module, name))
    if known is None and module in _NUMPY_HOMES:
        known = _NUMPY.get(name)
    if known is None:
        cls = _class(module, name)
        known = _of_class(cls) if cls is not None else None
    return known or refuse(_READABLE.get((module, name)) or (f"{module}.{name}" if module != "builtins" else name))


def _class(module: str, name: str) -> type | None:
    cls = _registered.get((module, name))
    if cls is None and module != "__main__" and (module, name) in _allowed_names:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        cls = register(found)
    return cls


def _class_by_value(token: Any, version: Any, *_blob: Any) -> Allowed:
    """Return the `Allowed` for a class that was sent by value.

    This process must have the class already, because the bytes of the class are not read.

    Raises:
        RefusedError: This process does not have the class, or the caller did not register the class.
    """
    named = type(token) is tuple and tuple(map(type, token)) == (str, int) and type(version) is int
    cls = tokens.known_class(token, version) if named else None
    key = (cls.__module__, cls.__qualname__) if cls is not None else None
    if cls is None or not (_registered.get(key) is cls or key in _allowed_names):  # type: ignore[arg-type]
        raise RefusedError("an object of a class that is not registered" if cls is None else ".".join(key or ()))
    return _of_class(cls)


def _uuid(*args: Any) -> Pending:
    def finish(state: Any, _spend: Spend) -> uuid.UUID:
        if type(state) is not dict or type(state.get("int")) is not int:
            raise RefusedError("a UUID without a number")
        return uuid.UUID(int=state["int"])

    return Pending(finish) if not args else refuse("a UUID made by a call of its type")


#: What a message says in place of a name of Handout's own that makes a value which is refused.
_READABLE = {
    ("handout.serialization.file", "_receive"): "handout.File",
    ("handout.serialization.file", "_receive_folder"): "handout.File",
    ("handout.serialization.definitions", "load_function"): "a function",
    ("handout.serialization.exception_parts", "_make"): "an exception",
}
_SPECIAL: dict[tuple[str, str], Allowed] = {
    ("uuid", "UUID"): Allowed("uuid.UUID", _uuid),
    ("handout.serialization.definitions", "load_class"): Allowed("a class", _class_by_value),
    ("handout.serialization.importable", "attribute"): Allowed("a name", look_up),
}
