"""Functions for a malicious host: some of their results and exceptions run code in the process that unpickles them.

This code is called a bite. It writes the id of the process to a file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import handout


def bite(path: str, *_rest: object) -> str:
    """Append the id of the process that runs this function to a file."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return "bitten"


def bitten(path: Path) -> list[int]:
    """Return the ids of the processes in which `bite` ran."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


class Canary:
    """An object that calls `bite` in the process that unpickles it."""

    def __init__(self, path: str, nbytes: int = 0) -> None:
        self.path, self.nbytes = path, nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        return bite, (self.path, bytes(self.nbytes))


class BitingError(Exception):
    """An exception that calls `bite` in the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _bite_and_make, (str(self),)


def _bite_and_make(path: str) -> BitingError:
    bite(path)
    return BitingError(path)


def canary(path: str, nbytes: int = 0) -> Canary:
    return Canary(path, nbytes)


def raise_canary(path: str) -> None:
    raise BitingError(path)


def look(value: object) -> str:
    return type(value).__name__


@handout.trust
class Colour(Enum):
    RED = 1


@handout.trust
@dataclass
class Row:
    name: str
    data: Any


@dataclass
class Unregistered:
    name: str


def make_row(nbytes: int) -> Row:
    return Row("a", {"colour": Colour.RED, "bytes": bytes(nbytes)})


def make_unregistered() -> Unregistered:
    return Unregistered("a")


def grow(row: Row) -> Row:
    assert isinstance(row, Row)
    return Row(row.name + "b", row.data)
