"""Computes how many tasks of one cost an idle host can run at one time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from handout.protocol.resource_ledger import Ledger
from handout.resources import Offer, Requirement

__all__ = ["most_tasks"]

#: This many tasks count for a host if the tasks take none of its amounts.
_WEIGHTLESS: Final = 32
#: No host counts for more tasks than this.
_MOST: Final = 4096


def most_tasks(offer: Offer, variants: Sequence[Requirement], shared: Mapping[str, int]) -> int:
    """Return how many tasks an idle host can run at one time, in the variant of which it can run the most.

    Args:
        offer: All that the host offers.
        variants: The variants of the tasks' cost.
        shared: Amounts that all hosts share, in parts, by name. They do not limit the result.
    """
    return max((_most(offer, each, shared) for each in variants if not each.lacks(offer, shared)), default=0)


def _most(offer: Offer, requirement: Requirement, shared: Mapping[str, int]) -> int:
    need = {name: parts for name, parts in requirement.needs(shared)[0].items() if name not in offer.unknown}
    if not need:
        return _WEIGHTLESS
    ledger, count = Ledger(dict(offer.amounts), offer.devices), 0
    while count < _MOST and ledger.claim(need) is not None:
        count += 1
    return count
