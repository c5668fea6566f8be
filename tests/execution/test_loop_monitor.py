"""A blocked event loop: Handout warns once and names the code to blame. A busy machine causes no warning."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import handout
from handout import Cluster, Timings
from handout.execution.loop_monitor import LoopMonitor
from tests.patience import HANG_S

LIMIT_S = 0.2


def blocking(seconds: float) -> None:
    time.sleep(seconds)  # the warning names this line


async def beaten(watch: LoopMonitor) -> None:
    """Wait for the monitor's next beat. By then, the monitor has warned if the loop was blocked."""
    beat_at = watch._beat_at
    async with asyncio.timeout(HANG_S):
        while watch._beat_at == beat_at:
            await asyncio.sleep(0.005)


async def test_a_blocked_loop_is_told_once_with_its_length_and_the_line_of_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = LoopMonitor(LIMIT_S)
    watch.start()
    await beaten(watch)
    blocking(3 * LIMIT_S)
    await beaten(watch)
    await beaten(watch)
    watch.stop()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("handout", logging.WARNING)
    line = blocking.__code__.co_firstlineno + 1
    assert f" s by your code at {__file__}:{line} (blocking). " in record.getMessage()
    assert "asyncio.to_thread" in record.getMessage()
    told_s = float(record.getMessage().split("blocked for ")[1].split(" s ")[0])
    assert told_s > 2 * LIMIT_S


async def test_the_line_is_the_callers_own_not_that_of_a_library_that_it_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = LoopMonitor(LIMIT_S)
    watch.start()
    await beaten(watch)
    threading.Event().wait(3 * LIMIT_S)
    await beaten(watch)
    watch.stop()
    assert f"{__file__}:" in caplog.text
    assert "threading.py" not in caplog.text


def module_at(file: Path, source: str) -> ModuleType:
    """Return a module whose code names `file` as its source file. The file does not exist."""
    module = ModuleType(file.stem)
    exec(compile(source, str(file), "exec"), module.__dict__)
    return module


async def warning_of(block: Callable[[], object], caplog: pytest.LogCaptureFixture) -> str:
    """Let the event loop call `block` directly, and return the monitor's warning about it."""
    watch = LoopMonitor(LIMIT_S)
    watch.start()
    await beaten(watch)
    asyncio.get_running_loop().call_soon(block)
    await beaten(watch)
    watch.stop()
    (record,) = caplog.records
    return record.getMessage()


IMPORTING = """
def load():
    import importlib.util, time
    time.sleep(0.6)
def call(function):
    function()
"""

READING = """
import collections.abc, time
class Results(collections.abc.Mapping):
    def __iter__(self): return iter("a")
    def __len__(self): return 1
    def __getitem__(self, key): time.sleep(0.6)
"""


async def test_an_import_of_handouts_own_is_not_said_to_be_the_callers(caplog: pytest.LogCaptureFixture) -> None:
    file = Path(handout.__file__).parent / "execution" / "played.py"
    message = await warning_of(module_at(file, IMPORTING).load, caplog)
    assert f" s by Handout's own code at {file}:4 (load). " in message
    assert "your code" not in message
    assert "to_thread" not in message


@pytest.mark.parametrize(
    ("file", "may_move"),
    [
        ("execution/results.py", True),
        ("graph/graph.py", True),
        ("execution/execution.py", False),  # for example, `ended` needs the running loop, and `explain` reads the core
        ("serialization/file.py", False),
    ],
)
async def test_only_what_builds_graphs_or_reads_results_is_said_to_move_into_a_thread(
    caplog: pytest.LogCaptureFixture, file: str, may_move: bool
) -> None:
    path = Path(handout.__file__).parent / file
    module = module_at(path, IMPORTING)

    def use() -> None:
        module.load()

    message = await warning_of(use, caplog)
    assert f" s by Handout's own code at {path}:4 (load), called at {__file__}:{use.__code__.co_firstlineno + 1} (" in (
        message
    )
    assert ("asyncio.to_thread" in message) == may_move


async def test_results_that_are_read_through_a_mapping_of_pythons_may_move_into_a_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = Path(handout.__file__).parent / "execution" / "results.py"
    results = module_at(path, READING).Results()
    message = await warning_of(lambda: list(results.values()), caplog)
    assert f" s by Handout's own code at {path}:" in message
    assert "asyncio.to_thread" in message


async def test_an_allocator_of_the_callers_is_the_callers_though_handout_calls_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = module_at(Path(handout.__file__).parent / "execution" / "played.py", IMPORTING)
    message = await warning_of(lambda: module.call(lambda: blocking(3 * LIMIT_S)), caplog)
    assert f" s by your code at {__file__}:{blocking.__code__.co_firstlineno + 1} (blocking). " in message


