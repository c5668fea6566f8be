"""Turns exceptions into bytes and back, with their types, arguments, notes, causes and contexts.

An exception, its causes and its contexts form a chain. Each exception of the chain is pickled separately. If a cause or
a context cannot be pickled, the other exceptions still arrive. In place of the missing exception, the receiver
makes a substitute from the name of its type and from its message. The same holds for the members of an exception group.

An exception's class is user code. So this module reads and writes causes, contexts and notes through the descriptors of
`BaseException`, which no class can replace.
"""

from __future__ import annotations

import collections
import pickle
import threading
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Callable, NamedTuple, TypeVar

from handout.serialization import exception_parts, user_objects
from handout.serialization.exception_parts import attributes_of
from handout.serialization.pickling import Segment, dumps, loads
from handout.serialization.user_objects import is_interruption, shortened, type_name

__all__ = [
    "Described", "NotSentError", "add_note", "cause_of", "describe", "dump_exception", "is_plain", "load_class",
    "load_exception", "message", "notes", "traceback_of", "traceback_text", "type_name",
]  # fmt: skip

T = TypeVar("T")

#: A function that takes the type name and the message of an exception, and returns a substitute for the exception.
Fallback = Callable[[str, str], BaseException]

#: At most this many exceptions of one chain are encoded.
_MAX_CHAIN = 32
#: At most this many exceptions of one chain are in the text of a traceback. Python's `traceback` has no limit.
_MAX_FORMATTED = 1000
#: The report of a failure contains at most this many characters of the traceback.
_MAX_TEXT = 64 << 10
#: At most this many notes of one exception are encoded.
_MAX_NOTES = 100

#: At most this many types count as overdue. Of more, the types that were overdue last count.
_MAX_OVERDUE = 1000

