"""Functions that travel by value: what ``__main__``, lambdas and closures need; classes are in `classcopy`.

Reducers for the one C pickler of `pickling`, none of which does I/O or knows about hosts. Code objects travel
as marshal bytes, so both ends must run the same minor version of Python; that is checked, not hoped for.

Why not leave this to dill: its ``recurse=True`` recurses without end on two functions that call each other,
swaps ``sys.stdout`` while it looks for globals, loses the methods of a ``NamedTuple``, cannot carry an enum
or a ``TypeVar`` of ``__main__``, copies locks silently, and makes a second copy of a class for each function
that mentions it. dill still carries the odd types that C pickle refuses (see `pickling`).
"""

from __future__ import annotations

import builtins
import collections
import dataclasses
import dis
import functools
import importlib
import importlib.util
import marshal
import os
import sys
import types
import typing
import weakref
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

from handout.serialization.modules_in_text import modules_in_code

#: Two Pythons that share it read each other's code objects.
MAGIC: bytes = importlib.util.MAGIC_NUMBER
PYTHON: str = f"{sys.version_info[0]}.{sys.version_info[1]}"

Reduced = tuple[Any, ...]

#: Namespaces kept in a process; each belongs to one module of one snapshot, and a function that is still
#: alive holds its own, so dropping the oldest loses nothing but sharing.
_MAX_NAMESPACES = 256

_origin: str = os.urandom(8).hex()
_namespaces: collections.OrderedDict[tuple[str, int, int], dict[str, Any]] = collections.OrderedDict()
_names: weakref.WeakKeyDictionary[types.CodeType, Names] = weakref.WeakKeyDictionary()
#: Marshal's bytes differ from call to call (they depend on reference counts); a digest must not.
_marshalled: weakref.WeakKeyDictionary[types.CodeType, bytes] = weakref.WeakKeyDictionary()


def _after_fork() -> None:
    """Give a forked worker an origin of its own, or two of them would give two classes one token."""
    global _origin
    _origin = os.urandom(8).hex()


os.register_at_fork(after_in_child=_after_fork)


def origin() -> str:
    """This process, as tokens name it."""
    return _origin


# ---- by name or by value ---------------------------------------------------------------------------------


def main_name() -> str | None:
    """The name that ``__main__`` can be imported by: ``python -m pkg.mod`` is ``pkg.mod``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    # The program in a folder or in a zip file has a spec too, but other processes have another ``__main__``.
    return None if spec is None or spec.name == "__main__" else spec.name


def importable_name(obj: Any) -> tuple[str, str] | None:
    """The ``(module, qualified name)`` under which any process finds `obj`, or None: it goes by value."""
    module_name, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    module = sys.modules.get(module_name) if isinstance(module_name, str) else None
    if module is None or not isinstance(qualname, str):
        return None
    if module_name in ("__main__", "__mp_main__"):
        module_name = main_name()
        if module_name is None:
            return None
    elif getattr(module, "__spec__", None) is None and getattr(module, "__file__", None) is None:
        return None
    found: Any = module
    for part in qualname.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            return None
    assert module_name is not None
    return (module_name, qualname) if found is obj else None


def attribute(module_name: str, qualname: str) -> Any:
    """What `importable_name` named; the running ``__main__`` stands for the module that it was run from."""
    module = sys.modules["__main__"] if module_name == main_name() else importlib.import_module(module_name)
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


#: Built-in types that no built-in name leads to: ``function``, ``mappingproxy``.
_TYPES: dict[type, str] = {kind: name for name, kind in vars(types).items() if isinstance(kind, type)}


def reduce_builtin(cls: type) -> Any:
    """A class that says it is in ``builtins``, by name."""
    if getattr(builtins, cls.__qualname__, None) is cls or cls not in _TYPES:
        return NotImplemented
    return attribute, ("types", _TYPES[cls])


# ---- code and functions ----------------------------------------------------------------------------------


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """`code` and the code of everything defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


