"""Turns a call into bytes and back.

A call consists of the arguments of one task. The bytes do not contain the task's inputs, such as the results of other
tasks. Placeholders stand for the values that come from inputs or from inline functions.

The bytes are a pickled tuple ``(args, kwargs, paths, fills)``. ``paths`` says which elements of the task's result
become separate objects. In most calls, there are no keyword arguments, and each argument is a plain value, one whole
input, or a list or tuple of whole inputs. In the pickle of such a call, None takes the place of each argument that is
made of inputs, and ``fills`` holds a pair ``(position, fill)`` for each of them: its position among the arguments, and
the index of the input, or a list or tuple of such indices. No Python code runs while such a call is pickled or
unpickled. In any other call, ``fills`` is None. The pickle then contains the placeholders, and the unpickler replaces
them by their values.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Union

from handout.serialization.exceptions import add_note, message, notes
from handout.serialization.pickling import LoadError, Pickler, Segment, Snapshot, encode, loads
from handout.serialization.user_objects import brief, type_name

#: The steps that lead to an element of a value. Each step is ``("item", key)`` or ``("attr", name)``.
Path = tuple[tuple[str, Any], ...]
#: A function that returns the placeholder for an object that stands for a result, such as an output. For any other
#: object, it returns None.
Resolve = Callable[[Any], Any]

#: Indices among a task's inputs: of one input, or of each input in a list or tuple.
Fill = Union[int, Sequence[int]]

#: Types whose values cannot contain a placeholder.
PLAIN_TYPES = frozenset({type(None), bool, int, float, str, bytes, complex})


@dataclass(frozen=True)
class Slot:
    """A placeholder for one of the task's inputs.

    Attributes:
        index: The position of the input among the task's inputs.
    """

    __slots__ = ("index",)
    index: int


class Accompanied(NamedTuple):
    """A function, with the classes that the caller has registered with `handout.trust` and that are sent by value.

    A worker reads the results of a host with ``trust="data"`` as data. It makes objects of a class only if it has the
    class already. The function of its task may use such objects without naming their class.
    """

    fn: Callable[..., Any]
    classes: tuple[type, ...]


@dataclass(frozen=True, eq=False)
class Inline:
    """A placeholder for the result of an inline function, which does not run as a task of its own.

    The task that takes the result calls the function while it loads its arguments. The task makes one call for each
    `Inline` object, so arguments that share one call must contain the same `Inline` object.
    """

    __slots__ = ("args", "fn", "kwargs")
    fn: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A placeholder for the value that a function of an ``Arg`` returns.

    The task that takes the value calls this function on its own host, with the value that ``placeholder`` stands for.
    The function is the ``load`` of the ``Arg``, or its ``dump`` if an inline function makes the value.
    """

    __slots__ = ("load", "placeholder")
    placeholder: Placeholder
    load: Callable[[Any], Any]


@dataclass(frozen=True)
class Taken:
    """A placeholder for an element of another placeholder's value. The task takes the element out of that value."""

    __slots__ = ("path", "placeholder")
    placeholder: Placeholder
    path: Path


@dataclass(frozen=True)
class Warmed:
    """A placeholder for a value that the worker makes once and keeps: a warm value.

    The value is made by a recipe, which is a call as `dumps_call` writes it. Its positional arguments are the name of
    the value, the seconds that the function which makes it may take, this function, and the function's arguments.

    Attributes:
        identity: 16 bytes that are equal for recipes of the same function with the same arguments, apart from inputs.
        recipe: The input that is the recipe.
        inputs: The inputs that the recipe takes.
        nested: The first so many of them are recipes themselves. The identity has a part for each of them, so equal
            values need not have the same objects in these places.
    """

    __slots__ = ("identity", "inputs", "nested", "recipe")
    identity: bytes
    recipe: Slot
    inputs: tuple[Slot, ...]
    nested: int


Placeholder = Union[Slot, Inline, Loaded, Taken, Warmed]
#: A function that returns the value of a `Warmed`. Its arguments are those of the `Warmed`, with indices for slots.
GetWarm = Callable[[bytes, int, Sequence[int], int], Any]


