"""Search for the best model of scikit-learn's bundled digits, with 24 trainings that can run at the same time.

    pip install -e '.[examples]'                         # numpy and scikit-learn
    python examples/digits.py
    python examples/digits.py --inventory hosts.toml

The hosts need numpy and scikit-learn, because only the names of installed packages travel. They need the same minor
version of Python as this machine, because functions of a script travel as bytecode. They do not need Handout.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import handout
from handout import Graph

Pixels = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


class Data(NamedTuple):
    """Pictures, one in each row, and the digit that each shows."""

    pixels: Pixels
    labels: Labels


@dataclass(frozen=True)
class Fit:
    """One training: its parameters, the model, and the model's score on pictures that it was not trained on."""

    gamma: float
    penalty: float
    score: float
    model: Any


def load() -> Data:
    """Return the 1,797 pictures of 8 x 8 pixels that come with scikit-learn."""
    pixels, labels = load_digits(return_X_y=True)
    return Data(np.asarray(pixels) / 16.0, np.asarray(labels))


def split(data: Data) -> tuple[Data, Data]:
    """Return a part to train on and a part to score on."""
    parts = train_test_split(data.pixels, data.labels, test_size=0.3, random_state=0)
    x, unseen_x, y, unseen_y = map(np.asarray, parts)
    return Data(x, y), Data(unseen_x, unseen_y)


def train(seen: Data, unseen: Data, gamma: float, penalty: float) -> Fit:
    """Train one model and score it."""
    model = SVC().set_params(gamma=gamma, C=penalty)
    model.fit(seen.pixels, seen.labels)
    return Fit(gamma, penalty, float(model.score(unseen.pixels, unseen.labels)), model)


def best(scores: list[float]) -> int:
    """Return the index of the best score."""
    return int(np.argmax(scores))


async def main() -> None:
    """Build the graph, run it, and print the best training."""
    parser = argparse.ArgumentParser(description="Search for the best support vector machine.")
    parser.add_argument("--inventory", help="a hosts.toml; without it, everything runs on this machine")
    options = parser.parse_args()

    grid = list(itertools.product((0.01, 0.03, 0.1, 0.3, 1.0, 3.0), (0.3, 1.0, 3.0, 10.0)))
    graph = Graph()
    parts = graph.add(split, graph.add(load))
    fits = [
        graph.add(train, parts[0], parts[1], gamma, penalty, cost={"cpu": 1, "memory": "300 MB"}, retries=1)
        for gamma, penalty in grid
    ]
    # Only the scores travel to the host that compares them, because `pick` takes one attribute of each training.
    winner = graph.add(best, [fit.pick(lambda f: f.score) for fit in fits])

    began = time.perf_counter()
    results = await handout.execute(graph, inventory=options.inventory, outputs=[winner, *fits])
    took = time.perf_counter() - began

    for fit in sorted(results[fits], key=lambda fit: -fit.score)[:5]:
        print(f"  {fit.score:.4f}  gamma {fit.gamma:<5g} penalty {fit.penalty:g}")
    chosen = fits[results[winner]]
    model = results[chosen].model
    print(f"best: {chosen.id} with {results[chosen].score:.2%}, {model.n_support_.sum()} support vectors,")
    print(f"  trained on {results.allocations[chosen]}")
    ran = Counter(results.allocations.values())
    print("What ran where: " + ", ".join(f"{count} tasks on {host}" for host, count in sorted(ran.items())))
    print(f"{len(grid)} trainings in {took:.2f} s")


if __name__ == "__main__":
    asyncio.run(main())
