"""Functions that tests run on hosts. To Handout, this is a user's module, which travels as source code."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import handout


class Refused(Exception):
    """A user's exception whose constructor has two required arguments."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what, code)
        self.code = code


class Slow:
    """Calls `unpickled`, if it is set in this process, while it is unpickled."""

    unpickled: ClassVar[Callable[[], object] | None] = None
    #: How many objects have begun to call `unpickled`.
    waiting: ClassVar[int] = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if Slow.unpickled is not None:
            Slow.waiting += 1
            Slow.unpickled()


def identity(x: Any) -> Any:
    return x


def add(*numbers: int) -> int:
    return sum(numbers)


def run_elsewhere(code: str) -> str:
    """Run code in another Python process, and return what it printed."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def total(numbers: list[int]) -> int:
    return sum(numbers)


def greet(name: str, *, greeting: str = "hello") -> str:
    return f"{greeting} {name}"


async def later_add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


async def wait_for_company(folder: str, me: str, other: str) -> bool:
    """Return True once the call named `other` has begun in the same folder. Return False after 10 s without it."""
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
    """Return the host's name as the task sees it, the number of the process, and the folder of the attempt."""
    current = handout.current()
    return current.host, os.getpid(), current.scratch


def fail(message: str) -> None:
    raise Refused(message, 7)


def fail_then_succeed(path: str, times: int) -> str:
    """Raise in the first `times` calls, and return in later calls. A file counts the calls."""
    with open(path, "a+", encoding="utf-8") as file:
        file.write("x")
        file.seek(0)
        tries = len(file.read())
    if tries <= times:
        raise ValueError(f"try {tries}")
    return f"try {tries}"


def mark_and_return(path: str, value: Any) -> Any:
    """Append a line to a file, so that a test can count the calls. Return `value`."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("ran\n")
    return value


def crash() -> None:
    ctypes.string_at(0)


def leave(code: int) -> None:
    sys.exit(code)


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def sleep_forever(path: str) -> None:
    """Write the number of the process to a file, and sleep for ever."""
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
    """Start a process in a session of its own. The process outlives the task unless the supervisor kills it."""
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
    """Write the number of the process to a file, print some lines, and sleep for ten minutes."""
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
    """Wait until a file exists, and return its path."""
    while not Path(path).exists():
        time.sleep(0.005)
    return path


def first_waits(path: str, x: int) -> int:
    """Return `x`. Of many calls, only the call with 0 waits until a file exists."""
    if x == 0:
        wait_for_file(path)
    return x


def change_in_place(numbers: Any) -> int:
    """Write to the argument. No other task may see the change."""
    numbers[0] = 99
    return int(numbers[1])


def python_version() -> tuple[int, int]:
    return sys.version_info[:2]


def grow(path: str, number: int, data: bytes) -> bytes:
    """Return the data with one more byte, and append `number` to a file for each call."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{number}\n")
    return data + b"x"


def nap(folder: str, number: int) -> int:
    """Write the number of the process to a file, and sleep for 0.2 s.

    The sleep has short steps, so that the time in which a test has stopped the process does not count.
    """
    Path(folder, f"{number}-{handout.current().attempt}").write_text(str(os.getpid()), encoding="utf-8")
    for _ in range(20):
        time.sleep(0.01)
    return number


def look_at(file: handout.File) -> tuple[str, str, str, handout.File]:
    """Return the encoding of file names, the file's name in hexadecimal, its content and a changed copy of the file."""
    copy = os.path.join(os.path.dirname(file.path), "copy", os.path.basename(file.path))
    os.mkdir(os.path.dirname(copy))
    with open(copy, "w", encoding="utf-8") as stream:
        stream.write(file.read_text() + " and more")
    name = os.fsencode(os.path.basename(file.path))
    return sys.getfilesystemencoding(), name.hex(), file.read_text(), handout.File(copy)


def with_one_more(folder: handout.File) -> handout.File:
    """Write a file into a folder, and return the folder. The file holds the name of the folder."""
    with open(os.path.join(folder, "more"), "w", encoding="utf-8") as stream:
        stream.write(ascii(os.path.basename(folder.path)))
    return folder


def names_below(folder: handout.File) -> tuple[list[str], str]:
    """Return the relative paths of everything in a folder, and the path of the folder."""
    found = [os.path.join(place, name) for place, *names in os.walk(folder) for name in [*names[0], *names[1]]]
    return sorted(os.path.relpath(path, folder) for path in found), folder.path


def file_that_is_not_there() -> handout.File:
    """Return a file that does not exist."""
    return handout.File("/nowhere/x")


def say_in_colours() -> None:
    """Print a line with a colour, and sequences that clear the screen and set the title of the window."""
    print("\x1b[31mred\x1b[0m \x1b[2J\x1b]0;title\x07")


def meet_on_both_hosts(folder: str) -> tuple[str, str]:
    """Return the host and the id of the task, once two hosts have begun tasks with this function and folder."""
    current = handout.current()
    Path(folder, current.host).touch()
    for _ in range(24_000):
        if len(os.listdir(folder)) == 2:
            return current.host, current.id
        time.sleep(0.005)
    raise TimeoutError("only one host has begun such a task")
