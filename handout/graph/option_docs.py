"""`help()` of a class of options tells each option with the text that stands below it in the source.

Editors and the reference read that text from the source, but Python does not keep it, so it is read here as well. That
takes 2 ms at import. Reading it only once the docstring is asked for was rejected: `help()` takes no docstring that is
not a plain string.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

__all__ = ["document"]


def document(*classes: Any) -> None:
    """Extend the docstring of a TypedDict by its options.

    Args:
        *classes: The class, then the classes that it inherits options from.
    """
    options = [text for cls in classes for text in _options(cls.__name__, cls.__module__)]
    classes[0].__doc__ = "\n".join([inspect.cleandoc(classes[0].__doc__ or ""), "", "Options:", *options])


def _options(name: str, module: str) -> Iterator[str]:
    for cls in _classes(module):
        if cls.name != name:
            continue
        for option, below in zip(cls.body, cls.body[1:], strict=False):
            match option, below:
                case ast.AnnAssign(target=ast.Name(id)), ast.Expr(value=ast.Constant(str(text))):
                    yield textwrap.indent(f"{id}: {' '.join(text.split())}", "    ")


@functools.cache
def _classes(module: str) -> list[ast.ClassDef]:
    try:
        source = inspect.getsource(sys.modules[module])
    except OSError:  # installed without its source
        return []
    return [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
