"""Reads a TOML file and finds the line of each key, so that an error can name the line."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from typing import Any

from handout.errors import InventoryError

#: A place in the file: the keys of tables and the indices of arrays that lead to it, such as ``("hosts", 0, "port")``.
Place = tuple[str | int, ...]


class TomlFile:
    """A TOML file and its parsed data.

    Raises:
        InventoryError: The file cannot be read, or is not TOML.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        #: Path of the file as the user gave it.
        self.name = os.fspath(path)
        text = self._read()
        try:
            self.data: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise self._not_toml(error) from error
        self._text = text
        self._lines: dict[Place, int] | None = None

    def line(self, *places: Place) -> int | None:
        """Return the line of the first of these places that the file has.

        If the file has none of them, return the line of the innermost table or array that would contain the first of
        them, or else the next, and so on. None: the file has no such table or array.
        """
        if self._lines is None:
            self._lines = _locate(self._text)
        for place in places:
            if place in self._lines:
                return self._lines[place]
        for place in places:
            for length in range(len(place) - 1, 0, -1):
                if place[:length] in self._lines:
                    return self._lines[place[:length]]
        return None

    def error(self, places: Sequence[Place], problem: str, remedy: str, *, host: str = "") -> InventoryError:
        """Return an error about a value. Its message names the first place, and the line that `line` finds."""
        line = self.line(*places)
        where = self.name if line is None else f"{self.name}, line {line}"
        key = ".".join(map(str, places[0])) if places else ""
        at = f"{where}: {key}" if key else where
        return InventoryError(f"{at}: {problem}", remedy=remedy, file=self.name, line=line, key=key, host=host)

    def _read(self) -> str:
        try:
            with open(self.name, "rb") as file:
                return file.read().decode("utf-8-sig").replace("\r\n", "\n")
        except FileNotFoundError as error:
            remedy = f"Create it, or correct the path. The current folder is {os.getcwd()}."
            if "." not in self.name or "@" in self.name:  # no name of a TOML file
                remedy = f"To name hosts, give a list: {self.name.split(',')!r}. To name a file, correct the path. "
                remedy += f"The current folder is {os.getcwd()}."
            raise InventoryError(f"inventory {self.name!r} does not exist.", remedy=remedy, file=self.name) from error
        except OSError as error:
            raise InventoryError(
                f"inventory {self.name!r} cannot be read: {error.strerror}.",
                remedy="Give a TOML file that you are allowed to read.",
                file=self.name,
            ) from error
        except UnicodeDecodeError as error:
            raise InventoryError(
                f"inventory {self.name!r} is not text: {error.reason} at byte {error.start}.",
                remedy="Save it as UTF-8.",
                file=self.name,
            ) from error

    def _not_toml(self, error: tomllib.TOMLDecodeError) -> InventoryError:
        message = str(error)
        line = None
        if "(at line " in message:
            line = int(message.rpartition("(at line ")[2].split(",")[0])
        return InventoryError(
            f"{self.name}{'' if line is None else f', line {line}'}: not TOML: {message}.",
            remedy="Put text in quotes and lists in brackets, and define each table only once.",
            file=self.name,
            line=line,
        )


def _locate(text: str) -> dict[Place, int]:
    """Return the line of every table and key of a valid file.

    The parser of the standard library gives no positions. A valid file is a sequence of statements, and a statement may
    have several lines, for example in a string or an array. So this function collects lines until the parser accepts
    them as one statement.
    """
    lines: dict[Place, int] = {}
    table: Place = ()
    counts: dict[Place, int] = {}
    statement, start = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            start = number
        statement += line + "\n"
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        head, statement = statement.lstrip(), ""
        if head.startswith("["):
            table = _header(parsed, counts)
            for length in range(1, len(table) + 1):
                lines.setdefault(table[:length], start)
        else:
            _note(parsed, table, start, lines)
    return lines


def _header(parsed: Any, counts: dict[Place, int]) -> Place:
    """Return the place of the table that a header line, ``[table]`` or ``[[table]]``, begins.

    ``counts`` holds the last index so far of each array of tables, by the place of the array. The call updates it.
    """
    place: Place = ()
    while parsed:
        if isinstance(parsed, list):
            counts[place] = counts.get(place, -1) + 1
            return (*place, counts[place])
        if place in counts:
            place = (*place, counts[place])
        key, parsed = next(iter(parsed.items()))
        place = (*place, key)
    return place


def _note(value: Any, place: Place, line: int, lines: dict[Place, int]) -> None:
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return
    for key, below in inner:
        lines.setdefault((*place, key), line)
        _note(below, (*place, key), line, lines)