class Names(NamedTuple):
    """What code asks for when it runs, nested code included, in order of first appearance."""

    #: Globals that it reads or writes.
    used: tuple[str, ...]
    #: Modules that it imports, as written, and those that its texts seem to name; see `modules_in_text`.
    imported: tuple[str, ...]


def names_in(code: types.CodeType) -> Names:
    """The globals and modules that `code` names."""
    found = _names.get(code)
    if found is None:
        used: dict[str, None] = {}
        imported: dict[str, None] = {}
        for part in codes(code):
            for instruction in dis.get_instructions(part):
                if instruction.opname in ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"):
                    used[instruction.argval] = None
                elif instruction.opname == "IMPORT_NAME" and instruction.argval:
                    imported[instruction.argval] = None
            imported.update(dict.fromkeys(modules_in_code(part)))
        found = _names[code] = Names(tuple(used), tuple(imported))
    return found


def marshalled(code: types.CodeType) -> bytes:
    """`code` as bytes, the same each time."""
    data = _marshalled.get(code)
    if data is None:
        data = _marshalled[code] = marshal.dumps(code)
    return data


def reduce_code(code: types.CodeType) -> Reduced:
    return _make_code, (MAGIC, PYTHON, code.co_name, marshalled(code))


def _make_code(magic: bytes, python: str, name: str, data: bytes) -> types.CodeType:
    check_python(magic, python, name)
    code = marshal.loads(data)
    assert isinstance(code, types.CodeType)
    return code


class PythonMismatchError(RuntimeError):
    """Code that travelled by value met another version of Python."""


def check_python(magic: bytes, python: str, name: str) -> None:
    """Refuse code of another version before it crashes the interpreter."""
    if magic != MAGIC:
        raise PythonMismatchError(
            f"{name!r} travels by value (defined in __main__, a lambda or a closure) and was made by Python "
            f"{python}; this is Python {PYTHON}. Move it into a module, or use hosts with Python {python}."
        )


def reduce_function(fn: types.FunctionType, serial: int) -> Reduced:
    """`fn` by value, with the globals that it names; functions of one module share them over there."""
    if "registry" in fn.__dict__ and "dispatch" in fn.__dict__:
        return _reduce_dispatch(fn)
    code, namespace = fn.__code__, fn.__globals__
    used = {name: namespace[name] for name in names_in(code).used if name in namespace}
    cells = fn.__closure__ or ()
    contents = []
    for cell in cells:
        try:
            contents.append((cell, cell.cell_contents))
        except ValueError:  # still empty
            continue
    attributes = {k: v for k, v in fn.__dict__.items() if not k.startswith("__handout")}
    place = (_origin, serial, id(namespace)), str(namespace.get("__name__", "__main__"))
    state = (
        used, fn.__qualname__, fn.__module__, fn.__defaults__, fn.__kwdefaults__, fn.__doc__, attributes, contents
    )  # fmt: skip
    return _make_function, (code, place, fn.__name__, cells), state, None, None, _fill_function


def _reduce_dispatch(fn: Any) -> Reduced:
    """What `functools.singledispatch` made: it closes over a cache of weak references."""
    state = (fn.__name__, fn.__qualname__, fn.__module__, dict(fn.registry))
    return _make_dispatch, (), state, None, None, _fill_dispatch


def _undispatched(*_args: Any) -> None:
    """Stands for the default until `_fill_dispatch` brings it."""


def _make_dispatch() -> Any:
    return functools.singledispatch(_undispatched)


def _fill_dispatch(fn: Any, state: tuple[Any, ...]) -> None:
    fn.__name__, fn.__qualname__, fn.__module__, registry = state
    for kind, implementation in registry.items():
        fn.register(kind, implementation)
    fn.__wrapped__ = registry[object]


def _namespace(key: tuple[str, int, int], name: str) -> dict[str, Any]:
    space = _namespaces.get(key)
    if space is None:
        space = _namespaces[key] = {"__name__": name, "__builtins__": builtins}
        while len(_namespaces) > _MAX_NAMESPACES:
            _namespaces.popitem(last=False)
    return space


def _make_function(
    code: types.CodeType, place: tuple[tuple[str, int, int], str], name: str, cells: tuple[Any, ...]
) -> types.FunctionType:
    return types.FunctionType(code, _namespace(*place), name, None, cells)


