"""Defines ``handout.File``, which carries a file or a folder to or from a task."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import pickle
import stat
import sys
from os import PathLike, fspath
from typing import IO, Any, Callable

from handout.serialization.folder_content import Entry, kind_of, pack, unpack
from handout.serialization.temp_folder import TempFolder

__all__ = ["File"]

_numbers = itertools.count(1)
#: Files of at least this many bytes are mapped, and smaller ones are read. A run may have thousands of small files, and
#: each mapping may hold a descriptor.
_MAPPED = 1 << 20
#: The most names that are compared with the name of a file that does not exist.
_COMPARED = 1_000
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
    """A file or a folder as an argument or a result of a task. Handout sends the content, and the receiver writes it.

    On a host, the new file lies in the scratch folder of the task that receives it. The scratch folder is removed when
    the task has ended. In the program that started the run, the new file lies in a temporary folder, which is removed
    when the program ends. Functions that take a path, such as ``open``, take a `File` as well.

    A folder travels with all files and folders in it, also with hidden ones, and with their permissions. A link travels
    as the file or folder to which it leads. A folder can have up to 2,000 files and folders, and 256 MiB. The size of a
    file has no limit.

    Args:
        path: The path of the file or folder on this machine. Handout opens it only when it sends the content. If it
            does not exist at that time, the run is refused.

    Attributes:
        path: The path of the file or folder on this machine.

    Example:
        ```python
        def count(file: handout.File) -> int:
            with open(file) as lines:
                return sum(1 for _ in lines)

        def names(folder: handout.File) -> list[str]:
            return os.listdir(folder)

        graph = handout.Graph()
        lines = graph.add(count, handout.File("data.csv"))
        listed = graph.add(names, handout.File("images/"))
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
        status = _status(self.path)
        if stat.S_ISDIR(status.st_mode):
            return _receive_folder, (os.fsencode(os.path.basename(os.path.abspath(self.path))), *pack(self.path))
        return _receive, (os.fsencode(os.path.basename(self.path)), *_content(self.path))


# The user's code imports this class from `handout`. On a host, the stub in handout_stub.py takes the place of `handout`
# and has the class as well. So the controller and the hosts both find the class under the name `handout.File`.
File.__module__ = "handout"


def _status(path: str) -> os.stat_result:
    """Return the status of a file or folder that is to be sent.

    Raises:
        OSError: There is no such file or folder, or it cannot be read.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(_nowhere(path)) from None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        # To open a FIFO may take for ever, and so may reading a device.
        raise OSError(f"{path!r} is {kind_of(status.st_mode)}, and neither a file nor a folder")
    return status


def _nowhere(path: str) -> str:
    """Return where Handout has looked for a file that does not exist."""
    import difflib  # here, because every import of this module on a host would take longer

    if not path:
        return "the path is empty"
    said = f"there is no file or folder {path!r}"
    if path.startswith("~"):
        return f"{said}: write os.path.expanduser({path!r}), because only a shell replaces ~"
    full = os.path.abspath(path)
    said += "" if path == full else f" in the current folder {os.getcwd()!r}"
    parent = os.path.dirname(full)
    if not os.path.isdir(parent):
        return f"{said}, and no folder {parent!r}"
    near = difflib.get_close_matches(os.path.basename(full), os.listdir(parent)[:_COMPARED], 1)
    return f"{said}. Did you mean {os.path.join(os.path.dirname(path), near[0])!r}?" if near else said


def _content(path: str) -> tuple[int, Any]:
    """Return a file's permissions and content. Large content is mapped, so that it is not read into memory.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            # Files in /proc have content although their size is 0.
            content = stream.read() if status.st_size < _MAPPED else _map(stream, path, status)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise OSError(
            f"{path!r} cannot be opened, because this process has as many open files as it may have. Raise the limit "
            "(ulimit -n), or pass many large files as one archive"
        ) from None
    return status.st_mode & 0o777, pickle.PickleBuffer(content)


def _map(stream: IO[bytes], path: str, status: os.stat_result) -> Any:
    import mmap

    # Before Python 3.13, every mapping holds a descriptor of its own.
    options: Any = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    mapped = _mapping_class()(stream.fileno(), status.st_size, access=mmap.ACCESS_READ, **options)
    mapped.path, mapped.stamp = os.path.abspath(path), stamp_of(status)
    return mapped


def _new_folder() -> str:
    """Make and return a new folder in the scratch folder of the running task.

    While no task runs, the new folder lies in the folder `_received`.
    """
    folder = os.path.join(_task_folder() or _received.path, f"file-{next(_numbers)}")
    os.makedirs(folder)
    return folder


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
    """Write the content to a file in a new folder, and return the file."""
    path = os.path.join(_new_folder(), os.fsdecode(name) or "file")
    with open(path, "wb") as stream:
        stream.write(content)
    os.chmod(path, mode | 0o600)
    return File(path)


def _receive_folder(name: bytes, entries: tuple[Entry, ...], content: Any) -> File:
    """Make the folder again in a new folder, and return it."""
    path = os.path.join(_new_folder(), os.fsdecode(name) or "folder")
    unpack(path, entries, content)
    return File(path)
