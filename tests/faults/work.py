"""Functions that fault tests run on hosts; they travel by source, so this imports little."""

from __future__ import annotations

import os
import time
from pathlib import Path

import handout


def stay_at(host: str, folder: str) -> str:
    """Stays where it must not; anywhere else it ends at once. Says each time that it ran."""
    here = handout.current().host
    Path(folder, f"{here}.new").write_text(str(os.getpid()))
    os.rename(Path(folder, f"{here}.new"), Path(folder, here))
    with open(Path(folder, "runs"), "a") as file:
        file.write(f"{here}\n")
    while here == host:
        time.sleep(3600)
    return here


def end_when_told(folder: str, name: str) -> str:
    """Ends once a file is there, and tells where it ran."""
    here = handout.current().host
    with open(Path(folder, name), "a") as file:
        file.write(f"{here}\n")
    while not Path(folder, "go").exists():
        time.sleep(0.005)
    with open(Path(folder, f"{name}.ended"), "a") as file:
        file.write(f"{here}\n")
    return here


def large(folder: str) -> bytes:
    """Makes a megabyte, and says each time that it did."""
    with open(Path(folder, "made"), "a") as file:
        file.write(f"{handout.current().host}\n")
    return bytes(1 << 20)


def length_when_told(folder: str, data: bytes) -> int:
    """The length of what it was given, once it is told to say it."""
    Path(folder, "length.pid").write_text(str(os.getpid()))
    end_when_told(folder, "length")
    return len(data)


def mark_here(path: str, number: int) -> int:
    """Takes a moment, and says each time that it ran."""
    with open(path, "a") as file:
        file.write(f"{number}\n")
    time.sleep(0.02)
    return number


def nap_until_told(folder: str, number: int) -> int:
    """Sleeps a fifth of a second or more, or not at all once it is over; says each time that it ran, and where."""
    with open(Path(folder, "ran"), "a") as file:
        file.write(f"{number} {handout.current().host}\n")
    if not Path(folder, "over").exists():
        time.sleep(0.2 + number % 11 / 100)  # not all alike: they would end in bursts, and hide a pace
    return -number


def boottime() -> float:
    """Seconds since this machine, or this namespace of it, says that it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def filled(number: int, megabytes: int = 1) -> bytes:
    """A result that takes room."""
    return bytes([number]) * (megabytes << 20)


def firsts(results: list[bytes]) -> list[tuple[int, int]]:
    """What each begins with, and how long it is."""
    return [(data[0], len(data)) for data in results]


def first_after(data: bytes) -> int:
    """Takes a while, so that another host looks better."""
    time.sleep(0.3)
    return data[0]
