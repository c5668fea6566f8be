"""Describes the bytes that a run must send before its tasks can begin, if they take long to send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nlargest
from itertools import chain
from typing import Any, Final

from handout.graph.plan import Plan
from handout.serialization.diagnosis import largest_part, pickled_size
from handout.serialization.user_objects import type_name
from handout.submission.code_bundles import FunctionBlob

__all__ = ["BULK_BYTES", "describe_bulk", "describe_bulk_call"]

#: A run that sends fewer bytes says nothing. These bytes take about 1 s at 1 Gbit/s, and 8 s at 100 Mbit/s.
BULK_BYTES: Final = 100_000_000
#: The description names at most this many parts, the largest first.
_NAMED: Final = 3

_ADVICE: Final = (
    "If the hosts can read the data themselves, add a function that loads it there: graph.add(load, path). If the data "
    "is in a file here, pass handout.File(path): it travels once to each host, and this program does not hold it in "
    "memory."
)


def describe_bulk(
    plan: Plan,
    total: int,
    nbytes: Sequence[int],
    inputs: Sequence[tuple[int, ...]],
    arguments: Mapping[int, Any],
    fn: Sequence[int],
    functions: Sequence[FunctionBlob],
) -> str:
    """Return a message about what a run sends before its tasks can begin.

    Args:
        plan: The plan.
        total: How many bytes of objects and functions the run sends.
        nbytes: For each object, its size in bytes, or -1 if a task makes the object.
        inputs: For each task, the numbers of the objects that it takes.
        arguments: The arguments that became objects, by object number.
        fn: For each task, the index of its function in ``functions``.
        functions: The functions of the run.
    """
    objects = ((size, False, number) for number, size in enumerate(nbytes) if size > 0)
    blobs = ((len(each.blob), True, index) for index, each in enumerate(functions))
    named = [
        _function(plan, fn.index(number), size) if is_function else _object(plan, inputs, arguments, number, size)
        for size, is_function, number in nlargest(_NAMED, chain(objects, blobs))
        if size * 100 >= total
    ]
    largest = f"The largest parts: {', '.join(named)}. " if named else ""
    return (
        f"This run sends {_mb(total)} of arguments and functions, each to the hosts that need it. {_times(total)} "
        f"{largest}{_ADVICE}"
    )


def describe_bulk_call(name: str, total: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return a message about what a call sends before its task can begin.

    Args:
        name: The name of the function.
        total: How many bytes of arguments the call sends.
        args: The positional arguments.
        kwargs: The keyword arguments.
    """
    named = [*((f"args[{i}]", arg) for i, arg in enumerate(args)), *kwargs.items()]
    path, part = max(named, key=lambda each: pickled_size(each[1]))
    path, part = largest_part(part, path)
    return (
        f"A call of {name!r} sends {_mb(total)} of arguments. {_times(total)} The largest part: {path} "
        f"({type_name(part)}). {_ADVICE} For a value that many calls take, pass `await cluster.put(value)`. This is "
        "said once for each function."
    )


def _times(total: int) -> str:
    return (
        f"To send this to one host takes at least {total / 125e6:.0f} s at 1 Gbit/s, and {total / 12.5e6:.0f} s at "
        "100 Mbit/s."
    )


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.{0 if nbytes >= 1e7 else 1}f} MB"


def _function(plan: Plan, task: int, size: int) -> str:
    path, part = largest_part(plan.fns[task], f"function {plan.ids[task]!r}")
    return f"{path} ({type_name(part)}, {_mb(size)})"


def _object(plan: Plan, inputs: Sequence[tuple[int, ...]], arguments: Mapping[int, Any], number: int, size: int) -> str:
    if number not in arguments:
        return f"value {plan.name_of(number)!r} ({_mb(size)})"
    arg = arguments[number]
    task = next(task for task, needs in enumerate(inputs) if number in needs)
    path = _path(arg, plan.args[task], plan.kwargs[task])
    return f"{path} of {plan.ids[task]!r} ({type_name(arg)}, {_mb(size)})"


def _path(wanted: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return where an argument is, such as ``args[0]`` or ``args[0][3]``."""
    named = [*((f"args[{i}]", arg) for i, arg in enumerate(args)), *kwargs.items()]
    for path, arg in named:
        if arg is wanted:
            return path
    for path, arg in named:
        items: Any = arg.items() if type(arg) is dict else enumerate(arg) if type(arg) in (list, tuple) else ()
        for key, item in items:
            if item is wanted:
                return f"{path}[{key!r}]"
    return "an argument"
