"""What data may be made of: the list of what an untrusted host's bytes may name, and how each is made here.

Nothing that is named is looked up, imported or called but what stands here or was registered by the caller.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import importlib
import re
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Callable, TypeVar

from . import byvalue, classcopy
from .pickling import LoadError

C = TypeVar("C", bound=type)

#: Classes that the caller registered, by module and qualified name.
_registered: dict[tuple[str, str], type] = {}
#: What the caller registered elsewhere: such classes are found here by their names.
_names: set[tuple[str, str]] = set()


class RefusedError(LoadError):
    """The bytes hold something that data from an untrusted host may not be.

    Attributes:
        name: What: the name of a type or a function, or of a step.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"it holds {name}")
        self.name = name

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
    main = byvalue.main_name()
    return [(main if main is not None and module == "__main__" else module, name) for module, name in _registered]


def allow(names: Iterable[Any]) -> None:
    """Classes of these names were registered where the graph is: they may be made here, too."""
    _names.update((module, name) for module, name in names)


class Maker:
    """Stands for something that is named in a stream: can be called there, and is not the thing itself."""

    __slots__ = ("cls", "make", "name")

    def __init__(self, name: str, make: Callable[..., Any], cls: type | None = None) -> None:
        self.name, self.make = name, make
        #: The registered class that it stands for.
        self.cls = cls


class Pending:
    """Stands for an object whose state comes after it; `finish` makes it of that."""

    __slots__ = ("finish", "index")

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        self.finish = finish
        self.index = -1


def _of_class(cls: type) -> Maker:
    return Maker(f"{cls.__module__}.{cls.__qualname__}", cls, cls)


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
        if type(arg) is not int and not (type(arg) is str and re.fullmatch(r"-?\d+(/\d+)?", arg)):
            raise RefusedError("a Fraction that is no ratio")  # "1e999999999" would take for ever
    return fractions.Fraction(*args)


_DATES = (bytes, datetime.timezone)
_MAKERS: dict[tuple[str, str], Maker] = {
    ("builtins", "complex"): _plain(complex, float, int),
    ("builtins", "range"): _plain(range, int),
    ("builtins", "slice"): _plain(slice, int, type(None)),
    ("collections", "OrderedDict"): _plain(OrderedDict),
    ("collections", "deque"): _plain(deque, tuple, int, type(None)),
    ("datetime", "date"): _plain(datetime.date, bytes),
    ("datetime", "time"): _plain(datetime.time, *_DATES),
    ("datetime", "datetime"): _plain(datetime.datetime, *_DATES),
    ("datetime", "timedelta"): _plain(datetime.timedelta, int),
    ("datetime", "timezone"): _plain(datetime.timezone, datetime.timedelta, str),
    ("decimal", "Decimal"): _plain(decimal.Decimal, str),
    ("fractions", "Fraction"): Maker("fractions.Fraction", _fraction),
}


# ---- numpy: imported only where somebody has, or where there are arrays to be read --------------------------


def _numpy() -> Any:
    return importlib.import_module("numpy")


def _real(kind: Any) -> Any:
    """A numpy dtype that holds no references: bytes of any value are safe in it."""
    numpy = _numpy()
    if not isinstance(kind, numpy.dtype) or kind.hasobject:
        raise RefusedError(f"a numpy array of {kind}")
    return kind


def _dtype(code: Any, _align: Any = False, _copy: Any = True) -> Pending:
    numpy = _numpy()
    if not isinstance(code, str) or not re.fullmatch(r"[biufcSUVMm]\d{1,9}", code):
        raise RefusedError(f"a numpy array of {code!r}"[:80])

    def finish(state: Any) -> Any:
        """Ours, not numpy's: that believes sizes and flags that would make it read what it should not."""
        order, subarray, names, fields = state[1:5]
        if subarray is not None:
            raise RefusedError("a numpy array with subarrays")
        if names is not None:
            layout = {
                "names": list(names),
                "formats": [_real(fields[name][0]) for name in names],
                "offsets": [int(fields[name][1]) for name in names],
                "itemsize": int(state[5]),
            }
            return _real(numpy.dtype(layout))
        if code[0] in "Mm":
            unit, count = state[8][1][:2]
            return numpy.dtype(f"{code}[{int(count)}{unit.decode()}]").newbyteorder(order)
        return _real(numpy.dtype(code)).newbyteorder(order)

    return Pending(finish)


def _array(data: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    numpy = _numpy()
    if axes is not None:
        flat = numpy.frombuffer(data, _real(kind)).reshape(shape)
        return flat.transpose(axes)
    return numpy.frombuffer(data, _real(kind)).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, _shape: Any, _code: Any) -> Pending:
    """What arrays that are not contiguous, or hold no bytes at all, are written as."""
    numpy = _numpy()
    if not isinstance(kind, Maker) or kind.name != "numpy.ndarray":
        raise RefusedError("a kind of numpy array of its own")

    def finish(state: Any) -> Any:
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(raw, (bytes, bytearray)):
            raise RefusedError("a numpy array of objects")
        dtype = _real(dtype)
        if not dtype.itemsize or not raw:
            return numpy.empty(shape, dtype) if 0 in shape or not dtype.itemsize else _array(raw, dtype, shape, "C")
        # A copy: what comes of bytes could not be written to.
        return _array(bytearray(raw), dtype, shape, "F" if is_fortran else "C")

    return Pending(finish)


def _scalar(kind: Any, raw: Any) -> Any:
    numpy = _numpy()
    return numpy.frombuffer(raw, _real(kind))[0] if len(raw) else numpy.zeros((), _real(kind))[()]


#: The one that takes another as its argument: the array type itself.
RECONSTRUCT = Maker("numpy._reconstruct", _reconstruct)
_NUMPY: dict[str, Maker] = {
    "dtype": Maker("numpy.dtype", _dtype),
    "ndarray": Maker("numpy.ndarray", lambda *_: refuse("a numpy array made by hand")),
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
    if cls is None and module == byvalue.main_name():
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
    cls = classcopy.known_class(token, version) if isinstance(token, tuple) else None
    key = (cls.__module__, cls.__qualname__) if cls is not None else None
    if cls is None or not (_registered.get(key) is cls or key in _names):  # type: ignore[arg-type]
        raise RefusedError("an object of a class that is not registered" if cls is None else ".".join(key or ()))
    return _of_class(cls)


def _uuid(*args: Any) -> Pending:
    def finish(state: Any) -> uuid.UUID:
        return uuid.UUID(int=state["int"])

    return Pending(finish) if not args else refuse("a UUID made by hand")


_SPECIAL: dict[tuple[str, str], Maker] = {
    ("uuid", "UUID"): Maker("uuid.UUID", _uuid),
    ("handout.agent.pickling", "_load_class"): Maker("a class", _by_value),
    ("handout.agent.byvalue", "attribute"): Maker("a name", find),
}
