"""The ledger, which checks what a fault test leaves behind, finds each kind of thing and names it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from handout import Cluster, Graph, Host
from handout.host.system.cgroups import parent_groups
from tests.ledger import Ledger, Place, Thing, beyond
from tests.patience import HANG_S
from tests.seen import until

ROOT = Path(__file__).parents[1]


def test_whatever_a_test_leaves_is_found_and_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'base'}"]
    done = subprocess.run(
        [*command, "tests/untidy.py"], cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    parts = re.split(r"_ ERROR at teardown of test_leaves_(\w+) _", done.stdout)
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    expected = {
        "a_child": [r"child \d+, state S, parent \d+: sleep 30"],
        "a_daemon": [r"process \d+, state S, parent \d+: sleep 31"],
        "a_descriptor": [r"descriptor \d+: pipe:\[\d+\]"] * 2,
        "a_thread": [r"thread <Thread\(untidy, started daemon"],
        "a_folder": [r"folder \S+/handout-untidy-"],
        "a_task": [r"task <Task pending .*coro=<forever\(\)"],
        "a_task_in_the_modules_loop": [r"task <Task pending .*coro=<forever\(\)"],
        "a_task_on_a_host": [r"task <Task pending", r"host here with .* free, tasks: 1"],
        "an_exception_that_nobody_heard_of": [r"asyncio said: Task exception was never retrieved"],
        # The store is left as well, but an agent of another program on this machine may have removed it by now.
        "what_nobody_looks_after_any_more": [r"folder \S+/ho-\w+/handout-"],
    }
    if parent_groups():
        expected["what_nobody_looks_after_any_more"].append(r"folder /sys/fs/cgroup/\S+/handout-")
    assert {name: [] for name in said} == {name: [] for name in expected}, done.stdout
    for name, patterns in expected.items():
        for pattern in patterns:
            assert re.search(rf"^[E |]+{pattern}", said[name], re.MULTILINE), (pattern, said[name])


def fork_and_stay(path: str) -> None:
    """Start three processes, each in another way. Write their numbers to `path`, and stay."""
    fork = os.fork()
    if fork == 0:
        time.sleep(60)
    middle, (read, write) = -1, os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        daemon = os.fork()
        if daemon:
            os.write(write, b"%d" % daemon)
            os._exit(0)
        time.sleep(60)
    os.waitpid(middle, 0)
    program = subprocess.Popen(["sleep", "60"], start_new_session=True)
    Path(f"{path}.part").write_text(f"{fork} {os.read(read, 99).decode()} {program.pid}", encoding="ascii")
    os.rename(f"{path}.part", path)
    time.sleep(60)


async def test_workers_of_a_cluster_may_begin_and_nothing_that_they_started_may_stay(
    place: Place, tmp_path: Path
) -> None:
    path, graph = tmp_path / "pids", Graph()
    graph.add(fork_and_stay, str(path))
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        ledger = Ledger(place, own=False)
        async with cluster.start(graph):
            await until(path.exists)
            pids = sorted(map(int, path.read_text().split()))
            found = [int(words.split()[1].rstrip(",")) for words in ledger.left()]
            assert [pid for pid in found if pid in pids] == pids
        await until(lambda: not ledger.left())


def test_of_each_kind_there_may_be_another_one_and_not_one_more() -> None:
    old, new = Thing("socket", 1, "old"), Thing("socket", 2, "new")
    assert beyond([old], [new]) == []
    assert beyond([old], [old, new]) == ["new"]
    assert beyond([old, new], []) == []


def test_what_others_run_on_this_machine_is_not_looked_at(place: Place, tmp_path: Path) -> None:
    ledger = Ledger(place, own=False)
    with subprocess.Popen(["sleep", "60"], env={"PATH": os.environ["PATH"]}) as other:
        try:
            assert ledger.left() == []
        finally:
            other.kill()
    with pytest.raises(OSError, match="cannot be watched"):
        place.watch(tmp_path / "nowhere")
