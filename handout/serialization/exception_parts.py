"""Pickles an exception by its parts: its class, its arguments, its attributes and its slots.

By default, pickle makes an exception again by calling its class with the exception's ``args``. This fails if
``__init__`` has keyword-only parameters or more parameters than ``args`` has entries. It gives wrong attributes and
texts if ``__init__`` computes ``args``. So Handout makes the exception without calling ``__init__``, and sets each part
as it was.

A class that defines ``__reduce__`` or ``__reduce_ex__`` itself, or that is registered with `copyreg`, is pickled as it
says.
"""

from __future__ import annotations

import builtins
import copyreg
import types
from collections.abc import Iterator
from typing import Any

from handout.serialization.reducers import registered

__all__ = ["Parts", "attributes_of", "group_from", "group_shell", "is_group", "reduce_exception"]

#: These descriptors read and write the parts of an exception even if its class has attributes of the same names.
_ARGS: Any = BaseException.__dict__["args"]
_DICT: Any = BaseException.__dict__["__dict__"]
#: The attributes that are no state of the exception itself, or that no other process can use.
_LEFT_OUT = frozenset({"args", "obj", "exceptions", "message"})
_MODULE: Any = type.__dict__["__module__"]
#: The flag of a class that was made at run time, and not by a static definition in C (``Py_TPFLAGS_HEAPTYPE``).
_HEAP_TYPE = 1 << 9
#: The base class of exception groups, which Python has since version 3.11.
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())

Reduced = tuple[Any, ...]


def attributes_of(exc: BaseException) -> dict[str, Any]:
    """Return the ``__dict__`` of an exception without running code of its class. Changes reach the exception."""
    found: dict[str, Any] = _DICT.__get__(exc)
    return found


def reduce_exception(exc: BaseException) -> Any:
    """Return the tuple from which pickle writes an exception, or NotImplemented to leave it to pickle."""
    kind = type(exc)
    if not _is_left_to_pickle(kind):
        return parts(exc)
    # If `copyreg` knows the class, pickle would ask it. See `registered`.
    return exc.__reduce_ex__(5) if kind in copyreg.dispatch_table and not registered(kind) else NotImplemented


def _is_left_to_pickle(kind: type) -> bool:
    """Return True for a class of Python's own, and if a class, or code in C, says how its exceptions are pickled."""
    return (
        # Before Python 3.12, pickle does not store the ``name`` of these errors.
        (_is_native(kind) and not issubclass(kind, (AttributeError, NameError)))
        or registered(kind) is not None
        or _native_base(kind) is None
        or any(_of_user(kind, name) is not None for name in ("__reduce__", "__reduce_ex__"))
    )


class Parts:
    """Stands for an exception in a pickle, and is pickled by the exception's parts whatever its class says."""

    def __init__(self, exc: BaseException) -> None:
        self._exc = exc

    def __reduce__(self) -> Any:
        return parts(self._exc)


def parts(exc: BaseException) -> Reduced:
    """Return the tuple from which pickle writes an exception by its parts.

    Raises:
        TypeError: The class is not written in Python, so that its state cannot be seen.
    """
    kind = type(exc)
    if _native_base(kind) is None:
        raise TypeError(f"an exception of type {kind.__qualname__} cannot be taken apart")
    args = _ARGS.__get__(exc)
    new_args = args[:2] if _GROUP and issubclass(kind, _GROUP) else ()
    state = (args, list(_members(exc)), list(_slots(exc)), _attributes(exc))
    return _make, (kind, new_args), state, None, None, _fill


def is_group(exc: BaseException) -> bool:
    """Return True for an exception group."""
    return bool(_GROUP) and issubclass(type(exc), _GROUP)


def group_shell(group: Any) -> tuple[Any, list[BaseException]]:
    """Return an exception group without its members, for `group_from`, and the members."""
    kind, args = type(group), _ARGS.__get__(group)
    shell = (kind, _GROUP.message.__get__(group), args[2:], list(_slots(group)), _attributes(group))
    return shell, list(_GROUP.exceptions.__get__(group))


def group_from(shell: Any, members: list[BaseException]) -> BaseException:
    """Return the exception group that `group_shell` took apart."""
    kind, message, rest, slots, attributes = shell
    made = _make(kind, (message, members))
    _fill(made, ((message, members, *rest), [], slots, attributes))
    return made


def _native_base(kind: type) -> Any:
    """Return the class that allocates the exceptions of a class, if this is one of Python's own classes."""
    for each in kind.__mro__:
        if isinstance(vars(each).get("__new__"), types.BuiltinFunctionType):
            return each if _is_native(each) and issubclass(each, BaseException) else None
    return None


def _is_native(kind: type) -> bool:
    """Return True for a class that is built into Python, and not made at run time or by another module."""
    return not kind.__flags__ & _HEAP_TYPE and _MODULE.__get__(kind) == "builtins"


def _members(exc: BaseException) -> Iterator[tuple[str, str, Any]]:
    """Yield the class, the name and the value of each attribute that Python's own classes keep outside ``__dict__``.

    Examples are ``errno`` of an `OSError` and ``name`` of an `ImportError`.
    """
    for each in type(exc).__mro__:
        if not _is_native(each) or each in (object, BaseException) or (_GROUP and issubclass(each, _GROUP)):
            continue
        for name, member in vars(each).items():
            if type(member) not in (types.MemberDescriptorType, types.GetSetDescriptorType) or name in _LEFT_OUT:
                continue
            try:
                value = member.__get__(exc)
            except (AttributeError, TypeError):  # it has no value
                continue
            if value is not None:  # an attribute without a value reads as None, but a None that is set would be printed
                yield each.__name__, name, value


def _slots(exc: BaseException) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each slot."""
    kind = type(exc)
    for name in copyreg._slotnames(kind):  # type: ignore[attr-defined]
        slot = _slot(kind, name)
        if slot is not None:
            try:
                yield name, slot.__get__(exc)
            except AttributeError:  # it has no value
                continue


def _slot(kind: type, name: str) -> Any:
    for each in kind.__mro__:
        found = vars(each).get(name)
        if type(found) is types.MemberDescriptorType:
            return found
    return None


def _attributes(exc: BaseException) -> Any:
    """Return the attributes of an exception, or what the ``__getstate__`` of its class returns."""
    getter = _of_user(type(exc), "__getstate__")
    return attributes_of(exc) if getter is None else getter(exc)


def _of_user(kind: type, name: str) -> Any:
    """Return the method of a class if a class of the user defines it."""
    for each in kind.__mro__:
        if name in vars(each):
            return None if _is_native(each) else vars(each)[name]
    return None


def _make(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    made: BaseException = _native_base(kind).__new__(kind, *args)
    return made


def _fill(exc: BaseException, state: tuple[Any, ...]) -> None:
    args, members, slots, attributes = state
    kind = type(exc)
    _ARGS.__set__(exc, args)
    natives = {each.__name__: vars(each) for each in kind.__mro__ if _is_native(each)}
    for home, name, value in members:
        member = natives.get(home, {}).get(name)
        if member is not None:
            try:
                member.__set__(exc, value)
            except (AttributeError, TypeError):  # another version of Python may not let it be set
                continue
    for name, value in slots:
        slot = _slot(kind, name)
        if slot is not None:
            slot.__set__(exc, value)
    setter = _of_user(kind, "__setstate__")
    if setter is not None and attributes:
        setter(exc, attributes)
    elif attributes:
        # Not by `setattr`, which a frozen dataclass refuses.
        attributes_of(exc).update(attributes)
