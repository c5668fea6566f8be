"""Turns each function into bytes, called a blob, and the user's own modules into one bundle of sources."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from handout.project.package import Package, read_listed, tell_of_files
from handout.project.sources import Sources, own_sources
from handout.serialization.calls import Accompanied
from handout.serialization.diagnosis import find_unpicklable
from handout.serialization.functions_by_value import PYTHON
from handout.serialization.pickling import Snapshot, dumps
from handout.serialization.user_objects import is_interruption, qualified_name
from handout.slices import SharedWork, Slices

__all__ = [
    "CodeBundle",
    "FunctionBlob",
    "bundle_modules",
    "bundle_sources",
    "function_bytes",
    "function_ref",
    "numbered",
]

#: The time of every entry in the zip. With the times of the files, equal sources would give different zips.
_EPOCH = (2020, 1, 1, 0, 0, 0)
_INDEX = "modules.json"
#: A file with more bytes is compressed quickly instead of well, because the caller's event loop waits meanwhile.
_LARGE = 1 << 18
_SAMPLE = 1 << 16
_BUNDLES_KEPT = 8
#: The versions of a bundle's packages, and its target folders.
_State: TypeAlias = tuple[tuple[tuple[str, int], ...], tuple[str, ...]]
#: The bundles that were made last, and those that are being made.
_made: dict[_State, CodeBundle] = {}
_making: SharedWork[_State, CodeBundle] = SharedWork()


class _Numbers:
    """Gives each digest a number, and remembers the numbers of the 4,096 digests that were used last.

    No number is used for two digests. If a run uses a function whose digest was forgotten, the function gets a new
    number, so agents receive the function again.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._next = itertools.count(1)
        self._lock = threading.Lock()

    def of(self, digest: bytes) -> int:
        with self._lock:
            number = self._known.pop(digest, None) or next(self._next)
            self._known[digest] = number
            if len(self._known) > _NUMBERS_KEPT:
                del self._known[next(iter(self._known))]
            return number


_NUMBERS_KEPT = 4096
#: Agents identify functions and bundles by these numbers, which hold for all runs of this process.
_function_numbers = _Numbers()
_bundle_keys = _Numbers()


@dataclass(frozen=True, slots=True)
class FunctionBlob:
    """The bytes of a function, and the conditions under which a host can load them."""

    #: Identifies the blob in all runs of this process. Equal blobs have the same number, unless the number was
    #: forgotten (see `_Numbers`).
    number: int
    blob: bytes
    #: True if the function is sent by value, which means with its code, or if its tasks take other code by value.
    by_value: bool
    #: True if workers need the run's bundle to load the function or the arguments of its tasks.
    needs_bundle: bool

    @property
    def python(self) -> str | None:
        """The version of Python that hosts must have, such as ``"3.11"``, or None if any version will do."""
        return PYTHON if self.by_value else None


@dataclass(frozen=True, slots=True)
class CodeBundle:
    """The user's own modules, the files beside them, and their metadata, as a zip file."""

    #: The key under which agents store the bundle. It is lower than the key of any object.
    key: int
    data: bytes
    #: Top-level names of the modules in the bundle.
    names: frozenset[str]


def function_ref(
    fn: Callable[..., Any], snapshot: Snapshot | None = None, companions: Sequence[type] = ()
) -> FunctionBlob:
    """Return a function as bytes: by its name if an import finds the function, otherwise by value.

    `needs_bundle` is False here. `encode_plan` decides whether it must be True, because that depends on the whole run.

    Args:
        fn: The function.
        snapshot: The snapshot of the run.
        companions: Classes to send along with a function that is sent by value; see `calls.Accompanied`.

    Raises:
        CannotPickleError: The function or a companion cannot be pickled.
    """
    blob, by_value = function_bytes(fn, snapshot or Snapshot(), companions)
    return numbered(blob, by_value)


def numbered(blob: bytes, by_value: bool) -> FunctionBlob:
    """Return the bytes of a function with the number by which agents know them."""
    return FunctionBlob(_function_numbers.of(hashlib.sha256(blob).digest()), blob, by_value, False)


