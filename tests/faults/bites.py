"""Functions of a host that means harm: what they return and raise runs where it is unpickled."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import handout


def bite(path: str, *_rest: object) -> str:
    """Says in which process it ran."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return "bitten"


def bitten(path: Path) -> list[int]:
    """The processes in which something bit."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


class Canary:
    """Bites where it is unpickled."""

    def __init__(self, path: str, nbytes: int = 0) -> None:
        self.path, self.nbytes = path, nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        return bite, (self.path, bytes(self.nbytes))


class BitingError(Exception):
    """Likewise."""

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
