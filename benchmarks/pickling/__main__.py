"""Run the corpus under each strategy and print the table: ``python -m benchmarks.pickling [--only TEXT]``.

Each case is a script that runs in a process of its own, which no other case shares. For each strategy, this process
forks once, and so does the reading process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.pickling import cases, strategies, table
from benchmarks.pickling.runner import Runner


def main() -> None:
    """Parse the command line, run the cases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run only the cases whose names contain this text")
    parser.add_argument("--file", default="*", help="name of the file of cases, without its ending")
    parser.add_argument("--strategies", default=None, help="names of strategies, separated by commas")
    parser.add_argument("--json", help="write the outcomes to this file")
    parser.add_argument("--workers", type=int, default=2, help="number of cases that run at the same time")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the scripts and reads")
    options = parser.parse_args()
    chosen = [case for case in cases.read(options.file) if options.only in case.name]
    with tempfile.TemporaryDirectory() as folder:
        names = strategies.names() if options.strategies is None else options.strategies.split(",")
        outcomes = run(chosen, Runner(names, Path(folder), options.python), options.workers)
    if options.json:
        Path(options.json).write_text(json.dumps(outcomes, indent=0))
    print(table.markdown(chosen, outcomes))


def run(chosen: Iterable[cases.Case], runner: Runner, workers: int) -> dict[str, dict[str, list[str]]]:
    """Return for each strategy the outcome of each case: its kind, such as ``ok``, and a text."""
    outcomes: dict[str, dict[str, list[str]]] = {name: {} for name in runner.strategies}
    with runner, ThreadPoolExecutor(workers) as pool:
        chosen = list(chosen)
        for case, found in zip(chosen, pool.map(runner.run, chosen), strict=True):
            for name, outcome in found.items():
                outcomes[name][case.name] = outcome
            print(".", end="", file=sys.stderr, flush=True)
    return outcomes


if __name__ == "__main__":
    main()
