"""``python -m handout.sim`` simulates the scenarios of one or more seeds, and can print their stories.

The story of a seed has a sentence for every event, command and fault.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter

from handout.sim.faults import Fault
from handout.sim.shrink import shrink
from handout.sim.simulation import SimulationError, simulate


def main() -> int:
    """Simulate the scenarios of the seeds. Return 1 if a scenario broke a rule, otherwise 0."""
    parser = argparse.ArgumentParser(prog="python -m handout.sim", description="Simulate runs with random faults.")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds to simulate, counted from the first")
    parser.add_argument("--verbose", action="store_true", help="print a sentence for every event, command and fault")
    chosen = parser.parse_args()
    logging.getLogger("handout").setLevel(logging.CRITICAL)  # the story says more than the log
    faults: Counter[Fault] = Counter()
    broken = 0
    for seed in range(chosen.seed, chosen.seed + chosen.count):
        try:
            report = simulate(seed, print if chosen.verbose else None)
        except SimulationError as error:
            broken += 1
            print(error, file=sys.stderr)
            smallest = shrink(seed) or error
            print(f"The shortest story found that breaks the same rule: {smallest}", file=sys.stderr)
            print(*smallest.story, sep="\n", file=sys.stderr)
            continue
        faults.update(report.faults)
        if chosen.count == 1:
            ends = ", ".join(f"run {run}: {end.value if end else 'closed'}" for run, end in report.outcomes.items())
            print(f"seed {seed}: runs ended ({ends}) after {report.took_s:.3f} virtual s: {report.messages} messages,")
            print(f"{report.calls} calls of functions, {report.stale} stale reports. Story hash: {report.digest[:16]}.")
    print("faults:", ", ".join(f"{fault.name.lower()} {count}" for fault, count in faults.most_common()) or "none")
    if chosen.count > 1:
        print(f"{chosen.count} seeds were simulated, and {broken} of them broke a rule.")
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # the program that reads from this one, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
