"""Reads the environment variables that a host gets, and takes values from the caller's environment.

A value can be a secret. So no error contains a value, and no error contains a text that stands where a name must be,
because the caller may have confused the two.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Set
from typing import Any, Final, NoReturn

from handout.errors import InventoryError
from handout.serialization.user_objects import brief, short_name

__all__ = ["Variables", "VariablesLike", "read_variables", "taken_from_caller"]

#: What `Host` takes: values by name, or names whose values come from the caller's environment. The value None means the
#: same as a name alone.
VariablesLike = Mapping[str, str | None] | list[str] | tuple[str, ...] | Set[str]
Variables = Mapping[str, str | None]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Variables that Handout sets itself, with what to do instead.
_OWN: Final = {
    "HANDOUT_PYTHONPATH": "Write PYTHONPATH.",
    "HANDOUT_RUN": "Choose another name.",
    "PYTHONHASHSEED": "All hosts share one seed: set PYTHONHASHSEED for the program that calls Handout.",
}


def read_variables(host: str, given: Any) -> Variables:
    """Return the variables that a host gets. None as a value: the value comes from the caller's environment.

    Args:
        host: The name of the host, for errors.
        given: What the caller gave; see `VariablesLike`.

    Raises:
        InventoryError: A name or a value is wrong.
    """
    variables: dict[str, str | None] = {}
    for name, value in _pairs(host, given):
        if name in _OWN:
            _refuse(host, f"env.{name}", f"env cannot set {name}, which Handout sets itself.", _OWN[name])
        if value is not None and (not isinstance(value, str) or not _can_be_set(value)):
            what = "has characters that no variable can have" if isinstance(value, str) else "is not text"
            _refuse(
                host,
                f"env.{name}",
                f"the value of {name} in env {what} (it is of type {short_name(value)}).",
                f"Give text, such as env={{{name!r}: '4'}}.",
            )
        variables[name] = value
    return variables


def _pairs(host: str, given: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(given, Mapping):
        for name, value in given.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                _refuse(host, "env", f"env has {brief(name)}, which is not the name of a variable.", _WRITE_NAME)
            yield name, value
        return
    if not isinstance(given, list | tuple | Set):
        problem = f"env is of type {short_name(given)}."
        _refuse(host, "env", problem, "Give values by name, or a list of names: env=['MY_TOKEN'].")
    for name in given:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            remedy = f"{_WRITE_NAME} To give values too, write env={{'MY_TOKEN': 'value'}}."
            _refuse(host, "env", "the list env has an entry that is not the name of a variable.", remedy)
        yield name, None


_WRITE_NAME = "Write a name such as 'MY_TOKEN': ASCII letters, digits and underscores, not beginning with a digit."


def _can_be_set(value: str) -> bool:
    try:
        return b"\0" not in value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def taken_from_caller(host: str, variables: Variables) -> dict[str, str]:
    """Return the variables with the values that the caller's environment has at the moment.

    Raises:
        InventoryError: The caller's environment lacks a variable.
    """
    found = {}
    for name, value in variables.items():
        taken = os.environ.get(name) if value is None else value
        if taken is None:
            problem = f"env takes {name} from the environment of the caller, which has no such variable."
            _refuse(host, f"env.{name}", problem, "Set the variable for the program that calls Handout.")
        found[name] = taken
    return found


def _refuse(host: str, key: str, problem: str, remedy: str) -> NoReturn:
    raise InventoryError(f"host {host!r}: {problem}", remedy=remedy, host=host, key=key)
