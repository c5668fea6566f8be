"""Checks the calls that are added to a graph, and separates their options from the arguments of the function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from handout.errors import GraphError
from handout.graph.function_options import OPTION_NAMES, check_options, instead_of_option
from handout.graph.naming import name_of
from handout.graph.near_options import warn_of_near_options
from handout.graph.nodes import Nodes
from handout.graph.options_decorator import mark_of
from handout.graph.output import Output, is_function
from handout.graph.partials import Bound, joined
from handout.graph.signature import Signatures
from handout.graph.unfinished import UNFINISHED, refusal
from handout.graph.warm import Warm, check_event_loop
from handout.graph.wiring import of_another_graph
from handout.project.loaded import remember_loaded
from handout.serialization.user_objects import brief

__all__ = ["CallChecks"]


class CallChecks:
    """Checks the calls that are added to one graph, so that a mistake is told at the line that made it.

    Args:
        nodes: The functions and values of the graph.
    """

    __slots__ = ("_nodes", "signatures")

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.signatures = Signatures()

    def bind(
        self, bound: Bound, args: tuple[Any, ...], kwargs: Mapping[str, Any], id: str | None
    ) -> tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
        """Check a call, and return its function and its arguments.

        Args:
            bound: The function, and the arguments that `unbound` took out of it.
            args: Further positional arguments.
            kwargs: Further keyword arguments.
            id: The id that the caller chose, or None.

        Raises:
            GraphError: The function does not take these arguments, or one of them cannot travel.
        """
        fn, first, named = bound
        if first or named:
            args, kwargs = joined(first, args), {**named, **kwargs}
        self.signatures.check(fn, len(args), kwargs.keys(), id)
        self.check_arguments(fn, id, args, kwargs)
        return fn, args, kwargs

    def check_arguments(
        self, fn: Callable[..., Any], id: str | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Check the arguments of a function one by one. What is inside of containers is checked before a run."""
        nodes = self._nodes
        for value in (*args, *kwargs.values()) if kwargs else args:
            kind = type(value)
            if kind in UNFINISHED or (kind is Output and value._origin is not nodes):
                raise self._refused(name_of(fn) if id is None else id, args, kwargs)
            if kind is Warm:
                check_event_loop(value, fn, id)

    def _refused(self, owner: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> GraphError:
        """Return the error for the first argument that is unfinished work, or an output of another graph."""
        for path, value in [*((f"args[{i}]", arg) for i, arg in enumerate(args)), *kwargs.items()]:
            if type(value) in UNFINISHED:
                return refusal(owner, path, value)
            if type(value) is Output and value._origin is not self._nodes:
                return of_another_graph(value)
        raise AssertionError(f"{owner}: {args}, {kwargs}")

    def only_options(self, what: str, fn: Callable[..., Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options of calls that take no other keywords, with those that `handout.options` gave."""
        given, own = self.split(fn, kwargs, what)
        if not own:
            return given
        name = min(own)
        known = self.signatures.keywords(fn)
        if name in known:
            remedy = f"To give {name}= to all calls, bind it: functools.partial({name_of(fn)}, {name}=...)."
        else:
            remedy = instead_of_option(name)
        raise GraphError(f"{what} of {name_of(fn)!r}: {name!r} is not an option.", remedy=remedy)

    def split(
        self, fn: Callable[..., Any], kwargs: Mapping[str, Any], what: str = "graph.add"
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Separate the options from the function's own keyword arguments, and add those that `handout.options` gave.

        Args:
            fn: The function.
            kwargs: The keyword arguments as the caller wrote them.
            what: The method that the caller called, for messages.

        Returns:
            The options, and the function's own keyword arguments.

        Raises:
            GraphError: The first argument is no function, an option is wrong, or a parameter of the function has the
                name of an option.
        """
        if not is_function(fn):
            raise GraphError(
                f"{brief(fn)} is not a function.",
                remedy="Give the function itself, then its arguments: graph.add(f, x).",
            )
        remember_loaded(fn)
        marked = mark_of(fn)
        named = kwargs.keys() & OPTION_NAMES
        if what == "graph.add" and len(named) < len(kwargs):
            unknown = kwargs.keys() - OPTION_NAMES - self.signatures.keywords(fn)
            if unknown and self.signatures.takes_any_keyword(fn):
                warn_of_near_options(name_of(fn), sorted(unknown))
        if not named:
            return marked or {}, kwargs
        clash = named & self.signatures.keywords(fn)
        if clash and marked is None:
            raise _ambiguous(name_of(fn), min(clash), what)
        given = kwargs.get("id", name_of(fn))
        owner = f"function {given!r}" if type(given) is str else f"function {brief(given)}"
        given = {**(marked or {}), **{name: kwargs[name] for name in named - clash}}
        check_options(given, owner)
        return given, {name: value for name, value in kwargs.items() if name not in named or name in clash}


def _ambiguous(fn: str, name: str, what: str) -> GraphError:
    """Return the error for a keyword that is an option and also the name of a parameter of the function."""
    option = "" if name == "id" else f"{name}=..."  # handout.options takes no id
    then = (
        f"Then graph.add passes {name}= to the function."
        if what == "graph.add"
        else f"To give {name}= to the function in all calls, bind it: functools.partial({fn}, {name}=...)."
    )
    return GraphError(
        f"{fn!r} has a parameter named {name!r}, but {what} takes this keyword as an option.",
        remedy=f"Give the function its options with handout.options({option})({fn}). {then}",
    )
