"""The arguments of `Graph.map`: an iterable has one item for each call, and all calls share an output or an `Arg`."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterable, Mapping
from operator import length_hint
from typing import Any, Final

from handout.errors import GraphError
from handout.graph.output import Input
from handout.graph.unfinished import UNFINISHED, remedy_of
from handout.serialization.user_objects import brief

__all__ = ["items_of", "rows_of"]

#: Iterators that never end.
_ENDLESS: Final = frozenset({itertools.count, itertools.cycle})


def rows_of(name: str, columns: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return the positional arguments of each call.

    Args:
        name: The name of the function.
        columns: An iterable or an input for each parameter of the function.

    Raises:
        GraphError: There is no iterable, the iterables differ in length, or an argument is neither an iterable nor an
            input, or has items that are hardly meant to be one call each.
    """
    shared = [issubclass(type(column), Input) for column in columns]
    if all(shared):
        given = "each argument is an output, which is one value" if columns else "there is no argument"
        raise GraphError(
            f"graph.map of {name!r} needs an iterable with one item for each call, and {given}.",
            remedy=f"For one call, write graph.add({name}, ...). For a call for each element of a result whose length "
            "you know, write graph.map(f, [out[0], out[1]]).",
        )
    share = f"To give one value to all calls, write graph.value(x), or bind it: functools.partial({name}, ...)."
    lists = [
        column if one else items_of(f"graph.map of {name!r}: argument {number}", column, share)
        for number, column, one in zip(itertools.count(1), columns, shared, strict=False)
    ]
    lengths = [len(items) for items, one in zip(lists, shared, strict=True) if not one]
    if len(set(lengths)) != 1:
        raise GraphError(
            f"graph.map of {name!r} needs iterables of the same length. "
            f"Their lengths are: {', '.join(map(str, lengths))}.",
            remedy=f"Cut the iterables to one length. {share}",
        )
    filled = [itertools.repeat(items, lengths[0]) if one else items for items, one in zip(lists, shared, strict=True)]
    return list(zip(*filled, strict=True))


def items_of(where: str, column: Any, share: str = "") -> list[Any]:
    """Return the items of an iterable that the caller gave.

    Args:
        where: Names the iterable, for the message.
        column: The iterable.
        share: How to give one value to all calls, for the remedy.

    Raises:
        GraphError: The value is not iterable, never ends, or has items that are hardly meant to be one call each.
    """
    kind = type(column)
    if issubclass(kind, Input):
        iter(column)  # raises the error that says what to write instead
    if issubclass(kind, str | bytes | bytearray):
        part = "character" if issubclass(kind, str) else "byte"
        raise GraphError(
            f"{where} is {brief(column, 80)}, so each {part} would be an item.",
            remedy=f"To make it one item, put it into a list. If each {part} is meant, write list(...). {share}",
        )
    if issubclass(kind, Mapping):
        raise GraphError(
            f"{where} is a mapping, so each of its keys would be an item: {brief(column, 80)}.",
            remedy=f"Write list(mapping), mapping.values() or mapping.items(). {share}",
        )
    if hasattr(kind, "columns") and hasattr(kind, "to_dict"):  # as pandas and polars have them
        raise GraphError(
            f"{where} is a {kind.__name__}, so each of its columns would be an item.",
            remedy=f'For a call for each row, write frame.to_dict("records"), or frame.to_dicts() with polars. {share}',
        )
    if kind in _ENDLESS or (kind is itertools.repeat and length_hint(column, -1) < 0):
        raise GraphError(f"{where} never ends: {brief(column)}.", remedy=share)
    try:
        iterator = iter(column)
    except TypeError as error:
        if kind in UNFINISHED:
            remedy = remedy_of(column)
        elif issubclass(kind, AsyncIterable):
            remedy = "Write [item async for item in ...]."
        else:
            remedy = f"To make it one item, put it into a list. {share}"
        raise GraphError(f"{where} is not iterable: {brief(column)}.", remedy=remedy) from error
    return list(iterator)
