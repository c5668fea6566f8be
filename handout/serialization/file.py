"""Defines ``handout.File``, which carries a file to or from a task."""

from __future__ import annotations

import functools
import itertools
import os
import pickle
from os import PathLike, fspath
from typing import Any, Callable

from handout.serialization.temp_folder import TempFolder

__all__ = ["File"]

_numbers = itertools.count(1)
#: Folder for the files that arrive while this process runs no task, as in the program that started the run. The folder
#: is removed when the process ends.
_received = TempFolder("handout-files-")


def _no_task() -> str | None:
    return None


_task_folder: Callable[[], str | None] = _no_task


def set_task_folder(task_folder: Callable[[], str | None]) -> None:
    """Make this process write the files that it receives into the scratch folder of the running task.

    A scratch folder is removed when its task has ended.

    Args:
        task_folder: Function that returns the scratch folder of the running task, or None while no task runs.
    """
    global _task_folder
    _task_folder = task_folder


class File:
    """A file as an argument or a result of a task. Handout sends the content, and the receiver writes a new file.

    On a host, the new file lies in the scratch folder of the task that receives it. The folder is removed when the task
    has ended. In the program that started the run, the new file lies in a temporary folder, which is removed when the
    program ends. Functions that take a path, such as ``open``, take a `File` as well.

    Args:
        path: The path of the file on this machine. Handout opens the file only when it sends the content. If the file
            does not exist at that time, sending fails.

    Attributes:
        path: The path of the file on this machine.

    Example:
        ```python
        def count(file: handout.File) -> int:
            with open(file) as lines:
                return sum(1 for _ in lines)

        graph = handout.Graph()
        lines = graph.add(count, handout.File("data.csv"))
        ```
    """

    __slots__ = ("path",)

    path: str

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = fspath(path)

    def __fspath__(self) -> str:
        return self.path

    def read_text(self) -> str:
        """Return the whole content, decoded as UTF-8.

        Raises:
            OSError: The file cannot be read.
            UnicodeDecodeError: The content is not UTF-8.
        """
        with open(self.path, encoding="utf-8") as stream:
            return stream.read()

    def read_bytes(self) -> bytes:
        """Return the whole content.

        Raises:
            OSError: The file cannot be read.
        """
        with open(self.path, "rb") as stream:
            return stream.read()

    def __eq__(self, other: object) -> bool:
        return self.path == other.path if isinstance(other, File) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"File({self.path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The name travels as bytes, because the file systems of the two machines may have different encodings.
        return _receive, (os.fsencode(os.path.basename(self.path)), *_content(self.path))


# The user's code imports this class from `handout`. On a host, the stub in handout_stub.py takes the place of `handout`
# and has the class as well. So the controller and the hosts both find the class under the name `handout.File`.
File.__module__ = "handout"


def _content(path: str) -> tuple[int, Any]:
    """Return a file's permissions and content. The content is mapped, so that a large file is not read into memory."""
    import mmap

    with open(path, "rb") as stream:
        status = os.fstat(stream.fileno())
        if status.st_size == 0:
            return status.st_mode & 0o777, stream.read()  # files in /proc have content although their size is 0
        mapped = _mapping_class()(stream.fileno(), status.st_size, access=mmap.ACCESS_READ)
    mapped.path, mapped.stamp = os.path.abspath(path), stamp_of(status)
    return status.st_mode & 0o777, pickle.PickleBuffer(mapped)


@functools.lru_cache(maxsize=1)
def _mapping_class() -> Any:
    import mmap

    class MappedFile(mmap.mmap):
        """The content of a file."""

        #: The path of the file, and the file's `stamp_of` when it was mapped.
        path = ""
        stamp: tuple[int, ...] = ()

    return MappedFile


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return numbers of a file that change with its content, unless two changes follow each other within a clock tick.

    The last two numbers are the times of the last changes in nanoseconds.
    """
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def mapped_file(view: memoryview) -> tuple[str, tuple[int, ...]] | None:
    """Return the path of the file whose content a `File` has mapped, and the file's stamp; None for other memory."""
    mapped: Any = view.obj
    return (mapped.path, mapped.stamp) if issubclass(type(mapped), _mapping_class()) else None


def _receive(name: bytes, mode: int, content: Any) -> File:
    """Write the content to a file in a new folder, and return the file.

    The new folder lies in the scratch folder of the running task. While no task runs, the new folder lies in the
    folder `_received`.
    """
    parent = _task_folder() or _received.path
    folder = os.path.join(parent, f"file-{next(_numbers)}")
    os.makedirs(folder)
    path = os.path.join(folder, os.fsdecode(name) or "file")
    with open(path, "wb") as stream:
        stream.write(content)
    os.chmod(path, mode | 0o600)
    return File(path)
