"""``handout.File``: a file that travels by content."""

from __future__ import annotations

import itertools
import os
import pickle
from os import PathLike, fspath
from typing import Any, Callable

from handout.serialization.temp_folder import TempFolder

__all__ = ["File"]

_numbers = itertools.count(1)
#: Where a process that runs no task (the caller's) keeps the files that it received: until it ends.
_received = TempFolder("handout-files-")


def _no_task() -> str | None:
    return None


_task_folder: Callable[[], str | None] = _no_task


def set_task_folder(task_folder: Callable[[], str | None]) -> None:
    """Write the files that arrive from now on below a task's folder.

    Args:
        task_folder: Returns the scratch folder of the task that is running, None where no task runs.
    """
    global _task_folder
    _task_folder = task_folder


class File:
    """A file as an argument or a result: its content travels, and it is a path on the host.

    Nothing is opened here: a missing file is noticed when its content is needed.

    Args:
        path: Where it lies in this process.
    """

    __slots__ = ("path",)

    #: Where the content lies in the process that asks.
    path: str

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = fspath(path)

    def __fspath__(self) -> str:
        return self.path

    def read_text(self) -> str:
        """The whole content as UTF-8 text."""
        with open(self.path, encoding="utf-8") as stream:
            return stream.read()

    def read_bytes(self) -> bytes:
        """The whole content."""
        with open(self.path, "rb") as stream:
            return stream.read()

    def __eq__(self, other: object) -> bool:
        return self.path == other.path if isinstance(other, File) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"File({self.path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, (os.path.basename(self.path), *_content(self.path))


# User modules import it from the package, and so do those hosts that know it only by the stand-in there:
# pickled by this name it is found on both sides.
File.__module__ = "handout"


def _content(path: str) -> tuple[int, Any]:
    """Permissions and content: mapped and not read, so that a large file is never in memory as a whole."""
    import mmap

    with open(path, "rb") as stream:
        status = os.fstat(stream.fileno())
        if status.st_size == 0:
            return status.st_mode & 0o777, stream.read()  # what has no size may have content: /proc
        mapped = mmap.mmap(stream.fileno(), status.st_size, access=mmap.ACCESS_READ)
    return status.st_mode & 0o777, pickle.PickleBuffer(mapped)


def _receive(name: str, mode: int, content: Any) -> File:
    """Write what arrived into a folder of its own, below the task's scratch folder if one is running."""
    parent = _task_folder() or _received.path
    folder = os.path.join(parent, f"file-{next(_numbers)}")
    os.makedirs(folder)
    path = os.path.join(folder, name or "file")
    with open(path, "wb") as stream:
        stream.write(content)
    os.chmod(path, mode | 0o600)
    return File(path)