def function_bytes(fn: Callable[..., Any], snapshot: Snapshot, companions: Sequence[type] = ()) -> tuple[bytes, bool]:
    """Return a function as bytes, and True if it is sent by value; see `function_ref`."""
    before, snapshot.by_value = snapshot.by_value, False
    part: Any = fn
    path = qualified_name(fn)
    try:
        blob = b"".join(dumps(fn, snapshot))
        if companions and snapshot.by_value:
            part, path = list(companions), "handout.trust"
            blob = b"".join(dumps(Accompanied(fn, tuple(companions)), snapshot))
    except BaseException as error:  # a __reduce__ may raise anything
        if is_interruption(error):
            raise
        raise find_unpicklable(part, path) from error
    by_value, snapshot.by_value = snapshot.by_value, before or snapshot.by_value
    return blob, by_value


def bundle_modules(names: Iterable[str]) -> Slices[CodeBundle | None]:
    """Bundle the user's own modules among `names`, and the user's own modules that those import, directly or not.

    Args:
        names: Dotted names of modules. Modules that are not the user's own are left out.

    Returns:
        The bundle, or None if no module is the user's own or in a folder that ``pip install --target`` has made.
    """
    return (yield from bundle_sources((yield from own_sources(names))))


def bundle_sources(found: Sources) -> Slices[CodeBundle | None]:
    """Bundle modules that were read; see `bundle_modules`.

    The bundle is made only once for one state of these modules and of the files beside them.
    """
    packages, folders = found.packages, tuple(sorted(found.target_folders))
    if not packages and not folders:
        return None
    state = tuple(sorted((top, package.version) for top, package in packages.items())), folders
    made = _made.pop(state, None)
    if made is None:
        made = yield from _making.do(state, lambda: _zip([packages[top] for top in sorted(packages)], folders))
    _made[state] = made
    if len(_made) > _BUNDLES_KEPT:
        del _made[next(iter(_made))]
    return made


def _zip(packages: list[Package], target_folders: Sequence[str]) -> Slices[CodeBundle]:
    members, index = yield from _members(packages)
    index["folders"] = list(target_folders)
    members[_INDEX] = json.dumps(index, sort_keys=True).encode()
    digest = hashlib.sha256()
    for member, data in members.items():
        yield
        digest.update(f"{member} {len(data)}\n".encode())
        digest.update(data)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            yield
            info = zipfile.ZipInfo(member, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED if _is_compressible(data) else zipfile.ZIP_STORED
            archive.writestr(info, data, compresslevel=1 if len(data) > _LARGE else 6)
    key = _bundle_keys.of(digest.digest())
    return CodeBundle(key, out.getvalue(), frozenset(package.name for package in packages))


def _is_compressible(data: bytes) -> bool:
    """Return False if the beginning of a large file does not get smaller, as in a picture or an archive."""
    return len(data) <= _LARGE or len(zlib.compress(data[:_SAMPLE], 1)) < _SAMPLE * 0.9


def _members(packages: list[Package]) -> Slices[tuple[dict[str, bytes], dict[str, Any]]]:
    """Return the contents of a bundle's files by name, and the index that the worker's importer reads."""
    members: dict[str, bytes] = {}
    paths: dict[str, str] = {}
    executable: list[str] = []
    folders = {each.name: "shadowing" if each.name in sys.stdlib_module_names else "project" for each in packages}
    for package in packages:
        for module in package.modules.values():
            member = f"{folders[package.name]}/{module.inside}"
            members[member], paths[member] = module.source, module.path
    for package in packages:
        sizes: dict[str, int] = {}
        for inside, listed in package.files.items():
            yield
            member = f"{folders[package.name]}/{inside}"
            # A package may list a file of another package, for example if it names the other's folder in a text.
            data = None if member in members else read_listed(listed)
            if data is not None:
                members[member], sizes[inside] = data, len(data)
                executable += [member] if listed.executable else []
        tell_of_files(package.name, sizes)
        members.update({f"project/{inside}": data for inside, data in package.metadata.items()})
    extensions = sorted(name for package in packages for name in package.extensions)
    index = {
        "modules": sorted(package.name for package in packages),
        "paths": paths,
        "executable": sorted(executable),
        "extensions": extensions,
    }
    return dict(sorted(members.items())), index
