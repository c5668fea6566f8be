"""Orphans: which folders and processes count as those of a killed run, and how they are removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handout.host.system import orphans, processes
from handout.transport.bootstrap import Bootstrap
from handout.transport.local_launcher import LocalLauncher
from tests.patience import HANG_S, stretched

pytestmark = pytest.mark.skipif(
    not processes.LINUX, reason="only Linux shows the environment and the mappings of a process"
)

#: A program that begins to remove the orphans in a folder. It may open only 100 descriptors.
BEGIN = """
import resource, sys
from handout.host.system import orphans
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
orphans.remove_in_background(sys.argv[1] + "/own", sys.argv[1] + "/stores", 0)
"""

#: A program that locks folders. It prints how many locks are written, and how many folders are found as orphans.
LOCK = """
import os, sys
from handout.host.system import orphans
for folder in sys.argv[1:]:
    orphans.lock(folder)
locked = sum(open(folder + "/.lock", "rb").read().endswith(b"\\0" + os.fsencode(folder)) for folder in sys.argv[1:])
print(locked, "are locked,", len(orphans.find([os.path.dirname(sys.argv[1])])), "are orphans")
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """Make an empty folder in which no other run looks for orphans."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def named(base: Path, name: str) -> Path:
    folder = base / f"{orphans.folder_prefix()}{name}"
    folder.mkdir()
    return folder


def orphan(base: Path, name: str) -> Path:
    """Make a folder as a killed run leaves it, with a lock file that no process holds."""
    folder = named(base, name)
    subprocess.run(
        [sys.executable, "-c", f"from handout.host.system.orphans import lock; lock({str(folder)!r})"], check=True
    )
    return folder


def wait_until(condition: Callable[[], bool], limit_s: float = HANG_S) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_orphan_is_found_once(base: Path) -> None:
    killed = orphan(base, "killed")
    (found,) = orphans.find([str(base)])
    assert (found.folder, found.run, found.groups) == (str(killed), str(killed), [])
    assert orphans.find([str(base)]) == []  # the first call still holds the orphan's lock
    os.close(found.fd)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "empty"])
def test_a_folder_with_a_false_lock_is_no_orphan_and_delays_nothing(base: Path, kind: str) -> None:
    folder, lock = named(base, "odd"), base / f"{orphans.folder_prefix()}odd" / ".lock"
    if kind == "pipe":
        os.mkfifo(lock)
    elif kind == "link":
        other = orphan(base, "other")
        other.rename(base / "renamed")
        lock.symlink_to(base / "renamed" / ".lock")
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.touch()
    begun = time.monotonic()
    assert orphans.find([str(base)]) == []
    assert time.monotonic() - begun < stretched(1.0)
    assert folder.exists()


def test_nothing_of_another_user_is_opened(base: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a folder away")
    folder = orphan(base, "evil")
    os.chown(folder, 65534, 65534)
    assert orphans.find([str(base)]) == []


def test_a_folder_is_locked_although_another_process_looks_for_orphans_all_the_time(base: Path) -> None:
    folders = [str(named(base, str(number))) for number in range(200)]
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for found in orphans.find([str(base)]):
                os.close(found.fd)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        # Another process locks the folders, and holds the locks until it ends.
        told = subprocess.run([sys.executable, "-c", LOCK, *folders], capture_output=True, text=True, check=True)
    finally:
        over.set()
        looker.join()
    assert told.stdout == "200 are locked, 0 are orphans\n"


def test_more_orphans_than_descriptors_are_all_removed(base: Path) -> None:
    killed = orphan(base, "0")
    said = (killed / ".lock").read_bytes()
    for number in range(1, 120):
        folder = named(base, str(number))
        (folder / ".lock").write_bytes(said.replace(os.fsencode(killed), os.fsencode(folder)))
    marked = {**os.environ, "HANDOUT_RUN": str(killed)}
    programs = [subprocess.Popen(["sleep", "600"], env=marked) for _ in range(120)]
    try:
        subprocess.run([sys.executable, "-c", BEGIN, str(base)], check=True)
        assert [program.wait(HANG_S) for program in programs] == [-signal.SIGKILL] * 120
        wait_until(lambda: not list(base.iterdir()))
    finally:
        for program in programs:
            program.kill()
            program.wait()


async def test_an_agent_that_a_task_of_another_run_started_does_not_carry_the_mark_of_that_run(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDOUT_RUN", str(base / "other"))
    started = await LocalLauncher().start(Bootstrap("far", None, {"host_timeout_s": 60}))
    try:
        environment = Path(f"/proc/{started.supervisor}/environ").read_bytes().split(b"\0")
        assert b"HANDOUT_RUN=" + os.fsencode(base / "other") not in environment
        assert any(variable.startswith(b"HANDOUT_RUN=-") for variable in environment)
    finally:
        os.kill(started.supervisor, signal.SIGTERM)
