"""Paths to elements of results: records them for `Output.pick`, writes them as text, and compares them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NoReturn

from handout.errors import GraphError
from handout.graph.value_uses import USES
from handout.serialization.calls import Path
from handout.serialization.user_objects import brief

__all__ = ["path_key", "path_text", "record_path"]


def path_text(path: Path) -> str:
    """Return a path as the Python code that would follow the value, such as ``['weights'][0].name``."""
    return _text(path, lambda key: repr(key) if type(key) is str else brief(key))


def _text(path: Path, said: Callable[[Any], str]) -> str:
    return "".join(f"[{_key_text(key, said)}]" if kind == "item" else f".{key}" for kind, key in path)


def _key_text(key: Any, said: Callable[[Any], str]) -> str:
    if isinstance(key, slice):
        parts = (key.start, key.stop) if key.step is None else (key.start, key.stop, key.step)
        return ":".join("" if part is None else said(part) for part in parts)
    return said(key)


def path_key(path: Path) -> Hashable:
    """Return a hashable key. Two paths are treated as the same path if their keys are equal.

    The key is the path itself. If the path cannot be hashed, for example because it contains a list, the key is the
    path's text.
    """
    try:
        hash(path)
    except TypeError:
        return _text(path, repr)
    return path


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
        return _Recorder((*_steps_of(self), ("item", key)))

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
