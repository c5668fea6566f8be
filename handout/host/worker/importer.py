"""Imports the user's own modules from the source bundle that the controller sent.

The bundle is a zip file. Its ``modules.json`` tells for each module where its source is in the zip, and where it lay on
the controller. It holds sources and not bytecode, so that they run on another version of Python. Modules keep their
original paths, so that a traceback reads as on the controller; its lines come from the bundle.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from types import CodeType, ModuleType, TracebackType
from typing import Any

__all__ = ["BundleFinder", "install"]

#: The bundle's table of contents.
INDEX = "modules.json"


class BundleFinder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of one source bundle.

    Args:
        archive: The zip file.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        index: dict[str, Any] = json.loads(archive.read(INDEX))
        #: By module: its source's name in the zip, its path on the controller, and True for a package.
        self._modules: dict[str, tuple[str, str, bool]] = {k: tuple(v) for k, v in index["modules"].items()}
        #: Paths on the controller of packages without an ``__init__.py``.
        self._namespaces: dict[str, list[str]] = index["namespaces"]
        #: Extension modules of the project, which are never sent.
        self._extensions: frozenset[str] = frozenset(index["extensions"])

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        found = self._modules.get(fullname)
        if found is not None:
            _, origin, package = found
            spec = importlib.machinery.ModuleSpec(fullname, self, origin=origin, is_package=package)
            spec.has_location = True
            if package:
                spec.submodule_search_locations = [os.path.dirname(origin)]
            return spec
        folders = self._namespaces.get(fullname)
        if folders is None:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        installed = importlib.machinery.PathFinder.find_spec(fullname, path)
        others = list(installed.submodule_search_locations or ()) if installed is not None else []
        spec.submodule_search_locations = [*folders, *others]
        return spec

    def is_package(self, fullname: str) -> bool:
        """See `importlib.abc.InspectLoader`."""
        return self._modules[fullname][2]

    def get_source(self, fullname: str) -> str:
        """Return the source; `linecache` calls this to show lines in a traceback."""
        return importlib.util.decode_source(self._archive.read(self._modules[fullname][0]))

    def get_code(self, fullname: str) -> CodeType:
        """See `importlib.abc.InspectLoader`."""
        member, origin, _ = self._modules[fullname]
        return self.source_to_code(self._archive.read(member), origin)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module. A module that it cannot import is named with the file and line of the import."""
        try:
            exec(self.get_code(module.__name__), module.__dict__)
        except ModuleNotFoundError as error:
            self._explain(error, str(module.__file__))
            raise

    def _explain(self, error: ModuleNotFoundError, file: str) -> None:
        """Add to the error which file and line imported the missing module; the innermost import counts."""
        if getattr(error, "wanted_by", None) is not None:
            return
        line = _line_in(error.__traceback__, file)
        error.wanted_by = f"{file}:{line}"  # type: ignore[attr-defined]
        why = (
            "it is an extension module, which is never sent"
            if error.name in self._extensions
            else "it is not installed on this host, and is not one of the project's own modules, which are sent"
        )
        remedy = "Install it there, or pin to hosts that have it."
        error.msg = f"{error.msg} (imported at {file}, line {line}): {why}. {remedy}"
        error.args = (error.msg,)


def _line_in(trace: TracebackType | None, file: str) -> int:
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def install(bundle: str | bytes | memoryview) -> BundleFinder:
    """Import from a bundle from now on, before modules that are installed on this host.

    Args:
        bundle: The zip file, as a path or as bytes.
    """
    archive = zipfile.ZipFile(bundle if isinstance(bundle, str) else io.BytesIO(bundle))
    finder = BundleFinder(archive)
    # Behind built-in and frozen modules, and before sys.path, which may have another version of the project.
    places = [i for i, known in enumerate(sys.meta_path) if known is importlib.machinery.PathFinder]
    sys.meta_path.insert(places[0] if places else len(sys.meta_path), finder)
    return finder
