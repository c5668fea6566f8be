"""Finds out which of the files beside a module the module's source names. Only these files travel with the module."""

from __future__ import annotations

import os
import re
from fnmatch import translate

__all__ = ["NamedFiles"]

_QUOTE = re.compile(rb"[\"']")
#: What stands in a source within quotes, or as a part of a path.
_WORD = re.compile(rb"(?<=[\"'/])[^\"'/]*(?=[\"'/])")
#: A text with a pattern for file names, such as ``"*.json"`` or ``"**/part-*.csv"``.
_PATTERN = re.compile(rb"(?:[\"']|[*}.]/)([\w.-]*\*\.\w[\w.-]*)[\"']")


class NamedFiles:
    """The names of files and folders that a source names; see `listing.list_beside`.

    The source is searched once, and not for each file, because a folder may have thousands of files.

    Args:
        source: The source.
        module: The name of the module, or ``""``; see `listing.list_beside`.
    """

    def __init__(self, source: bytes, module: str) -> None:
        self._source = source
        self._module = module
        self._words = frozenset(_WORD.findall(source))
        patterns = dict.fromkeys(_PATTERN.findall(source) if module else ())
        self._patterns = re.compile("|".join(translate(os.fsdecode(pattern)) for pattern in patterns))

    def __contains__(self, name: str) -> bool:
        if self._has(name) or self._patterns.fullmatch(name) is not None:
            return True
        return bool(self._module) and name.startswith(f"{self._module}.") and self._has(name.removeprefix(self._module))

    def _has(self, text: str) -> bool:
        """Return True if a text stands in the source within quotes, or as a part of a path."""
        encoded = os.fsencode(text)
        parts = _QUOTE.split(encoded)
        if not self._words.issuperset(parts):
            return False
        # A word ends at a quote, so a name with a quote, such as "it's.txt", has several words.
        return len(parts) == 1 or re.search(rb"[\"'/]%s[\"'/]" % re.escape(encoded), self._source) is not None
