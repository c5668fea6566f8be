"""Finds out what a task has looked up in vain: an environment variable, a file or a program.

The caller may have it, but it does not travel by itself. So the controller's error tells the caller what to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

from handout.serialization import exceptions

__all__ = ["LookedUp", "looked_up_in_vain"]

#: A chain of causes is followed this far.
_MAX_CAUSES = 16
#: The longest name of a variable, and the longest path of a file, that is told.
_MAX_NAME = 400
_ARGS: Any = BaseException.__dict__["args"]
_ERRNO: Any = OSError.__dict__["errno"]
_FILENAME: Any = OSError.__dict__["filename"]


class LookedUp(NamedTuple):
    """What a task has looked up in vain. `messages.Failed` explains the fields."""

    variable: str | None = None
    file: str | None = None
    folder: str | None = None
    program: str | None = None


def looked_up_in_vain(error: BaseException) -> LookedUp:
    """Return what an exception, or one that it names as its cause, says that the task has looked up in vain."""
    each: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if each is None:
            break
        frame = _innermost_frame(each)
        code = None if frame is None else frame.f_code
        if type(each) is KeyError and code is _LOOK_UP:
            return LookedUp(variable=_text(next(iter(_ARGS.__get__(each)), None)))
        if type(each) is FileNotFoundError:
            path = _text(_FILENAME.__get__(each))
            # If the folder in which the program should start does not exist, the error names the folder.
            if frame is not None and code in _START_PROGRAM and path != _text(frame.f_locals.get("cwd")):
                return LookedUp(program=path)
            return _missing_file(path)
        each = exceptions.cause_of(each)
    return LookedUp()


def _missing_file(path: str | None) -> LookedUp:
    if path is None:
        return LookedUp()
    try:
        return LookedUp(file=path, folder="" if os.path.isabs(path) else os.getcwd())
    except OSError:
        return LookedUp()  # the current folder was removed


def _text(value: object) -> str | None:
    """Return a name or a path as text, or None if it is something else or too long."""
    if type(value) is bytes:
        value = os.fsdecode(value)
    elif type(value) is getattr(sys.modules.get("pathlib"), "PosixPath", None):
        value = str(value)
    return value if type(value) is str and 0 < len(value) <= _MAX_NAME else None


def _innermost_frame(error: BaseException) -> FrameType | None:
    """Return the frame that raised an exception, or None if no Python code has."""
    trace = exceptions.traceback_of(error)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame if trace is not None else None


def _code_of(function: Any) -> CodeType | None:
    return function.__code__ if isinstance(function, FunctionType) else None


#: The code that looks up a variable in `os.environ`, and the code that starts the program of a `subprocess.Popen`.
_LOOK_UP = _code_of(type(os.environ).__getitem__)
_START_PROGRAM = [_code_of(getattr(subprocess.Popen, name, None)) for name in ("_execute_child", "_posix_spawn")]
