"""What tasks start beside themselves ends with them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.agent.rig import Rig, alive


def starters() -> tuple[Callable[[], int], Callable[[], int]]:
    """Functions that start processes; made here so that they travel by value."""

    def start_sleeper() -> int:
        return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

    def start_daemon() -> int:
        """A grandchild that left its session and its parent behind."""
        script = "setsid sh -c 'sleep 1000 & echo $!; exec sleep 1000' >/dev/null & echo $!"
        return int(subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True).stdout)

    return start_sleeper, start_daemon


start_sleeper, start_daemon = starters()


def test_a_subprocess_does_not_outlive_its_task(rig: Rig) -> None:
    rig.run(start_sleeper)
    assert not alive(rig.result(1))


def test_a_daemon_does_not_outlive_its_task(rig: Rig) -> None:
    rig.run(start_daemon)
    assert not alive(rig.result(1))
    rig.run(lambda: "next", ticket=2)
    assert rig.result(2) == "next"


def test_a_cancelled_task_takes_its_processes_along(rig: Rig, tmp_path: Path) -> None:
    starting = starters()

    def start_and_wait(note: str) -> None:
        pids = [start() for start in starting]
        Path(note).write_text(" ".join(map(str, pids)))
        os.rename(note, note + ".whole")
        while True:
            time.sleep(1)

    note = tmp_path / "pids"
    rig.submit([1], rig.function(start_and_wait), rig.call(str(note)))
    rig.wait(lambda: (tmp_path / "pids.whole").exists())
    pids = [int(p) for p in (tmp_path / "pids.whole").read_text().split()]
    assert all(alive(p) for p in pids)
    rig.send({"m": "cancel", "ticket": [1], "grace_s": 0.2})
    assert rig.wait_for(1).fields["kind"] == "cancelled"
    assert not any(alive(p) for p in pids)


def test_a_task_that_ignores_sigterm_is_killed_after_the_grace(rig: Rig, tmp_path: Path) -> None:
    def ignore(note: str) -> None:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(note).touch()
        while True:
            time.sleep(1)

    note = tmp_path / "note"
    rig.submit([1], rig.function(ignore), rig.call(str(note)))
    rig.wait(note.exists)
    rig.send({"m": "cancel", "ticket": [1], "grace_s": 0.2})
    assert rig.wait_for(1).fields["kind"] == "cancelled"


def test_children_of_a_dead_worker_are_killed(rig: Rig, tmp_path: Path) -> None:
    start = starters()[0]

    def start_and_die(note: str) -> None:
        Path(note).write_text(str(start()))
        os._exit(3)

    note = tmp_path / "pid"
    assert rig.run(start_and_die, str(note)).fields["kind"] == "died"
    assert not alive(int(note.read_text()))


def test_children_that_ended_and_were_not_waited_for_cost_no_worker(rig: Rig) -> None:
    def start_and_forget() -> int:
        child = subprocess.Popen(["true"])
        while Path(f"/proc/{child.pid}/stat").read_text().split(")")[1].split()[0] != "Z":
            time.sleep(0.001)
        child.returncode = 0
        return os.getpid()

    rig.send({"m": "limits", "amounts": {"cpu": 10_000}, "devices": []})
    fn = rig.function(start_and_forget)
    rig.submit([1], fn, rig.call())
    rig.wait_for(1)
    rig.submit([2], fn, rig.call())
    rig.wait_for(2)
    assert rig.result(1) == rig.result(2)


def test_a_scratch_folder_is_removed(rig: Rig) -> None:
    def use_scratch() -> str:
        from handout import current

        path = Path(current().scratch) / "file"
        path.write_text("x")
        return str(path)

    rig.run(use_scratch)
    path = Path(rig.result(1))
    assert path.is_relative_to(rig.folder)
    assert not path.parent.exists()


def test_stdin_is_empty(rig: Rig) -> None:
    def ask() -> str:
        try:
            return input()
        except EOFError:
            return "nothing" + sys.stdin.read()

    rig.run(ask)
    assert rig.result(1) == "nothing"
