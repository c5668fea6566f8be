"""Threads that a task leaves: the check after each task takes little time for threads that it has seen before."""

from __future__ import annotations

import sys
from pathlib import Path

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
