"""Functions that the tests of journals run on hosts."""

from __future__ import annotations

import os
import signal
import time


class Box:
    """A class whose objects the controller refuses from hosts that it trusts with data only (``trust="data"``)."""

    def __init__(self, value: int) -> None:
        self.value = value


def wait_forever(folder: str) -> None:
    """Write the number of the process to the file ``began``, and never return."""
    with open(f"{folder}/began", "w", encoding="utf-8") as began:
        began.write(str(os.getpid()))
    while True:
        signal.pause()


def fails_once(path: str) -> int:
    """Make the file and raise an error. If the file exists already, return 7."""
    if not os.path.exists(path):
        open(path, "w").close()
        raise ValueError("the first time")
    return 7


def gated(folder: str, name: str) -> str:
    """Append a line to ``NAME.began``, wait until ``NAME.go`` exists, and return the name."""
    with open(f"{folder}/{name}.began", "a", encoding="utf-8") as began:
        began.write(f"began {os.getpid()}\n")
    while not os.path.exists(f"{folder}/{name}.go"):
        time.sleep(0.005)
    return name


def big(folder: str) -> bytes:
    """Append a line to ``big.began``, and return a result that is too large for a message."""
    with open(f"{folder}/big.began", "a", encoding="utf-8") as began:
        began.write("began\n")
    return bytes(300_000)


def gather(first: str, once: str, data: bytes) -> list[object]:
    """Return the arguments, with the length of the data in place of the data."""
    return [first, once, len(data)]


def raises_bytes(data: bytes) -> None:
    """Raise an error whose text is these bytes, decoded like a file name. The bytes need not be UTF-8."""
    raise ValueError(os.fsdecode(data))


def noted(path: str, name: str) -> str:
    """Append the name to a file as a line, and return the name."""
    with open(path, "a", encoding="utf-8") as ran:
        ran.write(f"{name}\n")
    return name


def noted_blob(path: str, name: str, size: int) -> bytes:
    """Append the name to a file as a line, and return this many bytes."""
    noted(path, name)
    return b"x" * size


def length_or_fail(data: bytes, path: str) -> int:
    """Return the length of the data. The first time, make the file and raise an error instead."""
    fails_once(path)
    return len(data)


def waits_then_fails(path: str) -> None:
    """Wait until the file exists, and then raise an error."""
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
