"""Run the corpus under each strategy and print the table: ``python -m benchmarks.pickling [--only TEXT]``.

Each case is a script that runs in a process of its own, which no other case shares. For each strategy, this process
forks once, and so does the reading process.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from benchmarks.pickling import cases, launch, table

ROOT = Path(__file__).parents[2]
#: Seconds that the script of one case may take with all strategies together.
_LIMIT_S = 400


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
        outcomes = run(chosen, _strategies(options.strategies), Path(folder), options.workers, options.python)
    if options.json:
        Path(options.json).write_text(json.dumps(outcomes, indent=0))
    print(table.markdown(chosen, outcomes))


def _strategies(names: str | None) -> list[str]:
    from benchmarks.pickling.strategies import STRATEGIES

    return list(STRATEGIES) if names is None else names.split(",")


def run(
    chosen: Iterable[cases.Case], strategies: list[str], folder: Path, workers: int, python: str
) -> dict[str, dict[str, list[str]]]:
    """Return for each strategy the outcome of each case: its kind, such as ``ok``, and a text."""
    from handout.transport.bundle import agent_bundle

    bundle = folder / "bundle.zip"
    bundle.write_bytes(agent_bundle().data)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{bundle}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore",
        "HANDOUT_CORPUS_READER": str(folder / "socket"), "HANDOUT_CORPUS_STRATEGIES": ",".join(strategies),
    }  # fmt: skip
    program = "import os; os.environ.pop('PYTHONPATH'); from benchmarks.pickling.reader import serve; "
    reader = subprocess.Popen(
        [python, "-c", f"{program}serve({str(folder / 'socket')!r})"],
        cwd="/", env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"ready\n"
    waiting: queue.SimpleQueue[cases.Case] = queue.SimpleQueue()
    for case in chosen:
        waiting.put(case)
    outcomes: dict[str, dict[str, list[str]]] = {name: {} for name in strategies}

    def work() -> None:
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                return
            for name, outcome in _run_case(case, strategies, folder, environment, python).items():
                outcomes[name][case.name] = outcome
            print(".", end="", file=sys.stderr, flush=True)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader.kill()
    reader.wait()
    return outcomes


def _run_case(
    case: cases.Case, strategies: list[str], folder: Path, environment: dict[str, str], python: str
) -> dict[str, list[str]]:
    place = "".join(char if char.isalnum() else "_" for char in case.name)
    home, bundle, out = folder / "home" / place, folder / "sent" / place, folder / f"{place}.out"
    environment = {**environment, "HANDOUT_CORPUS_OUT": str(out), "HANDOUT_CORPUS_BUNDLE": str(bundle)}
    process = launch.start([python, *launch.prepare(case, home, bundle)], home, environment)
    try:
        _, errors = process.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    found = {name: [kind, text] for name, kind, text in lines}
    why = (errors.strip().splitlines() or ["no output"])[-1]
    return {name: found.get(name, ["broken", f"the script did not get so far: {why}"]) for name in strategies}


if __name__ == "__main__":
    main()
