"""Control groups: what they hold, what they leave behind, and where they may be made."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handout.host.system import cgroups
from handout.host.system.cgroups import ControlGroups, MemoryGroup
from handout.host.system.oom_kills import kills_in
from tests.forks import fork_and_count
from tests.host.rig import alive

MB = 1 << 20


@pytest.fixture
def made() -> Iterator[ControlGroups]:
    """Groups of this test."""
    found = ControlGroups.for_run(f"handout-test-{os.getpid()}")
    found.make()
    if len(found.folders) == 0:
        pytest.skip(
            "no control group can be made here: that takes the superuser, or a part of the tree handed to this user"
        )
    yield found
    found.remove()
    assert not any(os.path.exists(folder) for folder in found.folders)


def in_a_fork(deed: Callable[[], int]) -> tuple[int, int]:
    """Run something in a copy of this process; what it returned, 0 to 100, or -1, and the signal that it died of."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(deed())
        finally:
            os._exit(101)
    status = os.waitpid(pid, 0)[1]
    return (os.WEXITSTATUS(status), 0) if os.WIFEXITED(status) else (-1, os.WTERMSIG(status))


def test_workers_fork_up_to_their_limit_and_no_further(made: ControlGroups) -> None:
    if not made.limit_processes(64):
        pytest.skip("no controller of processes here")

    def enter_and_fork() -> int:
        made.join_workers()
        return fork_and_count(200)

    assert in_a_fork(enter_and_fork) == (63, 0)


def limit_memory(made: ControlGroups, limit: int) -> str:
    group = made.add_memory_group("w1", limit)
    if group is None:
        pytest.skip("no controller of memory here")
    return group


def test_the_kernel_kills_what_takes_more_than_its_group_may(made: ControlGroups) -> None:
    limit = 16 * MB
    group = limit_memory(made, limit)

    def hoard() -> int:
        MemoryGroup(group, limit)
        held = bytearray(b"x" * cgroups.kernel_limit(limit))
        return len(held) % 7

    assert in_a_fork(hoard) == (-1, signal.SIGKILL)
    # A group that dies together may count one of its processes twice.
    assert (kills_in(group) or 0) >= 1
    assert cgroups.killed_at_limit(group)
    cgroups.remove_empty(group)
    assert not os.path.exists(group)


def test_a_result_that_is_written_into_memory_is_no_part_of_the_limit(made: ControlGroups) -> None:
    limit = 16 * MB
    group = limit_memory(made, limit)
    fd = os.memfd_create("store")

    def write_results() -> int:
        limited = MemoryGroup(group, limit)
        size = cgroups.kernel_limit(limit)
        for _ in range(2):
            limited.make_room(size)
            left = size
            while left:
                left -= os.write(fd, bytes(min(left, MB)))
        return 0

    assert in_a_fork(write_results) == (0, 0)
    assert not kills_in(group)
    os.close(fd)


def test_what_is_still_in_a_group_is_killed_with_it(made: ControlGroups) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        made.join_workers()
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writing, b"x")
        while True:
            signal.pause()
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    assert alive(pid)
    began = time.monotonic()
    made.remove()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (-signal.SIGKILL,)
    assert time.monotonic() - began < 5
    assert not any(os.path.exists(folder) for folder in made.folders)


def test_groups_that_tasks_made_below_theirs_go_with_them(made: ControlGroups) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        made.join_workers()
        for folder in made.folders:
            below = f"{folder}/workers/mine/and/theirs"
            if os.path.exists(f"{folder}/workers"):
                os.makedirs(below)
                Path(below, "cgroup.procs").write_text("0")
        os.write(writing, b"x")
        signal.pause()
        os._exit(0)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    made.remove()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not any(os.path.exists(folder) for folder in made.folders)


def test_members_that_another_container_has_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("0\n12\n")
    assert cgroups._members(str(tmp_path)) == [12]


def test_groups_of_two_runs_do_not_see_each_other(made: ControlGroups) -> None:
    other = ControlGroups.for_run(f"handout-test-{os.getpid()}-other")
    other.make()
    assert len(other.folders) == len(made.folders)
    other.remove()
    assert all(os.path.exists(folder) for folder in made.folders)


def test_without_groups_nothing_is_limited_and_nothing_fails() -> None:
    none = ControlGroups({})
    assert not none.limit_processes(64)
    assert none.add_memory_group("w1", MB) is None
    none.join_workers()
    none.remove()
    assert none.folders == []


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("/sys/fs/cgroup/pids/a/handout-0-x", True),
        ("/sys/fs/cgroup/handout-0-x", True),
        ("/sys/fs/cgroup/a/../../../../etc/handout-0-x", False),
        ("/sys/fs/cgroup/user.slice", False),
        ("/etc/handout-0-x", False),
        ("/sys/fs/cgroup/handout-0-x/", False),
    ],
)
def test_only_what_can_be_a_runs_folder_is_removed_on_somebodys_word(path: str, ours: bool) -> None:
    assert cgroups.is_run_folder(path, "handout-0-") is ours


class Tree:
    """Folders that look like the unified hierarchy."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(cgroups, "_ROOT", str(root))
        self.add("", passed_on="cpu memory pids")

    def add(self, path: str, passed_on: str = "", **files: str) -> None:
        folder = self.root / path
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.controllers").write_text("cpu memory pids\n")
        (folder / "cgroup.subtree_control").write_text(passed_on + "\n")
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text + "\n")

    def bases(self, own: str) -> dict[str, str]:
        self._monkeypatch.setattr(cgroups, "own_cgroups", lambda: {"": own})
        return {name: base.removeprefix(str(self.root)) for name, base in cgroups.parent_groups().items()}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    return Tree(tmp_path, monkeypatch)


def test_a_group_that_passes_its_controllers_on_has_the_runs_below_it(tree: Tree) -> None:
    tree.add("mine", passed_on="memory pids")
    assert tree.bases("/") == {"pids": "", "memory": ""}
    assert tree.bases("/mine") == {"pids": "/mine", "memory": "/mine"}


def test_a_login_has_them_beside_it(tree: Tree) -> None:
    tree.add("slice", passed_on="pids")
    tree.add("slice/session", memory_max="max", pids_max="max", cpu_max="max 100000")
    assert tree.bases("/slice/session") == {"pids": "/slice"}


@pytest.mark.parametrize("file", [{"memory_max": "1000000"}, {"cpu_max": "50000 100000"}, {"pids_max": "100"}])
def test_what_is_limited_itself_does_not_escape(tree: Tree, file: dict[str, str]) -> None:
    tree.add("slice", passed_on="memory pids")
    tree.add("slice/session", **file)
    assert tree.bases("/slice/session") == {}


def test_where_nothing_is_passed_on_there_are_none(tree: Tree) -> None:
    tree.add("slice")
    tree.add("slice/session")
    assert tree.bases("/slice/session") == {}
