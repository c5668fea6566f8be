"""Finds the part of a value that prevents the value from being pickled, such as ``args[1].model.lock``."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Callable

from handout.serialization import functions_by_value
from handout.serialization.pickling import UNPICKLABLE_TYPES, Segment, Snapshot, dumps, is_refused
from handout.serialization.user_objects import brief, is_interruption, short_name, text, type_name

#: A search tries to pickle at most this many objects. Then it names the innermost failing part that it has found.
_MAX_TRIED = 2000
#: A path shows at most this many characters of a key.
_MAX_KEY = 80


class CannotPickleError(TypeError):
    """A value cannot be pickled.

    Attributes:
        path: Path to the part that cannot be pickled, such as ``args[1].model.lock``.
        type: Name of that part's type.
        reason: Message of the error that pickling that part raised.
    """

    def __init__(self, path: str, type: str, reason: str) -> None:
        super().__init__(path, type, reason)
        self.path, self.type, self.reason = path, type, reason

    def __str__(self) -> str:
        return f"{self.path} ({self.type}) cannot be sent to another process: {self.reason}"


def find_unpicklable(value: Any, path: str, pickle_part: Callable[[Any], Any] | None = None) -> CannotPickleError:
    """Find the innermost part of `value` that cannot be pickled, and return an error that names this part.

    Args:
        value: The value that could not be pickled.
        path: The name of `value`. The path in the error begins with this name.
        pickle_part: Function that pickles a part, or raises an error. Default: `dumps` with a new snapshot.
    """
    search = _Search(pickle_part or (lambda part: dumps(part, Snapshot())))
    reason = search.refusal(value)
    while _has_parts(value) and not isinstance(reason, RecursionError):
        found = search.refused_part(value)
        if found is None:
            break
        step, value, reason = found
        path += step
    return CannotPickleError(path, type_name(value), _said(reason))


def _has_parts(value: Any) -> bool:
    """Return True if the parts of a value may explain why the value cannot be pickled.

    The parts of Handout's own objects, such as an output, mean nothing to the user.
    """
    kind = type(value)
    is_whole = issubclass(kind, UNPICKLABLE_TYPES) or is_refused(value)
    return not is_whole and not type_name(value).startswith("handout.")


def largest_part(value: Any, path: str) -> tuple[str, Any]:
    """Return the path of the part of `value` that takes most bytes when it is pickled, and the part.

    If no part takes half of the bytes, return `value` itself.

    Args:
        value: A value that can be pickled.
        path: The name of `value`. The path that is returned begins with this name.
    """
    whole = pickled_size(value)
    tried = 0
    while tried < _MAX_TRIED:
        for step, part in _parts(value):
            tried += 1
            if 2 * pickled_size(part) > whole:
                path, value = path + step, part
                break
        else:
            break
        if not issubclass(type(value), (dict, list, tuple, types.FunctionType)):
            break
    return path, value


def pickled_size(part: Any) -> int:
    """Return how many bytes an object takes when it is pickled, or 0 if it cannot be pickled by itself."""
    try:
        return sum(memoryview(segment).nbytes for segment in dumps(part, Snapshot()))
    except BaseException as error:  # a part may be picklable only inside the whole, and a __reduce__ may raise anything
        if is_interruption(error):
            raise
        return 0


def _said(reason: BaseException | None) -> str:
    if reason is None:
        return "pickling failed, but succeeded when tried again"
    # The text of most errors speaks for itself, but that of a `SystemExit` may be a mere number.
    return text(reason) if issubclass(type(reason), Exception) else f"{short_name(reason)}: {text(reason)}"


class _Search:
    def __init__(self, pickle_part: Callable[[Any], Any]) -> None:
        self.pickle_part = pickle_part
        self.seen: list[Any] = []
        self.ids: set[int] = set()

    def refused_part(self, value: Any) -> tuple[str, Any, BaseException] | None:
        """Return the first part of `value` that cannot be pickled, with the step to it and the error."""
        try:
            for step, part in _parts(value):
                why = self.refusal(part)
                if why is not None:
                    return step, part, why
        except BaseException as error:  # reading an attribute may run user code, such as a property
            if is_interruption(error):
                raise
            return None
        return None

    def refusal(self, part: Any) -> BaseException | None:
        """Try to pickle `part`, and return the error that this raises.

        Return None if no error is raised, if `part` was tried before, or if the limit of tries is reached.
        """
        if id(part) in self.ids or len(self.seen) >= _MAX_TRIED:
            return None
        self.ids.add(id(part))
        self.seen.append(part)  # keeps the part alive, because Python may give a dead object's id to another object
        try:
            self.pickle_part(part)
        except BaseException as error:  # a __reduce__ may raise anything, also SystemExit
            if is_interruption(error):
                raise
            return error
        return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield ``(step, part)`` for each part of `value`. The step, such as ``[0]``, leads from `value` to the part."""
    kind = type(value)  # not `isinstance`, which asks the value for its ``__class__``
    if issubclass(kind, dict):
        for key, item in value.items():
            yield f"[{brief(key, _MAX_KEY)}]", item
            yield f"[key {brief(key, _MAX_KEY)}]", key
    elif issubclass(kind, (list, tuple)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif issubclass(kind, (set, frozenset)):
        for item in value:
            yield f"{{{brief(item, _MAX_KEY)}}}", item
    if issubclass(kind, types.FunctionType):
        yield from _function_parts(value)
    elif issubclass(kind, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif issubclass(kind, type):
        yield from (
            (f".{name}", part) for name, part in list(vars(value).items()) if name not in ("__dict__", "__weakref__")
        )
        yield from ((f".__bases__[{index}]", base) for index, base in enumerate(value.__bases__))
        yield ".__class__", type(value)
    else:
        yield from _attributes(value)


def _function_parts(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name in functions_by_value.names_in(fn.__code__).used:
        if name in fn.__globals__:
            yield f".<global {name}>", fn.__globals__[name]
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or ()):
        try:
            yield f".<closure {name}>", cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
    for index, default in enumerate(fn.__defaults__ or ()):
        yield f".<default {index}>", default
    for name, part in {**(fn.__kwdefaults__ or {}), **fn.__dict__}.items():
        yield f".{name}", part


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    for name, part in list(getattr(value, "__dict__", {}).items()):
        yield f".{name}", part
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                yield f".{name}", getattr(value, name)
    for name in ("fget", "fset", "__func__", "func", "args", "keywords", "__wrapped__"):
        part = getattr(value, name, None)
        if part is not None and not issubclass(type(value), types.ModuleType):
            yield f".{name}", part
    yield ".__class__", type(value)


def dumps_or_diagnose(value: Any, path: str, snapshot: Snapshot | None = None) -> list[Segment]:
    """Encode `value` as `dumps` does.

    Raises:
        CannotPickleError: A part of `value` cannot be pickled. The error's path begins with `path`.
    """
    try:
        return dumps(value, snapshot)
    except BaseException as error:  # a __reduce__ may raise anything
        if is_interruption(error):
            raise
        raise find_unpicklable(value, path) from error
