"""The module ``__main__`` of a worker: it has what the running function's ``__main__`` has.

A function of ``__main__`` is sent by value, so the worker's own ``__main__`` does not have it. But a process that a
task forks gets functions by name: ``multiprocessing.Pool.map(f, ...)`` pickles ``f`` as ``__main__.f``.
"""

from __future__ import annotations

import sys
import types
from typing import Any

__all__ = ["lend"]


class _Main(types.ModuleType):
    """Looks up names in the globals of the last function of ``__main__`` that the worker has begun to run."""

    def __init__(self) -> None:
        super().__init__("__main__")
        self._globals: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return self._globals[name]
        except KeyError:
            raise AttributeError(f"module '__main__' has no attribute {name!r}") from None


def lend(fn: Any) -> None:
    """If a function is from ``__main__``, make the globals that it uses the attributes of the worker's ``__main__``."""
    if type(fn) is types.FunctionType and fn.__globals__.get("__name__") == "__main__":
        main = sys.modules["__main__"]
        if type(main) is not _Main:
            main = sys.modules["__main__"] = _Main()
        main._globals = fn.__globals__
