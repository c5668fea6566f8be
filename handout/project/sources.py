"""Reads the user's own modules, and the user's own modules that those import, directly or not."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from handout.project.listing import read_file
from handout.project.loaded import remember_loaded, remembered_modules
from handout.project.ownership import loaded_spec, own_places, places_of, target_folder
from handout.project.package import Module, Package, imports_of
from handout.slices import SharedWork, Slices

__all__ = ["Sources", "find_package", "own_sources"]


@dataclass(slots=True)
class Sources:
    """The user's own modules among given modules, and the user's own modules that those import, directly or not."""

    #: The packages, by top-level name.
    packages: dict[str, Package] = field(default_factory=dict)
    #: The source of ``__main__``, if it is one of the modules.
    script: bytes | None = None
    #: Top-level names of the given or imported modules that are not the user's own.
    installed: set[str] = field(default_factory=set)
    #: Folders that ``pip install --target`` has made, with modules that are `installed`.
    target_folders: set[str] = field(default_factory=set)

    @property
    def files(self) -> dict[str, bytes]:
        """The sources of the modules, by dotted name."""
        files = {} if self.script is None else {"__main__": self.script}
        modules = [module for package in self.packages.values() for module in package.modules.values()]
        return {**files, **{module.name: module.source for module in modules}}


class _Known:
    """The decisions of this process about top-level modules."""

    def __init__(self) -> None:
        #: Several threads may have runs. Work never pauses while it holds this lock.
        self.lock = threading.Lock()
        #: For each top-level name, the package, or None if it is not the user's own; and the spec that the loaded
        #: module had at the decision.
        self.packages: dict[str, tuple[Package | None, object]] = {}
        #: For each top-level name that is installed in a folder of ``pip install --target``, this folder.
        self.target_folders: dict[str, str] = {}
        #: ``sys.path`` at the last decision.
        self.path: list[str] = []
        #: The script that is ``__main__``, by its path.
        self.scripts: dict[str, Module] = {}
        #: The packages that are being read, for the first time or anew, by their names and places.
        self.reading: SharedWork[tuple[str, ...], Package] = SharedWork()


_known = _Known()


def find_package(name: str) -> Slices[Package | None]:
    """Return the top-level package or module that `name` belongs to, or None if that one is not the user's own."""
    top = name.partition(".")[0]
    spec, path = loaded_spec(top), _known.path
    known, decided = _known.packages.get(top, (None, _UNDECIDED))
    if decided is spec:
        places = [] if known is None else known.places
    else:
        places = own_places(top)
        if not places and known is not None and not any(map(os.path.exists, known.places)):
            places = known.places  # the package's folder is gone, but the package was read before
        if not places and next(remembered_modules(top), None) is not None:
            places = places_of(top)
    package = (yield from _read(known, top, places)) if places else None
    if package is not None and not package.modules:
        package = None
    folder = target_folder(top) if package is None and decided is not spec else None
    with _known.lock:
        # If another run has noticed a new path meanwhile, the next run decides anew.
        if _known.path is path:
            _known.packages[top] = package, spec
        if folder is not None:
            _known.target_folders[top] = folder
    return package


def _read(known: Package | None, top: str, places: list[str]) -> Slices[Package]:
    """Read a package for the first time, or anew if it has changed.

    Runs that begin together share this work. A run that has joined the work of another one looks once more afterwards,
    because files may have changed after the other one had looked at them and before this run began.
    """
    key = (top, *places)
    while True:
        is_joined = key in _known.reading
        work = _read_or_refresh(known, top, places)
        if not is_joined:
            # Usually the package has not changed, and one step is all the work. Sharing it would take longer than that.
            try:
                next(work)
            except StopIteration as end:
                unchanged: Package = end.value
                return unchanged
        known = yield from _known.reading.do(key, partial(_rest, work))
        if not is_joined:
            return known


def _rest(work: Slices[Package]) -> Slices[Package]:
    return (yield from work)


def _read_or_refresh(known: Package | None, top: str, places: list[str]) -> Slices[Package]:
    if known is None or known.places != places:
        return (yield from Package.read(top, places))
    return (yield from known.refreshed())


_UNDECIDED = object()


def own_sources(names: Iterable[str], script: str | None = None) -> Slices[Sources]:
    """Return the user's own modules among `names`, and the user's own modules that those import, directly or not.

    Args:
        names: Dotted names of modules.
        script: The file of ``__main__``, if ``__main__`` is one of the modules.
    """
    with _known.lock:
        remember_loaded()
        if _known.path != sys.path:
            _known.path = list(sys.path)
            _known.target_folders.clear()
            _known.packages = {top: (package, _UNDECIDED) for top, (package, _) in _known.packages.items() if package}
    return (yield from _closure(names, script))


def _closure(names: Iterable[str], script: str | None) -> Slices[Sources]:
    found = Sources()
    queue = [name.partition(".")[0] for name in names]
    if script is not None:
        module = _script(script)
        found.script = module.source
        queue.extend(module.imports)
    while queue:
        top = queue.pop()
        if top in found.packages or top in found.installed:
            continue
        package = yield from find_package(top)
        if package is None:
            found.installed.add(top)
            if top in _known.target_folders:
                found.target_folders.add(_known.target_folders[top])
            continue
        found.packages[top] = package
        queue.extend(package.imports)
    return found


def _script(path: str) -> Module:
    module = _known.scripts.get(path)
    if module is None:
        source = read_file(path)
        module = Module("__main__", path, "__main__.py", False, source, tuple(imports_of(source)))
        _known.scripts[path] = module
    return module
