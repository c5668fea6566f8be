"""Fault row 21: fork bombs meet the system's limit of processes, which holds for every user except the superuser."""

from __future__ import annotations

import os
import signal
import traceback

import pytest

from handout.host.system import processes
from tests.forks import fork_and_count

_NOBODY = 65534


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become a user that has no other processes")
def test_row_21_a_user_who_forks_and_forks_meets_a_limit() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(_NOBODY)
            processes.limit_processes(processes.count_user_threads() + 8)
            os.write(writing, b"%d" % fork_and_count(50))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        made = int(pipe.read())
    os.waitpid(child, 0)
    assert 1 <= made <= 9


def test_no_signal_goes_to_a_whole_group_by_mistake() -> None:
    assert not processes.send_signal(0, signal.SIGKILL)
    assert not processes.send_signal(-1, signal.SIGKILL)


def test_who_is_here_is_counted_with_its_threads() -> None:
    assert processes.count_user_threads() >= len(os.listdir("/proc/self/task"))


def test_what_is_let_go_first_is_not_taken_back() -> None:
    """The test raises the out-of-memory score in a forked child, because this process would keep a raised score."""
    child = os.fork()
    if child == 0:
        processes.raise_oom_score()
        with open("/proc/self/oom_score_adj") as file:
            os._exit(0 if int(file.read()) >= 500 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
