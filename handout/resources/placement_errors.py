"""Explains why no host can run a task: writes what each host lacks, and makes the `PlacementError`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handout.errors import PlacementError
from handout.resources.offer import Offer
from handout.resources.requirement import Requirement

#: Largest number of reasons in one message. The error's ``lacks`` holds the reasons of all hosts.
_REASONS_IN_MESSAGE = 8


def explain_lacks(
    variants: Sequence[Requirement], offers: Mapping[str, Offer], shared: Mapping[str, int]
) -> dict[str, str]:
    """Return what each host lacks, as text, by host name. Hosts that can cover one of the variants are left out.

    Args:
        variants: The compiled variants of a cost. A host that covers one of them can run the task.
        offers: The offers of the hosts that the task's options allow, by name.
        shared: Amounts that all hosts share, in parts (1/10,000 of a unit), by name.
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
    id: str,
    variants: Sequence[Requirement],
    offers: Mapping[str, Offer],
    shared: Mapping[str, int],
    pinned: str | None = None,
) -> PlacementError:
    """Return the error for a task that none of these hosts can ever run.

    Args:
        id: Id of the task.
        variants: The compiled variants of the task's cost.
        offers: The offers of the hosts that the task's options allow, by name. A pinned task has only one such host.
        shared: Amounts that all hosts share, in parts (1/10,000 of a unit), by name.
        pinned: The host that the task is pinned to, or None.
    """
    lacks = explain_lacks(variants, offers, shared)
    if not offers:
        problem = f"task {id!r} cannot be placed: there is no host."
        return PlacementError(problem, remedy="Add a host to the inventory.", id=id, lacks=lacks)
    if pinned is not None:
        problem = f"task {id!r} is pinned to one host, and cannot be placed there"
    elif len(offers) > 1:
        problem = f"task {id!r} cannot be placed on any of {len(offers)} hosts"
    else:
        problem = f"task {id!r} cannot be placed"
    offer = next(iter(offers.values()))
    if all(any(lack.shared for lack in variant.lacks(offer, shared)) for variant in variants):
        remedy = "Lower the cost of the task, or raise the shared amounts of the inventory."
    elif pinned is not None:
        remedy = "Lower the cost of the task, or leave out its host=."
    else:
        remedy = "Lower the cost of the task, or add a host that covers it."
    return PlacementError(f"{problem}: {_by_reason(lacks)}.", remedy=remedy, id=id, lacks=lacks)


def _by_reason(lacks: Mapping[str, str]) -> str:
    """Return the reasons as text. Hosts that have the same reason are named together."""
    hosts: dict[str, list[str]] = {}
    for host, text in lacks.items():
        hosts.setdefault(text, []).append(host)
    shown = [f"{_names(names)} {text}" for text, names in hosts.items()]
    more = len(shown) - _REASONS_IN_MESSAGE
    return "; ".join(shown[:_REASONS_IN_MESSAGE]) + (f"; and {more} more reasons" if more > 0 else "")


def _names(names: Sequence[str]) -> str:
    quoted = ", ".join(map(repr, names[:3]))
    return f"host{'s' if len(names) > 1 else ''} {quoted}" + (f" and {len(names) - 3} more:" if len(names) > 3 else ":")