def _fill_function(fn: types.FunctionType, state: tuple[Any, ...]) -> None:
    used, qualname, module, defaults, kwdefaults, doc, attributes, contents = state
    for name, value in used.items():
        fn.__globals__.setdefault(name, value)  # another function of the snapshot may have brought it
    fn.__qualname__, fn.__module__, fn.__doc__ = qualname, module, doc
    fn.__defaults__, fn.__kwdefaults__ = defaults, kwdefaults
    fn.__dict__.update(attributes)
    for cell, content in contents:
        cell.cell_contents = content


def reduce_cell(_cell: types.CellType) -> Reduced:
    """An empty one: the function that closes over it brings the contents, or a recursive one never ends."""
    return types.CellType, ()


# ---- what functions and classes hold ---------------------------------------------------------------------


def _make_typevar(kind: Any, name: str, bound: Any, constraints: tuple[Any, ...], variance: tuple[bool, bool]) -> Any:
    return kind(name, *constraints, bound=bound, covariant=variance[0], contravariant=variance[1])


def reduce_typevar(var: Any) -> Any:
    module = sys.modules.get(getattr(var, "__module__", None) or "")
    if module is not None and module.__name__ != "__main__" and getattr(module, var.__name__, None) is var:
        return NotImplemented
    if not isinstance(var, typing.TypeVar):
        return type(var), (var.__name__,)
    variance = var.__covariant__, var.__contravariant__
    return _make_typevar, (type(var), var.__name__, var.__bound__, var.__constraints__, variance)


def _make_lru_cache(fn: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize=maxsize, typed=typed)(fn)


def _reduce_lru_cache(cached: Any) -> Any:
    name = importable_name(cached)
    if name is not None and name[0] == cached.__module__:
        return NotImplemented
    if name is not None:
        return attribute, name
    limits = cached.cache_parameters()
    return _make_lru_cache, (cached.__wrapped__, limits["maxsize"], limits["typed"])


def _make_cached_property(fn: Callable[..., Any], name: str | None) -> Any:
    made: Any = functools.cached_property(fn)
    made.attrname = name
    return made


def _reduce_cached_property(obj: Any) -> Reduced:
    return _make_cached_property, (obj.func, obj.attrname)  # before 3.12 it holds a lock


def _dataclass_marker(name: str) -> Any:
    return getattr(dataclasses, name)


_MARKERS: dict[int, str] = {
    id(getattr(dataclasses, name)): name
    for name in ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR")
    if hasattr(dataclasses, name)
}


def _reduce_marker(obj: Any) -> Any:
    name = _MARKERS.get(id(obj))  # compared with ``is``: a copy of one is no marker
    return NotImplemented if name is None else (_dataclass_marker, (name,))


def _reduce_module(module: types.ModuleType) -> Any:
    name = module.__name__
    if sys.modules.get(name) is not module:
        return NotImplemented
    if name == "__main__":
        name = main_name() or name
    return importlib.import_module, (name,)


#: Reducers by exact type for what C pickle cannot carry; functions and classes are the pickler's own affair.
REDUCERS: dict[type, Callable[[Any], Any]] = {
    types.CodeType: reduce_code,
    types.CellType: reduce_cell,
    types.ModuleType: _reduce_module,
    types.MappingProxyType: lambda obj: (types.MappingProxyType, (dict(obj),)),
    staticmethod: lambda obj: (staticmethod, (obj.__func__,)),
    classmethod: lambda obj: (classmethod, (obj.__func__,)),
    property: lambda obj: (property, (obj.fget, obj.fset, obj.fdel, obj.__doc__)),
    functools.cached_property: _reduce_cached_property,
    type(functools.lru_cache(maxsize=None)(len)): _reduce_lru_cache,
    typing.TypeVar: reduce_typevar,
    **{type(getattr(dataclasses, name)): _reduce_marker for name in _MARKERS.values()},
}
if sys.version_info >= (3, 10):
    REDUCERS[typing.ParamSpec] = reduce_typevar
