"""Why a host cannot cover a cost, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handout.errors import PlacementError

if TYPE_CHECKING:
    from handout.resources.offer import Offer
    from handout.resources.requirement import Requirement

#: Hosts that are told apart in one message; the error's ``lacks`` has all of them.
_HOSTS_IN_MESSAGE = 8


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that a host lacks.

    Attributes:
        name: What was asked for.
        needs: The cost's side, such as ``gpu=2``.
        offers: The host's side, such as ``gpu=1``.
        hint: What may be meant instead, or "".
        shared: Whether it is the inventory that lacks it, whichever host is asked.
    """

    name: str
    needs: str
    offers: str
    hint: str
    shared: bool = False

    def __str__(self) -> str:
        """One clause: ``needs gpu=2, offers gpu=1``."""
        offers = self.offers if self.shared else f"offers {self.offers}"
        return f"needs {self.needs}, {offers}" + (f" ({self.hint})" if self.hint else "")


def explain_lacks(
    variants: Sequence[Requirement], offers: Mapping[str, Offer], shared: Mapping[str, int]
) -> dict[str, str]:
    """For each host what it lacks, as text; hosts that can cover one of the variants are left out.

    Args:
        variants: The compiled costs, any of which would do.
        offers: The hosts that come into question, by name.
        shared: All that the inventory shares, in parts by name.
    """
    texts: dict[str, str] = {}
    for host, offer in offers.items():
        lacks = [variant.lacks(offer, shared) for variant in variants]
        if all(lacks):
            clauses = ["; ".join(map(str, one)) for one in lacks]
            if len(clauses) > 1:
                clauses = [f"variant {number} {clause}" for number, clause in enumerate(clauses)]
            texts[host] = "; ".join(clauses)
    return texts


def placement_error(
    id: str, variants: Sequence[Requirement], offers: Mapping[str, Offer], shared: Mapping[str, int]
) -> PlacementError:
    """The error for a task that none of these hosts can ever cover.

    Args:
        id: The task.
        variants: Its compiled costs.
        offers: The hosts that come into question: all, or the one that it is pinned to.
        shared: All that the inventory shares, in parts by name.
    """
    lacks = explain_lacks(variants, offers, shared)
    if not offers:
        problem = f"task {id!r} cannot be placed: there is no host."
        return PlacementError(problem, remedy="Add a host to the inventory.", id=id, lacks=lacks)
    return PlacementError(
        f"task {id!r} cannot be placed on any of {len(offers)} hosts: {_by_reason(lacks)}."
        if len(offers) > 1
        else f"task {id!r} cannot be placed: {_by_reason(lacks)}.",
        remedy="Lower its cost, or add a host that covers it.",
        id=id,
        lacks=lacks,
    )


def _by_reason(lacks: Mapping[str, str]) -> str:
    """Hosts that lack the same are told of together."""
    hosts: dict[str, list[str]] = {}
    for host, text in lacks.items():
        hosts.setdefault(text, []).append(host)
    shown = [f"{_names(names)} {text}" for text, names in hosts.items()]
    more = len(shown) - _HOSTS_IN_MESSAGE
    return "; ".join(shown[:_HOSTS_IN_MESSAGE]) + (f"; and {more} more reasons" if more > 0 else "")


def _names(names: Sequence[str]) -> str:
    quoted = ", ".join(map(repr, names[:3]))
    return f"host{'s' if len(names) > 1 else ''} {quoted}" + (f" and {len(names) - 3} more:" if len(names) > 3 else ":")
