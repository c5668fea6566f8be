"""Does the work of `Graph.check`: compares the costs in a plan with the capabilities that an inventory declares."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from handout.errors import PlacementError
from handout.graph.function_options import TaskOptions
from handout.graph.plan import Plan
from handout.resources.capabilities import compile_capabilities
from handout.resources.did_you_mean import suggestion
from handout.resources.feasibility import feasible_variants
from handout.resources.inventory import InventoryLike, as_inventory
from handout.resources.offer import Offer
from handout.resources.placement_errors import placement_error
from handout.resources.requirement import Requirement
from handout.slices import Slices, is_slice_end

__all__ = ["check_placement"]


def check_placement(plan: Plan, inventory: InventoryLike, done: Container[int] = ()) -> Slices[None]:
    """Check that each task of a plan can run on a host of the inventory. No host is contacted.

    A capability that the inventory does not declare, but that an agent or a tracker may report, does not count as
    missing.

    Args:
        plan: The plan.
        inventory: The hosts.
        done: Tasks that are not checked, because they do not run.

    Raises:
        PlacementError: A task can run on no host, its option ``host`` names a host that the inventory does not have, or
            it must share a host with tasks that only other hosts can run. The error names the first such task.
    """
    hosts = as_inventory(inventory)
    shared = hosts.shared_amounts
    offers = {name: compile_capabilities(host.capabilities, complete=False) for name, host in hosts.items()}
    tracked = hosts.tracker is not None
    fitting: dict[int, frozenset[str]] = {}
    for task, options in enumerate(plan.options):
        if is_slice_end(task):
            yield
        if id(options) in fitting or task in done:  # another task with the same options was checked
            continue
        variants = options.requirements
        open_to = _pinned(plan.ids[task], options, offers)
        if tracked:
            open_to = {name: _with_unknowns(offer, variants) for name, offer in open_to.items()}
        fitting[id(options)] = frozenset(
            name for name, offer in open_to.items() if feasible_variants(variants, offer, shared)
        )
        if not fitting[id(options)]:
            raise placement_error(plan.ids[task], variants, open_to, shared, options.host)
    yield from _check_groups(plan, fitting, done)


def _check_groups(plan: Plan, fitting: Mapping[int, frozenset[str]], done: Container[int]) -> Slices[None]:
    """Raise `PlacementError` if no host can run every task of a group.

    A group is a set of tasks that must share one host. The host need not have room for all of them at the same time.
    """
    common: dict[int, frozenset[str]] = {}
    for task, group in enumerate(plan.groups):
        if is_slice_end(task):
            yield
        if group < 0 or task in done:
            continue
        mine = fitting[id(plan.options[task])]
        both = common[group] = common.get(group, mine) & mine
        if not both:
            before = next(each for each in range(task) if plan.groups[each] == group and each not in done)
            raise PlacementError(
                f"tasks {plan.ids[before]!r} and {plan.ids[task]!r} must share one host, but no host covers the costs "
                f"of all tasks in their group. The second of these two tasks fits only on {', '.join(sorted(mine))}.",
                remedy="Leave out collocate_with, or add a host that covers the costs of all these tasks.",
                id=plan.ids[task],
            )


def _pinned(id: str, options: TaskOptions, offers: Mapping[str, Offer]) -> Mapping[str, Offer]:
    if options.host is None:
        return offers
    if options.host not in offers:
        raise PlacementError(
            f"task {id!r} is pinned to host {options.host!r}, which is not in the inventory.",
            remedy=suggestion(options.host, offers),
            id=id,
        )
    return {options.host: offers[options.host]}


def _with_unknowns(offer: Offer, variants: Sequence[Requirement]) -> Offer:
    """Return a copy of the offer in which each name that a cost asks for and the host lacks counts as unknown.

    No cost is refused because of an unknown name. A tracker may still report these names once the host has an agent.
    """
    asked = {name for each in variants for name in (*each.consumed, *(one.name for one in each.conditions))}
    return replace(offer, unknown=offer.unknown | (asked - offer.names()))
