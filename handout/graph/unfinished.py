"""Values that stand for work that is not finished, such as coroutines. They cannot travel to a host."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Mapping
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final

from handout.errors import UnserializableError
from handout.serialization.user_objects import type_name

__all__ = ["UNFINISHED", "refusal", "remedy_of"]

_CALL: Final = (
    "Await it first, and pass its result: await {name}(...). Or let a host run the coroutine function, and pass the "
    "output of graph.add({name}, ...) or the result of cluster.call({name}, ...)."
)
_LIST: Final = "Pass a list of its items: list(...)."
_AWAIT: Final = "Await it first, and pass its result."

#: The types of such values, and what to pass instead. Types are compared exactly.
UNFINISHED: Final[Mapping[type, str]] = {
    CoroutineType: _CALL,
    GeneratorType: _LIST,
    AsyncGeneratorType: "Pass a list of its items: [item async for item in ...].",
    asyncio.Task: _AWAIT,
    asyncio.Future: _AWAIT,
    concurrent.futures.Future: "Wait for it first, and pass its result: future.result().",
}


def refusal(owner: str, path: str, value: Any) -> UnserializableError:
    """Return the error for an argument of one of these types.

    Args:
        owner: The name of the function that takes the argument.
        path: The name of the argument, such as ``args[0]``.
        value: The argument.
    """
    return UnserializableError(
        f"{owner!r} cannot take {path}, because it is a {type_name(value)}: work that is not finished cannot travel "
        "to a host.",
        remedy=remedy_of(value),
        path=path,
        type=type_name(value),
    )


def remedy_of(value: Any) -> str:
    """Return what to write instead of a value of one of these types."""
    name = value.__name__ if type(value) is CoroutineType else "f"
    return UNFINISHED[type(value)].format(name=name)
