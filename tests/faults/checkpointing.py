"""Functions of the tests of checkpoints, which the workers import without the tests."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

import handout
from handout import File
from tests.patience import HANG_S


@dataclasses.dataclass
class State:
    step: int = 0
    data: bytes = b""


def work(steps: int, size: int, how: str, folder: str = "") -> tuple[int, int, str]:
    """Count steps. The first attempt ends at step 3, or stays there. Return where this attempt began."""
    task = handout.current()
    state = task.restore(State())
    began = state.step
    assert state.data == bytes([began]) * (size if began else 0)
    while state.step < steps:
        state.step += 1
        state.data = bytes([state.step]) * size
        task.checkpoint(state)
        if state.step == 3 and not began:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "raise":
                raise ValueError("at step 3")
            if how == "stay":
                Path(folder, "there").touch()
                time.sleep(HANG_S)
    return began, task.attempt, task.host


async def work_later(steps: int, size: int, how: str, folder: str = "") -> tuple[int, int, str]:
    return await asyncio.to_thread(work, steps, size, how, folder)


def copy_a_file(path: str) -> str:
    task = handout.current()
    found = task.restore(None)
    if found is not None:
        return found.read_text()
    Path(task.scratch, "state").write_text("kept" * 50_000)
    task.checkpoint(File(Path(task.scratch, "state")))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def refuse(how: str) -> str:
    task = handout.current()
    if task.attempt == 1:
        task.checkpoint("kept")
    try:
        if how == "lambda":
            task.checkpoint(open(os.devnull))  # noqa: SIM115
        elif not os.fork():
            try:
                task.checkpoint("child")
            except RuntimeError as error:
                os._exit(7 if "forked" in str(error) else 1)
            os._exit(2)
        else:
            return str(os.waitstatus_to_exitcode(os.wait()[1]))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "kept"


class Brittle:
    def __reduce__(self) -> tuple[Any, ...]:
        return break_it, ()


def break_it() -> None:
    raise ValueError("cannot be read")


def keep_brittle() -> tuple[object, int]:
    task = handout.current()
    if task.attempt == 1:
        task.checkpoint(Brittle())
        raise OSError("again")
    return task.restore("default"), task.attempt


def take_two_numbers() -> list[Any]:
    task = handout.current()
    restored = task.restore("default")
    if task.attempt == 1:
        task.checkpoint([1, 2])
        raise OSError("again")
    return [task.attempt, restored]


def stored_checkpoints() -> list[str]:
    """Return the files of checkpoints in this host's store in memory. Their names are long numbers.

    Hosts of other tests may run on this machine. The lock file of a store names the folder of its host.
    """
    run = os.fsencode(Path(handout.current().scratch).parents[1])
    stores = [lock.parent for lock in Path("/dev/shm").glob("handout-*/.lock") if run in lock.read_bytes().split(b"\0")]
    assert stores
    names = [path.name for store in stores for path in store.iterdir()]
    return [name for name in names if len(name) > 30 or "check" in name]


def stay_once(steps: int, size: int, folder: str) -> tuple[int, int, str]:
    return work(steps, size, "" if Path(folder, "there").exists() else "stay", folder)


def fail_when_told(folder: str) -> tuple[int, int]:
    """Keep a checkpoint, wait until the test makes a file, and raise. The next attempt returns what it restores."""
    task = handout.current()
    began = task.restore(0)
    if began:
        return began, task.attempt
    task.checkpoint(7)
    Path(folder, "there").touch()
    deadline = time.monotonic() + HANG_S
    while not Path(folder, "go").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    raise ValueError("told")


def keep_on(steps: int) -> tuple[int, int]:
    """Keep checkpoints for half a second, and raise in the first attempt."""
    task = handout.current()
    step = task.restore(0)
    if step == steps:
        return step, task.attempt
    while step < steps:
        step += 1
        task.checkpoint(step)
        time.sleep(0.5 / steps)
    raise ValueError("once")
