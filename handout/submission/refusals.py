"""The error for a part of a call that cannot be pickled: what it is, and what to pass instead."""

from __future__ import annotations

from typing import Final

from handout.errors import UnserializableError
from handout.graph.unfinished import UNFINISHED
from handout.serialization.diagnosis import CannotPickleError

__all__ = ["refused"]

_OTHERS: Final = (
    "Create this object inside the function, pass the values from which it is created, "
    "or leave it out in the __getstate__ of the object that contains it."
)
_FILE: Final = "Give the path of a file or folder that this program can read when the run begins."
_OPEN_FILE: Final = (
    "Pass handout.File(path) instead: the content travels, and the function opens the new file. To write, open the "
    "file inside the function, and return a handout.File."
)
_OWN: Final = "Such an object works only in the program that runs the graph. Pass the values that the function needs."
_CONNECTION: Final = "Open the connection inside the function, and pass the address or the path that it needs."

#: What to do about a value, by the name of its type.
_REMEDIES: Final = {
    **dict.fromkeys(
        [
            "_io.BufferedRandom", "_io.BufferedReader", "_io.BufferedRWPair", "_io.BufferedWriter", "_io.FileIO",
            "_io.TextIOWrapper", "tempfile._TemporaryFileWrapper", "tempfile.SpooledTemporaryFile",
        ],
        _OPEN_FILE,
    ),
    **dict.fromkeys(["_socket.socket", "socket.socket", "sqlite3.Connection", "sqlite3.Cursor"], _CONNECTION),
    **{
        kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}": remedy
        for kind, remedy in UNFINISHED.items()
    },
}  # fmt: skip


def refused(id: str, error: CannotPickleError) -> UnserializableError:
    """Return the error for a function, an argument or a value that cannot be sent to a host.

    Args:
        id: The id of the function or value.
        error: Names the part that cannot be pickled.
    """
    end = "" if error.reason.endswith((".", "?")) else "."
    if error.type == "handout.File":
        problem = f"{id!r} cannot take {error.path}: {error.reason}{end}"
        remedy = _FILE if error.reason.startswith("there is no file") else ""
    else:
        problem = (
            f"{id!r} cannot be sent to a host, because {error.path} ({error.type}) cannot be pickled: "
            f"{error.reason}{end}"
        )
        remedy = _remedy(error.type)
    return UnserializableError(problem, remedy=remedy, path=error.path, type=error.type)


def _remedy(type: str) -> str:
    if type.startswith("handout.graph."):
        return ""  # the errors of outputs, Args and graphs say what to do
    if type.startswith("handout."):
        return _OWN
    return _REMEDIES.get(type, _OTHERS).format(name="its_function")
