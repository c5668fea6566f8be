"""Exceptions as bytes: type, arguments, notes, causes and contexts, as far as they can travel.

Each link of a chain of causes travels on its own, so that one that cannot does not take the others with it.
"""

from __future__ import annotations

import pickle
import traceback
from typing import Any, Callable

from handout.serialization.pickling import Segment, dumps, loads

#: Makes a stand-in of a type name, a message and a traceback's text.
Fallback = Callable[[str, str, str], BaseException]

_MAX_LINKS = 32


def type_name(exc: BaseException) -> str:
    """``ValueError``, ``pkg.mod.Error``."""
    kind = type(exc)
    home = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return home + kind.__qualname__


def message(exc: BaseException) -> str:
    """``str(exc)``, whatever that does."""
    try:
        return str(exc)
    except BaseException as error:  # also one that would end this process
        return f"<its str() raised {type(error).__name__}>"


def traceback_text(exc: BaseException) -> str:
    """The traceback as Python prints it, causes and contexts included."""
    try:
        return "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except BaseException as error:
        return f"{type_name(exc)}: {message(exc)} (formatting the traceback raised {type(error).__name__})\n"


def _blob(exc: BaseException) -> bytes | None:
    """`exc` as bytes that do become it again: an ``__init__`` of its own often breaks the way back."""
    try:
        data = b"".join(dumps(exc))
        return data if type(loads(data)).__name__ == type(exc).__name__ else None
    except BaseException:  # user code, at both ends
        return None


def dump_exception(exc: BaseException) -> tuple[bytes | None, str]:
    """`exc` as bytes, or None where it cannot travel, and its traceback as text.

    The text stands for it where the bytes are missing or cannot be read.
    """
    text = traceback_text(exc)
    links: list[dict[str, Any]] = []
    numbers: dict[int, int] = {}

    def add(link: BaseException | None) -> int:
        if link is None or len(links) >= _MAX_LINKS:
            return -1
        if id(link) in numbers:
            return numbers[id(link)]
        number = numbers[id(link)] = len(links)
        entry: dict[str, Any] = {"blob": _blob(link), "type": type_name(link), "message": message(link)}
        links.append(entry)
        notes = getattr(link, "__notes__", None)
        entry["notes"] = [str(note) for note in notes] if isinstance(notes, (list, tuple)) else []
        entry["cause"], entry["context"] = add(link.__cause__), add(link.__context__)
        entry["suppress"] = link.__suppress_context__
        return number

    add(exc)
    if links[0]["blob"] is None:
        return None, text
    return pickle.dumps(links, 5), text


def load_exception(blob: Segment, fallback: Fallback | None = None) -> BaseException:
    """The exception that `dump_exception` wrote, its causes attached.

    Args:
        blob: The bytes.
        fallback: Makes what stands for a link that could not travel or cannot be loaded here; when left out,
            causes that cannot are plain exceptions, and the exception itself raises what loading it raised.
    """
    links: list[dict[str, Any]] = pickle.loads(blob)
    if fallback is None:
        made: list[BaseException] = [loads(links[0]["blob"]), *(_load_link(link, _plain) for link in links[1:])]
        _restore_notes(made[0], links[0])
    else:
        made = [_load_link(link, fallback) for link in links]
    for exc, link in zip(made, links):
        exc.__cause__ = made[link["cause"]] if link["cause"] >= 0 else None
        exc.__context__ = made[link["context"]] if link["context"] >= 0 else None
        exc.__suppress_context__ = link["suppress"]
    return made[0]


def _load_link(link: dict[str, Any], fallback: Fallback) -> BaseException:
    exc: Any = None
    if link["blob"] is not None:
        try:
            exc = loads(link["blob"])
        except Exception:  # a module that is not here, an __init__ that objects
            exc = None
    if not isinstance(exc, BaseException):
        exc = fallback(link["type"], link["message"], "")
    loaded: BaseException = exc
    _restore_notes(loaded, link)
    return loaded


def _restore_notes(exc: BaseException, link: dict[str, Any]) -> None:
    if link["notes"]:
        exc.__dict__["__notes__"] = list(link["notes"])


def _plain(name: str, text: str, _traceback: str) -> BaseException:
    return Exception(f"{name}: {text}")
