"""Functions that tests with a journal run on hosts."""

from __future__ import annotations

import os
import signal
import time


class Box:
    """Of a class that no reader of plain data takes."""

    def __init__(self, value: int) -> None:
        self.value = value


def wait_forever(folder: str) -> None:
    """Say in a file that it began, and never end."""
    with open(f"{folder}/began", "w", encoding="utf-8") as began:
        began.write(str(os.getpid()))
    while True:
        signal.pause()


def fails_once(path: str) -> int:
    """Raises until the file is there, which it makes."""
    if not os.path.exists(path):
        open(path, "w").close()
        raise ValueError("the first time")
    return 7


def gated(folder: str, name: str) -> str:
    """Say that it began, and go on when it is let."""
    with open(f"{folder}/{name}.began", "a", encoding="utf-8") as began:
        began.write(f"began {os.getpid()}\n")
    while not os.path.exists(f"{folder}/{name}.go"):
        time.sleep(0.005)
    return name


def big(folder: str) -> bytes:
    """A result that does not travel in a message."""
    with open(f"{folder}/big.began", "a", encoding="utf-8") as began:
        began.write("began\n")
    return bytes(300_000)


def gather(first: str, once: str, data: bytes) -> list[object]:
    """All of it."""
    return [first, once, len(data)]


def raises_bytes(data: bytes) -> None:
    """Raise what names a file whose name is no UTF-8."""
    raise ValueError(os.fsdecode(data))


def noted(path: str, name: str) -> str:
    """Say in a file that it ran."""
    with open(path, "a", encoding="utf-8") as ran:
        ran.write(f"{name}\n")
    return name


def waits_then_fails(path: str) -> None:
    """Fail once the file is there."""
    while not os.path.exists(path):
        time.sleep(0.005)
    raise ValueError("as told")


def same(data: bytes) -> bytes:
    """What it takes."""
    return data


_NUMBERS = iter(number for number in (3, 4))


def drawn() -> int:
    """The next of a generator's."""
    return next(_NUMBERS)
