"""`Warm`: a value that each worker makes once, and keeps for the tasks that take it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TypeVar, overload

from handout.errors import GraphError, NotAValueError
from handout.graph.naming import name_of
from handout.graph.options_decorator import mark_of
from handout.graph.output import Input, is_function
from handout.graph.partials import joined, unbound
from handout.graph.scan import Scanner
from handout.graph.signature import Signatures
from handout.graph.unfinished import UNFINISHED, refusal
from handout.project.loaded import remember_loaded
from handout.serialization.user_objects import brief, holds, is_coroutine_function

__all__ = ["Warm", "check_event_loop"]

P = ParamSpec("P")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)

#: Why the program cannot use the value, as the end of a sentence.
_IN_WORKERS: Final = "its value exists only in workers"


class Warm(Input[T_co]):
    """A value that each worker makes for itself, once, and keeps between tasks: a loaded model, an open connection.

    It stands where a ``T`` is wanted, in `Graph.add`, `Graph.map`, `Cluster.call` and executors, as an `Output` does.
    The first task in a worker that takes it calls ``make(*args, **kwargs)``. Later tasks in this worker get the same
    object, also those of other graphs and of other `Warm` objects with the same function and the same arguments. So
    what a task changes in it, later tasks find.

    If ``make`` returns a context manager, the worker enters it, and leaves it when the worker ends. The value is what
    entering it has returned. If ``make`` is a coroutine function, or returns an asynchronous context manager, only
    coroutine functions can take the value. Coroutine functions whose cost is ``{"cpu": 0}`` share one worker on a host,
    and so one value.

    A warm value is never pickled. A function that takes it can return what it has computed, but not the value itself.

    Args:
        make: A function, a coroutine function, or a function that returns a context manager. It runs on a host.
        *args: Its positional arguments. They may be outputs of the graph that the `Warm` is used in, stored objects and
            other `Warm` objects, each inside `later`.
        **kwargs: Its keyword arguments, likewise.

    Raises:
        GraphError: ``make`` is not callable, is a generator function, does not take these arguments, or has an option
            other than ``timeout_s``.

    Example:
        ```python
        def load_model(path: str) -> dict[str, float]:
            with open(path) as file:
                return {word: 1.0 for word in file.read().split()}

        def score(model: dict[str, float], text: str) -> float:
            return sum(model.get(word, 0.0) for word in text.split())

        model = handout.Warm(load_model, "data.csv")
        graph = handout.Graph()
        scores = graph.map(score, model, ["good", "bad"])
        ```
    """

    __slots__ = ("args", "identity", "is_async", "kwargs", "make")

    make: Callable[..., Any]
    """The function that makes the value."""
    args: tuple[Any, ...]
    """The positional arguments of ``make``."""
    kwargs: dict[str, Any]
    """The keyword arguments of ``make``."""
    is_async: bool
    """True if only an event loop can make the value, so that only coroutine functions can take it."""
    identity: bytes
    """16 bytes that two `Warm` objects have in common if they have the same function and the same arguments. Empty
    until the object is first used, and if its arguments refer to outputs. What the caller changes in the arguments
    after the first use has no effect."""

    @overload
    def __new__(
        cls, make: Callable[P, AbstractAsyncContextManager[R, Any]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Warm[R]: ...
    @overload
    def __new__(
        cls, make: Callable[P, AbstractContextManager[R, Any]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Warm[R]: ...
    @overload
    def __new__(cls, make: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> Warm[R]: ...
    @overload
    def __new__(cls, make: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Warm[R]: ...
    def __new__(cls, make: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Warm[Any]:
        """Make a `Warm`. Type checkers infer the type of its value from the type that ``make`` returns."""
        name = _checked(make)
        _check_options(make, name)
        fn, first, named = unbound(make)
        args, kwargs = joined(first, args), {**named, **kwargs}
        for path, value in [*((f"args[{i}]", arg) for i, arg in enumerate(args)), *kwargs.items()]:
            if type(value) in UNFINISHED:
                raise refusal(name, path, value)
        Signatures().check(fn, len(args), kwargs.keys(), name)
        remember_loaded(fn)
        self = super().__new__(cls)
        self.make, self.args, self.kwargs, self.identity = fn, args, kwargs, b""
        inside = Scanner().references(args, kwargs)
        self.is_async = _needs_event_loop(fn) or any(type(ref) is Warm and ref.is_async for ref in inside)
        return self

    _why = _IN_WORKERS

    def _instead_of(self, name: str) -> str:
        return f"Do this in a function: graph.add(lambda x: x.{name}, warm). It gets the value itself."

    def _value_by(self, remedy: str) -> str:
        if not remedy.startswith("Do this in a function"):  # it may speak of a result, or of elements of an output
            return "Do this in a function that takes the Warm. It gets the value itself."
        return remedy.replace("out)", "warm)").replace("[out, other]", "[warm, other]").partition(" To show the id")[0]

    if not TYPE_CHECKING:  # otherwise type checkers would accept ``warm[0]``

        def __getitem__(self, key: object) -> NoReturn:
            raise NotAValueError(
                f"{self!r} has no elements, because {_IN_WORKERS}.",
                remedy="Take the element in a function that takes the Warm.",
            )

    def __reduce__(self) -> NoReturn:
        raise GraphError(
            f"{self!r} cannot be pickled or copied, because {_IN_WORKERS}.",
            remedy="Pass it as an argument, directly or inside lists, tuples and dicts. Handout does not find it in a "
            "function's closure or globals.",
        )

    def __repr__(self) -> str:
        return f"Warm({name_of(self.make)})"


def check_event_loop(warm: Warm[Any], fn: Callable[..., Any], id: str | None) -> None:
    """Raise `GraphError` if a function takes a warm value that only coroutine functions can take, and is none.

    Args:
        warm: The warm value.
        fn: The function.
        id: The id of the function, if it has one.
    """
    if warm.is_async and not is_coroutine_function(fn):
        raise GraphError(
            f"function {name_of(fn) if id is None else id!r} takes {warm!r}, which is made in an event loop. Only "
            "coroutine functions can take it.",
            remedy=f"Write {name_of(fn)} with async def, or make the value without async.",
        )


def _checked(make: Callable[..., Any]) -> str:
    """Return the name of a function that makes a warm value.

    Raises:
        GraphError: The function is not callable, or is a generator function.
    """
    if not is_function(make):
        raise GraphError(
            f"Warm: {brief(make)} is not callable.",
            remedy="Give the function that makes the value, then its arguments: Warm(load, path). A value that exists "
            "already is an argument of its own, or is put: await cluster.put(value).",
        )
    name = name_of(make)
    for is_kind, decorator in (
        (inspect.isgeneratorfunction, "contextmanager"),
        (inspect.isasyncgenfunction, "asynccontextmanager"),
    ):
        if holds(is_kind, make):
            raise GraphError(
                f"Warm: {name!r} is a generator function, and a generator is not what tasks need.",
                remedy=f"If it yields the value once, write @contextlib.{decorator} above its def. A worker then runs "
                "it up to the yield, and runs the rest when the worker ends.",
            )
    return name


def _check_options(make: Callable[..., Any], name: str) -> None:
    """Raise `GraphError` if a function has an option that has no effect when the function makes a warm value.

    Args:
        make: The function.
        name: Its name.
    """
    for option in mark_of(make) or ():
        if option != "timeout_s":
            raise GraphError(
                f"Warm: {name!r} has the option {option}=, which has no effect when it makes a warm value.",
                remedy=f"Give {option}= to the functions that take the value. The only option of a function that makes "
                "one is timeout_s.",
            )


def _needs_event_loop(make: Callable[..., Any]) -> bool:
    """Return True if a function is known to return a coroutine or an object that is only an async context manager."""
    return is_coroutine_function(make) or holds(_makes_async_context, make)


def _makes_async_context(make: Any) -> bool:
    while isinstance(make, functools.partial):
        make = make.func
    if isinstance(make, type):
        return hasattr(make, "__aenter__") and not hasattr(make, "__enter__")
    return inspect.isasyncgenfunction(inspect.unwrap(make))  # the function that asynccontextmanager has wrapped
