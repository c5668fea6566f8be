"""The graph of the soak. Its functions record each time that they run.

Each worker process has a file of its own. A function adds one line to this file when it begins, and one line when it
ends. So the soak knows at any moment which task a worker runs, and how often each task has run.
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

#: One task in this many has a large result. A large result stays on its host. If the host is lost, so is the result.
LARGE_EVERY = 50
#: The size of a large result in bytes. It is too large to travel in the message that reports the result.
LARGE_BYTES = 100 << 10
#: The inputs of a task are chosen among the results of this many tasks before it.
REACH = 400


def small(folder: str, index: int, seconds: float, inputs: Sequence[int | bytes]) -> int:
    """Sleep for some seconds, and return a number that depends on all inputs."""
    _note(folder, f"begin {index}")
    time.sleep(seconds)
    made = value(index, inputs)
    _note(folder, f"end {index}")
    return made


def large(folder: str, index: int, seconds: float, inputs: Sequence[int | bytes]) -> bytes:
    """Do the same as `small`, but return the number as ``LARGE_BYTES`` bytes."""
    return enlarged(small(folder, index, seconds, inputs))


def value(index: int, inputs: Sequence[int | bytes]) -> int:
    """Return the number that a task makes from its inputs."""
    seen = [zlib.crc32(each) if isinstance(each, bytes) else each for each in inputs]
    return zlib.crc32(repr((index, seen)).encode())


def enlarged(number: int) -> bytes:
    """Return the four bytes of a number, repeated up to ``LARGE_BYTES`` bytes."""
    return number.to_bytes(4, "big") * (LARGE_BYTES // 4)


def _note(folder: str, line: str) -> None:
    file = os.open(os.path.join(folder, str(os.getpid())), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


@dataclass(frozen=True)
class Work:
    """A graph and its correct results."""

    graph: Graph
    outputs: list[Output[Any]] = field(default_factory=list)
    #: The correct result of each output, in the order of ``outputs``.
    expected: list[int | bytes] = field(default_factory=list)

    def wrong(self, found: Sequence[int | bytes]) -> int:
        """Return how many results of a run are wrong. ``found`` has all of them, in the order of ``outputs``."""
        return sum(1 for a, b in zip(found, self.expected, strict=True) if a != b)


def build(folder: Path, count: int, mean_s: float, seed: int) -> Work:
    """Return a graph of ``count`` tasks that take ``mean_s`` seconds on average.

    Each task takes the results of up to three tasks, chosen among the ``REACH`` tasks before it.
    """
    chosen = random.Random(seed)
    work = Work(Graph())
    for i in range(count):
        before = range(max(0, i - REACH), i)
        parents = set(chosen.sample(before, min(len(before), chosen.randrange(4))))
        if i % LARGE_EVERY == 1:
            # Take the large result of task i - 1. If no task and no caller took it, the plan would leave that task out.
            parents.add(i - 1)
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
    """How often the tasks have run, as the files in a folder record."""

    begun: int
    ended: int
    #: The number of tasks that have run at least once.
    tasks: int
    #: The highest number of times that a single task has run.
    most: int


def count_runs(folder: Path) -> Runs:
    """Count how often tasks have run, from the files in a folder."""
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
    """Return the number of the task that a stopped worker runs, or None if the worker runs no task."""
    try:
        with (folder / str(pid)).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 40))
            last = file.read().splitlines()[-1]
    except (FileNotFoundError, IndexError):
        return None
    what, _, index = last.partition(b" ")
    return int(index) if what == b"begin" else None
