"""Amounts and units, costs and capabilities, and the hosts of an inventory."""

from __future__ import annotations

from handout.resources.capabilities import (
    Capabilities,
    CapabilitiesLike,
    as_capabilities,
    as_probed,
    capabilities_of,
    compile_capabilities,
    effective,
    merge,
    remaining,
)
from handout.resources.condition import Condition
from handout.resources.cost import Amount, Cost, CostLike, as_costs
from handout.resources.did_you_mean import nearest_name
from handout.resources.host import Host, as_host
from handout.resources.inventory import Inventory, InventoryLike, as_inventory
from handout.resources.lack import Lack
from handout.resources.offer import Offer
from handout.resources.placement_errors import explain_lacks, placement_error
from handout.resources.requirement import Requirement, compile_cost
from handout.resources.tracker import LiveHost, Tracker
from handout.resources.units import PARTS, format_amount, parse_amount

__all__ = [
    "PARTS",
    "Amount",
    "Capabilities",
    "CapabilitiesLike",
    "Condition",
    "Cost",
    "CostLike",
    "Host",
    "Inventory",
    "InventoryLike",
    "Lack",
    "LiveHost",
    "Offer",
    "Requirement",
    "Tracker",
    "as_capabilities",
    "as_costs",
    "as_host",
    "as_inventory",
    "as_probed",
    "capabilities_of",
    "compile_capabilities",
    "compile_cost",
    "effective",
    "explain_lacks",
    "format_amount",
    "merge",
    "nearest_name",
    "parse_amount",
    "placement_error",
    "remaining",
]
