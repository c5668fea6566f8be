"""Load, process and output numbers on two declared hosts, one of them with CUDA.

    python examples/ancestor.py
    python examples/ancestor.py --inventory hosts.toml   # two hosts, one with has_cuda = true and gpu_memory

This was the example of Handoff, Handout's predecessor. Each function has a name, and names the functions whose results
it takes. An allocator in this file decides where the functions run. Without an inventory, both hosts are this machine
under two names. Their capabilities are declared and not probed, so no GPU is needed. Hosts need the same minor version
of Python as this machine, because functions of a script travel as bytecode.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from handout import Cluster, ClusterView, Function, Graph, Host, Inventory, Task, function

LAPTOP_AND_GPU = [
    Host.local("node1", capabilities={"cpu": 1, "memory": "8 GB", "has_cuda": False}),
    Host.local("gpu1", capabilities={"cpu": 1, "memory": "4 GB", "gpu_memory": "4 GB", "has_cuda": True}),
]


def load_data(count: int) -> list[int]:
    """Return the numbers to work on."""
    return list(range(1, count + 1))


def process_data(numbers: list[int], factor: int) -> list[int]:
    """Return the multiplied numbers. The cost, in `functions`, asks for memory, GPU memory and CUDA."""
    return [number * factor for number in numbers]


def output_data(numbers: list[int], title: str) -> str:
    """Return a line about the numbers."""
    return f"{title}: {len(numbers)} numbers, sum {sum(numbers):,}"


async def cuda_last(frontier: Sequence[Task], view: ClusterView) -> Mapping[str, str]:
    """Place each task on a host without CUDA if possible. Among equal hosts, take the host with the shortest queue.

    With ``wait=True``, hosts that are not there yet count too: a task waits for such a host instead of taking another.
    """
    draft = view.draft()
    for task in frontier:
        able = [host for host in view.hosts.values() if draft.fits(task, host.name, wait=True)]
        able.sort(key=lambda host: (bool(getattr(host.total, "has_cuda", False)), host.backlog_s, host.name))
        if able:
            draft.place(task, able[0].name)
    return draft


def functions() -> list[Function[Any]]:
    """Return the three functions with their costs. Each one names the functions whose results it takes."""
    return [
        function("load_data", load_data, extra_args=[100_000], cost={"memory": "1 GB"}),
        function(
            "process_data",
            process_data,
            args=["load_data"],
            extra_args=[3],
            cost={"memory": "2 GB", "gpu_memory": "1 GB", "has_cuda": True, "cpu_intensive": True},
        ),
        function(
            "output_data",
            output_data,
            args=["process_data"],
            extra_args=["processed"],
            cost={"memory": "1 GB"},
        ),
    ]


async def main() -> None:
    """Run the three functions and print where each of them ran."""
    parser = argparse.ArgumentParser(description="Load, process, output on two declared hosts.")
    parser.add_argument("--inventory", help="a hosts.toml; without it, this machine plays both hosts")
    options = parser.parse_args()
    inventory = Inventory.load(options.inventory) if options.inventory else Inventory(LAPTOP_AND_GPU)

    # Work begins as soon as one host is ready. The allocator waits for the other one.
    async with Cluster(inventory) as cluster:
        results = await cluster.execute(Graph(functions()), allocator=cuda_last)

    print(results["output_data"])
    for name in ("load_data", "process_data", "output_data"):
        print(f"  {name:<13} ran on {results.allocations[name]}")


if __name__ == "__main__":
    asyncio.run(main())
