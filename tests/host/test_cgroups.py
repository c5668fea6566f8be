"""Control groups: the limits that they hold, how they are removed, and where a run may make them."""

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
from tests.patience import stretched

MB = 1 << 20


@pytest.fixture
def made() -> Iterator[ControlGroups]:
    """Make the control groups of a run for this test, and remove them afterwards."""
    groups = ControlGroups.for_run(f"handout-test-{os.getpid()}")
    groups.make()
    if len(groups.folders) == 0:
        pytest.skip("this user may not make control groups: needs root, or a delegated part of the tree")
    yield groups
    groups.remove()
    assert not any(os.path.exists(folder) for folder in groups.folders)


def in_a_fork(body: Callable[[], int]) -> tuple[int, int]:
    """Run a function in a forked child. Return its result and 0, or -1 and the signal that killed the child.

    Args:
        body: Returns a number from 0 to 100, which becomes the exit status of the child.
    """
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(body())
        finally:
            os._exit(101)
    status = os.waitpid(pid, 0)[1]
    return (os.WEXITSTATUS(status), 0) if os.WIFEXITED(status) else (-1, os.WTERMSIG(status))


def test_workers_fork_up_to_their_limit_and_no_further(made: ControlGroups) -> None:
    if not made.limit_processes(64):
        pytest.skip("this user may not use the pids controller")

    def enter_and_fork() -> int:
        made.join_workers()
        return fork_and_count(200)

    assert in_a_fork(enter_and_fork) == (63, 0)


def memory_group(made: ControlGroups, limit: int) -> str:
    group = made.add_memory_group("w1", limit)
    if group is None:
        pytest.skip("this user may not use the memory controller")
    return group


def test_the_kernel_kills_a_process_that_takes_more_than_its_group_may(made: ControlGroups) -> None:
    limit = 16 * MB
    group = memory_group(made, limit)

    def allocate() -> int:
        MemoryGroup(group, limit)
        held = bytearray(b"x" * cgroups.kernel_limit(limit))
        return len(held) % 7

    assert in_a_fork(allocate) == (-1, signal.SIGKILL)
    # If memory.oom.group is set, the kernel may count one process of the group twice.
    assert (kills_in(group) or 0) >= 1
    assert cgroups.killed_at_limit(group)
    cgroups.remove_empty(group)
    assert not os.path.exists(group)


def test_a_result_that_is_written_into_memory_does_not_count_against_the_limit(made: ControlGroups) -> None:
    limit = 16 * MB
    group = memory_group(made, limit)
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


def test_processes_that_are_still_in_a_group_are_killed_when_it_is_removed(made: ControlGroups) -> None:
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
    assert time.monotonic() - began < stretched(5)
    assert not any(os.path.exists(folder) for folder in made.folders)


def test_groups_that_tasks_made_below_a_runs_groups_are_removed_with_them(made: ControlGroups) -> None:
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


def test_members_of_another_container_are_left_out(tmp_path: Path) -> None:
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
def test_a_path_read_from_a_lock_is_removed_only_if_it_can_be_a_runs_folder(path: str, ours: bool) -> None:
    assert cgroups.is_run_folder(path, "handout-0-") is ours


class Tree:
    """A folder tree with the files that a hierarchy of control groups of version 2 has."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(cgroups, "_ROOT", str(root))
        self.add("", enabled_below="cpu memory pids")

    def add(self, path: str, enabled_below: str = "", **files: str) -> None:
        folder = self.root / path
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.controllers").write_text("cpu memory pids\n")
        (folder / "cgroup.subtree_control").write_text(enabled_below + "\n")
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text + "\n")

    def bases(self, own: str) -> dict[str, str]:
        self._monkeypatch.setattr(cgroups, "own_cgroups", lambda: {"": own})
        return {name: base.removeprefix(str(self.root)) for name, base in cgroups.parent_groups().items()}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    return Tree(tmp_path, monkeypatch)


def test_a_runs_groups_lie_below_a_group_that_enables_controllers_for_its_children(tree: Tree) -> None:
    tree.add("mine", enabled_below="memory pids")
    assert tree.bases("/") == {"pids": "", "memory": ""}
    assert tree.bases("/mine") == {"pids": "/mine", "memory": "/mine"}


def test_a_runs_groups_lie_beside_the_group_of_a_login(tree: Tree) -> None:
    tree.add("slice", enabled_below="pids")
    tree.add("slice/session", memory_max="max", pids_max="max", cpu_max="max 100000")
    assert tree.bases("/slice/session") == {"pids": "/slice"}


@pytest.mark.parametrize("file", [{"memory_max": "1000000"}, {"cpu_max": "50000 100000"}, {"pids_max": "100"}])
def test_a_run_does_not_escape_the_limits_of_its_login(tree: Tree, file: dict[str, str]) -> None:
    tree.add("slice", enabled_below="memory pids")
    tree.add("slice/session", **file)
    assert tree.bases("/slice/session") == {}


def test_without_enabled_controllers_a_run_has_no_groups(tree: Tree) -> None:
    tree.add("slice")
    tree.add("slice/session")
    assert tree.bases("/slice/session") == {}
