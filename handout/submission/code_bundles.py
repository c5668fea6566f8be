"""Turns each function into bytes, called a blob, and the user's own modules into one bundle of sources."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import threading
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from handout.serialization.diagnosis import find_unpicklable
from handout.serialization.functions_by_value import PYTHON
from handout.serialization.pickling import Snapshot, dumps
from handout.submission.project_modules import Package, own_sources

__all__ = ["CodeBundle", "FunctionBlob", "bundle_modules", "function_ref"]

#: The time of every entry in the zip. With the times of the files, equal sources would give different zips.
_EPOCH = (2020, 1, 1, 0, 0, 0)
_INDEX = "modules.json"


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
    """Sources of the user's own modules."""

    #: The key under which agents store the bundle. It is lower than the key of any object.
    key: int
    data: bytes
    #: Top-level names of the modules in the bundle.
    names: frozenset[str]


def function_ref(fn: Callable[..., Any], snapshot: Snapshot | None = None) -> FunctionBlob:
    """Return a function as bytes: by its name if an import finds the function, otherwise by value.

    `needs_bundle` is False here. `encode_plan` decides whether it must be True, because that depends on the whole run.

    Raises:
        CannotPickleError: The function cannot be pickled.
    """
    snapshot = snapshot or Snapshot()
    before, snapshot.by_value = snapshot.by_value, False
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    try:
        blob = b"".join(dumps(fn, snapshot))
    except Exception as error:  # a __reduce__ may raise any exception
        raise find_unpicklable(fn, name) from error
    by_value, snapshot.by_value = snapshot.by_value, before or snapshot.by_value
    number = _function_numbers.of(hashlib.sha256(blob).digest())
    return FunctionBlob(number, blob, by_value, False)


def bundle_modules(names: Iterable[str]) -> CodeBundle | None:
    """Bundle the user's own modules among `names`, and the user's own modules that those import, directly or not.

    Args:
        names: Dotted names of modules. Modules that are not the user's own are left out.

    Returns:
        The bundle, or None if no module is the user's own.
    """
    found = own_sources(names)
    if not found.packages:
        return None
    return _zip([found.packages[top] for top in sorted(found.packages)], found.files)


def _zip(packages: list[Package], files: dict[str, bytes]) -> CodeBundle:
    members = _members(packages, files)
    digest = hashlib.sha256()
    for member, data in members.items():
        digest.update(f"{member} {len(data)}\n".encode())
        digest.update(data)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for member, data in members.items():
            info = zipfile.ZipInfo(member, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    key = _bundle_keys.of(digest.digest())
    return CodeBundle(key, out.getvalue(), frozenset(package.name for package in packages))


def _members(packages: list[Package], files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the contents of a bundle's files by name: the sources, and the index that the worker's importer reads."""
    index: dict[str, Any] = {"modules": {}, "namespaces": {}, "extensions": []}
    members: dict[str, bytes] = {}
    for package in packages:
        for module in package.modules:
            member = module.name.replace(".", "/") + ("/__init__.py" if module.is_package else ".py")
            index["modules"][module.name] = [member, str(module.path), module.is_package]
            members[member] = files[module.name]
        index["namespaces"].update(package.namespaces)
        index["extensions"].extend(package.extensions)
    members[_INDEX] = json.dumps(index).encode()
    return members
