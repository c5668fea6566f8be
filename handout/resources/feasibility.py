"""Decides whether a host can ever run a task, by comparing the task's compiled cost with all that the host offers.

No other module makes this decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handout.resources.offer import Offer
from handout.resources.requirement import Requirement

__all__ = ["feasible_variants"]


def feasible_variants(requirements: Sequence[Requirement], offer: Offer, shared: Mapping[str, int]) -> tuple[int, ...]:
    """Return the numbers of the variants that an idle host can cover. Empty: the host can never run the task.

    Args:
        requirements: The compiled variants of a cost, in order of preference. The first has the number 0.
        offer: All that the host offers.
        shared: The amounts that all hosts share, in parts (1/10,000 of a unit), by name.
    """
    return tuple(number for number, each in enumerate(requirements) if not each.lacks(offer, shared))
