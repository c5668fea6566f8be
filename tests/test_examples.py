"""The examples, run the way a user runs them: on this machine, and on hosts behind a real OpenSSH server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import HANG_S
from tests.sshd import OpenSsh

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_example(name: str, *arguments: str) -> str:
    """Run an example, and return what it prints. If the example fails, the test fails with the example's errors."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_word_index_finds_the_module_that_every_python_has() -> None:
    printed = run_example("wordcount.py", "--shards", "12", "--find", "socket")
    assert re.search(r"^'socket' is in \d+ modules", printed, re.MULTILINE)
    assert "socket " in printed.partition("most often in:\n")[2].splitlines()[0]
    assert re.search(r"^  local: 12 x read, 3 x merge$", printed, re.MULTILINE)


def test_the_model_search_names_the_best_of_24() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install -e '.[examples]'")
    printed = run_example("digits.py")
    assert re.search(r"^best: train(-\d+)? with 9\d\.\d+%", printed, re.MULTILINE)
    assert "27 tasks on local" in printed
    assert printed.splitlines()[-1].startswith("24 trainings in ")


def test_the_ancestors_example_takes_the_heavy_part_to_the_host_with_cuda() -> None:
    printed = run_example("ancestor.py")
    assert printed.splitlines() == [
        "processed: 100000 numbers, sum 15,000,150,000",
        "  load_data     ran on node1",
        "  process_data  ran on gpu1",
        "  output_data   ran on node1",
    ]


def test_the_suite_of_a_training_under_trouble_passes() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "survive.py"], capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": passed\n") == 4


@pytest.mark.ssh
def test_the_word_index_over_ssh(sshd: OpenSsh) -> None:
    """Chance decides which host is up first, so the test only checks that every task ran on one of the two hosts."""
    inventory = sshd.inventory_file({"left": "{ cpu = 1 }", "right": "{ cpu = 1 }"})
    printed = run_example("wordcount.py", "--shards", "12", "--inventory", str(inventory))
    assert re.search(r"^'socket' is in \d+ modules", printed, re.MULTILINE)
    ran = re.findall(r"^  (?:left|right): (.*)$", printed, re.MULTILINE)
    counts = re.findall(r"(\d+) x (read|merge)", " ".join(ran))
    assert sum(int(count) for count, name in counts if name == "read") == 12
    assert sum(int(count) for count, name in counts if name == "merge") == 3


@pytest.mark.ssh
@pytest.mark.full
def test_the_model_search_over_ssh(sshd: OpenSsh) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install -e '.[examples]'")
    inventory = sshd.inventory_file({"big": "{ cpu = 2 }"})
    printed = run_example("digits.py", "--inventory", str(inventory))
    assert re.search(r"^best: train(-\d+)? with 9\d\.\d+%", printed, re.MULTILINE)
    assert "27 tasks on big" in printed


@pytest.mark.ssh
def test_the_ancestors_example_over_ssh(sshd: OpenSsh) -> None:
    inventory = sshd.inventory_file(
        {
            "node1": '{ memory = "8 GB", has_cuda = false }',
            "gpu1": '{ memory = "4 GB", gpu_memory = "4 GB", has_cuda = true }',
        }
    )
    printed = run_example("ancestor.py", "--inventory", str(inventory))
    assert printed.splitlines() == [
        "processed: 100000 numbers, sum 15,000,150,000",
        "  load_data     ran on node1",
        "  process_data  ran on gpu1",
        "  output_data   ran on node1",
    ]
