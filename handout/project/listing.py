"""Lists the files of a package or module that may travel to hosts.

Junk does not travel: names that begin with a dot, bytecode, compiled libraries, caches, virtual environments and
``node_modules``. Compiled libraries stay because a host may have another system. Sockets, pipes and devices stay too.
Private keys are listed; `private_keys` finds them when the files are read.
"""

from __future__ import annotations

import logging
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from handout.project.named_files import NamedFiles
from handout.project.ownership import EXTENSIONS, split_archive
from handout.slices import Slices, is_slice_end

__all__ = [
    "Listed",
    "Listing",
    "list_beside",
    "list_beside_in_archive",
    "list_package",
    "module_names",
    "read_file",
    "stamp_of",
    "warn_once",
]

logger = logging.getLogger("handout")

#: A listing has at most this many files that are no modules. A package with more is mostly a folder of data.
MAX_FILES = 10_000
#: A listing is made from at most this many names in folders. To read them takes up to a second.
MAX_NAMES = 100_000
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages", "__pypackages__"})
_SKIPPED_ENDS = (".pyc", ".pyo", "~", *EXTENSIONS)
#: A folder with one of these files is a virtual environment, or a cache: https://bford.info/cachedir.
_MARKS = frozenset({"pyvenv.cfg", "CACHEDIR.TAG", "conda-meta"})
#: Files and folders about which a warning was logged.
_warned: set[str] = set()


def stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return numbers of which at least one differs after a program has written or replaced a file.

    The modification time alone does not: ``rsync --times`` and ``cp -p`` keep it.
    """
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class Listed(NamedTuple):
    """A file of the project."""

    #: Path in the bundle, with slashes: ``pkg/data/table.json``.
    inside: str
    #: Path on this machine. The path may lead into a zip file.
    path: str
    #: See `stamp_of`.
    stamp: tuple[int, int, int]
    size: int
    executable: bool


@dataclass(slots=True)
class Listing:
    """The files of a package or module, and the folders that were read to find them."""

    #: The files, by their paths in the bundle. A ``.py`` file that cannot be imported by name is among them.
    files: dict[str, Listed] = field(default_factory=dict)
    #: The files of extension modules, by dotted name.
    extensions: dict[str, str] = field(default_factory=dict)
    #: The modification time of each folder, in ns. For a zip file, that of the zip file.
    folders: dict[str, int] = field(default_factory=dict)
    #: How many names the folders have together.
    names: int = 0

    def add(self, listed: Listed) -> None:
        """Add a file, unless a folder that comes earlier on the package's path has a file of the same name."""
        self.files.setdefault(listed.inside, listed)


def warn_once(key: str, text: str) -> None:
    """Log a warning, but only once for each key."""
    if key not in _warned:
        _warned.add(key)
        logger.warning("%s", text)


def list_package(name: str, places: list[str]) -> Slices[Listing]:
    """List all files of a package.

    Args:
        name: Name of the top-level package.
        places: The folders of the package. There are several if the package is a namespace package.
    """
    listing = Listing()
    for place in places:
        if os.path.isdir(place):
            yield from _walk(listing, name, place, set())
        elif (split := split_archive(place)) is not None:
            _list_archive(listing, name, *split)
    return listing


def list_beside(listing: Listing, folder: str, source: bytes, module: str = "") -> Slices[None]:
    """Add to a listing the files of a folder that a source names, in the bundle's top folder.

    The folder of a script may hold anything, for example the user's home folder. So a file, or a folder with all its
    files, is added only if its name stands in the source as a text.

    Args:
        listing: The listing.
        folder: The folder.
        source: The source of the module beside the files, or the sources of a package in the folder.
        module: The name of the module, if the folder is the module's own. Then a file may also match a pattern such as
            ``"*.json"`` in the source, or have the module's name and a suffix that stands in the source.
    """
    read = _read_folder(folder, "No file beside the modules in")
    if read is None:
        return
    status, children = read
    listing.folders[folder] = status.st_mtime_ns
    named = NamedFiles(source, module)
    for number, child in enumerate(children):
        if is_slice_end(number):
            yield
        found = None if _is_junk(child.name) or child.name not in named else _status(child.path)
        if found is None:
            continue
        if stat.S_ISDIR(found.st_mode):
            if not _is_importable_name(child.name, child.path):
                yield from _walk(listing, child.name, child.path, set())
        elif not child.name.endswith(".py"):
            _add_file(listing, child.name, child.path, found)


def _is_importable_name(name: str, folder: str) -> bool:
    """Return True if a folder is a package. A package travels by itself if a module imports it."""
    return name.isidentifier() and os.path.exists(f"{folder}/__init__.py")


def _walk(listing: Listing, inside: str, folder: str, above: set[tuple[int, int]]) -> Slices[None]:
    """Add all files below a folder to a listing.

    Args:
        listing: The listing.
        inside: The folder's path in the bundle.
        folder: The folder.
        above: Device and inode of each folder above this one, so that a symbolic link to one of them ends the walk.
    """
    read = _read_folder(folder, "Nothing in")
    if read is None:
        return
    status, children = read
    identity = (status.st_dev, status.st_ino)
    if identity in above or (above and not _MARKS.isdisjoint(child.name for child in children)):
        return
    listing.folders[folder] = status.st_mtime_ns
    listing.names += len(children)
    yield
    if listing.names > MAX_NAMES:
        _warn_of_too_many(inside, MAX_NAMES)
        return
    for number, child in enumerate(children):
        if is_slice_end(number):
            yield
        path = f"{inside}/{child.name}"
        if _is_extension(child.name):
            listing.extensions.setdefault(_dotted(path), child.path)
        if _is_junk(child.name):
            continue
        found = _status(child.path)
        if found is None:
            continue
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(listing, path, child.path, above | {identity})
        else:
            _add_file(listing, path, child.path, found)


