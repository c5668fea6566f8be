"""Decides which functions, classes and modules are sent by name: those that every process can import.

All others are sent by value, which means that their definitions are sent (see `definitions`). So is all that
``__main__`` defines, also after ``python -m pkg.mod``: a program may change its globals before it begins a run. A host
that imported ``pkg.mod`` would not have the changes.
"""

from __future__ import annotations

import builtins
import importlib
import operator
import sys
import types
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, PathFinder
from typing import Any

_MAIN = ("__main__", "__mp_main__")
#: Built-in types that ``builtins`` does not name, such as ``function`` and ``mappingproxy``, by their names in `types`.
_TYPES: dict[type, str] = {kind: name for name, kind in vars(types).items() if isinstance(kind, type)}
#: Built-in types that pickle writes itself.
_SINGLETONS = frozenset({type(None), type(...), type(NotImplemented)})


def is_importable(module: Any) -> bool:
    """Return True if other processes can import a module. They cannot import a module that a program made at run time.

    Some packages put modules without a spec into `sys.modules` when they are imported, so that importing them does the
    same in any process. Such a module is an object of a class of the package, as ``torch.ops`` is and a module that
    replaces itself, or C code has made it, as it has made ``torch._C._nn``.
    """
    kind = type(module)
    name = getattr(module, "__name__", None) if issubclass(kind, types.ModuleType) else None
    if not isinstance(name, str) or sys.modules.get(name) is not module or name in _MAIN:
        return False
    if getattr(module, "__spec__", None) is not None:
        return True
    package, _, last = name.rpartition(".")
    parent = sys.modules.get(package)
    if package and not (is_importable(parent) and vars(parent).get(last) is module):
        return False
    if kind is types.ModuleType:
        return bool(package) and _is_made_by_c(parent)
    if kind.__module__.partition(".")[0] != name.partition(".")[0]:
        return False
    file = getattr(module, "__file__", None)
    found = PathFinder.find_spec(name) if isinstance(file, str) and not package else None
    return bool(package) or (found is not None and found.origin == file)


def _is_made_by_c(module: Any) -> bool:
    """Return True for a module of C code: an extension module, or one without a spec inside of another such module."""
    spec = getattr(module, "__spec__", None)
    if spec is None:
        package = module.__name__.rpartition(".")[0]
        return package in sys.modules and _is_made_by_c(sys.modules[package])
    return isinstance(spec.loader, ExtensionFileLoader) or spec.loader is BuiltinImporter


def importable_name(obj: Any) -> tuple[str, str] | None:
    """Return the module and the qualified name by which any process finds `obj`. Return None if there is no such name.

    The object's own attributes suggest the name. It counts only if it leads to `obj` itself.
    """
    module_name, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    module = sys.modules.get(module_name) if isinstance(module_name, str) else None
    if module is None or not isinstance(qualname, str) or module_name in _MAIN:
        return None
    is_module_there = getattr(module, "__spec__", None) is not None or is_importable(module)
    is_here = is_module_there and at(module, qualname) is obj
    return (str(module_name), qualname) if is_here else None


def place_of(method: Any) -> tuple[str, str] | None:
    """Return the module that has a bound method as a global, and its name there. Return None if there is none.

    An example is ``random.choice``, a method of an object that each process has of its own. A copy of the object would
    return the same numbers in each task.
    """
    owner = method.__self__
    if owner is None or issubclass(type(owner), (type, types.ModuleType)):
        return None
    for home in (getattr(method, "__module__", None), type(owner).__module__):
        module = sys.modules.get(home) if isinstance(home, str) else None
        if module is not None and is_importable(module):
            for name, value in list(vars(module).items()):
                if value is method:
                    return str(home), name
    return None


def at(module: Any, qualname: str) -> Any:
    """Return the object that a qualified name leads to, or None."""
    try:
        return operator.attrgetter(qualname)(module)
    except AttributeError:
        return None


def attribute(module_name: str, qualname: str) -> Any:
    """Return the object that `importable_name` named."""
    return operator.attrgetter(qualname)(importlib.import_module(module_name))


def reduce_builtin(cls: type) -> Any:
    """Return the tuple from which pickle writes a class that says it is in ``builtins``.

    Return NotImplemented if pickle can write the class itself, and None if the class is not built in.
    """
    if getattr(builtins, cls.__qualname__, None) is cls or cls in _SINGLETONS:
        return NotImplemented
    if cls in _TYPES:
        return attribute, ("types", _TYPES[cls])
    try:
        import dill
    except ImportError:
        return None
    name = dill._dill._typemap.get(cls)  # types that neither module names, such as that of a dict's keys
    return None if name is None else (dill._dill._load_type, (name,))
