"""The file of a worker's module ``__main__``, for the processes that a task starts.

A function of ``__main__`` is sent by value, and the worker uses its namespace as the module ``__main__``. But a process
that a task starts gets functions by name: ``multiprocessing.Pool.map(f, ...)`` pickles ``f`` as ``__main__.f``. A
process that the task forks has the worker's ``__main__``. Any other process of `multiprocessing` or joblib runs the
file of the task's ``__main__`` first. For them, the worker writes a file that loads the same functions and classes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import types
from typing import Any

from handout.serialization import functions_by_value, pickling

__all__ = ["lend"]

_SOURCE = """
from handout.serialization import pickling
for name, data in {values!r}.items():
    globals()[name] = pickling.loads(data)
"""
#: For each namespace, by the ``id`` of its globals: the globals, and the file that was written for them.
_files: dict[int, tuple[dict[str, Any], str]] = {}
#: The folder for these files.
_folder = ""


class _Main(types.ModuleType):
    """A namespace of ``__main__`` whose file is written when something asks for it."""

    def __getattr__(self, name: str) -> Any:
        if name == "__file__":
            return _file(vars(self))
        raise AttributeError(f"module '__main__' has no attribute {name!r}")


def _file(space: dict[str, Any]) -> str:
    known = _files.get(id(space))
    if known is None:
        os.makedirs(_folder, mode=0o700, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix="main-", suffix=".py", dir=_folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_SOURCE.format(values=_pickled(space)))
        known = _files[id(space)] = space, path
    return known[1]


def _pickled(space: dict[str, Any]) -> dict[str, bytes]:
    """Return the globals that can be pickled. A global that cannot be pickled does not reach another process."""
    found: dict[str, bytes] = {}
    for name, value in list(space.items()):
        if not (name.startswith("__") and name.endswith("__")):
            try:
                found[name] = b"".join(pickling.dumps(value))
            except Exception:  # a __reduce__ may raise any exception
                continue
    return found


def lend(fn: Any, folder: str) -> None:
    """If a function is from ``__main__``, use its namespace as the module ``__main__``.

    Args:
        fn: The function that the worker runs next.
        folder: The folder for the files that the worker writes for other processes.
    """
    global _folder
    if type(fn) is not types.FunctionType or fn.__globals__.get("__name__") != "__main__":
        return
    main = functions_by_value.main_of(fn)
    if main is None:
        return
    _folder = folder
    if type(main) is types.ModuleType:
        main.__class__ = _Main
    sys.modules["__main__"] = main
