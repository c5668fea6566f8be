"""The file of a worker's module ``__main__``, for the processes that a task starts.

A function of ``__main__`` is sent by value, and the worker uses its namespace as the module ``__main__``. But a process
that a task starts gets functions by name: ``multiprocessing.Pool.map(f, ...)`` pickles ``f`` as ``__main__.f``. A
process that the task forks has the worker's ``__main__``. Any other process of `multiprocessing` or joblib runs the
file of the task's ``__main__`` first. For them, the worker writes a file that loads the same functions and classes.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import types
import weakref
from typing import Any

from handout.serialization import functions_by_value, pickling
from handout.serialization.user_objects import is_interruption

__all__ = ["MainModule", "fill", "lend"]

#: The process that runs this file makes ``__main__`` of a copy of its globals afterwards. Only then can ``__main__``
#: become the namespace of the functions, so they are loaded when the process looks up the first name.
_SOURCE = """
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    import sys
    from handout.host.worker import main_module
    main = sys.modules["__main__"]
    vars(main).pop("__getattr__", None)
    main_module.fill(main, __file__ + ".globals")
    return getattr(main, name)
"""
#: For each namespace, the file that was written for it.
_files: weakref.WeakKeyDictionary[types.ModuleType, str] = weakref.WeakKeyDictionary()
#: The folder for these files.
_folder = ""


class MainModule(types.ModuleType):
    """A namespace of ``__main__`` whose file is written when a process is about to be started that runs the file.

    Other code that looks for the file, such as `inspect`, finds none, as in an interactive session. Otherwise a
    traceback could write all globals to disk.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "__file__" and sys._getframe(1).f_code.co_name == "get_preparation_data":
            return _file(self)
        raise AttributeError(f"module '__main__' has no attribute {name!r}")


def _file(main: types.ModuleType) -> str:
    path = _files.get(main)
    if path is None:
        os.makedirs(_folder, mode=0o700, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix="main-", suffix=".py", dir=_folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_SOURCE)
        with open(path + ".globals", "xb") as data:
            pickle.dump(_pickled(main), data, 5)
        _files[main] = path
        weakref.finalize(main, _remove, path)
    return path


def _remove(path: str) -> None:
    for each in (path, path + ".globals"):
        try:
            os.unlink(each)
        except OSError:  # the agent has removed the folder
            continue


def _pickled(main: types.ModuleType) -> tuple[list[functions_by_value.Key], dict[str, bytes]]:
    """Return the keys of a namespace, and its globals that can be pickled. Another process does without the others.

    All have one snapshot, so that functions share their globals in the other process, too.
    """
    snapshot = pickling.Snapshot()
    found: dict[str, bytes] = {}
    for name, value in list(vars(main).items()):
        if not (name.startswith("__") and name.endswith("__")):
            try:
                found[name] = b"".join(pickling.dumps(value, snapshot))
            except BaseException as error:  # a __reduce__ may raise anything
                if is_interruption(error):
                    raise
                continue
    return [*functions_by_value.keys_of(main), snapshot.key(vars(main))], found


def fill(main: types.ModuleType, path: str) -> None:
    """In a process that a task started, load the globals that the worker wrote into ``__main__``."""
    with open(path, "rb") as file:
        keys, values = pickle.load(file)
    for key in keys:
        functions_by_value.add_namespace(key, main)
    for name, data in values.items():
        vars(main).setdefault(name, pickling.loads(data))


def lend(fn: Any, folder: str) -> None:
    """If a function is from ``__main__``, use its namespace as the module ``__main__``.

    Args:
        fn: The function that the worker runs next.
        folder: The folder for the files that the worker writes for other processes.
    """
    global _folder
    if type(fn) is not types.FunctionType:
        return
    main = functions_by_value.main_of(fn)
    if main is None:
        return
    _folder = folder
    if type(main) is types.ModuleType:
        main.__class__ = MainModule
    sys.modules["__main__"] = main
