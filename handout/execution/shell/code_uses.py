"""Counts how many open runs use each function and each source bundle, so that agents can drop unused code.

A run is open until its caller leaves it. A source bundle is an archive of the user's own modules.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from handout.execution.shell.run_state import RunState

__all__ = ["CodeUses", "UnusedCode"]


class UnusedCode(NamedTuple):
    """Code that agents can drop, because no open run uses it any more."""

    #: Numbers of functions.
    functions: set[int]
    #: Keys of source bundles.
    bundles: set[int]


class CodeUses:
    """Counts the open runs of a cluster that use each function and each source bundle.

    The bundle that became unused last is kept, because the next run often needs the same modules.
    """

    def __init__(self) -> None:
        self._functions: Counter[int] = Counter()
        self._bundles: Counter[int] = Counter()
        self._last_bundle: int | None = None

    def begin(self, run: RunState) -> None:
        """Count a run that begins."""
        self._functions.update(_functions_of(run))
        self._bundles.update(_bundles_of(run))

    def add(self, function: int | None, bundle: int | None) -> None:
        """Count code that an open run begins to use.

        Args:
            function: The number of a function that the run has not used before, or None.
            bundle: The key of a bundle that the run has not used before, or None.
        """
        if function is not None:
            self._functions[function] += 1
        if bundle is not None:
            self._bundles[bundle] += 1

    def end(self, run: RunState) -> UnusedCode:
        """Stop counting a run that is over. Return the code that agents can drop."""
        functions = _discount(self._functions, _functions_of(run))
        bundles = _discount(self._bundles, _bundles_of(run))
        if bundles:
            kept = max(bundles)
            if self._last_bundle is not None and self._last_bundle not in self._bundles:
                bundles.add(self._last_bundle)
            bundles.discard(kept)
            self._last_bundle = kept
        return UnusedCode(functions, bundles)


def _functions_of(run: RunState) -> set[int]:
    return {function.number for function in run.encoded.functions}


def _bundles_of(run: RunState) -> set[int]:
    return {traits.bundle.key for traits in run.traits if traits.bundle is not None}


def _discount(uses: Counter[int], numbers: set[int]) -> set[int]:
    """Subtract one use of each number. Return the numbers that have no use left."""
    uses.subtract(numbers)
    unused = {number for number in numbers if uses[number] <= 0}
    for number in unused:
        del uses[number]
    return unused
