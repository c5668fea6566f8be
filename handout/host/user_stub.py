"""What ``import handout`` is on a host, where the package itself is not.

A user's module imports Handout for its decorators and types, and is then imported on the host for its
functions. So here ``options`` changes nothing, ``current`` and ``File`` work, and every other public name can
be imported, subclassed and called as a class; whoever *uses* what came of it is told why that cannot work.
The bundle carries this very file as ``handout/__init__.py``.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Callable, TypeVar

from handout.host.current import Current, current, publish
from handout.serialization.file import File

__all__ = ["Current", "File", "current", "later", "options", "publish", "trust"]

F = TypeVar("F")
A = TypeVar("A")


def options(**_options: Any) -> Callable[[F], F]:
    """Gives the function back: what it costs was read where the graph was built."""
    return lambda fn: fn


def trust(cls: A, /) -> A:
    """Gives the class back: which ones are registered is told by where the graph was built."""
    return cls


def later(promised: A, /) -> A:
    """Gives the promise back."""
    return promised


class NotOnHostError(RuntimeError):
    """A part of Handout was used that is only where the graph is built."""


def _refuse(name: str) -> NotOnHostError:
    return NotOnHostError(
        f"{name} is not there on a host: only options, current and File of handout are. "
        "Build and run graphs under `if __name__ == '__main__':`, or in a function that no task calls."
    )


class _AbsentType(type):
    """A public name of Handout that is not here."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _refuse(f"handout.{cls.__name__}.{name}")


class _Absent(metaclass=_AbsentType):
    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __init_subclass__(cls, **_kwargs: Any) -> None:
        pass

    def __class_getitem__(cls, _item: Any) -> Any:
        return cls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _refuse(f"handout.{type(self).__name__}().{name}")


def _absent_function(name: str) -> Any:
    def absent(*_args: Any, **_kwargs: Any) -> Any:
        raise _refuse(f"handout.{name}()")

    absent.__name__ = absent.__qualname__ = name
    absent.__module__ = "handout"
    return absent


_made: dict[str, Any] = {}


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'handout' has no attribute {name!r}")
    found = _made.get(name)
    if found is None:
        if not name[0].isupper():
            found = _absent_function(name)
        elif name.endswith("Error"):  # user code may raise it, or catch it
            found = type(name, (Exception,), {"__module__": "handout"})
        else:
            found = _AbsentType(name, (_Absent,), {"__module__": "handout"})
        _made[name] = found
    return found


#: What the bundle holds of the package under its own name.
_TRAVELLING = ("handout.protocol", "handout.serialization", "handout.host")


class _Submodules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes ``from handout.errors import ...`` work: any module of Handout that is not in the bundle."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("handout.") or fullname.startswith(_TRAVELLING):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = _of_submodule


def _of_submodule(name: str) -> Any:
    return globals()[name] if name in __all__ else __getattr__(name)


if __name__ == "handout":
    sys.meta_path.append(_Submodules())
