"""Measure `handout.joblib.Backend` beside joblib's own processes (loky): ``python -m benchmarks.libraries``.

Both have two workers on this machine, and do the same work. Each figure is the median of several calls of
``joblib.Parallel`` after a first one, which starts workers and imports libraries there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import GridSearchCV

import handout.joblib
from handout import Cluster, Host

#: Calls of ``joblib.Parallel`` for each figure.
REPEATS = 5


def one(n: int) -> int:
    return n


def element(numbers: Any, n: int) -> float:
    return float(numbers[n])


def tiny() -> None:
    joblib.Parallel(n_jobs=2)(joblib.delayed(one)(n) for n in range(1000))


def large() -> None:
    joblib.Parallel(n_jobs=2, batch_size=1)(joblib.delayed(element)(NUMBERS, n) for n in range(200))


def search() -> None:
    grid = {"max_depth": [2, 3], "learning_rate": [0.1, 0.3]}
    GridSearchCV(GradientBoostingClassifier(n_estimators=30), grid, cv=5, n_jobs=2).fit(*DATA)


NUMBERS = np.arange(1e6)
DATA = make_classification(1500, 20, random_state=0)
WORK: dict[str, Callable[[], None]] = {
    "1,000 calls that do nothing, s": tiny,
    "200 batches of one call with the same array of 8 MB, s": large,
    "a GridSearchCV of 20 fits, s": search,
}


@contextmanager
def on_hosts() -> Iterator[None]:
    """Let joblib use two hosts of one processor each."""
    hosts = [Host.local(name, {"cpu": 1}) for name in ("one", "two")]
    with Cluster(hosts, require="all") as cluster, joblib.parallel_config(backend=handout.joblib.Backend(cluster)):
        yield


def measure(work: Callable[[], None]) -> float:
    work()
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    """Print a Markdown table."""
    print("| | Handout, two local hosts | loky, two processes |\n|---|---|---|")
    figures = []
    for context in (on_hosts, nullcontext):
        with context():
            figures.append([measure(work) for work in WORK.values()])
    for name, ours, theirs in zip(WORK, *figures, strict=True):
        print(f"| {name} | {ours:.3f} | {theirs:.3f} |")


if __name__ == "__main__":
    main()
