"""The stub: the module that ``import handout`` finds on a host, where the package itself is absent.

A user's module may import Handout for its decorators and types, and a host imports the user's module for its functions.
On a host, the public names of Handout therefore work as follows:

- ``current``, ``Current`` and ``File`` work as usual. The decorators ``options`` and ``trust`` and the function
  ``later`` return what they are given.
- An exception class can be raised and caught.
- Any other class can be subclassed and called, but its attributes and methods are absent. A use of one raises
  `NotOnHostError`.
- Any other function can be imported, but a call of the function raises `NotOnHostError`.

The bundle, which is the zip file of code that the controller sends to a host, contains this file as
``handout/__init__.py``.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Callable, TypeVar

from handout.host.task_context import Current, NotOnHostError, current, publish
from handout.serialization.file import File

__all__ = ["Current", "File", "current", "later", "options", "publish", "trust"]

F = TypeVar("F")
A = TypeVar("A")


def options(**_options: Any) -> Callable[[F], F]:
    """Return a decorator that returns the function unchanged. The controller has already read the options."""
    return lambda fn: fn


def trust(cls: A, /) -> A:
    """Return the class unchanged. The controller has registered the class, and tells hosts which classes to accept."""
    return cls


def later(promised: A, /) -> A:
    """Return the argument unchanged."""
    return promised


def _refuse(name: str) -> NotOnHostError:
    wanted = name.rpartition(".")[2].rstrip("()")
    if hasattr(Current, wanted):
        remedy = f"For the running task, write handout.current().{wanted}."
    else:
        remedy = "Build and run graphs under `if __name__ == '__main__':`, or in a function that no task calls."
    return NotOnHostError(
        f"{name} is not available on a host. There, handout has only options, trust, later, current, Current and File. "
        f"{remedy}"
    )


class _AbsentType(type):
    """The metaclass of the stub classes, which replace Handout's public classes on a host."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _refuse(f"handout.{cls.__name__}.{name}")


class _Absent(metaclass=_AbsentType):
    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        if type(self).__module__ == "handout":
            object.__setattr__(self, "_made_here", True)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if "_made_here" in self.__dict__:  # the real class could not make sense of what travels
            raise _refuse(f"handout.{type(self).__name__}()")
        return super().__reduce_ex__(protocol)

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


def _by_its_arguments(error: BaseException) -> Any:
    """Pickle an error of a stub class, so that the caller's process calls the real class with the error's arguments."""
    return type(error), error.args, error.__dict__


_stubs: dict[str, Any] = {}


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'handout' has no attribute {name!r}")
    found = _stubs.get(name)
    if found is None:
        if not name[0].isupper():
            found = _absent_function(name)
        elif name.endswith("Error"):  # user code may raise and catch such a class
            found = type(name, (Exception,), {"__module__": "handout", "__reduce__": _by_its_arguments})
        else:
            found = _AbsentType(name, (_Absent,), {"__module__": "handout"})
        _stubs[name] = found
    return found


#: The public names that work on a host.
PRESENT = ("Current", "File", "current", "later", "options", "trust")
#: The public names that are stubs on a host, for ``from handout import *``.
ABSENT = [
    "Allocator", "AllocatorError", "Amount", "Arg", "AuthenticationError", "BootstrapError", "Capabilities",
    "CapabilitiesLike", "Cluster", "ClusterOptions", "ClusterView", "Cost", "CostError", "CostLike",
    "DamagedFileError", "DependencyError", "Draft", "Ended", "Event", "Execution", "Explanation", "Failure",
    "Function", "Given", "Graph", "GraphError", "HandoutError", "Host", "HostError", "HostKeyError",
    "HostLostError", "HostState", "HostUnreachableError", "HostUnstableError", "HostView", "Input", "InputView",
    "InternalError", "Inventory", "InventoryError", "InventoryLike", "JournalError", "Link", "LiveHost",
    "MemoryExceededError", "NotAValueError", "NotOnHostError", "Options", "OutcomeUnknownError", "Output",
    "Outs", "PlacementError", "RemoteError", "ResultError", "ResultTooLargeError", "Results", "Reused",
    "RunOptions", "RunTimeoutError", "RunView", "Runnable", "SetupError", "Stored", "Task",
    "TaskCancelledError", "TaskError", "TaskExitedError", "TaskTimeoutError", "Timings", "Tracker",
    "TrustError", "UnserializableError", "Warm", "WireError", "WorkdirError", "WorkerDiedError", "evaluate",
    "execute", "failure", "first_available", "function", "load_balanced", "locality", "run", "start",
]  # fmt: skip

#: Packages of Handout that the bundle contains. An import from one of them finds the real module.
_TRAVELLING = frozenset({"protocol", "serialization", "host"})


class _Submodules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes imports such as ``from handout.errors import ...`` work, although the bundle has no such module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, *rest = fullname.split(".")
        if package != "handout" or not rest or rest[0] in _TRAVELLING:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = _of_submodule


def _of_submodule(name: str) -> Any:
    return globals()[name] if name in PRESENT else __getattr__(name)


if __name__ == "handout":
    sys.meta_path.append(_Submodules())
    globals()["__all__"] = [*PRESENT, *ABSENT]
