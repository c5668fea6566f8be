"""The graph of the soak, and its functions, which record each of their runs.

A function writes a line when it begins and a line when it ends, to a file of its process. So the soak knows at any
moment which task a worker runs, and how often each task has run.
"""

from __future__ import annotations

import os
import random
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handout import Graph, Output

#: One of this many tasks has a large result. Such a result stays on its host, and is lost with the host.
LARGE_EVERY = 50
LARGE_BYTES = 100 << 10
#: A task takes the results of up to three of this many tasks before it.
REACH = 400


def small(folder: str, index: int, seconds: float, inputs: Sequence[int | bytes]) -> int:
    """Return a number that depends on all inputs."""
    _note(folder, f"begin {index}")
    time.sleep(seconds)
    made = value(index, inputs)
    _note(folder, f"end {index}")
    return made


def large(folder: str, index: int, seconds: float, inputs: Sequence[int | bytes]) -> bytes:
    """Return the number of `small` as ``LARGE_BYTES`` bytes."""
    return enlarged(small(folder, index, seconds, inputs))


def value(index: int, inputs: Sequence[int | bytes]) -> int:
    """Return the number that a task makes from its inputs."""
    seen = [zlib.crc32(each) if isinstance(each, bytes) else each for each in inputs]
    return zlib.crc32(repr((index, seen)).encode())


def enlarged(number: int) -> bytes:
    """Return a number as ``LARGE_BYTES`` bytes."""
    return number.to_bytes(4, "big") * (LARGE_BYTES // 4)


def _note(folder: str, line: str) -> None:
    file = os.open(os.path.join(folder, str(os.getpid())), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


@dataclass(frozen=True)
class Work:
    """A graph and the results that it must have."""

    graph: Graph
    outputs: list[Output[Any]] = field(default_factory=list)
    #: The right result of each output.
    expected: list[int | bytes] = field(default_factory=list)

    def wrong(self, found: Sequence[int | bytes]) -> int:
        """Return the number of wrong results."""
        return sum(1 for a, b in zip(found, self.expected, strict=True) if a != b)


def build(folder: Path, count: int, mean_s: float, seed: int) -> Work:
    """Return a graph of tasks of ``mean_s`` seconds on average. A task takes up to three of the ``REACH`` before it."""
    chosen = random.Random(seed)
    work = Work(Graph())
    for i in range(count):
        before = range(max(0, i - REACH), i)
        parents = set(chosen.sample(before, min(len(before), chosen.randrange(4))))
        if i % LARGE_EVERY == 1:
            parents.add(i - 1)  # a result that no task takes would not be made
        inputs: list[Any] = [work.outputs[p] for p in sorted(parents)]
        known = [work.expected[p] for p in sorted(parents)]
        seconds = mean_s * (0.5 + chosen.random())
        if i % LARGE_EVERY == 0:
            work.outputs.append(work.graph.add(large, str(folder), i, seconds, inputs, id=f"t{i}"))
            work.expected.append(enlarged(value(i, known)))
        else:
            work.outputs.append(work.graph.add(small, str(folder), i, seconds, inputs, id=f"t{i}"))
            work.expected.append(value(i, known))
    return work


@dataclass(frozen=True)
class Runs:
    """The runs that the tasks of a folder have recorded."""

    begun: int
    ended: int
    #: Tasks that have run at least once.
    tasks: int
    #: Runs of the task that ran most often.
    most: int


def count_runs(folder: Path) -> Runs:
    """Read the records in a folder."""
    begun: Counter[str] = Counter()
    ended = 0
    for path in folder.iterdir():
        for line in path.read_text(encoding="ascii").splitlines():
            what, _, index = line.partition(" ")
            if what == "begin":
                begun[index] += 1
            else:
                ended += 1
    return Runs(begun.total(), ended, len(begun), max(begun.values(), default=0))


def running(folder: Path, pid: int) -> int | None:
    """Return the task that a stopped worker runs; None if it runs none."""
    try:
        with (folder / str(pid)).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 40))
            last = file.read().splitlines()[-1]
    except (FileNotFoundError, IndexError):
        return None
    what, _, index = last.partition(b" ")
    return int(index) if what == b"begin" else None
