"""One of the user's packages, or one module that is in no package, as this process sends it to hosts.

Sources travel as the program has loaded them, because a change on disk under a running program must not change what its
hosts execute. A module that the program has not loaded travels as it was when Handout first read it. Other files are
read anew whenever their times or sizes have changed, because a program would read them anew too.
"""

from __future__ import annotations

import ast
import copy
import itertools
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from handout.project.listing import (
    Listed,
    Listing,
    list_beside,
    list_beside_in_archive,
    list_package,
    module_names,
    read_file,
    stamp_of,
    warn_once,
)
from handout.project.loaded import is_loaded, loaded_spec_of, may_have_changed, remembered, remembered_modules
from handout.project.metadata import metadata_of
from handout.project.ownership import split_archive
from handout.project.private_keys import is_private_key
from handout.serialization.modules_in_text import modules_in_text
from handout.slices import Slices, is_slice_end

logger = logging.getLogger("handout")

__all__ = ["MAX_NBYTES", "Module", "Package", "imports_of", "read_listed", "tell_of_files"]

#: The files of one package that are no modules have at most this many bytes together. The largest files are left out
#: until the others fit. A host gets all of these files before its first task, whether or not the tasks read them.
MAX_NBYTES = 32 << 20
#: A module in whose source nothing like this stands does not know its folder, so it reads no files there.
_FINDS_ITS_FOLDER = re.compile(
    rb"__file__|__spec__|__loader__|co_filename|get_data|importlib\.resources|\bresources\.|files\s*\(|get(source)?file\b"
)
#: A package in whose sources nothing like this stands does not use files above its own folder.
_LEADS_ABOVE = re.compile(rb"parent\s*\.\s*parent|parents\s*\[|dirname\s*\(.*dirname\s*\(|\.\./|[\"']\.\.[\"']|pardir")
#: Seconds between two comparisons of the times of sources.
SOURCE_CHECK_S = 1.0
#: How many files a warning names, and a message about files that travel.
_NAMED, _TOLD = 5, 50
#: For each package, the paths of the files about which the log has told.
_told: dict[str, set[str]] = {}

_versions = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Module:
    """A module and its source."""

    name: str
    #: The file. The path may lead into a zip file.
    path: str
    #: Path in the bundle.
    inside: str
    is_package: bool
    source: bytes
    #: Top-level names of the modules that the source imports.
    imports: tuple[str, ...]
    #: The spec that the loaded module had when the source was compared with it. None if the program had not loaded it.
    spec: object = None


