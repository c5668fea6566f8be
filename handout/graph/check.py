"""Costs against declared capabilities, without reaching a host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from handout.errors import PlacementError
from handout.graph.nearest import nearest
from handout.graph.options import TaskOptions
from handout.graph.plan import Plan
from handout.resources.capabilities import compile_capabilities
from handout.resources.inventory import InventoryLike, as_inventory
from handout.resources.lack import placement_error
from handout.resources.offer import Offer
from handout.resources.requirement import Requirement, compile_cost

__all__ = ["check_placement"]


def check_placement(plan: Plan, inventory: InventoryLike) -> None:
    """Refuse a plan with a task that no host can ever run, as far as declarations tell.

    Raises:
        PlacementError: Names the first such task, and for each host what it lacks.
    """
    hosts = as_inventory(inventory)
    shared = hosts.shared_amounts
    offers = {name: compile_capabilities(host.capabilities, complete=False) for name, host in hosts.items()}
    told_later = hosts.tracker is not None
    seen: set[int] = set()
    for task, options in enumerate(plan.options):
        if id(options) in seen:  # interned: what holds for one task holds for all with these options
            continue
        seen.add(id(options))
        variants = [compile_cost(cost) for cost in options.costs]
        open_to = _pinned(plan.ids[task], options, offers)
        if told_later:
            open_to = {name: _with_unknowns(offer, variants) for name, offer in open_to.items()}
        if not any(not each.lacks(offer, shared) for offer in open_to.values() for each in variants):
            raise placement_error(plan.ids[task], variants, open_to, shared)


def _pinned(id: str, options: TaskOptions, offers: Mapping[str, Offer]) -> Mapping[str, Offer]:
    if options.host is None:
        return offers
    if options.host not in offers:
        raise PlacementError(
            f"task {id!r} is pinned to host {options.host!r}, which is not in the inventory.",
            remedy=nearest(options.host, offers),
            id=id,
        )
    return {options.host: offers[options.host]}


def _with_unknowns(offer: Offer, variants: list[Requirement]) -> Offer:
    """An offer to which the inventory's tracker may add any name that is asked for."""
    asked = {name for each in variants for name in (*each.consumed, *(one.name for one in each.conditions))}
    return replace(offer, unknown=offer.unknown | (asked - offer.names()))
