"""Turns exceptions into bytes and back, with their types, arguments, notes, causes and contexts.

An exception, its causes and its contexts form a chain. Each exception of the chain is pickled separately. If a cause or
a context cannot be pickled, the other exceptions still arrive. In place of the missing exception, the receiver
makes a substitute from the name of its type and from its message.
"""

from __future__ import annotations

import pickle
import traceback
from typing import Any, Callable

from handout.serialization.pickling import Segment, dumps, loads

#: A function that takes the type name and the message of an exception, and returns a substitute for the exception.
Fallback = Callable[[str, str], BaseException]

#: At most this many exceptions of one chain are encoded.
_MAX_CHAIN = 32


def type_name(exc: BaseException) -> str:
    """Return the name of an exception's type, such as ``ValueError`` or ``pkg.mod.Error``."""
    kind = type(exc)
    home = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return home + kind.__qualname__


def message(value: object) -> str:
    """Return the text of an exception or a note. If ``str`` raises an error, return a text that says this instead."""
    try:
        return str(value)
    except BaseException as error:  # __str__ is user code, and may also raise SystemExit
        return f"<no text: str() raised {type(error).__name__}>"


def traceback_text(exc: BaseException) -> str:
    """Return the traceback as Python prints it, with all causes and contexts."""
    try:
        return "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except BaseException as error:
        return f"{type_name(exc)}: {message(exc)} (formatting the traceback raised {type(error).__name__})\n"


def _blob(exc: BaseException) -> bytes | None:
    """Return `exc` as bytes. Return None if `exc` cannot be pickled, or if the bytes do not load as the same type.

    Loading often fails if the class defines ``__init__``, because Python then calls it with the exception's ``args``.
    """
    try:
        data = b"".join(dumps(exc))
        return data if type(loads(data)).__name__ == type(exc).__name__ else None
    except BaseException:  # pickling and loading run user code, which may raise any exception
        return None


def dump_exception(exc: BaseException) -> tuple[bytes | None, str]:
    """Return `exc` as bytes, and its traceback as text.

    The bytes are None if `exc` itself cannot be pickled. A process that gets no bytes, or cannot load them, uses the
    text.
    """
    text = traceback_text(exc)
    chain: list[dict[str, Any]] = []
    numbers: dict[int, int] = {}

    def add(each: BaseException | None) -> int:
        """Add an exception, its cause and its context to the chain, and return the exception's index in the chain.

        Return -1 if there is no exception, or if the chain is full.
        """
        if each is None or len(chain) >= _MAX_CHAIN:
            return -1
        if id(each) in numbers:
            return numbers[id(each)]
        number = numbers[id(each)] = len(chain)
        entry: dict[str, Any] = {"blob": _blob(each), "type": type_name(each), "message": message(each)}
        chain.append(entry)
        notes = getattr(each, "__notes__", None)
        entry["notes"] = [message(note) for note in notes] if isinstance(notes, (list, tuple)) else []
        entry["cause"], entry["context"] = add(each.__cause__), add(each.__context__)
        entry["suppress"] = each.__suppress_context__
        return number

    add(exc)
    if chain[0]["blob"] is None:
        return None, text
    return pickle.dumps(chain, 5), text


def load_exception(blob: Segment, fallback: Fallback | None = None) -> BaseException:
    """Return the exception that `dump_exception` encoded, with its causes and contexts.

    Args:
        blob: The bytes.
        fallback: Makes the substitute for an exception that has no bytes or cannot be loaded in this process. Default:
            a plain `Exception` replaces a cause or a context, and nothing replaces the first exception of the chain.

    Raises:
        Exception: No `fallback` was given, and loading the first exception of the chain raised this error.
    """
    chain: list[dict[str, Any]] = pickle.loads(blob)
    if fallback is None:
        loaded: list[BaseException] = [loads(chain[0]["blob"]), *(_load_entry(entry, _plain) for entry in chain[1:])]
        _restore_notes(loaded[0], chain[0])
    else:
        loaded = [_load_entry(entry, fallback) for entry in chain]
    for exc, entry in zip(loaded, chain):
        exc.__cause__ = loaded[entry["cause"]] if entry["cause"] >= 0 else None
        exc.__context__ = loaded[entry["context"]] if entry["context"] >= 0 else None
        exc.__suppress_context__ = entry["suppress"]
    return loaded[0]


def _load_entry(entry: dict[str, Any], fallback: Fallback) -> BaseException:
    exc: Any = None
    if entry["blob"] is not None:
        try:
            exc = loads(entry["blob"])
        except KeyboardInterrupt:
            raise
        except BaseException:  # a module may be missing, and an __init__ may raise any exception
            exc = None
    if not isinstance(exc, BaseException):
        exc = fallback(entry["type"], entry["message"])
    loaded: BaseException = exc
    _restore_notes(loaded, entry)
    return loaded


def _restore_notes(exc: BaseException, entry: dict[str, Any]) -> None:
    if entry["notes"]:
        exc.__dict__["__notes__"] = list(entry["notes"])


def _plain(name: str, text: str) -> BaseException:
    return Exception(f"{name}: {text}")