_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_SUPPRESS: Any = BaseException.__dict__["__suppress_context__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


class _Overdue(NamedTuple):
    """The calls that have loaded exceptions of one type, or the type itself, and were overdue."""

    #: How many they are, since the last call that returned in time.
    calls: int
    #: The thread of the last one, until the thread ends.
    thread: weakref.ref[threading.Thread]


#: By what is loaded, which is "exception" or "class", and the name of the type. The type that was overdue last comes
#: last.
_overdue: collections.OrderedDict[tuple[str, str], _Overdue] = collections.OrderedDict()


class NotSentError(Exception):
    """The process that raised an exception has sent only its class and its text. The message says why, as a clause."""


class Described(NamedTuple):
    """What a process tells another one about an exception."""

    type: str
    message: str
    #: The traceback.
    text: str
    #: What `load_exception` reads, or None.
    pickled: bytes | None
    #: True if user code did not return in time. It still runs, in a thread of this process.
    is_overdue: bool


def describe(exc: BaseException, most_bytes: int = 0) -> Described:
    """Describe an exception. This calls user code, and takes at most `user_objects.LIMIT_S` seconds.

    What user code does not give in time is replaced by a text that says so.

    Args:
        exc: The exception.
        most_bytes: The largest size of the pickled exception. If 0, the exception is not pickled. Of a larger
            exception, only the class is pickled.
    """
    name = type_name(exc)
    silent = f"<no text: Handout stopped waiting for str() after {user_objects.LIMIT_S:g} s>"
    found = Described(name, silent, _frames(exc) + f"{name}: {silent}\n", None, False)

    def work() -> None:
        nonlocal found
        said = message(exc)
        found = found._replace(message=said, text=_frames(exc) + f"{name}: {said}\n")
        found = found._replace(text=traceback_text(exc))
        if most_bytes:
            try:
                pickled = _dump(exc)
                if len(pickled) > most_bytes:
                    pickled = _dump(exc, f"pickled, it has {len(pickled)} bytes, and the most is {most_bytes}")
                found = found._replace(pickled=pickled)
            except BaseException:  # a metaclass may raise anything; the text goes without the exception
                return

    if is_plain(exc):
        work()
        return found
    try:
        user_objects.bounded(work)
    except user_objects.OverdueError:
        # The exception itself does not travel: its text would hang in the caller's program too.
        return found._replace(pickled=_class_alone(exc) if most_bytes else None, is_overdue=True)
    except RuntimeError:
        said = "<no text: the system has no thread left to call str() in>"
        return found._replace(message=said, text=_frames(exc) + f"{name}: {said}\n")
    return found


def is_plain(exc: BaseException) -> bool:
    """Return True if neither describing an exception nor loading it runs user code."""
    for each in _chain(exc):
        # For an AttributeError, Python looks for similar names, and asks the object that lacks the attribute.
        if issubclass(type(each), AttributeError) or not user_objects.is_plain(each):
            return False
        if not all(type(name) is str and _holds_atoms(value) for name, value in attributes_of(each).items()):
            return False
    return True


def _holds_atoms(value: object) -> bool:
    """Return True for an atom, and for a list of atoms, as the notes of an exception are."""
    return all(map(user_objects.is_atom, value)) if type(value) is list else user_objects.is_atom(value)


def _chain(exc: BaseException) -> list[BaseException]:
    """Return an exception, its causes and its contexts, at most `_MAX_FORMATTED` of them, the nearest ones first."""
    found, seen = [exc], {id(exc)}
    for each in found:  # the list grows meanwhile
        for other in (_CAUSE.__get__(each), _CONTEXT.__get__(each)):
            if other is not None and id(other) not in seen and len(found) < _MAX_FORMATTED:
                seen.add(id(other))
                found.append(other)
    return found


@contextmanager
def _cut_chain(exc: BaseException) -> Iterator[bool]:
    """Cut the chain of an exception where `_chain` ends, and join it afterwards. Yield True if there is a cut."""
    chain = _chain(exc)
    kept = {id(None), *map(id, chain)}
    cut = []
    for each in chain:
        cause, context, suppress = _CAUSE.__get__(each), _CONTEXT.__get__(each), _SUPPRESS.__get__(each)
        if not {id(cause), id(context)} <= kept:
            cut.append((each, (cause, context, suppress)))
            cause, context = (link if id(link) in kept else None for link in (cause, context))
            _set_links(each, cause, context, suppress)
    try:
        yield bool(cut)
    finally:
        for each, links in cut:
            _set_links(each, *links)


def _set_links(exc: BaseException, cause: Any, context: Any, suppress: Any) -> None:
    _CAUSE.__set__(exc, cause)
    _CONTEXT.__set__(exc, context)
    _SUPPRESS.__set__(exc, suppress)  # Python has set it together with the cause


def cause_of(exc: BaseException) -> BaseException | None:
    """Return the ``__cause__`` of an exception. This runs no code of its class."""
    found: BaseException | None = _CAUSE.__get__(exc)
    return found


def traceback_of(exc: BaseException) -> TracebackType | None:
    """Return the ``__traceback__`` of an exception. This runs no code of its class."""
    found: TracebackType | None = _TRACEBACK.__get__(exc)
    return found


def message(value: object) -> str:
    """Return the text of an exception or a note. If ``str`` raises an error, return a text that says this instead."""
    return user_objects.text(value)


def notes(exc: BaseException) -> list[str]:
    """Return the notes of an exception that are texts."""
    return [note for note in _raw_notes(exc) if type(note) is str]


def add_note(exc: BaseException, note: str) -> None:
    """Add a note to an exception, if the exception can take one.

    An exception cannot take notes if its ``__notes__`` is no list. Its class cannot refuse them: this function does not
    call ``add_note``, which the class may define, and sets no attribute.
    """
    held = attributes_of(exc).setdefault("__notes__", [])
    if type(held) is list:
        held.append(note)


def traceback_text(exc: BaseException) -> str:
    """Return the traceback as Python prints it, with its causes and contexts. Of a long text, the middle is missing.

    Of a chain of more than `_MAX_FORMATTED` exceptions, the text has the nearest ones.
    """
    try:
        with _cut_chain(exc) as is_cut:
            lines = traceback.format_exception(type(exc), exc, _TRACEBACK.__get__(exc))
        if is_cut:
            lines.insert(0, f"[only the last {_MAX_FORMATTED} exceptions of the chain]\n\n")
    except BaseException as error:
        said = f"{type_name(exc)}: {message(exc)} (formatting the traceback raised {type_name(error)})\n"
        return shortened(_frames(exc) + said, _MAX_TEXT)
    return shortened("".join(lines), _MAX_TEXT)


def _frames(exc: BaseException) -> str:
    """Return the part of the traceback that lists the frames. This calls no method of the exception."""
    trace = _TRACEBACK.__get__(exc)
    return "Traceback (most recent call last):\n" + "".join(traceback.format_tb(trace)) if trace is not None else ""


def _blob(exc: BaseException) -> bytes | None:
    """Return `exc` as bytes. Return None if `exc` cannot be pickled, or if the bytes do not load as the same type.

    If the way in which the class pickles its exceptions fails, the exception is pickled by its parts.
    """
    for value in (exc, exception_parts.Parts(exc)):
        try:
            data = b"".join(dumps(value))
            if type_name(loads(data)) == type_name(exc):
                return data
        except BaseException:  # pickling and loading run user code, which may raise any exception
            continue
    return None


def dump_exception(exc: BaseException) -> tuple[bytes, str]:
    """Return `exc` as bytes, and its traceback as text.

    The bytes also hold the class of an exception that may not load, if the class can be pickled. If `exc` itself cannot
    be pickled, the bytes hold its class and the other exceptions of its chain.
    """
    return _dump(exc), traceback_text(exc)


def _dump(exc: BaseException, not_sent: str = "") -> bytes:
    """Return an exception as bytes. If ``not_sent`` says why the exceptions are not sent, only their class and text."""
    chain: list[dict[str, Any]] = []
    numbers: dict[int, int] = {}

    def add(each: Any) -> int:
        """Add an exception, its cause and its context to the chain, and return the exception's index in the chain.

        Return -1 if there is no exception, or if the chain is full.
        """
        if each is None or len(chain) >= _MAX_CHAIN:
            return -1
        if id(each) in numbers:
            return numbers[id(each)]
        number = numbers[id(each)] = len(chain)
        entry: dict[str, Any] = {
            "blob": None if not_sent else _blob(each),
            "type": type_name(each),
            "message": message(each),
        }
        chain.append(entry)
        entry["notes"] = [message(note) for note in _raw_notes(each)]
        if entry["blob"] is None and not not_sent and exception_parts.is_group(each):
            shell, members = exception_parts.group_shell(each)
            entry["shell"], entry["members"] = _value_blob(shell), [add(member) for member in members]
        entry["cause"], entry["context"] = add(_CAUSE.__get__(each)), add(_CONTEXT.__get__(each))
        entry["suppress"] = _SUPPRESS.__get__(each)
        return number

    add(exc)
    chain[0]["plain"], chain[0]["not_sent"] = is_plain(exc), not_sent
    if chain[0]["blob"] is None or not chain[0]["plain"]:
        chain[0]["class"] = _value_blob(type(exc))
    return pickle.dumps(chain, 5)


def _class_alone(exc: BaseException) -> bytes:
    """Return bytes from which `load_class` loads the class of an exception, but `load_exception` no exception."""
    try:
        found = user_objects.bounded(lambda: _value_blob(type(exc)), user_objects.LIMIT_S / 5)
    except (user_objects.OverdueError, RuntimeError):
        found = None
    said = "Handout stopped waiting for the methods of its class, such as __str__ or __reduce__ "
    entry: dict[str, Any] = {"blob": None, "class": found, "type": type_name(exc), "message": "", "notes": []}
    entry["not_sent"] = f"{said}after {user_objects.LIMIT_S:g} s"
    return pickle.dumps([{**entry, "cause": -1, "context": -1, "suppress": True}], 5)


def _raw_notes(exc: BaseException) -> list[Any]:
    found: Any = attributes_of(exc).get("__notes__")
    return list(found[:_MAX_NOTES]) if type(found) in (list, tuple) else []


def _value_blob(value: Any) -> bytes | None:
    """Return a class, or what `exception_parts.group_shell` made, as bytes, or None if it cannot be pickled."""
    try:
        return b"".join(dumps(value))
    except BaseException:  # a metaclass or an attribute is user code
        return None


def load_class(blob: Segment) -> type[BaseException] | None:
    """Return the class of an exception that `dump_exception` encoded, if the class itself can be loaded here.

    `dump_exception` encodes the class of each exception that may not load. Loading it takes at most
    `user_objects.LIMIT_S` seconds.
    """
    entry: dict[str, Any] = pickle.loads(blob)[0]
    found = entry.get("class")
    if found is None:
        return None
    try:
        kind = _in_time("class", entry, lambda: loads(found))
    except BaseException as error:  # a module may be missing, and may raise anything when it is imported
        if is_interruption(error):
            raise
        return None
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else None


def load_exception(
    blob: Segment,
    fallback: Fallback | None = None,
    first: Callable[[BaseException | None], BaseException] | None = None,
) -> BaseException:
    """Return the exception that `dump_exception` encoded, with its causes and contexts.

    This runs user code, and takes at most `user_objects.LIMIT_S` seconds.

    Args:
        blob: The bytes.
        fallback: Makes the substitute for an exception that has no bytes or cannot be loaded in this process. Default:
            a plain `Exception` replaces it.
        first: Makes the substitute for the first exception of the chain. It takes the error that loading the exception
            raised, or None if the exception has no bytes. Default: `fallback` makes it.

    Raises:
        Exception: Neither `fallback` nor `first` was given, and loading the first exception of the chain raised this
            error.
        OverdueError: User code did not return in time, or still loads an earlier exception of the same type.
        RuntimeError: No thread could be started.
    """
    chain: list[dict[str, Any]] = pickle.loads(blob)
    return _in_time("exception", chain[0], lambda: _load_chain(chain, fallback, first))


def _in_time(what: str, entry: dict[str, Any], load: Callable[[], T]) -> T:
    """Call ``load``, which loads the exception of an entry or its class, within `user_objects.LIMIT_S` seconds.

    After an overdue call, nothing else of that type is loaded until the call's thread ends. The limit of the next call
    is half of the limit before, until a call returns in time. So the waits of overdue calls in a row sum to at most
    ``2 * LIMIT_S``, however many exceptions of the type arrive. The class has waits of its own, because it often loads
    where its exceptions do not.
    """
    if entry.get("plain"):
        return load()
    key = what, entry["type"]
    before = _overdue.get(key)
    thread = None if before is None else before.thread()
    if thread is not None and thread.is_alive():
        raise user_objects.OverdueError(f"an earlier {what} of this type is still being loaded", thread)
    count = 0 if before is None else before.calls
    try:
        found = user_objects.bounded(load, user_objects.LIMIT_S * 0.5**count)
    except user_objects.OverdueError as error:
        _overdue[key] = _Overdue(count + 1, weakref.ref(error.thread))
        _overdue.move_to_end(key)
        if len(_overdue) > _MAX_OVERDUE:
            _overdue.popitem(last=False)
        raise
    _overdue.pop(key, None)
    return found


def _load_chain(
    chain: list[dict[str, Any]],
    fallback: Fallback | None,
    first: Callable[[BaseException | None], BaseException] | None,
) -> BaseException:
    loaded: dict[int, BaseException] = {}

    def load(number: int) -> BaseException:
        if number not in loaded:
            entry = chain[number]
            members = [load(member) if member >= 0 else _left_out() for member in entry.get("members", ())]
            made, problem = _load_entry(entry, members)
            if made is None:
                if number == 0 and first is not None:
                    made = first(problem)
                elif number == 0 and fallback is None:
                    raise problem or pickle.UnpicklingError(f"{entry['type']} has no bytes")
                else:
                    made = (fallback or _plain)(entry["type"], entry["message"])
            if entry["notes"]:
                attributes_of(made)["__notes__"] = list(entry["notes"])
            loaded[number] = made
        return loaded[number]

    for number, entry in enumerate(chain):
        exc = load(number)
        cause, context = (load(entry[link]) if entry[link] >= 0 else None for link in ("cause", "context"))
        _set_links(exc, cause, context, entry["suppress"])
    return loaded[0]


def _load_entry(
    entry: dict[str, Any], members: list[BaseException]
) -> tuple[BaseException | None, BaseException | None]:
    """Return the exception of an entry, or None and the error that loading it raised, if any."""
    try:
        if entry["blob"] is not None:
            made = loads(entry["blob"])
        elif entry.get("shell") is not None:
            made = exception_parts.group_from(loads(entry["shell"]), members)
        else:
            return None, NotSentError(entry["not_sent"]) if entry.get("not_sent") else None
    except BaseException as problem:  # a module may be missing, and user code may raise any exception
        if is_interruption(problem):
            raise
        return None, problem
    if not issubclass(type(made), BaseException):
        return None, TypeError(f"the bytes hold an object of type {type_name(made)}")
    return made, None


def _left_out() -> BaseException:
    return Exception("This exception was left out, because the group has too many.")


def _plain(name: str, text: str) -> BaseException:
    return Exception(f"{name}: {text}")
