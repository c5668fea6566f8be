"""Functions that the tests of journals run on hosts."""

from __future__ import annotations

import os
import signal
import time


class Box:
    """A class that the reader of plain data refuses."""

    def __init__(self, value: int) -> None:
        self.value = value


def wait_forever(folder: str) -> None:
    """Append a line to a file, and never end."""
    with open(f"{folder}/began", "w", encoding="utf-8") as began:
        began.write(str(os.getpid()))
    while True:
        signal.pause()


def fails_once(path: str) -> int:
    """Make the file and raise; return if the file is there already."""
    if not os.path.exists(path):
        open(path, "w").close()
        raise ValueError("the first time")
    return 7


def gated(folder: str, name: str) -> str:
    """Append a line to a file, and wait for another file."""
    with open(f"{folder}/{name}.began", "a", encoding="utf-8") as began:
        began.write(f"began {os.getpid()}\n")
    while not os.path.exists(f"{folder}/{name}.go"):
        time.sleep(0.005)
    return name


def big(folder: str) -> bytes:
    """Return a result that is too large for a message."""
    with open(f"{folder}/big.began", "a", encoding="utf-8") as began:
        began.write("began\n")
    return bytes(300_000)


def gather(first: str, once: str, data: bytes) -> list[object]:
    """Return the arguments, the data as its length."""
    return [first, once, len(data)]


def raises_bytes(data: bytes) -> None:
    """Raise an error that names a file whose name is not UTF-8."""
    raise ValueError(os.fsdecode(data))


def noted(path: str, name: str) -> str:
    """Append a line to a file."""
    with open(path, "a", encoding="utf-8") as ran:
        ran.write(f"{name}\n")
    return name


def waits_then_fails(path: str) -> None:
    """Raise once the file is there."""
    while not os.path.exists(path):
        time.sleep(0.005)
    raise ValueError("as told")


def same(data: bytes) -> bytes:
    """Return the argument."""
    return data


_NUMBERS = iter(number for number in (3, 4))


def drawn() -> int:
    """Return the next value of a generator."""
    return next(_NUMBERS)