class Package:
    """A top-level package with all files in it, or a single top-level module, as `read` or `refreshed` found it.

    After that, it does not change, because the preparation of a run may pause while another run reads the package anew.

    Args:
        name: The name.
        places: The folders of the package, or the file of the module.
    """

    def __init__(self, name: str, places: Sequence[str]) -> None:
        self.name = name
        self.places = list(places)
        #: The modules, by dotted name.
        self.modules: dict[str, Module] = {}
        #: The files that are no modules, by their paths in the bundle.
        self.files: dict[str, Listed] = {}
        #: Differs for all packages that send something else.
        self.version = 0
        self._listing = Listing()
        #: When the times of the sources are to be compared again.
        self._next_check_s = 0.0
        self._imports: tuple[int, frozenset[str]] = (0, frozenset())

    @classmethod
    def read(cls, name: str, places: Sequence[str]) -> Slices[Package]:
        """Read a package for the first time."""
        package = cls(name, places)
        yield from package._relist()
        package._add_removed()
        return package

    @property
    def extensions(self) -> dict[str, str]:
        """The files of extension modules, by dotted name."""
        return self._listing.extensions

    @property
    def imports(self) -> frozenset[str]:
        """Top-level names of the modules that the package's modules import."""
        if self._imports[0] != self.version:
            names = frozenset(name for module in self.modules.values() for name in module.imports)
            self._imports = self.version, names
        return self._imports[1]

    @cached_property
    def metadata(self) -> dict[str, bytes]:
        """What `importlib.metadata` reads about the package: contents by path in the bundle."""
        return metadata_of(self.name, self.places)

    # ---- what has changed ----------------------------------------------------------------------------------

    def refreshed(self) -> Slices[Package]:
        """Return the package as it is now: with changes on disk, and with modules that the program has loaded since.

        If nothing has changed, this is the same object.
        """
        loaded = [module for module in self.modules.values() if loaded_spec_of(module.name) is not module.spec]
        has_changed_on_disk = yield from self._has_changed_on_disk()
        if not loaded and not has_changed_on_disk:
            return self
        package = copy.copy(self)
        package.modules = dict(self.modules)
        for module in loaded:
            yield
            package._follow(module)
        if has_changed_on_disk:
            yield from package._relist()
        return package

    def _has_changed_on_disk(self) -> Slices[bool]:
        # A changed source only causes a warning, so sources are compared less often. A large project has thousands.
        now_s = time.monotonic()
        is_due = now_s >= self._next_check_s
        files = self._listing.files.values() if is_due else self.files.values()
        try:
            for folder, mtime_ns in self._listing.folders.items():
                if os.stat(folder).st_mtime_ns != mtime_ns:
                    return True
            for number, listed in enumerate(files):
                if is_slice_end(number):
                    yield
                status = os.stat(listed.path)
                if stamp_of(status) != listed.stamp or status.st_size != listed.size:
                    return True
            if is_due:
                self._next_check_s = now_s + SOURCE_CHECK_S
        except NotADirectoryError:
            return False  # the files are in a zip file, whose time was compared
        except OSError:
            return True
        return False

    def _relist(self) -> Slices[None]:
        """List the files anew, and read new modules."""
        if self.modules and not any(os.path.exists(place) or split_archive(place) for place in self.places):
            warn_once(f"gone {self.name}", f"{self.places[0]} is gone. Hosts still get its modules as they were.")
            return
        before, self._listing = self._listing, (yield from self._list())
        for name, listed, is_package in module_names(self._listing):
            module = self.modules.get(name)
            if name.partition(".")[0] != self.name:
                continue  # a file beside the module, in a folder that the module names
            if module is None:
                yield
                self._add(name, listed, is_package)
            elif before.files.get(listed.inside) != listed:
                _warn_of_change(module, listed)
        yield from self._list_above()
        modules = {module.inside for module in self.modules.values()}
        files = {path: listed for path, listed in self._listing.files.items() if path not in modules}
        files = _fitting(self.name, files)
        if files != self.files or not self.version:
            self.files = files
            self.version = next(_versions)

    def _list_above(self) -> Slices[None]:
        """List the files in the folder above a package, if the package's sources name them and lead there."""
        folder = os.path.dirname(self.places[0])
        if os.path.isdir(self.places[0]):
            source = b"\n".join(module.source for module in self.modules.values())
            if _LEADS_ABOVE.search(source):
                yield from list_beside(self._listing, folder, source)

    def _list(self) -> Slices[Listing]:
        place = self.places[0]
        if not place.endswith(".py") or os.path.isdir(place):
            return (yield from list_package(self.name, self.places))
        listing = Listing()
        split = None if os.path.exists(place) else split_archive(place)
        try:
            status = os.stat(place if split is None else split[0])
            source = self.modules[self.name].source if self.modules else read_file(place)
        except OSError as error:
            _warn_unreadable(place, error)
            return listing
        listing.add(Listed(f"{self.name}.py", place, stamp_of(status), status.st_size, False))
        finds_its_folder = _FINDS_ITS_FOLDER.search(source) is not None
        if split is not None:
            listing.folders[split[0]] = status.st_mtime_ns
            if finds_its_folder:
                list_beside_in_archive(listing, split[0], os.path.dirname(split[1]), source, self.name)
        elif finds_its_folder:
            yield from list_beside(listing, os.path.dirname(place), source, self.name)
        return listing

    def _add(self, name: str, listed: Listed, is_package: bool) -> None:
        spec = _spec_of(name, listed.path)
        source = remembered(listed.path, spec)
        try:
            found = read_file(listed.path)
        except OSError as error:
            _warn_unreadable(listed.path, error)
            if source is None:
                return
            found = source
        source = found if source is None else source
        imports = tuple(imports_of(source))
        module = self.modules[name] = Module(name, listed.path, listed.inside, is_package, source, imports, spec)
        self.version = next(_versions)
        if spec is not None and _differs(name, module.source, listed.path):
            _warn_unknown(module)
        elif module.source != found:
            _warn_of_change(module, listed)

    def _add_removed(self) -> None:
        """Add the loaded modules that were not listed.

        Most of their files were removed after they were read. Others lie in a folder that does not count as the
        package's own.
        """
        for name, spec, source in remembered_modules(self.name):
            if name not in self.modules:
                is_package = spec.submodule_search_locations is not None
                inside = name.replace(".", "/") + ("/__init__.py" if is_package else ".py")
                imports = tuple(imports_of(source))
                self.modules[name] = Module(name, spec.origin, inside, is_package, source, imports, spec)
                self.version = next(_versions)
                if not os.path.exists(spec.origin):
                    said = f"{spec.origin} is gone. Hosts still get the source as it was loaded."
                    warn_once(f"gone {spec.origin}", said)

    def _follow(self, module: Module) -> None:
        """Take over the source of a module that the program has loaded since, for the first time or anew."""
        spec = _spec_of(module.name, module.path)
        if spec is None or spec is module.spec:
            return
        module = self.modules[module.name] = replace(module, spec=spec)
        source = remembered(module.path, spec)
        try:
            source = read_file(module.path) if source is None else source
        except OSError:
            return
        if _differs(module.name, source, module.path):
            if not _differs(module.name, module.source, module.path):
                return  # the file has changed, but the program had loaded the earlier source
            _warn_unknown(module)
        if source != module.source:
            self.modules[module.name] = replace(module, source=source, imports=tuple(imports_of(source)))
            self.version = next(_versions)


