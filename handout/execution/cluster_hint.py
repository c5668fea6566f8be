"""Tells the user once that two open clusters of a program use one machine, as when a notebook's cell runs twice."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

from handout.resources import Host, Inventory

__all__ = ["OPEN", "OpenClusters"]

logger = logging.getLogger("handout")

#: How many hosts the hint names.
_NAMED = 3


class OpenClusters:
    """The clusters of this process that are open, with their machines. Any thread may call the methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Maps an open cluster to its machines, and each machine to the name of its host. Keeps no cluster alive.
        self._open: weakref.WeakKeyDictionary[Any, dict[object, str]] = weakref.WeakKeyDictionary()
        #: True once the hint was given, so that it is given only once in a process.
        self.told = False

    def note(self, cluster: Any, inventory: Inventory) -> None:
        """Note that a cluster is being opened, and give the hint if another one uses a machine of it."""
        machines = {_machine(host): host.name for host in inventory.values()}
        with self._lock:
            taken = {machine for others in self._open.values() for machine in others}
            self._open[cluster] = machines
            twice = sorted(name for machine, name in machines.items() if machine in taken)
            if not twice or self.told:
                return
            self.told = True
        more = f" and {len(twice) - _NAMED} more" if len(twice) > _NAMED else ""
        logger.warning(
            "This program has another open Cluster that uses the same machines: %s%s. Each cluster counts the "
            "processors and the memory of its hosts for itself, so that together they may give a host too many tasks. "
            "Close the first one, with `await cluster.close()`, before you open another. This hint is given only once.",
            ", ".join(map(repr, twice[:_NAMED])),
            more,
        )

    def forget(self, cluster: Any) -> None:
        """Note that a cluster is being closed. A second call does nothing."""
        with self._lock:
            self._open.pop(cluster, None)


def _machine(host: Host) -> object:
    """Return what is equal for two hosts that lead to one login on one machine."""
    return "local" if host.is_local else (host.address or host.name, host.port, host.username)


#: The open clusters of this process.
OPEN = OpenClusters()
