"""Turns several calls, which one task makes one after another, into the bytes of that task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from handout.errors import GraphError, UnserializableError
from handout.graph.naming import innermost, name_of
from handout.graph.options_decorator import mark_of
from handout.project.loaded import remember_loaded
from handout.serialization.several_calls import Item, make_calls, taken_apart
from handout.serialization.user_objects import qualified_name
from handout.submission.call_values import SharedArguments
from handout.submission.single_call import CallOptions, EncodedCall

__all__ = ["encode_calls"]


def encode_calls(
    items: Sequence[Item],
    prepare: Callable[..., Callable[[], Any]],
    extra: tuple[Any, ...],
    options: CallOptions,
    companions: Sequence[type] = (),
    shared: SharedArguments | None = None,
) -> EncodedCall:
    """Pickle several calls for one task; see `make_calls`.

    The task has the name of the first function. Its cost and its other options are those of all functions, which must
    therefore be the same.

    Args:
        items: The calls, at least one.
        prepare: Turns the calls into one function without arguments, on the host.
        extra: Further arguments of ``prepare``.
        options: Finds the options of the functions.
        companions: Classes to send along with a function that is sent by value; see `encode_plan`.
        shared: Large arguments that these calls may share with calls of other tasks; see `encode_call`.

    Raises:
        GraphError: The functions have different options.
        UnserializableError: A function or an argument cannot be pickled.
    """
    first = items[0][0]
    name = name_of(first)
    own = options.with_mark(_mark(items), f"a call of {name!r}")
    for function, _, _ in items:
        remember_loaded(function)
    layout, parts = taken_apart(items)
    try:
        found = options.snapshots.encode(name, make_calls, (prepare, extra, layout, *parts), {}, companions, shared)
    except UnserializableError:
        for function, args, kwargs in items:
            # This raises an error that names the argument as the caller knows it.
            options.snapshots.encode(name_of(function), function, tuple(args), kwargs, companions, None)
        raise
    return EncodedCall(name, qualified_name(innermost(first)), found, own, is_coroutine=False)


def _mark(items: Sequence[Item]) -> Mapping[str, Any]:
    """Return the options that `options` gave to the functions of some calls."""
    mark = mark_of(items[0][0]) or {}
    for function, _, _ in items:
        other = mark_of(function) or {}
        if other != mark:
            raise GraphError(
                f"{name_of(items[0][0])!r} and {name_of(function)!r} would run in one task, but they have different "
                f"options: {dict(mark)} and {dict(other)}.",
                remedy="Run them in calls of their own, or give the options to the backend instead.",
            )
    return mark
