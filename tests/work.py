"""Functions that tests run on hosts: a user's own module, which travels by source."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import handout


class Refused(Exception):
    """A user's own exception, with an argument that its constructor needs."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what, code)
        self.code = code


def identity(x: Any) -> Any:
    return x


def add(*numbers: int) -> int:
    return sum(numbers)


def total(numbers: list[int]) -> int:
    return sum(numbers)


def greet(name: str, *, greeting: str = "hello") -> str:
    return f"{greeting} {name}"


def describe(parts: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted(parts.items()))


async def later_add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


async def wait_for_company(folder: str, me: str, other: str) -> bool:
    """Ends only when another one runs at the same time in the same place."""
    Path(folder, me).touch()
    for _ in range(2000):
        if Path(folder, other).exists():
            return True
        await asyncio.sleep(0.005)
    return False


def model() -> dict[str, Any]:
    return {"weights": [1, 2, 3], "junk": bytes(1 << 20), "score": 0.5}


def blob(size: int) -> bytes:
    return bytes(size)


def length(data: bytes) -> int:
    return len(data)


def where() -> tuple[str, int, str]:
    """The host's name as the task sees it, its process, its attempt's folder."""
    current = handout.current()
    return current.host, os.getpid(), current.scratch


def fail(message: str) -> None:
    raise Refused(message, 7)


def fail_then_succeed(path: str, times: int) -> str:
    """Fails the first ``times`` times, counted in a file."""
    with open(path, "a+", encoding="utf-8") as file:
        file.write("x")
        file.seek(0)
        tries = len(file.read())
    if tries <= times:
        raise ValueError(f"try {tries}")
    return f"try {tries}"


def mark_and_return(path: str, value: Any) -> Any:
    """Appends a line, so that a test can count runs."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("ran\n")
    return value


def crash() -> None:
    ctypes.string_at(0)


def leave(code: int) -> None:
    sys.exit(code)


def leave_hard() -> None:
    os._exit(0)


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def sleep_forever(path: str) -> None:
    """Says where it is, and stays."""
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    while True:
        time.sleep(3600)


async def sleep_forever_nicely(path: str) -> None:
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    try:
        await asyncio.Event().wait()
    finally:
        Path(path + ".cancelled").touch()


def spin_ignoring_signals(path: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    while True:
        pass


def leave_a_grandchild(path: str) -> str:
    """A process in a session of its own that would outlive the task."""
    code = "import os, time; open(%r, 'w').write(str(os.getpid())); time.sleep(1000)" % path
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not Path(path).exists() or not Path(path).read_text():
        time.sleep(0.005)
    return "left"


def print_much(megabytes: int) -> str:
    line = "x" * 1023 + "\n"
    for _ in range(megabytes * 1024):
        sys.stdout.write(line)
    print("the last line", flush=True)
    return "printed"


def write_to_descriptors() -> str:
    for fd in range(1, 21):
        try:
            os.write(fd, b"rubbish\n" * 100)
        except OSError:
            pass
    return "written"


def ask() -> str:
    try:
        return input()
    except EOFError:
        return "nobody there"


def say(text: str) -> str:
    print(text)
    print(f"error: {text}", file=sys.stderr)
    return text


def say_and_stay(path: str, lines: int) -> None:
    """Says who it is, prints, and stays."""
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    for i in range(lines):
        print(f"line {i}")
    print("to stderr", file=sys.stderr)
    time.sleep(600)


def say_and_fail(text: str) -> None:
    print(text, file=sys.stderr)
    raise Refused(text, 1)


def generator() -> Any:
    return (i for i in range(3))


def environment(name: str) -> str | None:
    return os.environ.get(name)


def wait_for_file(path: str) -> str:
    """Runs until a file is there."""
    while not Path(path).exists():
        time.sleep(0.005)
    return path


def first_waits(path: str, x: int) -> int:
    """Of many, the first one takes until a file is there."""
    if x == 0:
        wait_for_file(path)
    return x


def change_in_place(numbers: Any) -> int:
    """Writes to its argument. No other task may see that."""
    numbers[0] = 99
    return int(numbers[1])


def python_version() -> tuple[int, int]:
    return sys.version_info[:2]


def grow(path: str, number: int, data: bytes) -> bytes:
    """One byte more; notes that it ran."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{number}\n")
    return data + b"x"


def nap(folder: str, number: int) -> int:
    """Takes a fifth of a second of a process that runs; says which one that is."""
    Path(folder, f"{number}-{handout.current().attempt}").write_text(str(os.getpid()), encoding="utf-8")
    for _ in range(20):
        time.sleep(0.01)
    return number
