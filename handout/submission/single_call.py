"""Turns one call of a function, which belongs to no graph, into bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final
from weakref import WeakKeyDictionary

from handout.errors import GraphError
from handout.graph.function_options import TaskOptions, check_options, intern_options
from handout.graph.naming import innermost, name_of
from handout.graph.options_decorator import mark_of
from handout.graph.output import is_function
from handout.graph.partials import unwrapped
from handout.graph.signature import Signatures
from handout.graph.unfinished import UNFINISHED, refusal
from handout.project.loaded import remember_loaded
from handout.resources import Requirement
from handout.serialization.user_objects import brief, is_coroutine_function, qualified_name
from handout.submission.arguments import check_size
from handout.submission.call_snapshots import CallBytes, CallSnapshots
from handout.submission.call_values import SharedArguments

__all__ = ["CallOptions", "EncodedCall", "encode_call"]

#: At most this many different options are known.
_MOST_OPTIONS: Final = 1024
#: The options that need other functions of a graph, each with what the caller can do instead.
_OF_GRAPHS: Mapping[str, str] = {
    "collocate_with": "Use host= instead, or add the functions to one graph.",
    "inline": "Call the function inside the function that takes its result.",
}


@dataclass(frozen=True, slots=True, eq=False)
class EncodedCall:
    """The bytes of one call. They do not change if the caller changes the arguments later."""

    #: The name of the function, for the id of the task.
    name: str
    #: The name of the function under which the core remembers how long its tasks take.
    qualified_name: str
    bytes: CallBytes
    options: TaskOptions
    #: True if calling the function returns a coroutine.
    is_coroutine: bool


class CallOptions:
    """Finds the options of functions that belong to no graph, and checks the calls of these functions.

    Args:
        given: Options for each function that does not have an option of the same name.

    Raises:
        GraphError: An option is wrong, or only a function of a graph can have it.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        check_options(given, "the options of a call")
        _check_alone(given, "an executor" if given else "a call")
        self._given = dict(given)
        self._known: dict[Any, tuple[TaskOptions, object]] = {}
        #: For some functions: the calls that were right, each as the number of positional arguments and the names of
        #: the others. The table keeps no function alive.
        self._right: WeakKeyDictionary[Any, set[tuple[Any, ...]]] = WeakKeyDictionary()
        self.snapshots = CallSnapshots()

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """The variants of the cost of a function that has no options of its own."""
        return intern_options({k: v for k, v in self._given.items() if k != "id"}, self._known).requirements

    def of(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TaskOptions:
        """Return the options for a call.

        Raises:
            GraphError: The function cannot be called with these arguments, or it has an option that only a function of
                a graph can have.
        """
        if not is_function(fn):
            raise GraphError(
                f"{brief(fn)} is not callable.", remedy="Give the function itself, then its arguments: call(f, x)."
            )
        name = name_of(fn)
        self._check(fn, (len(args), *kwargs), lambda: Signatures().check(fn, len(args), kwargs.keys(), name))
        check_finished(name, args, kwargs)
        return self.with_mark(mark_of(fn) or {}, f"a call of {name!r}")

    def with_mark(self, mark: Mapping[str, Any], owner: str) -> TaskOptions:
        """Return the options for a call of functions that have the options ``mark`` of their own.

        Raises:
            GraphError: ``mark`` has an option that only a function of a graph can have. The message names ``owner``.
        """
        _check_alone(mark, owner)
        given = {**self._given, **mark}
        given.pop("id", None)
        if len(self._known) >= _MOST_OPTIONS:
            self._known = {}  # they keep objects of the caller alive
        return intern_options(given, self._known)

    def _check(self, fn: Callable[..., Any], way: tuple[Any, ...], check: Callable[[], None]) -> None:
        """Check a call, unless such a call of the function was right before."""
        if type(fn) is not FunctionType:
            check()
            return
        right = self._right.setdefault(fn, set())
        if way not in right:
            check()
            right.add(way)


def _check_alone(given: Mapping[str, Any], owner: str) -> None:
    for name, remedy in _OF_GRAPHS.items():
        value = given.get(name)
        if value is not None and value is not False:  # an output has no truth value
            raise GraphError(f"{owner} cannot have the option {name}=, which is for graphs.", remedy=remedy)


def check_finished(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise `GraphError` if an argument is a coroutine or a future, which the caller has to await first."""
    for path, value in [*((f"args[{i}]", arg) for i, arg in enumerate(args)), *kwargs.items()]:
        if type(value) in UNFINISHED:
            raise refusal(name, path, value)


def encode_call(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: CallOptions,
    companions: Sequence[type] = (),
    shared: SharedArguments | None = None,
) -> EncodedCall:
    """Pickle a function and the arguments of one call.

    Args:
        fn: The function.
        args: The positional arguments.
        kwargs: The keyword arguments.
        options: Finds the options of the function.
        companions: Classes to send along with a function that is sent by value; see `encode_plan`.
        shared: Large arguments that this call may share with other calls. The values of the call have begun in it, so
            they must end in it when the call has ended.

    Raises:
        GraphError: The function cannot be called with these arguments.
        UnserializableError: The function or an argument cannot be pickled. The error names the path to the part that
            failed.
    """
    own = options.of(fn, args, kwargs)
    fn = unwrapped(fn)
    remember_loaded(fn)
    name = name_of(fn)
    found = options.snapshots.encode(name, fn, args, kwargs, companions, shared)
    check_size(name, fn, found.function)
    return EncodedCall(name, qualified_name(innermost(fn)), found, own, is_coroutine_function(fn))
