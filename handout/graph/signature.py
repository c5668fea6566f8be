"""Signatures of functions: which calls they allow, and the names of their parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

from handout.errors import GraphError
from handout.graph.function_options import AMOUNTS, OF_RUNS, OPTION_NAMES, instead_of_option
from handout.graph.naming import name_of
from handout.resources.did_you_mean import suggestion
from handout.serialization.user_objects import holds, is_interruption

__all__ = ["Signatures"]


class Signatures:
    """Reads the signature of each function once, and remembers which calls of the function are right.

    Reading a signature takes 10 us, and comparing the arguments of a call with it takes 3 us (measured with Python
    3.11). That is too much to repeat for each of a million calls, because most of them are alike.
    """

    __slots__ = ("_keywords", "_right", "_signatures")

    def __init__(self) -> None:
        #: Each function and its signature, by the identity of the function. No other object can get the same identity,
        #: because the entry holds the function.
        self._signatures: dict[int, tuple[object, inspect.Signature | None]] = {}
        self._keywords: dict[int, frozenset[str]] = {}
        self._right: set[tuple[int, int, tuple[str, ...]]] = set()

    def _of(self, fn: Callable[..., Any]) -> inspect.Signature | None:
        """Return the signature of a function, or None if it cannot be read, as for some builtins."""
        known = self._signatures.get(id(fn))
        if known is None:
            try:
                signature = inspect.signature(fn)
            except BaseException as error:  # a callable object of the user may raise anything
                if is_interruption(error):
                    raise
                signature = None
            known = self._signatures[id(fn)] = (fn, signature)
        return known[1]

    def keywords(self, fn: Callable[..., Any]) -> frozenset[str]:
        """Return the names of the parameters that a function takes by keyword. A ``**kwargs`` parameter adds none."""
        known = self._keywords.get(id(fn))
        if known is None:
            signature = self._of(fn)
            by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            known = self._keywords[id(fn)] = frozenset(
                name
                for name, parameter in (signature.parameters.items() if signature else ())
                if parameter.kind in by_keyword
            )
        return known

    def takes_any_keyword(self, fn: Callable[..., Any]) -> bool:
        """Return True if a function has a ``**kwargs`` parameter, or if its signature cannot be read."""
        signature = self._of(fn)
        if signature is None:
            return True
        return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.parameters.values())

    def check(self, fn: Callable[..., Any], positional: int, keywords: Collection[str], owner: str | None) -> None:
        """Check that a function can be called with these arguments.

        Args:
            fn: The function.
            positional: Number of positional arguments.
            keywords: Names of the keyword arguments.
            owner: The id of the function in its graph, for the message. None: the caller has chosen no id.

        Raises:
            GraphError: The function does not take these arguments, or it is a generator function, whose result cannot
                travel.
        """
        way = (_identity(fn), positional, tuple(keywords))
        if way in self._right:
            return
        owner = name_of(fn) if owner is None else owner
        if holds(inspect.isgeneratorfunction, fn) or holds(inspect.isasyncgenfunction, fn):
            raise GraphError(
                f"function {owner!r}: {name_of(fn)!r} is a generator function, and a generator cannot travel.",
                remedy="Return a list instead.",
            )
        signature = self._of(fn)
        if signature is not None:
            try:
                signature.bind(*[None] * positional, **dict.fromkeys(keywords))
            except TypeError as error:
                if _takes_itself(fn, signature, positional, keywords):
                    self._right.add(way)
                    return
                raise GraphError(
                    f"function {owner!r}: {name_of(fn)}{signature} cannot be called with "
                    f"{_describe(positional, keywords)}: {error}.",
                    remedy=_remedy(keywords, self.keywords(fn), name_of(fn)),
                ) from None
        self._right.add(way)


def _takes_itself(fn: Callable[..., Any], inner: inspect.Signature, positional: int, keywords: Collection[str]) -> bool:
    """Return True if a decorated function may take these arguments, although the function that it wraps does not.

    `inspect.signature` returns the signature of the wrapped function, ``inner``. A decorator may supply arguments to
    this function, and may take keywords of its own.
    """

    def binds(fn: Any) -> bool:
        if not hasattr(fn, "__wrapped__"):
            return False
        own = inspect.signature(fn, follow_wrapped=False)
        own.bind(*[None] * positional, **dict.fromkeys(keywords))
        kinds = {parameter.kind for parameter in own.parameters.values()}
        if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:  # what they take, goes on
            passed = [name for name in keywords if name not in own.parameters]
            inner.bind_partial(*[None] * positional, **dict.fromkeys(passed))
        return True

    return holds(binds, fn)


def _identity(fn: Callable[..., Any]) -> int:
    """Return a number that identifies a callable.

    Python makes a new object for each access to a bound method, so a bound method is identified by its function. The
    number of a method is negative, because the function itself takes one argument more and needs a number of its own.
    """
    return -id(fn.__func__) if inspect.ismethod(fn) else id(fn)


def _describe(positional: int, keywords: Collection[str]) -> str:
    arguments = f"{positional} positional argument{'' if positional == 1 else 's'}"
    return f"{arguments} and {', '.join(f'{name}=' for name in keywords)}" if keywords else arguments


def _remedy(keywords: Collection[str], parameters: frozenset[str], fn: str) -> str:
    for name in keywords:
        if name not in parameters:
            if name in OPTION_NAMES:  # in `Graph.add`, it would be no argument of the function
                return (
                    f"{name}= is an option, and all keyword arguments here go to the function. Give the function the "
                    f"option: handout.options({name}=...)({fn})."
                )
            if name in AMOUNTS or name in OF_RUNS:
                return instead_of_option(name)
            hint = suggestion(name, parameters | OPTION_NAMES)
            if hint.startswith("Did you mean"):
                return hint
    return "Check the arguments that follow the function."
