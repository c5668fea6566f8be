"""The names that have a fixed meaning in costs and capabilities."""

from __future__ import annotations

from typing import Final

#: Sizes. A number without a unit is in megabytes.
SIZES: Final = frozenset({"memory", "gpu_memory", "disk"})
#: Counts. These amounts have no unit.
COUNTS: Final = frozenset({"cpu", "gpu"})
#: Names whose values are always amounts.
KNOWN_AMOUNTS: Final = SIZES | COUNTS
#: Names of amounts that belong to GPU devices, not to the host as a whole.
DEVICE_NAMES: Final = frozenset({"gpu", "gpu_memory"})
#: All names that `Cost` has as fields.
KNOWN_NAMES: Final = KNOWN_AMOUNTS | {"python", "cpu_intensive"}
#: The name of the limit on the tasks of a whole cluster, among the amounts that all hosts share. Each task takes one.
MAX_CONCURRENCY: Final = "max_concurrency"
#: Names that the agent probes on its host. A value that the inventory declares replaces the probed one.
PROBED_NAMES: Final = KNOWN_AMOUNTS | {
    "python",
    "machine",
    "system",
    "kernel",
    "hostname",
    "container",
    "gpu_name",
}
