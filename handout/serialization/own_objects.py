"""Objects that each process has of its own, such as ``sys.modules`` and ``os.environ``. Code names them.

A script has such an object as a global after ``from os import environ``. A copy would not change with the original, and
a copy of ``os.environ`` would take the caller's secrets to the hosts. So functions and classes that are sent by value
refer to them by name. As an argument or a result, such an object is a value, and not that of the other process.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from handout.serialization import importable

_NAMES: dict[Any, tuple[str, ...]] = {
    os: ("environ", "environb"),
    sys: (
        "modules", "path", "meta_path", "path_hooks", "path_importer_cache", "flags", "version_info", "float_info",
        "hash_info", "int_info", "thread_info", "implementation",
    ),
}  # fmt: skip
#: The types of these objects.
TYPES = frozenset(type(getattr(module, name)) for module, names in _NAMES.items() for name in names)


class ByName:
    """Stands for such an object in a pickle."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __reduce__(self) -> Any:
        return importable.attribute, (self.module, self.name)


def name_of(value: Any) -> tuple[str, str] | None:
    """Return the module and the name by which each process has an object of its own, or None for other objects."""
    if type(value) in TYPES:
        for module, names in _NAMES.items():
            for name in names:
                if getattr(module, name, None) is value:
                    return module.__name__, name
    return None


def by_name(value: Any) -> Any:
    """Return what stands for a value in a pickle: a `ByName`, or the value itself."""
    name = name_of(value)
    return value if name is None else ByName(*name)


def reduce(value: Any, *, in_code: bool) -> Any:
    """Return the tuple from which pickle writes such an object, or NotImplemented for another object of its type.

    Args:
        value: The object.
        in_code: True if a function or a class refers to the object.

    Raises:
        TypeError: The object is a value of which there can be no copy, such as ``sys.version_info``.
    """
    name = name_of(value)
    if name is None or (not in_code and not isinstance(value, tuple)):
        return NotImplemented
    if not in_code:
        raise TypeError(f"there can be no copy of {'.'.join(name)}. Use tuple({'.'.join(name)})")
    return importable.attribute, name
