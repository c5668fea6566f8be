"""Measure how much processor time a worker spends on a no-op task: ``python -m benchmarks.worker``.

The worker runs in a process of its own, as on a host, but without an agent: another process reads its reports. To
compare two versions of Handout, run this module in the two checkouts in turns, and compare the medians.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from handout.host.system import shared_page
from handout.host.worker.batch import WorkerTask
from handout.host.worker.worker import Worker
from handout.protocol.messages import SetUp
from handout.serialization import calls, pickling


def _noop() -> None:
    pass


def _read(link: socket.socket) -> None:
    while link.recv(1 << 20):
        pass


def _measure(link: socket.socket, folder: str, tasks: int, repeats: int) -> list[float]:
    """Return one figure for each repeat: the microseconds of this thread's processor time that a task took."""
    for fd in (1, 2):
        os.dup2(os.pipe()[1], fd)  # as on a host
    page = memoryview(bytearray(4096)).cast("Q")
    page[shared_page.RECALLED_FROM] = shared_page.NEVER
    worker = Worker(link, page)
    worker._set_up(SetUp("h", [folder, folder], folder, {}, "00" * 16, ".w1"), memoryview(b""))
    worker.loader._blobs[1] = b"".join(map(bytes, pickling.dumps(_noop)))
    call = b"".join(map(bytes, calls.dumps_call((), {}, (), lambda _: None)))
    number = 0
    figures = []
    for _ in range(repeats + 1):
        gc.collect()
        begun = time.thread_time_ns()
        for _ in range(tasks):
            number += 1
            worker._run(WorkerTask(number, 1, call, (), (number,), {}, "t", 1, 0))
            if worker.report.full:
                worker.report.flush()
        figures.append((time.thread_time_ns() - begun) / tasks / 1000)
    return figures[1:]


def _fork(run: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        run()
        os._exit(0)
    return pid


def main() -> None:
    """Measure, and print the figures and their median as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description=__doc__)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figures")
        reader = _fork(lambda: (ours.close(), _read(theirs)))
        theirs.close()
        # The reader is no thread, because a thread would compete with the worker for the interpreter's lock. It is no
        # child of the worker, because the worker kills its children.
        worker = _fork(lambda: path.write_text(json.dumps(_measure(ours, folder, arguments.tasks, arguments.repeats))))
        ours.close()
        os.waitpid(worker, 0)
        os.waitpid(reader, 0)
        figures = json.loads(path.read_text(encoding="utf-8"))
    median = sorted(figures)[len(figures) // 2]
    print(json.dumps({"us": [round(us, 2) for us in figures], "median_us": round(median, 2)}))


if __name__ == "__main__":
    main()
