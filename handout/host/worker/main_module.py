"""The module ``__main__`` of a worker: it has what the running function's ``__main__`` has.

A function of ``__main__`` is sent by value, so the worker's own ``__main__`` does not have it. But a process that a
task starts gets functions by name: ``multiprocessing.Pool.map(f, ...)`` pickles ``f`` as ``__main__.f``. A process that
the task forks has the worker's ``__main__``. Any other process of `multiprocessing` or joblib runs the file of the
task's ``__main__`` first. For them, the worker writes a file that loads the same functions and classes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import types
from typing import Any

from handout.serialization import pickling

__all__ = ["lend"]

_SOURCE = """
from handout.serialization import pickling
for name, data in {values!r}.items():
    globals()[name] = pickling.loads(data)
"""


class _Main(types.ModuleType):
    """Looks up names in the globals of the last function of ``__main__`` that the worker has begun to run.

    Args:
        folder: The folder for the files that the worker writes for other processes.
    """

    def __init__(self, folder: str) -> None:
        super().__init__("__main__")
        self._folder = folder
        self._globals: dict[str, Any] = {}
        #: The file for each globals, by their ``id``.
        self._files: dict[int, tuple[dict[str, Any], str]] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "__file__" and self._globals:
            return self._file()
        try:
            return self._globals[name]
        except KeyError:
            raise AttributeError(f"module '__main__' has no attribute {name!r}") from None

    def _file(self) -> str:
        space = self._globals
        known = self._files.get(id(space))
        if known is None:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            handle, path = tempfile.mkstemp(prefix="main-", suffix=".py", dir=self._folder)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(_SOURCE.format(values=_pickled(space)))
            known = self._files[id(space)] = space, path
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
    """If a function is from ``__main__``, make the globals that it uses the attributes of the worker's ``__main__``."""
    if type(fn) is types.FunctionType and fn.__globals__.get("__name__") == "__main__":
        main = sys.modules["__main__"]
        if type(main) is not _Main:
            main = sys.modules["__main__"] = _Main(folder)
        main._globals = fn.__globals__