async def test_a_package_that_nobody_of_these_called_is_named(caplog: pytest.LogCaptureFixture) -> None:
    file = Path(pytest.__file__).parents[1] / "somelibrary" / "core.py"
    message = await warning_of(module_at(file, IMPORTING).load, caplog)
    assert f" s by the package somelibrary at {file}:4 (load). " in message
    assert "to_thread" not in message


async def test_time_without_a_processor_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Two sleeps simulate a busy machine.

    `waited_s` says that the loop waited for a processor during all of the first sleep, and a quarter of the second.
    """
    at = 0.0

    def waited_s() -> float:
        return at

    watch = LoopMonitor(LIMIT_S, waited_s)
    watch.start()
    await beaten(watch)
    at = 3 * LIMIT_S
    blocking(3 * LIMIT_S)
    await beaten(watch)
    assert caplog.records == []
    at += LIMIT_S
    blocking(4 * LIMIT_S)
    await beaten(watch)
    watch.stop()
    (record,) = caplog.records
    told_s = float(record.getMessage().split("blocked for ")[1].split(" s ")[0])
    assert told_s > 2 * LIMIT_S


async def test_a_wait_for_a_processor_between_two_readings_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    """In one beat the thread waits for a processor after it has read the clock."""
    at, readings = 0.0, 0

    def waited_s() -> float:
        nonlocal at, readings
        readings += 1
        if readings in (3, 8):  # the second reading of a beat, then the first reading of a beat
            blocking(3 * LIMIT_S)
            at += 3 * LIMIT_S
        return at

    watch = LoopMonitor(LIMIT_S, waited_s)
    watch.start()
    for _ in range(6):
        await beaten(watch)
    watch.stop()
    assert at == 6 * LIMIT_S
    assert caplog.records == []


LOOPS = """
import asyncio, logging, os, sys, time
from handout.execution.loop_monitor import LoopMonitor, _processor_wait_s

logging.basicConfig(format="%(message)s")

def starved(cpu):
    # This process may use only one processor. A busy loop of higher priority occupies most of that processor. With a
    # still lower priority, this process would not end in time on a machine with many such loops.
    os.sched_setaffinity(0, {cpu})
    os.nice(8)
    until = _processor_wait_s() + 1.0
    while _processor_wait_s() < until:
        pass

def busy(cpu):
    until = time.thread_time() + 1.0
    while time.thread_time() < until:
        pass

async def main():
    watch = LoopMonitor(0.4)
    watch.start()
    await asyncio.sleep(0.3)
    globals()[sys.argv[1]](int(sys.argv[2]))
    await asyncio.sleep(0.3)
    watch.stop()

asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="the system does not report waiting time")
@pytest.mark.parametrize("name", ["starved", "busy"])
def test_a_process_that_the_machine_does_not_run_is_not_said_to_be_blocked(name: str) -> None:
    cpu = min(os.sched_getaffinity(0))
    pinned = f"import os; os.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    rival = subprocess.Popen([sys.executable, "-c", pinned])
    try:
        command = [sys.executable, "-c", LOOPS, name, str(cpu)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANG_S)
    finally:
        rival.kill()
        rival.wait()
    assert ("The event loop was blocked for" in done.stderr) == (name == "busy"), done.stderr


SLOW_IMPORT = """
import asyncio, sys, threading, time
import handout

class Slowly:
    # Makes the import of asyncssh slow, as it is on a busy machine.
    def find_spec(self, name, path=None, target=None):
        if name == "asyncssh":
            print("imported by", threading.current_thread().name)
            time.sleep(1.5)

async def main():
    cluster = handout.Cluster([handout.Host("x", address="127.0.0.1", port=1)])
    sys.meta_path.insert(0, Slowly())
    try:
        await cluster.open()
    except handout.HostUnreachableError:
        print("unreachable")

asyncio.run(main())
"""


def test_asyncssh_is_imported_in_a_thread_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW_IMPORT], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    said = done.stdout.splitlines()
    assert said[0].startswith("imported by asyncio_")
    assert said[1:] == ["unreachable"]
    assert "event loop was blocked" not in done.stderr


async def test_a_loop_that_is_merely_busy_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    watch = LoopMonitor(10 * LIMIT_S)
    watch.start()
    for _ in range(2):
        time.sleep(LIMIT_S)
        await asyncio.sleep(0)
    watch.stop()
    assert caplog.records == []


async def test_its_thread_is_there_as_long_as_the_cluster() -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == "handout loop monitor"]

    async with Cluster(timings=Timings()):
        assert len(threads()) == 1
    assert threads() == []
