"""Finds the user's own modules, which hosts receive as source. All other modules must be installed on the host.

A module is the user's own if it comes from a ``.py`` file (or a folder of such files) outside the standard library and
outside site-packages. So a package that is installed in editable mode counts as the user's own. The search imports no
module.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["EXTENSIONS", "Module", "Package", "Sources", "find_package", "imports_of", "own_sources", "spec_of"]

#: The suffixes of the file names of extension modules.
EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)
#: Modules that never count as the user's own, wherever their files are. A host gets ``handout`` and ``dill`` when its
#: agent starts. What ``__main__`` defines is sent by value, which means with its code.
_NEVER_OWN = frozenset({"handout", "dill", "__main__", "__mp_main__"})


@dataclass(frozen=True, slots=True)
class Module:
    """One source file."""

    name: str
    path: Path
    is_package: bool


@dataclass(slots=True)
class Package:
    """A top-level package with all modules in it, or a single top-level module."""

    name: str
    modules: list[Module] = field(default_factory=list)
    #: The folders that contain modules but no ``__init__.py``, by dotted name.
    namespaces: dict[str, list[str]] = field(default_factory=dict)
    #: The files of extension modules, by dotted name.
    extensions: dict[str, Path] = field(default_factory=dict)


@dataclass(slots=True)
class Sources:
    """The user's own modules among given modules, and the user's own modules that those import, directly or not."""

    #: The packages, by top-level name.
    packages: dict[str, Package] = field(default_factory=dict)
    #: The sources of the modules, by dotted name.
    files: dict[str, bytes] = field(default_factory=dict)
    #: Top-level names of the given or imported modules that are not the user's own.
    installed: set[str] = field(default_factory=set)


class _ReadFile(NamedTuple):
    """A source file as it was when it was last read."""

    mtime_ns: int
    size: int
    source: bytes
    #: Top-level names of the modules that the file imports.
    imports: tuple[str, ...]


#: The files that were read, by path. A later run reads and parses only the files that have changed since.
_read_files: dict[str, _ReadFile] = {}


@cache
def _installed_roots() -> tuple[str, ...]:
    """Return the folders of the standard library and of site-packages, each with a separator at its end."""
    paths = sysconfig.get_paths()
    roots = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots.update(site.getsitepackages())
    roots.add(site.getusersitepackages())
    return tuple(sorted(os.path.realpath(root) + os.sep for root in roots if root))


def _is_own_path(path: str) -> bool:
    real = os.path.realpath(path)
    parts = Path(real).parts
    if "site-packages" in parts or "dist-packages" in parts:
        return False
    return not real.startswith(_installed_roots())


def spec_of(top: str) -> importlib.machinery.ModuleSpec | None:
    """Return the spec of a top-level module without importing it, or None if the module is not found."""
    loaded = sys.modules.get(top)
    spec: importlib.machinery.ModuleSpec | None = getattr(loaded, "__spec__", None)
    if spec is not None:
        return spec
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None


def find_package(name: str) -> Package | None:
    """Return the top-level package or module that `name` belongs to, or None if that one is not the user's own."""
    top = name.partition(".")[0]
    if top in _NEVER_OWN or top in sys.stdlib_module_names:
        return None
    spec = spec_of(top)
    if spec is None:
        return None
    package = Package(top)
    if spec.submodule_search_locations is None:
        if spec.origin is None or not spec.origin.endswith(".py") or not _is_own_path(spec.origin):
            return None
        package.modules.append(Module(top, Path(spec.origin), False))
        return package
    for folder in spec.submodule_search_locations:
        if os.path.isdir(folder) and _is_own_path(folder):
            _collect(package, top, Path(folder))
    return package if package.modules else None


def _collect(package: Package, name: str, folder: Path) -> None:
    """Add all modules below a folder to a package.

    Args:
        package: The package that gets the modules.
        name: Dotted name of the folder.
        folder: The folder.
    """
    init = folder / "__init__.py"
    children = sorted(folder.iterdir())
    before = len(package.modules)
    if init in children:
        package.modules.append(Module(name, init, True))
    for child in children:
        stem = child.name.partition(".")[0]
        if not stem.isidentifier():
            continue
        dotted = f"{name}.{stem}"
        if child.suffix == ".py" and child != init and child.name == f"{stem}.py":
            package.modules.append(Module(dotted, child, False))
        elif child.name.endswith(EXTENSIONS):
            package.extensions[dotted] = child
        elif child.name == stem and child.is_dir() and stem != "__pycache__":
            _collect(package, dotted, child)
    if init not in children and len(package.modules) > before:
        package.namespaces.setdefault(name, []).append(str(folder))


#: The attributes in which a statement holds other statements.
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")


def imports_of(source: bytes) -> Iterator[str]:
    """Yield the top-level name of each module that is imported anywhere in a source. Skip relative imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # importing the module will raise the same error and show where it is
    # Only statements are visited, because the caller's event loop waits meanwhile. Expressions are most of a tree, and
    # they contain no imports.
    bodies: list[list[ast.AST]] = [list(tree.body)]
    while bodies:
        for node in bodies.pop():
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name.partition(".")[0]
            elif isinstance(node, ast.ImportFrom):
                if not node.level and node.module:
                    yield node.module.partition(".")[0]
            else:
                bodies.extend(getattr(node, field) for field in _BODIES if hasattr(node, field))


def own_sources(names: Iterable[str], script: str | None = None) -> Sources:
    """Read the user's own modules among `names`, and the user's own modules that those import, directly or not.

    Args:
        names: Dotted names of modules.
        script: The file of ``__main__``, if ``__main__`` is one of the modules.
    """
    found = Sources()
    queue = [name.partition(".")[0] for name in names]
    if script is not None:
        found.files["__main__"], imports = _read(script)
        queue.extend(imports)
    while queue:
        top = queue.pop()
        if top in found.packages or top in found.installed:
            continue
        package = find_package(top)
        if package is None:
            found.installed.add(top)
            continue
        found.packages[top] = package
        for module in package.modules:
            found.files[module.name], imports = _read(str(module.path))
            queue.extend(imports)
    return found


def _read(path: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a file's source, and the top-level names that it imports."""
    status = os.stat(path)
    known = _read_files.get(path)
    if known is None or (known.mtime_ns, known.size) != (status.st_mtime_ns, status.st_size):
        with open(path, "rb") as stream:
            source = stream.read()
        imports = tuple(dict.fromkeys(imports_of(source)))
        known = _read_files[path] = _ReadFile(status.st_mtime_ns, status.st_size, source, imports)
    return known.source, known.imports