class _UserCodeError(BaseException):
    """Carries an exception of user code through the unpickler, so that `load_call` can tell it from other errors."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Reading(threading.local):
    """For each thread, the functions that return the inputs and the warm values of the call that it is decoding."""

    get_input: Callable[[int], Any] | None = None
    get_warm: GetWarm | None = None


_reading = _Reading()


def apply_path(value: Any, path: Path) -> Any:
    """Return the element of `value` at `path`. If there is no such element, a note of the error says which was taken.

    Raises:
        BaseException: The value raised it.
    """
    element = value
    try:
        for step, key in path:
            element = element[key] if step == "item" else getattr(element, key)
    except BaseException as error:  # code of the user may raise anything
        where = f"the element value{path_text(path)} was taken from a value of type {type_name(value)}"
        note = f"It was raised while {where}."
        if note not in notes(error):  # the value may raise the same object again
            add_note(error, note)
        raise
    return element


def path_text(path: Path) -> str:
    """Return a path as the Python code that would follow the value, such as ``['weights'][0].name``."""
    return "".join(f"[{_key_text(key)}]" if kind == "item" else f".{key}" for kind, key in path)


def _key_text(key: Any) -> str:
    if isinstance(key, slice):
        parts = (key.start, key.stop) if key.step is None else (key.start, key.stop, key.step)
        return ":".join("" if part is None else _key_text(part) for part in parts)
    return repr(key) if type(key) is str else brief(key)


# ---- writing ---------------------------------------------------------------------------------------------


class CallPickler(Pickler):
    """Pickles a call. If `resolve` returns a placeholder for an object, the pickle holds this placeholder instead."""

    def __init__(self, file: Any, snapshot: Snapshot, resolve: Resolve, **options: Any) -> None:
        super().__init__(file, snapshot, **options)
        self.resolve = resolve

    def reducer_override(self, obj: Any) -> Any:
        reduce = _REDUCERS.get(type(obj))
        if reduce is not None:
            return reduce(obj)
        placeholder = self.resolve(obj)
        if placeholder is None:
            return super().reducer_override(obj)
        return _same, (placeholder,)


def dumps_call(
    args: Sequence[Any], kwargs: Mapping[str, Any], paths: Sequence[Path], resolve: Resolve,
    snapshot: Snapshot | None = None,
) -> list[Segment]:  # fmt: skip
    """Encode one call.

    Args:
        args: Positional arguments. They may contain objects that stand for results, at any depth.
        kwargs: Keyword arguments. They may contain such objects, too.
        paths: Paths of the elements of the task's result that become separate objects.
        resolve: Returns the placeholder of an object, as `Resolve` describes. Each time that it is asked about the same
            inline call, it must return the same `Inline` object, so that the task makes that call only once.
        snapshot: Keeps the functions and classes that the run has already pickled. Default: a new snapshot.
    """
    fills: list[tuple[int, int]] | None = None
    plain = not kwargs
    if plain:
        for position, arg in enumerate(args):
            if type(arg) in PLAIN_TYPES:
                continue
            placeholder = resolve(arg)
            if not isinstance(placeholder, Slot):
                plain = False
                break
            fills = [*(fills or ()), (position, placeholder.index)]
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
    if _reading.get_input is None:
        raise LoadError("the bytes contain a placeholder for an input, but they are not the arguments of a call")
    return _reading.get_input(index)


def _warm(identity: bytes, recipe: int, inputs: Sequence[int], nested: int) -> Any:
    if _reading.get_warm is None:
        raise LoadError("the bytes contain a placeholder for a warm value, but they are not the arguments of a task")
    return _reading.get_warm(identity, recipe, inputs, nested)


def _same(value: Any) -> Any:
    return value


def _load(value: Any, load: Callable[[Any], Any]) -> Any:
    return _call_user_code(load, (value,), {})


def _take(value: Any, path: Path) -> Any:
    return _call_user_code(apply_path, (value, path), {})


def _call_user_code(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        value = fn(*args, **kwargs)
        return _wait(value) if type(value) is types.CoroutineType else value
    except BaseException as error:
        raise _UserCodeError(error) from None


def _wait(coroutine: Any) -> Any:
    """Run a coroutine to its end, and return its result.

    If this thread already runs an event loop, another thread runs the coroutine, and this thread waits.
    """
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


_REDUCERS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    Slot: lambda slot: (_fill, (slot.index,)),
    Inline: lambda call: (_call_user_code, (call.fn, tuple(call.args), dict(call.kwargs))),
    Loaded: lambda loaded: (_load, (loaded.placeholder, loaded.load)),
    Taken: lambda taken: (_take, (taken.placeholder, taken.path)),
    Warmed: lambda warmed: (
        _warm,
        (warmed.identity, warmed.recipe.index, tuple([slot.index for slot in warmed.inputs]), warmed.nested),
    ),
}


def load_call(
    data: Segment, get_input: Callable[[int], Any], get_warm: GetWarm | None = None
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Path, ...]]:
    """Decode one call.

    Args:
        data: The segments that `dumps_call` returned, joined together.
        get_input: Returns the input with the given index. It is called only once for each input.
        get_warm: Returns a warm value. An error that it raises is raised here, if it is no `Exception`.

    Returns: The positional arguments, the keyword arguments, and the paths of elements to take from the result.
    Raises:
        LoadError: The bytes cannot be loaded on this host, for example because a module is missing.
        BaseException: User code raised it: an inline function, a function of an ``Arg``, or the look-up of an element.
    """
    asked: dict[int, Any] = {}

    def once(index: int) -> Any:
        if index not in asked:
            asked[index] = get_input(index)
        return asked[index]

    outer = _reading.get_input, _reading.get_warm
    _reading.get_input, _reading.get_warm = once, get_warm
    user_error: BaseException
    try:
        args, kwargs, paths, fills = loads(data)
        if fills:
            holes = list(args)
            for position, fill in fills:
                holes[position] = once(fill) if type(fill) is int else type(fill)(map(once, fill))
            args = tuple(holes)
        return args, kwargs or {}, paths or ()
    except _UserCodeError as raised:
        user_error = raised.error
    except LoadError:
        raise
    except Exception as error:
        if isinstance(error, TypeError) and message(error).startswith("unhashable type"):
            # The caller's set or dict has a promise there, which is hashable. On another host, the same would happen.
            user_error = TypeError(
                f"{message(error)}. A set, or a key of a dict, in the arguments is an output or a Warm, and its value "
                "cannot be one. Pass it in a list, or as a value of the dict."
            )
        else:
            said = f"the arguments could not be loaded: {type(error).__name__}: {message(error)}"
            raise LoadError(said) from error
    finally:
        _reading.get_input, _reading.get_warm = outer
    raise user_error  # after the handler, because inside it Python would set _UserCodeError as the error's context
