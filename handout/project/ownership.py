"""Decides which modules are the user's own. Hosts receive these as source. All others must be installed on the host.

A module is the user's own if it comes from a ``.py`` file (or a folder of such files) that is not installed. A file is
installed if it lies in the standard library or in site-packages, or if the ``RECORD`` of a distribution beside it names
it, as in a folder that ``pip install --target`` made. So a package that is installed in editable mode counts as the
user's own. A module in a zip file on ``sys.path`` does too, unless the zip file is the standard library. Where a
program has loaded a module of its own under the name of a standard module, that module is the user's own.

No function in this file imports a module.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import site
import sys
import sysconfig
import types
from functools import cache, lru_cache
from pathlib import Path

__all__ = [
    "EXTENSIONS",
    "is_own",
    "loaded_spec",
    "own_places",
    "places_of",
    "spec_of",
    "split_archive",
    "target_folder",
]

#: The suffixes of the file names of extension modules.
EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)
#: Modules that never count as the user's own, wherever their files are. A host gets ``handout`` and ``dill`` when its
#: agent starts. What ``__main__`` defines is sent by value, which means with its code.
_NEVER_OWN = frozenset({"handout", "dill", "__main__", "__mp_main__"})


@cache
def _installed_roots() -> tuple[str, ...]:
    """Return the folders of the standard library and of site-packages, each with a separator at its end."""
    paths = sysconfig.get_paths()
    roots = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots.update(site.getsitepackages())
    roots.add(site.getusersitepackages())
    roots.update(path for path in sys.path if os.path.basename(path) == _STDLIB_ZIP)
    return tuple(sorted(os.path.realpath(root) + os.sep for root in roots if root))


#: Some builds of Python have their standard library in a zip file of this name.
_STDLIB_ZIP = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"


def loaded_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Return the spec of a loaded module. Return None if no module of this name is loaded, or if it has no spec.

    A module that `importlib.util.LazyLoader` has made is not loaded by this.
    """
    module = sys.modules.get(name)
    try:
        return types.ModuleType.__getattribute__(module, "__spec__")  # type: ignore[no-any-return]
    except (AttributeError, TypeError):
        return None  # TypeError: a program has put an object of its own in the place of a module


def spec_of(top: str) -> importlib.machinery.ModuleSpec | None:
    """Return the spec of a top-level module without importing it, or None if the module is not found."""
    spec = loaded_spec(top)
    if spec is not None:
        return spec
    try:
        if top in sys.modules:  # it has no spec, so `importlib.util.find_spec` would raise an error
            return importlib.machinery.PathFinder.find_spec(top)
        return importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None


def is_own(top: str) -> bool:
    """Return True if a top-level module is the user's own."""
    return bool(own_places(top))


def own_places(top: str) -> list[str]:
    """Return the ``.py`` file of a top-level module, or the folders of a package, if they are the user's own.

    A path may lead into a zip file: ``/home/me/lib.zip/pkg``. The list is empty if the module is not the user's own.
    """
    return [place for place in places_of(top) if not _is_installed(place) and not _is_listed(place)]


def target_folder(top: str) -> str | None:
    """Return the folder that ``pip install --target`` has made, if a top-level module is installed in such a folder."""
    for place in places_of(top):
        if not _is_installed(place) and _is_listed(place):
            return os.path.dirname(place)
    return None


def places_of(top: str) -> list[str]:
    """Return the ``.py`` file of a top-level module, or the folders of a package, whether or not these still exist."""
    spec = None if top in _NEVER_OWN else spec_of(top)
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return list(dict.fromkeys([*spec.submodule_search_locations, *_added_places(top)]))
    return [spec.origin] if spec.origin is not None and spec.origin.endswith(".py") else []


def _added_places(top: str) -> list[str]:
    """Return the folders of a loaded package, with those that `pkgutil.extend_path` has added, which no spec has."""
    try:
        path = types.ModuleType.__getattribute__(sys.modules[top], "__path__")
        return [place for place in path if isinstance(place, str)]
    except (KeyError, AttributeError, TypeError):
        return []


def _is_installed(path: str) -> bool:
    """Return True if a path is in the standard library or in site-packages, or if there is nothing at the path."""
    real = os.path.realpath(path)
    parts = Path(real).parts
    if "site-packages" in parts or "dist-packages" in parts or real.startswith(_installed_roots()):
        return True
    return not os.path.exists(real) and split_archive(real) is None


def _is_listed(path: str) -> bool:
    """Return True if a distribution in the same folder lists a path among its files."""
    folder, name = os.path.split(os.path.realpath(path))
    return os.path.isdir(folder) and name in _installed_names(folder, os.stat(folder).st_mtime_ns)


@lru_cache(maxsize=256)
def _installed_names(folder: str, mtime_ns: int) -> frozenset[str]:
    """Return the names of the files and folders in a folder that installed distributions there list as their own.

    Args:
        folder: The folder.
        mtime_ns: The folder's modification time, so that the cache notices a later installation.
    """
    names: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            records = [f"{entry.path}/RECORD" for entry in entries if entry.name.endswith(".dist-info")]
    except OSError:
        return frozenset()
    for record in records:
        try:
            with open(record, encoding="utf-8", errors="replace") as lines:
                names.update(line.partition(",")[0].partition("/")[0] for line in lines)
        except OSError:
            continue  # a distribution without a RECORD lists nothing
    return frozenset(names)


def split_archive(path: str) -> tuple[str, str] | None:
    """Split a path that leads into a zip file into the path of the zip file and the path inside.

    Return None if no part of the path is a file.
    """
    archive = path
    while True:
        parent = os.path.dirname(archive)
        if parent == archive:
            return None
        archive = parent
        if os.path.isfile(archive):
            return archive, path[len(archive) + 1 :]
        if os.path.exists(archive):
            return None