def _read_folder(folder: str, what: str) -> tuple[os.stat_result, list[os.DirEntry[str]]] | None:
    """Return the status of a folder and its sorted contents. If it cannot be read, return None and log a warning.

    Args:
        folder: The folder.
        what: The beginning of the warning, which says what is not sent.
    """
    try:
        return os.stat(folder), sorted(os.scandir(folder), key=lambda each: each.name)
    except (FileNotFoundError, NotADirectoryError):
        return None  # the folder was just removed, or it is in a zip file
    except OSError as error:
        warn_once(folder, f"{what} {folder} is sent to hosts, because the folder cannot be read: {error.strerror}.")
        return None


def _status(path: str) -> os.stat_result | None:
    """Return the status of a folder or a regular file, and None for anything else.

    Log a warning if the path cannot be followed.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None  # a symbolic link that leads nowhere, or a file that was just removed
    except OSError as error:
        warn_once(path, f"{path} is not sent to hosts, because it cannot be read: {error.strerror}.")
        return None
    return status if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode) else None


def _add_file(listing: Listing, inside: str, path: str, status: os.stat_result) -> None:
    if not inside.endswith(".py") and len(listing.files) >= MAX_FILES:
        _warn_of_too_many(inside, MAX_FILES)
        return
    executable = bool(status.st_mode & stat.S_IXUSR)
    listing.add(Listed(inside, path, stamp_of(status), status.st_size, executable))


def list_beside_in_archive(listing: Listing, archive: str, prefix: str, source: bytes, module: str) -> None:
    """Do as `list_beside` does, for a module in a folder of a zip file."""
    start = f"{prefix}/" if prefix else ""
    named = NamedFiles(source, module)
    for info, stamp in _members(listing, archive):
        below = info.filename.removeprefix(start)
        if not info.filename.startswith(start) or below.endswith(".py") or any(map(_is_junk, below.split("/"))):
            continue
        if below.partition("/")[0] in named:
            listing.add(Listed(below, os.path.join(archive, info.filename), stamp, info.file_size, False))


def _warn_of_too_many(inside: str, most: int) -> None:
    top = inside.partition("/")[0]
    warn_once(
        f"too many {top}",
        f"The folder of {top!r} has more than {most} files. Some of its files are not sent to hosts. Keep data outside "
        "the folder of your modules, and pass it to tasks as handout.File.",
    )


def _list_archive(listing: Listing, name: str, archive: str, prefix: str) -> None:
    """Add all files below a folder of a zip file to a listing."""
    for info, stamp in _members(listing, archive):
        below = info.filename.removeprefix(f"{prefix}/")
        if below != info.filename and not any(map(_is_junk, below.split("/"))):
            path = os.path.join(archive, info.filename)
            listing.add(Listed(f"{name}/{below}", path, stamp, info.file_size, False))


def _members(listing: Listing, archive: str) -> Iterator[tuple[zipfile.ZipInfo, tuple[int, int, int]]]:
    """Yield the files of a zip file, with the stamp of the zip file."""
    try:
        status = os.stat(archive)
        listing.folders[archive] = status.st_mtime_ns
        with zipfile.ZipFile(archive) as file:
            yield from [(info, stamp_of(status)) for info in file.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        warn_once(archive, f"Nothing in {archive} is sent to hosts, because the file cannot be read: {error}.")


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name in _SKIPPED_FOLDERS or name.endswith(_SKIPPED_ENDS) or not _is_text(name)


def _is_text(name: str) -> bool:
    """Return True if a file name is valid text. Other names would fail on hosts."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_extension(name: str) -> bool:
    return name.endswith(EXTENSIONS) and name.partition(".")[0].isidentifier()


def _dotted(inside: str) -> str:
    folder, _, name = inside.rpartition("/")
    return f"{folder.replace('/', '.')}.{name.partition('.')[0]}"


def read_file(path: str) -> bytes:
    """Return the contents of a file, whose path may lead into a zip file.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except (NotADirectoryError, FileNotFoundError):
        split = split_archive(path)
        if split is None:
            raise
        return _read_member(*split)


def _read_member(archive: str, member: str) -> bytes:
    try:
        with zipfile.ZipFile(archive) as file:
            return file.read(member.replace(os.sep, "/"))
    except (KeyError, zipfile.BadZipFile) as error:
        raise OSError(f"{archive} has no readable file {member}: {error}") from None


def module_names(listing: Listing) -> Iterator[tuple[str, Listed, bool]]:
    """Yield the dotted name of each module in a listing, its file, and True if the module is a package."""
    for inside, listed in listing.files.items():
        if inside.endswith(".py"):
            parts = inside[: -len(".py")].split("/")
            is_package = parts[-1] == "__init__" and len(parts) > 1
            if is_package:
                parts.pop()
            if all(part.isidentifier() for part in parts):
                yield ".".join(parts), listed, is_package
