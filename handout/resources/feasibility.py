"""The one place that decides if a host can ever run a task, from compiled costs and what an idle host offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handout.resources.offer import Offer
from handout.resources.requirement import Requirement

__all__ = ["feasible_variants"]


def feasible_variants(requirements: Sequence[Requirement], offer: Offer, shared: Mapping[str, int]) -> tuple[int, ...]:
    """Return the numbers of the variants that a host can cover when it is idle; empty if it never can.

    Args:
        requirements: The compiled variants of a cost, in order of preference.
        offer: All that the host offers.
        shared: All that the inventory shares, in parts by name.
    """
    return tuple(number for number, each in enumerate(requirements) if not each.lacks(offer, shared))
