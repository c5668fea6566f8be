"""Tells what a module changes while it is imported from what a function changes while it runs.

The worker puts back what a function has changed, but keeps what an import has changed; see `lent_state`. Modules are
also imported by the body of a function, at any time. So the worker must know when an import begins and ends.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from handout.host.worker.lent_state import LentState

__all__ = ["ImportWatch"]


class ImportWatch(importlib.abc.MetaPathFinder):
    """A finder that finds no module itself. It has the state kept that a module changes while its code runs.

    It must be the first of ``sys.meta_path``. It asks the other finders, and replaces the method `exec_module` of the
    loader that they return, for one call. An import within an import needs nothing of this, because all that the outer
    import changes is kept.

    Args:
        lent: The state.
    """

    def __init__(self, lent: LentState) -> None:
        self._lent = lent

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if self._lent.importing:
            return None
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            find = getattr(finder, "find_spec", None)
            if find is None:
                return None  # Python asks such an old finder in another way
            spec = find(fullname, path, target)
            if spec is not None:
                self._watch(spec.loader)
                return spec  # type: ignore[no-any-return]
        return None

    def _watch(self, loader: Any) -> None:
        """Replace a loader's method for one call. Do nothing if the loader is a class, as those of Python itself are.

        The modules of such loaders are built into Python, and change nothing when they are imported.
        """
        attributes = getattr(loader, "__dict__", None)
        if isinstance(loader, type) or not isinstance(attributes, dict) or "exec_module" in attributes:
            return
        run = getattr(loader, "exec_module", None)
        if run is None:
            return

        def exec_module(module: ModuleType) -> None:
            attributes.pop("exec_module", None)
            with self._lent.keep_changes():
                run(module)

        attributes["exec_module"] = exec_module
