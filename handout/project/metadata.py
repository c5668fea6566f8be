"""Finds what `importlib.metadata` knows about the user's own packages, such as a version and entry points.

``pip install -e`` puts the metadata of a package into a folder ``NAME-VERSION.dist-info`` in site-packages, and not
beside the package. Older tools put a folder ``NAME.egg-info`` beside the package.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["metadata_of"]

#: The files of a distribution that travel. ``RECORD`` is left out, because it lists files of this machine.
_TRAVEL = ("entry_points.txt", "top_level.txt")


class _Distribution(NamedTuple):
    """A distribution, which is what pip installs."""

    #: The folder with the metadata.
    folder: Path | zipfile.Path
    #: The name in the form in which `_normalized` returns it.
    name: str
    #: The names of the top-level modules, if the distribution lists them.
    modules: frozenset[str]
    #: The project's folder, if the distribution is installed in editable mode.
    project: str | None


def metadata_of(package: str, places: Sequence[str]) -> dict[str, bytes]:
    """Return the metadata of a package, as contents by path in the bundle. The result may be empty.

    Args:
        package: Name of the top-level package or module.
        places: The folders of the package, or the file of the module.
    """
    files: dict[str, bytes] = {}
    for each in _distributions(tuple(sys.path)):
        is_inside = each.project is not None and any(_is_below(place, each.project) for place in places)
        if is_inside or each.name == _normalized(package) or package in each.modules:
            files.update(_files_of(each))
    return files


def _is_below(place: str, folder: str) -> bool:
    return os.path.realpath(place).startswith(os.path.realpath(folder) + os.sep)


def _normalized(name: str) -> str:
    """Return a name as PEP 503 normalizes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=4)
def _distributions(path: tuple[str, ...]) -> list[_Distribution]:
    return [_distribution(folder) for root in map(_root, path) if root is not None for folder in _folders(root)]


def _root(entry: str) -> Path | zipfile.Path | None:
    """Return an entry of ``sys.path`` as a path. Return None if there is neither a folder nor a zip file."""
    folder = Path(entry or ".")
    if folder.is_dir():
        return folder
    try:
        return zipfile.Path(zipfile.ZipFile(folder)) if folder.is_file() else None
    except (OSError, zipfile.BadZipFile):
        return None


def _folders(root: Path | zipfile.Path) -> Iterator[Path | zipfile.Path]:
    try:
        yield from [each for each in root.iterdir() if each.name.endswith((".dist-info", ".egg-info"))]
    except OSError:
        return


def _distribution(folder: Path | zipfile.Path) -> _Distribution:
    name = folder.name.rpartition(".")[0].partition("-")[0]
    modules = frozenset(_read(folder, "top_level.txt").decode("utf-8", "replace").split())
    return _Distribution(folder, _normalized(name), modules, _project(_read(folder, "direct_url.json")))


def _project(text: bytes) -> str | None:
    """Return the project's folder that a ``direct_url.json`` names, if the installation is editable; see PEP 610."""
    try:
        found = json.loads(text)
        is_editable = found["dir_info"]["editable"]
        return unquote(urlsplit(found["url"]).path) if is_editable else None
    except (ValueError, KeyError, TypeError):
        return None


def _read(folder: Path | zipfile.Path, name: str) -> bytes:
    """Return the contents of a file, or nothing if there is no such file."""
    try:
        return (folder / name).read_bytes()
    except (OSError, KeyError):
        return b""


def _files_of(distribution: _Distribution) -> dict[str, bytes]:
    folder = distribution.folder
    metadata = _read(folder, "METADATA") or _read(folder, "PKG-INFO")
    version = re.search(rb"^Version:\s*(\S+)", metadata, re.MULTILINE)
    if version is None:
        return {}
    stem = folder.name.rpartition(".")[0].partition("-")[0]
    inside = f"{stem}-{version[1].decode('utf-8', 'replace')}.dist-info"
    contents = {"METADATA": metadata, **{name: _read(folder, name) for name in _TRAVEL}}
    return {f"{inside}/{name}": data for name, data in contents.items() if data}
