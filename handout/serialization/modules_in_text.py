"""Finds the modules that code names in texts, and not in import statements.

A function starts a process with ``[sys.executable, "-c", "import mine"]`` or ``[sys.executable, "-m", "mine"]``,
imports with ``importlib.import_module("mine")``, or reads a file with ``importlib.resources.files("mine")``.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator

__all__ = ["modules_in_code", "modules_in_text"]

_STATEMENT = re.compile(
    r"\bfrom\s+\.[\w.]*\s+import\b"  # a relative import, which names no top-level module
    r"|\bfrom\s+([A-Za-z_]\w*)[\w.]*\s+import\b"
    r"|\bimport\s+((?:[A-Za-z_][\w.]*(?:\s+as\s+\w+)?[ \t]*,[ \t]*)*[A-Za-z_]\w*)"
    r"|(?:^|\s)-m\s+([A-Za-z_]\w*)"  # a command line
)
#: Functions of Python and of widely used packages that take the name of a module.
_TAKES_NAME = (
    r"import_module|__import__|run_module|find_spec|locate|resolve_name|files|get_data|version|entry_points|PackageLoader"
    r"|(?:open|read)_(?:text|binary)|resource_\w+"
)
_CALL = re.compile(rf"\b(?:{_TAKES_NAME})\(\s*[\"']([A-Za-z_]\w*)|[\"']-m[\"'],\s*[\"']([A-Za-z_]\w*)")
_FUNCTION = re.compile(_TAKES_NAME)
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def modules_in_text(text: str) -> Iterator[str]:
    """Yield the top-level names of the modules that a text seems to import. Some of these may be no modules."""
    for pattern in (_STATEMENT, _CALL):
        for match in pattern.finditer(text):
            for listed in filter(None, match.groups()):
                for name in listed.split(","):
                    yield name.split()[0].partition(".")[0]


def modules_in_code(code: types.CodeType) -> Iterator[str]:
    """Yield the names of the modules that the texts in a code object seem to name. Some of these may be no modules.

    Code objects inside this one are left out.
    """
    texts = list(_texts(code.co_consts))
    takes_names = "-m" in texts or any(map(_FUNCTION.fullmatch, code.co_names))
    for text in texts:
        if takes_names and _DOTTED.fullmatch(text):
            yield text
        elif "import" in text or "-m" in text:
            yield from modules_in_text(text)


def _texts(constants: tuple[object, ...]) -> Iterator[str]:
    for each in constants:
        if isinstance(each, str):
            yield each
        elif isinstance(each, tuple):
            yield from _texts(each)
