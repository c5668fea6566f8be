"""Run one of the three soaks.

    python -m benchmarks.soak kills [--tasks 20000 --workers 1000 --agents 50]
    python -m benchmarks.soak blackouts [--minutes 10]
    python -m benchmarks.soak service [--calls 100000 --cancelled 2000 --objects 50]

A soak is a program that causes many failures during runs of Handout. All soaks start a real sshd on loopback, and use
it as several hosts. They print a table and JSON. They end with status 1 if a result was wrong or if a process was left
over. ``kills`` also ends with status 1 if a task was not done or ended twice, or if the run ended before all kills,
``blackouts`` if a task ran twice, and ``service`` if a call did not end as it should. The soaks kill only processes
that their own sshd has started. They recognize such a process by a mark, a random text in an environment variable of
the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine
from benchmarks.soak import blackouts, kills, service
from benchmarks.soak.processes import VARIABLE, new_mark
from handout import Inventory
from tests.sshd import OpenSsh, start_sshd


def _flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, figure in figures.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        rows += _flat(figure, f"{name}: ") if isinstance(figure, dict) else [(name, figure)]
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    which = parser.add_subparsers(dest="which", required=True)
    killing = which.add_parser("kills", help="SIGKILL for workers and agents while a graph runs")
    killing.add_argument("--tasks", type=int, default=20_000)
    killing.add_argument("--workers", type=int, default=1_000, help="how many workers to kill")
    killing.add_argument("--agents", type=int, default=50, help="how many agents to kill")
    killing.add_argument("--hosts", type=int, default=20)
    killing.add_argument("--rounds", type=int, default=1, help="how many times to run the soak in one process")
    darkening = which.add_parser("blackouts", help="five seconds of silence a minute")
    darkening.add_argument("--minutes", type=int, default=10)
    darkening.add_argument("--hosts", type=int, default=4)
    serving = which.add_parser(
        "service", help="calls, cancelled calls and stored objects, and a host lost every minute"
    )
    serving.add_argument("--calls", type=int, default=100_000)
    serving.add_argument("--cancelled", type=int, default=2_000, help="how many calls to cancel")
    serving.add_argument("--objects", type=int, default=50, help="how many objects to put and drop")
    serving.add_argument("--every", type=float, default=60.0, help="seconds from one loss of a host to the next")
    serving.add_argument("--hosts", type=int, default=4)
    for each in (killing, darkening, serving):
        each.add_argument("--verbose", action="store_true", help="also show what Handout logs")
    return parser.parse_args()


def _soak(server: OpenSsh, folder: Path, mark: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Run one soak. Return its figures, and True if the soak has done all its work and nothing has gone wrong."""
    names = [f"h{i:02}" for i in range(arguments.hosts)]
    if arguments.which == "kills":
        tasks, workers, agents = arguments.tasks, arguments.workers, arguments.agents
        inventory = Inventory([server.host(name, {"cpu": 2}) for name in names])
        figures = asyncio.run(kills.soak(inventory, folder, mark, tasks=tasks, workers=workers, agents=agents))
        done = figures["workers_killed"], figures["agents_killed"], figures["tasks_done"]
        good = done == (workers, agents, tasks) and not figures["ended_twice"]
    elif arguments.which == "service":
        inventory = Inventory([server.host(name, {"cpu": 2}) for name in names])
        calls, cancelled, objects = arguments.calls, arguments.cancelled, arguments.objects
        figures = asyncio.run(
            service.soak(inventory, mark, calls=calls, cancelled=cancelled, objects=objects, every_s=arguments.every)
        )
        good = figures["calls_right"] + figures["calls_cancelled"] == calls and figures["objects_put"] == objects
    else:
        figures = asyncio.run(blackouts.soak(server, names, folder, mark, minutes=arguments.minutes))
        good = figures["blackouts"] == arguments.minutes and not figures["runs_again"]
    return figures, good and not figures["results_wrong"] and not figures["left_processes"]


def main() -> int:
    """Run the chosen soak and print its figures. Return 1 if anything went wrong, otherwise 0."""
    arguments = _arguments()
    # Handout warns of each lost host. The warnings are hidden, because the soak itself makes hosts leave.
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.ERROR)
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    mark, all_good = new_mark(), True
    with tempfile.TemporaryDirectory() as name:
        folder, keys = Path(name), Path(name, "sshd")
        keys.mkdir()
        with start_sshd(keys, [f"SetEnv {VARIABLE}={mark}"]) as server:
            for number in range(getattr(arguments, "rounds", 1)):
                figures, good = _soak(server, folder / str(number), mark, arguments)
                all_good = all_good and good
                _print({"machine": machine(), "soak": arguments.which, "good": good, **figures})
    return 0 if all_good else 1


def _print(report: dict[str, Any]) -> None:
    rows = _flat(report)
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {figure}" for name, figure in rows))
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    sys.exit(main())
