"""A call as bytes: the arguments of one task, with marks where other tasks' results go.

The blob is a pickled ``(args, kwargs, paths, fills)``. Arguments that are results as a whole (the common case)
are filled in by position, so that neither end runs Python code for each; results inside lists, dicts and
objects are marks that the unpickler resolves.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Union

from handout.serialization.exceptions import message
from handout.serialization.pickling import LoadError, Pickler, Segment, Snapshot, encode, loads

#: How to reach an element: ``("item", key)`` or ``("attr", name)`` steps.
Path = tuple[tuple[str, Any], ...]
Resolve = Callable[[Any], Any]

#: What is written as it is, whoever looks.
PLAIN_TYPES = frozenset({type(None), bool, int, float, str, bytes, complex})


class Slot:
    """Where the result number `index` of a task's inputs goes."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Inline:
    """Where the result of a call goes that is made inside the consumer: once, however often it is meant."""

    __slots__ = ("args", "fn", "kwargs")

    def __init__(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.fn, self.args, self.kwargs = fn, tuple(args), dict(kwargs)


class Loaded:
    """Where a value goes that ``load`` makes, on the consumer's host, of what another mark stands for."""

    __slots__ = ("load", "mark")

    def __init__(self, mark: Mark, load: Callable[[Any], Any]) -> None:
        self.mark, self.load = mark, load


class Taken:
    """Where an element goes that is taken, inside the consumer, of what another mark stands for."""

    __slots__ = ("mark", "path")

    def __init__(self, mark: Mark, path: Path) -> None:
        self.mark, self.path = mark, path


Mark = Union[Slot, Inline, Loaded, Taken]


class _Raised(BaseException):
    """Carries what user code raised out of the unpickler, apart from what the unpickler itself raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Local(threading.local):
    slot: Callable[[int], Any] | None = None


_local = _Local()


def apply_path(value: Any, path: Path) -> Any:
    """The element of `value` at `path`."""
    for step, key in path:
        value = value[key] if step == "item" else getattr(value, key)
    return value


# ---- writing ---------------------------------------------------------------------------------------------


class CallPickler(Pickler):
    """Asks `resolve` about each object that could be a promise."""

    def __init__(self, file: Any, snapshot: Snapshot, resolve: Resolve, **options: Any) -> None:
        super().__init__(file, snapshot, **options)
        self.resolve = resolve

    def reducer_override(self, obj: Any) -> Any:
        reduce = _MARKS.get(type(obj))
        if reduce is not None:
            return reduce(obj)
        mark = self.resolve(obj)
        if mark is None:
            return super().reducer_override(obj)
        return _same, (mark,)


def dumps_call(
    args: Sequence[Any], kwargs: Mapping[str, Any], paths: Sequence[Path], resolve: Resolve,
    snapshot: Snapshot | None = None,
) -> list[Segment]:  # fmt: skip
    """Encode one call.

    Args:
        args: Positional arguments, promises of other results among them at any depth.
        kwargs: Keyword arguments, likewise.
        paths: Elements of the result that go out as objects of their own.
        resolve: Gives the mark of an object that promises a result, None for any other. The same mark object
            for the same inline call, so that it is made once.
        snapshot: Of the run that the call belongs to.
    """
    fills: list[tuple[int, int]] | None = None
    plain = not kwargs
    if plain:
        for position, arg in enumerate(args):
            if type(arg) in PLAIN_TYPES:
                continue
            mark = resolve(arg)
            if not isinstance(mark, Slot):
                plain = False
                break
            fills = [*(fills or ()), (position, mark.index)]
    if not plain:
        call = tuple(args), kwargs or None, tuple(paths) or None, None
        return encode(CallPickler, call, snapshot or Snapshot(), resolve=resolve)
    if fills:
        holes = list(args)
        for position, _ in fills:
            holes[position] = None
        args = holes
    return [pickle.dumps((tuple(args), None, tuple(paths) or None, fills), 5)]


# ---- reading ---------------------------------------------------------------------------------------------


def _fill(index: int) -> Any:
    if _local.slot is None:
        raise LoadError("a promise was loaded outside a call")
    return _local.slot(index)


def _same(value: Any) -> Any:
    return value


def _load(value: Any, load: Callable[[Any], Any]) -> Any:
    return _user(load, (value,), {})


def _take(value: Any, path: Path) -> Any:
    return _user(apply_path, (value, path), {})


def _user(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        value = fn(*args, **kwargs)
        return _wait(value) if inspect.iscoroutine(value) else value
    except BaseException as error:
        raise _Raised(error) from None


def _wait(coroutine: Any) -> Any:
    """Run a coroutine from code that is not async, in a thread where this one has a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: list[Any] = []

    def body() -> None:
        try:
            outcome.extend((asyncio.run(coroutine), None))
        except BaseException as error:
            outcome.extend((None, error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    value, error = outcome
    if error is not None:
        raise error
    return value


_MARKS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    Slot: lambda mark: (_fill, (mark.index,)),
    Inline: lambda mark: (_user, (mark.fn, mark.args, mark.kwargs)),
    Loaded: lambda mark: (_load, (mark.mark, mark.load)),
    Taken: lambda mark: (_take, (mark.mark, mark.path)),
}


def load_call(data: Segment, slot: Callable[[int], Any]) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Path, ...]]:
    """Decode one call, asking `slot` for each input that it needs (once each).

    Returns: The arguments, the keyword arguments, and the paths of elements to take from the result.
    Raises:
        LoadError: The bytes could not become values here: a module is missing, another version of Python.
        BaseException: Whatever an inline function or an ``Arg``'s ``load`` raised: user code, not ours.
    """
    asked: dict[int, Any] = {}

    def once(index: int) -> Any:
        if index not in asked:
            asked[index] = slot(index)
        return asked[index]

    outer, _local.slot = _local.slot, once
    users: BaseException
    try:
        args, kwargs, paths, fills = loads(data)
        if fills:
            holes = list(args)
            for position, index in fills:
                holes[position] = once(index)
            args = tuple(holes)
        return args, kwargs or {}, paths or ()
    except _Raised as raised:
        users = raised.error
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"the arguments could not be loaded: {type(error).__name__}: {message(error)}") from error
    finally:
        _local.slot = outer
    raise users  # outside of the handler, which would become its context
