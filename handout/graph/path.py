"""Paths to elements of results: records them for `Output.pick`, and compares them."""

from __future__ import annotations

import numbers
import pickle
from collections.abc import Callable, Hashable
from typing import Any, NoReturn

from handout.errors import GraphError
from handout.graph.value_uses import USES
from handout.serialization.calls import Path
from handout.serialization.user_objects import brief, is_interruption

__all__ = ["own_key", "path_key", "record_path"]


def own_key(key: Any) -> Any:
    """Return a key for a path: the key itself, or a copy if the caller might change it later.

    A path names one element for ever. If an array of indices were changed, results of the old element would be taken
    for those of the new one.
    """
    if type(key) is str or type(key) is int:
        return key
    try:
        hash(key)
        return key
    except BaseException as error:  # a class of the user may raise anything
        if is_interruption(error):
            raise
    try:
        return pickle.loads(pickle.dumps(key, 5))
    except BaseException as error:  # such a key cannot travel, which the run will say
        if is_interruption(error):
            raise
    return key


def path_key(path: Path) -> Hashable:
    """Return a hashable key. Two paths with equal keys lead to the same element of any value.

    Numbers of different kinds differ here, because an array has other elements at True than at 1. A key that cannot be
    hashed, such as an array of indices, counts with its pickled bytes: its text may leave out parts of it. If it cannot
    be pickled either, only the very same object is equal to it.
    """
    return tuple([(kind, _key_of(key)) for kind, key in path])


def _key_of(key: Any) -> Hashable:
    kind = type(key)
    if kind is tuple:
        return kind, tuple(map(_key_of, key))
    if kind is slice:
        return kind, _key_of(key.start), _key_of(key.stop), _key_of(key.step)
    try:
        hash(key)
    except BaseException as error:  # a class of the user may raise anything
        if is_interruption(error):
            raise
    else:
        return _number_kind(key), key
    try:
        return kind, pickle.dumps(key, 5)
    except BaseException as error:  # a class of the user may raise anything
        if is_interruption(error):
            raise
    return kind, id(key)


def _number_kind(key: Any) -> str:
    """Return "bool" for a truth value, "number" for another number that is not an integer, and "" for any other key."""
    kind = type(key)
    if kind is int or kind is str:
        return ""
    if issubclass(kind, bool) or kind.__name__ in ("bool", "bool_"):  # the truth values of numpy have such names
        return "bool"
    return "number" if issubclass(kind, numbers.Number) and not issubclass(kind, numbers.Integral) else ""


class _Recorder:
    """The object that `Output.pick` passes to its callable. It records the attributes and items that are read."""

    __slots__ = ("_steps",)

    def __init__(self, steps: Path) -> None:
        object.__setattr__(self, "_steps", steps)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            return object.__getattribute__(self, name)
        return _Recorder((*_steps_of(self), ("attr", name)))

    def __getitem__(self, key: Any) -> _Recorder:
        if type(key) is _Recorder:
            _refuse()
        return _Recorder((*_steps_of(self), ("item", own_key(key))))

    def _refuse_all(self, *_: object, **__: object) -> NoReturn:
        _refuse()

    __setattr__ = __delattr__ = __eq__ = __ne__ = __hash__ = __str__ = __repr__ = _refuse_all


for _name in USES:
    setattr(_Recorder, _name, _Recorder._refuse_all)


class _RefusedError(Exception):
    """The callable did something that a recorder refuses.

    Only recorders raise this class, so `record_path` cannot mistake another error in the callable for a refusal.
    """


def _refuse() -> NoReturn:
    raise _RefusedError


def _steps_of(recorder: _Recorder) -> Path:
    steps: Path = object.__getattribute__(recorder, "_steps")
    return steps


def record_path(pick: Callable[[Any], Any], id: str) -> Path:
    """Return the path that a callable follows from its argument.

    Args:
        pick: A callable such as ``lambda m: m.weights["a"][0]``.
        id: Id of the output, for the message.

    Raises:
        GraphError: The callable did anything other than follow attributes and items and return the element.
    """
    if not callable(pick):
        step = f".{pick}" if type(pick) is str and pick.isidentifier() else f"[{brief(pick)}]"
        raise GraphError(
            f"pick on {id!r} takes a callable, and {brief(pick)} is not callable.",
            remedy=f"Write pick(lambda r: r{step}).",
        )
    try:
        picked = pick(_Recorder(()))
    except _RefusedError:
        picked = None
    if type(picked) is not _Recorder:
        raise GraphError(
            f"the callable given to pick on {id!r} may only follow attributes and items, and must return the element.",
            remedy="Write a callable such as 'lambda m: m.weights[0]'. For anything else, add a function that takes "
            "the output.",
        )
    return _steps_of(picked)
