"""Computes the identities of functions, methods and modules from their parts.

An identity is a digest by which a later run recognizes the same code (see `identity`). A part "counts" if the identity
depends on it. A module is "installed" if it is not the user's own (see `project.ownership`).
"""

from __future__ import annotations

import functools
import os
import sys
import types
from pathlib import Path
from typing import Any

from handout.journal.installed import PYTHON, is_own, version_of
from handout.journal.value_walk import ValueWalk, digest
from handout.project.sources import own_sources
from handout.serialization import own_objects
from handout.serialization.functions_by_value import instructions_of, is_relative, names_in
from handout.serialization.importable import importable_name, place_of
from handout.slices import at_once

__all__ = ["bound_method", "cell", "code", "function", "installed", "module", "module_sources"]


def installed(module: str | None, name: str) -> bytes:
    """Return the identity of an object of an installed module.

    The identity is made from the object's name and from the module's name and version.
    """
    top = (module or "").partition(".")[0]
    return digest(b"installed", f"{module}:{name}:{version_of(top)}".encode())


def function(walk: ValueWalk, fn: types.FunctionType) -> bytes:
    """Return the identity of a Python function.

    The identity is made from the function's code, defaults, annotations, attributes and closure, and from the values of
    the globals that the code names. If the function can be imported from an installed module, only the function's name
    and the module's version count.

    The function's globals tell which module its code is from. The attribute ``__module__`` of the function may name
    another module, because `functools.wraps` copies this attribute from another function.
    """
    space = fn.__globals__
    home = str(space.get("__name__"))
    is_installed = not is_own(home) and getattr(sys.modules.get(home), "__dict__", None) is space
    if is_installed and not is_own(fn.__module__) and importable_name(fn) is not None:
        return installed(fn.__module__, fn.__qualname__)
    held = {k: v for k, v in fn.__dict__.items() if not k.startswith("__handout")}
    if is_installed and home == "functools" and "registry" in held and "dispatch" in held:
        # `functools.singledispatch` made `fn`. Only the registry counts, because all other state of `fn` is a cache.
        return digest(b"dispatch", walk.mapping(held["registry"]))
    # In Python 3.14, the function ``__annotate__`` computes the annotations on demand. So it counts instead of them.
    annotations = getattr(fn, "__annotate__", None) or fn.__annotations__
    parts = [code(walk, fn.__code__, fn.__doc__), walk.of(fn.__defaults__), walk.of(fn.__kwdefaults__)]
    parts += [walk.of(annotations), walk.of(held), walk.of(fn.__closure__)]
    if is_installed:
        # The code of `fn` is from an installed module, for example from a decorator there. The globals that the code
        # names are left out, because the module's version stands for them.
        return digest(installed(home, fn.__qualname__), *parts)
    for name in sorted(names_in(fn.__code__).used):
        if name in space:
            parts += [name.encode(), walk.of(own_objects.by_name(space[name]))]
    parts += [module_sources(walk, name) for name in _imported(fn.__code__, space.get("__package__") or "")]
    return digest(b"function", *parts)


def code(walk: ValueWalk, code_: types.CodeType, doc: str | None = None) -> bytes:
    """Return the identity of a code object. File names, line numbers and the docstring do not count."""
    constants = [
        code(walk, each) if isinstance(each, types.CodeType) else walk.of(None if not at and each == doc else each)
        for at, each in enumerate(code_.co_consts)
    ]
    shape = (
        code_.co_argcount, code_.co_posonlyargcount, code_.co_kwonlyargcount, code_.co_flags, code_.co_names,
        code_.co_varnames, code_.co_freevars, code_.co_cellvars,
    )  # fmt: skip
    table = getattr(code_, "co_exceptiontable", b"")
    return digest(b"code", PYTHON.encode(), code_.co_code, table, repr(shape).encode(), *constants)


def cell(walk: ValueWalk, cell_: types.CellType) -> bytes:
    """Return the identity of the value that a cell of a closure holds."""
    try:
        return walk.of(cell_.cell_contents)
    except ValueError:  # the cell has no value yet
        return digest(b"empty")


def bound_method(walk: ValueWalk, value: Any, func: Any) -> bytes:
    """Return the identity of a bound method, or of a built-in function.

    The identity of a bound method is made from its function and from the object that it is bound to. For a built-in
    function, only its name and its module's version count. The same holds for a method that an installed module offers
    as a function, such as `random.random`.
    """
    owner = value.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        return installed(value.__module__ or "builtins", value.__qualname__)
    place = place_of(value)
    if place is not None and not is_own(place[0]):
        return installed(*place)
    return digest(b"bound", walk.of(func), walk.of(owner))


def module(walk: ValueWalk, module_: types.ModuleType) -> bytes:
    """Return the identity of a module that code names as a whole, as in ``import mine; mine.f()``."""
    if sys.modules.get(module_.__name__) is not module_:
        return walk.unknown()
    return module_sources(walk, module_.__name__)


def module_sources(walk: ValueWalk, name: str) -> bytes:
    """Return the identity of a module, by its name.

    If the module is the user's own, the identity is made from the files of its top-level package, from the files of the
    user's other packages that this package imports, directly or indirectly, and from the versions of the installed
    modules that any of these packages imports. The identity of an installed module is made from its version.
    """
    top, script, package = name.partition(".")[0], None, None
    if name == "__main__":
        package = getattr(sys.modules[name], "__package__", None)
        script = getattr(sys.modules[name], "__file__", None)
        if script is None or not os.path.isfile(script):  # there is no file: the program was typed into an interpreter
            return walk.unknown()
    if top not in walk.sources:
        found = at_once(own_sources([package or top], script))
        parts = [part for each in sorted(found.files) for part in (each.encode(), digest(found.files[each]))]
        binaries = sorted(each for package in found.packages.values() for each in package.extensions.items())
        parts += [part for each, path in binaries for part in (each.encode(), digest(Path(path).read_bytes()))]
        parts += [version_of(each).encode() for each in sorted(found.installed)]
        walk.sources[top] = digest(b"sources", *parts) if found.files else installed(top, "")
    return digest(name.encode(), walk.sources[top])


@functools.lru_cache(maxsize=4096)
def _imported(code_: types.CodeType, package: str) -> tuple[str, ...]:
    """Return the names of the modules that a code object imports when it runs.

    `package` is the name of the package that the code is in. Each relative import is taken as an import of this whole
    package.
    """
    found: set[str] = set()
    for each in code_.co_consts:
        if isinstance(each, types.CodeType):
            found.update(_imported(each, package))
    instructions = list(instructions_of(code_))
    for at, each in enumerate(instructions):
        if each.opname == "IMPORT_NAME":
            found.add(package if is_relative(instructions, at) else each.argval)
    return tuple(sorted(found))
