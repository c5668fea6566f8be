"""Build an inverted index of the standard library's sources: which modules use which words, and how often.

The files are split into shards. One task indexes each shard, and a tree of merges joins the indexes. The example runs
on this machine or on hosts:

    python examples/wordcount.py
    python examples/wordcount.py --inventory hosts.toml --find socket

The contents of the files travel, so every host reads this machine's library. The hosts need the same minor version of
Python as this machine, because functions of a script travel as bytecode. Functions in modules of your own would travel
as source, and would run on any version.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import handout
from handout import File, Graph, Output, Results

#: For each word, the modules that use the word, with the number of uses in each.
Index = dict[str, dict[str, int]]


def read(files: list[tuple[str, File]]) -> Index:
    """Return the index of one shard."""
    found: Index = {}
    for module, file in files:
        words = re.findall(r"[a-z]{3,}", file.read_text().lower())
        for word, count in Counter(words).items():
            found.setdefault(word, {})[module] = count
    return found


def merge(parts: list[Index]) -> Index:
    """Join several indexes, which cover different files, into one."""
    total: Index = {}
    for part in parts:
        for word, modules in part.items():
            total.setdefault(word, {}).update(modules)
    return total


def sources(root: Path) -> Iterator[Path]:
    """Yield the Python files below a folder, without tests and installed packages."""
    for folder, below, files in os.walk(root):
        below[:] = sorted(set(below) - {"site-packages", "dist-packages", "test", "tests", "__pycache__"})
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def shards(root: Path, count: int) -> list[list[tuple[str, File]]]:
    """Return the sources below a folder in ``count`` parts of about equal size."""
    parts: list[list[tuple[str, File]]] = [[] for _ in range(count)]
    sizes = [0] * count
    for path in sorted(sources(root), key=lambda p: (-p.stat().st_size, p)):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += path.stat().st_size
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        parts[smallest].append((module, File(path)))
    return [part for part in parts if part]


def what_ran_where(results: Results) -> str:
    """Return a line for each host, with the number of tasks of each function that the host ran."""
    hosts: dict[str, Counter[str]] = {}
    for task, host in results.allocations.items():
        hosts.setdefault(host, Counter())[str(task).split("-")[0]] += 1
    return "\n".join(
        f"  {host}: " + ", ".join(f"{count} x {name}" for name, count in ran.most_common())
        for host, ran in sorted(hosts.items())
    )


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Index the standard library's sources.")
    parser.add_argument("--inventory", help="a hosts.toml; without it, everything runs on this machine")
    parser.add_argument("--find", default="socket", help="the word to look up")
    parser.add_argument("--shards", type=int, default=48, help="how many parts to split the files into")
    return parser.parse_args()


def report(index: Index, word: str) -> None:
    """Print the most frequent words, and the modules that use `word` most."""
    totals = Counter({word: sum(modules.values()) for word, modules in index.items()})
    print(f"{len(index):,} different words; the most frequent:")
    print("  " + ", ".join(f"{word} {count:,}" for word, count in totals.most_common(8)))
    modules_by_use = Counter(index.get(word, {}))
    print(f"{word!r} is in {len(modules_by_use)} modules, most often in:")
    print("  " + ", ".join(f"{module} {count}" for module, count in modules_by_use.most_common(6)))


async def main() -> None:
    """Build the graph, run it, and print the index's summary."""
    options = arguments()
    root = Path(sysconfig.get_path("stdlib"))
    work = shards(root, options.shards)
    print(f"{sum(map(len, work))} files of {root}")

    graph = Graph()
    parts = graph.map(read, work, cost={"memory": "200 MB"}, retries=1)
    index: Output[Index] = graph.reduce(merge, parts, width=8)

    began = time.perf_counter()
    results = await handout.execute(graph, inventory=options.inventory)
    took = time.perf_counter() - began

    report(results[index], options.find)
    print("What ran where:")
    print(what_ran_where(results))
    print(f"{len(results.allocations)} tasks in {took:.2f} s")


if __name__ == "__main__":
    asyncio.run(main())
