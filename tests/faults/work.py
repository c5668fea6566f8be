"""Functions that fault tests run on hosts. The module travels to hosts as source, so it imports little."""

from __future__ import annotations

import os
import time
from pathlib import Path

import handout


def stay_at(host: str, folder: str) -> str:
    """Never end on `host`, and return at once on any other host. Record each run in the file "runs"."""
    here = handout.current().host
    Path(folder, f"{here}.new").write_text(str(os.getpid()))
    os.rename(Path(folder, f"{here}.new"), Path(folder, here))
    with open(Path(folder, "runs"), "a") as file:
        file.write(f"{here}\n")
    while here == host:
        time.sleep(3600)
    return here


def end_when_told(folder: str, name: str) -> str:
    """Wait until the file "go" exists. Record the beginning and the end of each run. Return the host's name."""
    here = handout.current().host
    with open(Path(folder, name), "a") as file:
        file.write(f"{here}\n")
    while not Path(folder, "go").exists():
        time.sleep(0.005)
    with open(Path(folder, f"{name}.ended"), "a") as file:
        file.write(f"{here}\n")
    return here


def large(folder: str) -> bytes:
    """Return 1 MiB, and record each run in the file "made"."""
    with open(Path(folder, "made"), "a") as file:
        file.write(f"{handout.current().host}\n")
    return bytes(1 << 20)


def length_when_told(folder: str, data: bytes) -> int:
    """Wait until the file "go" exists. Record this process and each run. Return the length of `data`."""
    Path(folder, "length.pid").write_text(str(os.getpid()))
    end_when_told(folder, "length")
    return len(data)


def mark_here(path: str, number: int) -> int:
    """Record each run in a file, and take a moment."""
    with open(path, "a") as file:
        file.write(f"{number}\n")
    time.sleep(0.02)
    return number


def nap_until_told(folder: str, number: int) -> int:
    """Sleep for 0.2 to 0.3 s, or not at all if the file "over" exists. Record each run and its host."""
    with open(Path(folder, "ran"), "a") as file:
        file.write(f"{number} {handout.current().host}\n")
    if not Path(folder, "over").exists():
        time.sleep(0.2 + number % 11 / 100)  # naps of one length would end in bursts, which hide the rate
    return -number


def boottime() -> float:
    """Return the seconds since the start of the machine, by the clock of this time namespace."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def filled(number: int, megabytes: int = 1) -> bytes:
    """Return a result of this size, which needs room on its host."""
    return bytes([number]) * (megabytes << 20)


def firsts(results: list[bytes]) -> list[tuple[int, int]]:
    """Return the first byte and the length of each result."""
    return [(data[0], len(data)) for data in results]


def first_after(data: bytes) -> int:
    """Return the first byte. Take a while, so that the core places tasks on another host too."""
    time.sleep(0.3)
    return data[0]
