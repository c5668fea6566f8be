"""Threads that a task leaves: the check after each task takes little time for threads that it has seen before."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.pythons import bundle, run_on_host

__all__ = ["bundle"]

#: Starts a pool of idle threads, and counts how many namespaces each check examines.
POOL = """
import threading
from concurrent.futures import ThreadPoolExecutor
from handout.host.worker import left_threads

examined = []
is_own = left_threads._is_own
left_threads._is_own = lambda scope: examined.append(scope) or is_own(scope)

def check():
    examined.clear()
    return threads.are_left(), len(examined)

threads, pool, together = left_threads.LeftThreads(), ThreadPoolExecutor(8), threading.Barrier(9)

def use_all(function):
    futures = [pool.submit(function) for _ in range(8)]
    together.wait()
    return futures

for future in use_all(together.wait):
    future.result()
"""


#: Records the code that each garbage collection interrupts.
COLLECTIONS = """
import gc, sys
from handout.host.thread_frames import thread_frames

stopped = []
use_all(together.wait)
gc.callbacks.append(lambda phase, _: stopped.append(sys._getframe(1).f_code))
gc.set_threshold(1)
"""


def run(source: str, bundle: Path) -> str:
    return run_on_host(sys.executable, POOL + source, bundle=bundle).decode().strip()


def test_threads_that_were_seen_before_are_not_examined_again(bundle: Path) -> None:
    source = """
(left, first), again = check(), check()
print(left, first > 8, again)
"""
    assert run(source, bundle) == "False True (False, 0)"


def test_a_thread_that_was_idle_and_now_runs_own_code_is_found(bundle: Path) -> None:
    source = """
idle = check()[0]
go = threading.Event()
use_all(lambda: (together.wait(), go.wait()))
print(idle, check()[0])
go.set()
"""
    assert run(source, bundle) == "False True"


def test_a_new_thread_of_own_code_is_found_beside_known_threads(bundle: Path) -> None:
    source = """
idle = check()[0]
go = threading.Event()
thread = threading.Thread(target=lambda: go.wait())
thread.start()
found = check()[0]
go.set()
thread.join()
print(idle, found, check()[0])
"""
    assert run(source, bundle) == "False True False"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from Python 3.12 on, a collection waits for the next bytecode")
def test_no_collection_begins_while_the_frames_of_threads_are_read(bundle: Path) -> None:
    """Such a collection may let other threads run, and then CPython may stop for ever."""
    source = """
found = thread_frames()
print(len(found), thread_frames.__code__ in stopped, gc.isenabled())
gc.disable()
thread_frames()
print(gc.isenabled())
"""
    assert run(COLLECTIONS + source, bundle).split() == ["9", "False", "True", "False"]
