"""Knows the sources of the modules that the program has loaded, although their files may have changed since.

Python does not keep a module's source. So `remember_loaded` reads it early: when a cluster is opened, when a graph gets
its first function of a module, and when a run begins. The file may have changed even before. `may_have_changed` looks
at the file's times: a file that was last changed before the process began is what the process has loaded. In all other
cases, `is_loaded` compiles the source and compares it with the code of the module's functions.
"""

from __future__ import annotations

import os
import struct
import sys
import time
import types
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from typing import Any

from handout.project.listing import read_file
from handout.project.ownership import is_own, loaded_spec

__all__ = [
    "REMEMBERED",
    "is_loaded",
    "loaded_spec_of",
    "may_have_changed",
    "remember_loaded",
    "remembered",
    "remembered_modules",
]

#: Seconds by which the clock of a file server may be behind the clock of this machine.
_SLACK_S = 2.0
#: When this module was imported.
_IMPORTED_AT = time.time()
#: Names of the loaded modules that `remember_loaded` has seen, and None, which is the module of some callables.
REMEMBERED: set[str | None] = {None}
#: The number of loaded modules, and the name and the identity of the newest, when `remember_loaded` last looked at all
#: of them.
_newest: list[tuple[int, str, int]] = [(0, "", 0)]
#: For each file of a loaded module of the user's, the module's spec and the source.
_sources: dict[str, tuple[object, bytes]] = {}
#: Top-level names of these modules.
_tops: set[str] = set()


def remember_loaded(fn: object = None) -> None:
    """Read the sources of the user's modules that the program has loaded since the last call.

    Args:
        fn: If a function is given, do so only if its module is not in `REMEMBERED`.
    """
    module = getattr(fn, "__module__", None)
    if fn is not None and module in REMEMBERED:
        return
    # Each call of a cluster asks, and looking at all names takes 25 us. A name that is new is the last one, unless
    # another new name follows it.
    last = next(reversed(sys.modules), "")
    newest = len(sys.modules), last, id(sys.modules.get(last))
    if newest == _newest[0] and module in REMEMBERED:
        return
    _newest[0] = newest
    names = [name for name in list(sys.modules) if name not in REMEMBERED]
    REMEMBERED.add(module)  # there may be no loaded module of this name
    own: dict[str, bool] = {}
    for name in names:
        REMEMBERED.add(name)
        spec = loaded_spec(name)
        # In ``python -m pkg.mod``, the module ``__main__`` has the spec of ``pkg.mod``.
        top = (getattr(spec, "name", name) if name == "__main__" else name).partition(".")[0]
        if top not in own:
            own[top] = is_own(top)
        path = getattr(spec, "origin", None)
        if own[top] and isinstance(path, str) and path.endswith(".py"):
            try:
                _sources[path] = spec, read_file(path)
                _tops.add(top)
            except OSError:
                continue  # `Package` logs a warning if the file is needed and still cannot be read


def remembered_modules(top: str) -> Iterator[tuple[str, Any, bytes]]:
    """Yield the name, the spec and the source of each loaded module of a package, if `remember_loaded` has read it."""
    for name in list(sys.modules) if top in _tops else ():
        if name == top or name.startswith(f"{top}."):
            spec = loaded_spec(name)
            source = remembered(str(getattr(spec, "origin", None)), spec)
            if source is not None:
                yield name, spec, source


def loaded_spec_of(name: str) -> ModuleSpec | None:
    """Return the spec of a loaded module, also if the program was started as ``python -m`` with the module's name."""
    spec = loaded_spec(name)
    if spec is None:
        main = loaded_spec("__main__")
        spec = main if main is not None and main.name == name else None
    return spec


def remembered(path: str, spec: object) -> bytes | None:
    """Return the source that `remember_loaded` has read for a loaded module with this spec, or None."""
    known, source = _sources.get(path, (None, b""))
    return source if known is spec and spec is not None else None


def may_have_changed(status: os.stat_result) -> bool:
    """Return True if a file may have changed since this process began.

    The time of the last change of the inode counts too, because a program that unpacks or copies files can set the
    modification time.
    """
    return max(status.st_mtime, status.st_ctime) > _process_began() - _SLACK_S


@cache
def _process_began() -> float:
    """Return when this process began, in seconds since 1970. Return 0 if the system does not tell."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        with open("/proc/uptime", "rb") as file:
            uptime_s = float(file.read().split()[0])
        age_s = uptime_s - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return min(_IMPORTED_AT, time.time() - age_s)
    except (OSError, ValueError, IndexError):
        return 0.0


def is_loaded(name: str, source: bytes, path: str) -> bool:
    """Return False if a loaded module was made from another source.

    Functions tell the sources apart. If the module has no function of its own, the header of its bytecode file tells of
    which source it was compiled last. If both are missing, the function returns True.

    Args:
        name: The name of the module.
        source: The source.
        path: The file of the source.
    """
    spec = loaded_spec_of(name)
    module = sys.modules.get(name) or sys.modules["__main__"]
    loader = SourceFileLoader("__main__", path) if spec is None else spec.loader
    compile_source = getattr(loader, "source_to_code", None)
    if compile_source is None:
        return True  # the loader changes the code, as pytest's loader does, or the module is in a zip file
    loaded = list(_codes_of(module, path if spec is None else str(spec.origin)))
    if not loaded:
        return spec is None or _is_cached(spec.cached, path)
    try:
        compiled = set(_nested(compile_source(source, path)))
    except (SyntaxError, ValueError):
        return False  # Python could not have loaded this source
    return compiled.issuperset(loaded)


def _codes_of(module: types.ModuleType, origin: str) -> Iterator[types.CodeType]:
    """Yield the code of the functions and methods that a module's own source defines."""
    # This does not load a module that `importlib.util.LazyLoader` has made, as `vars` would.
    space: dict[str, Any] = types.ModuleType.__getattribute__(module, "__dict__")
    for value in list(space.values()):
        is_class = isinstance(value, type) and value.__module__ == space.get("__name__")
        for each in (value, *(list(vars(value).values()) if is_class else ())):
            is_wrapper = type(each) is staticmethod or type(each) is classmethod
            fn = each.__func__ if is_wrapper else each
            if type(fn) is types.FunctionType and fn.__code__.co_filename == origin:
                yield fn.__code__


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _is_cached(cached: str | None, path: str) -> bool:
    """Return False if the bytecode file of a module was compiled from a source with other times or another size."""
    if cached is None or sys.dont_write_bytecode:
        return True
    try:
        with open(cached, "rb") as file:
            header = file.read(16)
        status = os.stat(path)
        flags, mtime, size = struct.unpack("<4xIII", header)
    except (OSError, struct.error):
        return True
    now = (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    return flags != 0 or (mtime, size) == now
