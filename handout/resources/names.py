"""The names in costs and capabilities that have a meaning of their own."""

from __future__ import annotations

from typing import Final

#: Sizes: plain numbers count megabytes.
SIZES: Final = frozenset({"memory", "gpu_memory", "disk"})
#: Counts: amounts without a unit.
COUNTS: Final = frozenset({"cpu", "gpu"})
#: Names whose values are always amounts.
KNOWN_AMOUNTS: Final = SIZES | COUNTS
#: Amounts of a GPU device rather than of the host.
DEVICE_NAMES: Final = frozenset({"gpu", "gpu_memory"})
#: All names that a `Cost` documents.
KNOWN_NAMES: Final = KNOWN_AMOUNTS | {"python", "cpu_intensive"}
#: Names that the agent probes on its host unless the inventory declares them.
PROBED_NAMES: Final = KNOWN_AMOUNTS | {
    "python",
    "machine",
    "system",
    "kernel",
    "hostname",
    "container",
    "gpu_name",
}
