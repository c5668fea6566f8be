"""The names that Handout gives a meaning to, and hints for names that look mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

#: Names whose plain numbers are megabytes.
SIZES: Final = frozenset({"memory", "gpu_memory", "disk"})
#: Names that count what cannot be a size.
COUNTS: Final = frozenset({"cpu", "gpu"})
#: Names that are amounts wherever they stand.
KNOWN_AMOUNTS: Final = SIZES | COUNTS
#: Names that lie on a host's devices rather than on the host.
DEVICE_NAMES: Final = frozenset({"gpu", "gpu_memory"})
#: Every name with a meaning of its own.
KNOWN_NAMES: Final = KNOWN_AMOUNTS | {"python", "cpu_intensive"}
#: What the agent finds out on the host itself where an inventory leaves it out.
PROBED_NAMES: Final = KNOWN_AMOUNTS | {
    "python",
    "machine",
    "system",
    "kernel",
    "hostname",
    "container",
    "gpu_name",
}

#: What other tools call the same things.
_ALIASES: Final = {
    "cpus": "cpu",
    "cores": "cpu",
    "ncpus": "cpu",
    "num_cpus": "cpu",
    "mem": "memory",
    "ram": "memory",
    "gpus": "gpu",
    "num_gpus": "gpu",
    "vram": "gpu_memory",
    "gpu_mem": "gpu_memory",
    "python_version": "python",
}


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The one of ``known`` that ``name`` was most likely meant to be, or ""."""
    choices = sorted(set(known) - {name})
    shape = _shape(name)
    for choice in choices:
        if _shape(choice) == shape:
            return choice
    if (alias := _ALIASES.get(shape, "")) in choices:
        return alias
    close = difflib.get_close_matches(shape, [_shape(choice) for choice in choices], n=1, cutoff=0.75)
    return next((choice for choice in choices if close and _shape(choice) == close[0]), "")


def _shape(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")
