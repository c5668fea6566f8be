"""Turns exceptions into bytes and back: type, arguments, notes, causes and contexts, as far as they can be pickled.

Each exception of a chain of causes and contexts is pickled on its own, so that one that fails does not lose the others.
"""

from __future__ import annotations

import pickle
import traceback
from typing import Any, Callable

from handout.serialization.pickling import Segment, dumps, loads

#: Makes a substitute for an exception, from its type's name and its message.
Fallback = Callable[[str, str], BaseException]

#: Largest number of exceptions of one chain that are encoded.
_MAX_CHAIN = 32


def type_name(exc: BaseException) -> str:
    """Return the name of an exception's type: ``ValueError``, ``pkg.mod.Error``."""
    kind = type(exc)
    home = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return home + kind.__qualname__


def message(value: object) -> str:
    """Return ``str(value)`` of an exception or a note, or a text that says what its ``__str__`` raised."""
    try:
        return str(value)
    except BaseException as error:  # __str__ is user code, and may also raise SystemExit
        return f"<its str() raised {type(error).__name__}>"


def traceback_text(exc: BaseException) -> str:
    """Return the traceback as Python prints it, causes and contexts included."""
    try:
        return "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except BaseException as error:
        return f"{type_name(exc)}: {message(exc)} (formatting the traceback raised {type(error).__name__})\n"


def _blob(exc: BaseException) -> bytes | None:
    """Return `exc` as bytes; None if they do not load as the same type.

    An exception whose class has an ``__init__`` of its own often fails to load.
    """
    try:
        data = b"".join(dumps(exc))
        return data if type(loads(data)).__name__ == type(exc).__name__ else None
    except BaseException:  # pickling and loading run user code, which may raise any exception
        return None


def dump_exception(exc: BaseException) -> tuple[bytes | None, str]:
    """Return `exc` as bytes, and its traceback as text.

    The bytes are None if `exc` itself cannot be pickled. The text is for a reader that has none or cannot load them.
    """
    text = traceback_text(exc)
    chain: list[dict[str, Any]] = []
    numbers: dict[int, int] = {}

    def add(each: BaseException | None) -> int:
        """Append an exception, its cause and its context. Return its number in the chain, or -1 if it is not there."""
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
        fallback: Makes the substitute for an exception that has no bytes or cannot be loaded here. None: a cause or
            context is replaced by a plain `Exception`, and the exception itself must load.

    Raises:
        Exception: There is no `fallback`, and loading the exception itself raised this.
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
        except Exception:  # a module may be missing, and an __init__ may raise any exception
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
