"""Decides which functions, classes and modules are sent by name: those that every process can import.

All others are sent by value, which means that their definitions are sent (see `definitions`).
"""

from __future__ import annotations

import builtins
import importlib
import operator
import pickle
import sys
import types
from typing import Any

_MAIN = ("__main__", "__mp_main__")
#: Built-in types that ``builtins`` does not name, such as ``function`` and ``mappingproxy``, by their names in `types`.
_TYPES: dict[type, str] = {kind: name for name, kind in vars(types).items() if isinstance(kind, type)}
#: Built-in types that pickle writes itself.
_SINGLETONS = frozenset({type(None), type(...), type(NotImplemented)})


def main_name() -> str | None:
    """Return the name by which ``__main__`` can be imported, such as ``pkg.mod`` after ``python -m pkg.mod``.

    Return None if there is no such name. For a folder or a zip file that is run as a program, Python itself gives the
    name ``__main__``, under which no other process finds the program. After ``python -m pkg``, the name is
    ``pkg.__main__``. It does not count, because such a module is a program from its first line, and an import would run
    it. `multiprocessing` does not import it either.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return None if spec is None or spec.name.rpartition(".")[2] == "__main__" else spec.name


def is_importable(module: types.ModuleType) -> bool:
    """Return True if other processes can import a module. They cannot import a module that was made at run time."""
    name = module.__name__
    if sys.modules.get(name) is not module or (name == "__main__" and main_name() is None):
        return False
    return getattr(module, "__spec__", None) is not None


def importable_name(obj: Any) -> tuple[str, str] | None:
    """Return the module and the qualified name by which any process finds `obj`. Return None if there is no such name.

    The object's own attributes suggest the name. It counts only if it leads to `obj` itself.
    """
    module_name, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    module = sys.modules.get(module_name) if isinstance(module_name, str) else None
    if module is None or not isinstance(qualname, str):
        return None
    if module_name in _MAIN:
        module_name = main_name()
    elif getattr(module, "__spec__", None) is None:
        return None
    return (module_name, qualname) if module_name is not None and at(module, qualname) is obj else None


def at(module: Any, qualname: str) -> Any:
    """Return the object that a qualified name leads to, or None."""
    try:
        return operator.attrgetter(qualname)(module)
    except AttributeError:
        return None


def module_named(name: str) -> types.ModuleType:
    """Import a module. The running ``__main__`` stands for the module that it runs."""
    return sys.modules["__main__"] if name == main_name() else importlib.import_module(name)


def attribute(module_name: str, qualname: str) -> Any:
    """Return the object that `importable_name` named."""
    return operator.attrgetter(qualname)(module_named(module_name))


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


class MainUnpickler(pickle.Unpickler):
    """In a process that was started as ``python -m pkg.mod``, looks up names of ``pkg.mod`` in ``__main__``."""

    def find_class(self, module_name: str, name: str) -> Any:
        return super().find_class("__main__" if module_name == main_name() else module_name, name)
