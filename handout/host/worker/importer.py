"""Imports the user's own modules from the source bundle that the controller sent.

The bundle is a zip file. For each module, the file ``modules.json`` in the zip gives the name of the source in the zip,
and the path of the source on the controller. The bundle contains sources instead of bytecode, because the host may have
another version of Python than the controller. A module's ``__file__`` is the path on the controller, so that tracebacks
show that path. The source lines in a traceback come from the bundle.
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
from typing import Any, NamedTuple

__all__ = ["BundleFinder", "install"]

#: Name of the file in the bundle that lists its modules.
INDEX = "modules.json"


class BundledModule(NamedTuple):
    """A module of a bundle, as ``modules.json`` lists it."""

    #: Name of the module's source in the zip.
    member: str
    #: Path of the module's source on the controller.
    path: str
    is_package: bool


class BundleFinder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of one source bundle.

    Args:
        archive: The zip file.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        index: dict[str, Any] = json.loads(archive.read(INDEX))
        self._modules = {name: BundledModule._make(entry) for name, entry in index["modules"].items()}
        #: Maps the name of each package without an ``__init__.py`` to the folders of the package on the controller.
        self._namespaces: dict[str, list[str]] = index["namespaces"]
        #: Names of the project's extension modules, which the controller never sends.
        self._extensions: frozenset[str] = frozenset(index["extensions"])

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        found = self._modules.get(fullname)
        if found is not None:
            spec = importlib.machinery.ModuleSpec(fullname, self, origin=found.path, is_package=found.is_package)
            spec.has_location = True
            if found.is_package:
                spec.submodule_search_locations = [os.path.dirname(found.path)]
            return spec
        folders = self._namespaces.get(fullname)
        if folders is None:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        installed = importlib.machinery.PathFinder.find_spec(fullname, path)
        installed_folders = list(installed.submodule_search_locations or ()) if installed is not None else []
        spec.submodule_search_locations = [*folders, *installed_folders]
        return spec

    def is_package(self, fullname: str) -> bool:
        """See `importlib.abc.InspectLoader`."""
        return self._modules[fullname].is_package

    def get_source(self, fullname: str) -> str:
        """Return a module's source. `linecache` calls this method to show source lines in a traceback."""
        return importlib.util.decode_source(self._archive.read(self._modules[fullname].member))

    def get_code(self, fullname: str) -> CodeType:
        """See `importlib.abc.InspectLoader`."""
        module = self._modules[fullname]
        return self.source_to_code(self._archive.read(module.member), module.path)

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of a module. If an import in this code fails because a module is missing, explain the error."""
        try:
            exec(self.get_code(module.__name__), module.__dict__)
        except ModuleNotFoundError as error:
            self._explain(error, str(module.__file__))
            raise

    def _explain(self, error: ModuleNotFoundError, file: str) -> None:
        """Add to the error the file and line that imported the missing module, and why the module is missing."""
        # If a chain of imports has led to the missing module, the error passes through each module of the chain. Only
        # the innermost module, which the error passes first, is named.
        if getattr(error, "imported_at", None) is not None:
            return
        line = _line_in(error.__traceback__, file)
        error.imported_at = f"{file}:{line}"  # type: ignore[attr-defined]
        why = (
            "it is an extension module, which Handout never sends"
            if error.name in self._extensions
            else "it is not installed on this host, and it is not one of the project's own modules, which Handout sends"
        )
        remedy = "Install it on this host, or give the function host= with the name of a host that has it."
        error.msg = f"{error.msg} (imported at {file}, line {line}): {why}. {remedy}"
        error.args = (error.msg,)


def _line_in(trace: TracebackType | None, file: str) -> int:
    """Return the line number of the innermost frame that runs code of a file; 0 if there is no such frame."""
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def install(bundle: str | bytes | memoryview) -> BundleFinder:
    """Make the modules of a bundle importable. These modules take precedence over modules installed on this host.

    Args:
        bundle: The zip file, as a path or as bytes.
    """
    archive = zipfile.ZipFile(bundle if isinstance(bundle, str) else io.BytesIO(bundle))
    finder = BundleFinder(archive)
    # Python asks the finders in this order: first those for built-in and frozen modules, then that for the bundle, then
    # that for sys.path, because sys.path may have another version of the project.
    positions = [i for i, known in enumerate(sys.meta_path) if known is importlib.machinery.PathFinder]
    sys.meta_path.insert(positions[0] if positions else len(sys.meta_path), finder)
    return finder
