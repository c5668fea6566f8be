"""Measure Handout and similar systems: ``python -m benchmarks [--peers] [--repeats 3] [--json FILE]``.

The command measures one system after another, each in its own process and on the same work. It starts a real sshd on
loopback, and Handout runs over that sshd. Figures are medians. Machines are noisy, so compare only figures of one call
of the command.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.sshd import start_sshd

ROOT = Path(__file__).parent.parent

#: The time limit for all work of one system, in seconds. A system that takes longer gets no figures.
LIMIT_S = 240

#: For each system: its module, the package that must be installed, and the name of the system in the table.
SYSTEMS = (
    ("handout_ssh", "handout", "Handout, over sshd"),
    ("dask_local", "distributed", "Dask, local (start-up: SSHCluster)"),
    ("ray_local", "ray", "Ray, local"),
    ("parsl_local", "parsl", "Parsl, local"),
    ("execnet_local", "execnet", "execnet channels, local"),
)

#: For each row of the table: the key of the figure, the label of the row, and the format.
FIGURES = (
    ("startup_s", "start-up, s", "{:.2f}"),
    ("noop_per_s", "10,000 no-ops, /s", "{:,.0f}"),
    ("journal_per_s", "the same with a journal, /s", "{:,.0f}"),
    ("chain_us", "chain of 1,000, us a task", "{:,.0f}"),
    ("diamond_per_s", "diamond 1-5,000-1, /s", "{:,.0f}"),
    ("down_array_mib_s", "an array, host to controller, MiB/s", "{:,.0f}"),
    ("up_array_mib_s", "an array, controller to host, MiB/s", "{:,.0f}"),
    ("down_bytes_mib_s", "bytes, host to controller, MiB/s", "{:,.0f}"),
    ("up_bytes_mib_s", "bytes, controller to host, MiB/s", "{:,.0f}"),
)


def measure(module: str, repeats: int, environment: dict[str, str]) -> dict[str, float] | str:
    """Return one system's figures, or the reason why it has none."""
    command = [sys.executable, "-m", f"benchmarks.systems.{module}", str(repeats)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the measurement did not end within {LIMIT_S} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["the measurement failed without a message"])[-1]
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def table(measured: dict[str, dict[str, float] | str]) -> str:
    """Return the figures as a Markdown table, with a column for each system."""
    names = {module: name for module, _, name in SYSTEMS}
    lines = ["| | " + " | ".join(names[m] for m in measured) + " |", "|---" * (len(measured) + 1) + "|"]
    for key, label, form in FIGURES:
        cells = [form.format(f[key]) if isinstance(f, dict) and key in f else "-" for f in measured.values()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> str:
    """Return a short description of this machine."""
    cores = os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {cores} CPU cores, Python {platform.python_version()}"


def main() -> None:
    """Measure the systems and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="also measure Dask, Ray, Parsl and execnet, if installed")
    parser.add_argument("--without", action="append", default=[], metavar="PACKAGE", help="leave out a system")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    measured: dict[str, dict[str, float] | str] = {}
    with tempfile.TemporaryDirectory() as folder, start_sshd(Path(folder)) as server:
        hosts = server.inventory_file({"a": "{ cpu = 1 }", "b": "{ cpu = 1 }"})
        ssh = {**server.options, "port": server.port, "username": server.username}
        environment = {
            **os.environ,
            "BENCH_INVENTORY": str(hosts),
            "BENCH_SSH": json.dumps(ssh),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        for module, needs, name in SYSTEMS:
            if importlib.util.find_spec(needs) is None or (module != "handout_ssh" and not arguments.peers):
                continue
            if needs in arguments.without:
                continue
            print(f"measuring {name} ...", file=sys.stderr)
            measured[module] = measure(module, arguments.repeats, environment)
            if isinstance(measured[module], str):
                print(f"  no figures: {measured[module]}", file=sys.stderr)
    print(f"{machine()}; medians of {arguments.repeats}\n\n{table(measured)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "figures": measured}, indent=2) + "\n")


if __name__ == "__main__":
    main()