def _spec_of(name: str, path: str) -> object:
    """Return the spec of a loaded module. Return None if the program has not loaded the module from this path."""
    spec = loaded_spec_of(name)
    return spec if getattr(spec, "origin", None) == path else None


def _differs(name: str, source: bytes, path: str) -> bool:
    """Return True if the program has loaded another source of a module than this one."""
    try:
        status = os.stat(path)
    except OSError:
        return False  # the module is in a zip file
    return may_have_changed(status) and not is_loaded(name, source, path)


def _fitting(name: str, files: dict[str, Listed]) -> dict[str, Listed]:
    """Return the files without the largest, so that the others have at most `MAX_NBYTES` bytes together."""
    nbytes = sum(listed.size for listed in files.values())
    if nbytes <= MAX_NBYTES:
        return files
    total, left_out = nbytes, []
    for listed in sorted(files.values(), key=lambda each: (-each.size, each.inside)):
        if nbytes <= MAX_NBYTES:
            break
        nbytes -= listed.size
        left_out.append(listed)
    named = ", ".join(f"{each.inside} ({_mib(each.size)})" for each in left_out[:_NAMED])
    more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    warn_once(
        f"{name} {named}{more}",
        f"The files beside the modules of {name!r} have {_mib(total)}. Handout sends at most "
        f"{_mib(MAX_NBYTES)} of them to hosts, so these files are not sent: {named}{more}. "
        "Pass large files to tasks as handout.File, or keep them outside the package.",
    )
    missing = {listed.inside for listed in left_out}
    return {path: listed for path, listed in files.items() if path not in missing}


def read_listed(listed: Listed) -> bytes | None:
    """Return the contents of a file. If it cannot be read or is a private key, log a warning and return None."""
    try:
        data = read_file(listed.path)
    except OSError as error:
        _warn_unreadable(listed.path, error)
        return None
    if not is_private_key(os.path.basename(listed.inside), data):
        return data
    warn_once(
        f"key {listed.path}",
        f"{listed.path} is not sent to hosts, because it looks like a private key. If your tasks need it, pass it to "
        "them as an argument.",
    )
    return None


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.1f} MiB"


def tell_of_files(package: str, sizes: Mapping[str, int]) -> None:
    """Log once which files travel with a package, because a user may not expect that a module's data do.

    Args:
        package: The name of the package.
        sizes: The size of each file in bytes, by its path in the bundle.
    """
    told = _told.setdefault(package, set())
    new = [f"{path} ({nbytes:,} bytes)" for path, nbytes in sizes.items() if path not in told]
    told.update(sizes)
    for first in range(0, len(new), _TOLD):
        named = ", ".join(new[first : first + _TOLD])
        logger.info("Hosts that run code of %r also get these files: %s.", package, named)


def _warn_unreadable(path: str, error: OSError) -> None:
    warn_once(path, f"{path} is not sent to hosts, because it cannot be read: {error.strerror or error}.")


def _warn_of_change(module: Module, listed: Listed) -> None:
    try:
        if read_file(listed.path) == module.source:
            return  # only the times have changed, or the program has loaded the new source
    except OSError as error:
        _warn_unreadable(listed.path, error)
        return
    when = "Handout first read it" if module.spec is None else "this program loaded it"
    remedy = "import the module" if module.spec is None else "load the module again with importlib.reload"
    warn_once(
        f"changed {listed.path} {listed.stamp}",
        f"{listed.path} has changed since {when}. Hosts still get the source as it was. To use the new source, start "
        f"the program again, or {remedy}.",
    )


def _warn_unknown(module: Module) -> None:
    warn_once(
        f"unknown {module.path}",
        f"{module.path} changed after this program had loaded it and before Handout first read it, so the loaded "
        "source is not known. Hosts get the new source. Start the program again to use the new source here too.",
    )


#: The attributes in which a statement holds other statements.
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")


def imports_of(source: bytes) -> Iterator[str]:
    """Yield the top-level name of each module that is imported anywhere in a source. Skip relative imports.

    Modules that only texts name, as in ``[sys.executable, "-m", "mine"]``, come last. Some of these may be no modules.
    """
    stated = dict.fromkeys(_statements(source))
    yield from stated
    yield from dict.fromkeys(modules_in_text(source.decode("utf-8", "replace"))).keys() - stated.keys()


def _statements(source: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # importing the module will raise the same error and show where it is
    # Only statements are visited, because the caller's event loop waits meanwhile. Expressions are most of a tree, and
    # they contain no imports.
    bodies: list[list[Any]] = [list(tree.body)]
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
