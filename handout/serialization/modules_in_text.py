"""Finds the modules that code names in texts, and not in import statements.

A function starts a process with ``[sys.executable, "-c", "import mine"]`` or ``[sys.executable, "-m", "mine"]``, or
imports with ``importlib.import_module("mine")``.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator

__all__ = ["modules_in_code", "modules_in_text"]

_STATEMENT = re.compile(
    r"\bfrom\s+\.[\w.]*\s+import\b"  # a relative import, which names no top-level module
    r"|\bfrom\s+([A-Za-z_]\w*)[\w.]*\s+import\b"
    r"|\bimport\s+([A-Za-z_]\w*)"
)
_CALL = re.compile(
    r"(?:import_module|__import__|run_module)\(\s*[\"']([A-Za-z_]\w*)"
    r"|[\"']-m[\"'],\s*[\"']([A-Za-z_]\w*)"
)
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_IMPORTERS = frozenset({"import_module", "__import__", "run_module"})


def modules_in_text(text: str) -> Iterator[str]:
    """Yield the top-level names of the modules that a text seems to import. Some of these may be no modules."""
    for pattern in (_STATEMENT, _CALL):
        for match in pattern.finditer(text):
            name = match[1] or match[2]
            if name:
                yield name


def modules_in_code(code: types.CodeType) -> Iterator[str]:
    """Yield the names of the modules that the texts in a code object seem to name. Some of these may be no modules.

    Code objects inside this one are left out.
    """
    texts = list(_texts(code.co_consts))
    takes_names = "-m" in texts or not _IMPORTERS.isdisjoint(code.co_names)
    for text in texts:
        if "import" in text:
            yield from modules_in_text(text)
        elif takes_names and _DOTTED.fullmatch(text):
            yield text


def _texts(constants: tuple[object, ...]) -> Iterator[str]:
    for each in constants:
        if isinstance(each, str):
            yield each
        elif isinstance(each, tuple):
            yield from _texts(each)
