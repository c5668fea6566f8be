"""Tells the core about a host of the inventory that is not there yet."""

from __future__ import annotations

from handout.resources import Host, compile_capabilities
from handout.scheduler import events as ev
from handout.transport.timings import Timings

__all__ = ["expecting"]


def expecting(host: Host, timings: Timings) -> ev.HostExpected:
    """Return the event that says that the controller connects to a host, with what the inventory says about the host.

    Args:
        host: The host's entry in the inventory.
        timings: The cluster's time limits. After the host was lost, or after its first start has failed, tasks that a
            custom allocator has placed there wait for ``host_timeout_s`` and ``grace_s``.
    """
    declared = compile_capabilities(host.capabilities, complete=False)
    return ev.HostExpected(host.name, declared, host.price_per_hour, timings.host_timeout_s + timings.grace_s)
