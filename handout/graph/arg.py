"""`Arg`: an argument that is converted on its way from the function that makes it to the function that takes it.

The function that makes a result is its producer, and a function that takes the result is a consumer. The conversion
runs on the producer's host, on the consumer's host, or on both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from handout.errors import GraphError, NotAValueError
from handout.graph.output import Input, is_function
from handout.serialization.user_objects import brief

__all__ = ["Arg"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T_co = TypeVar("T_co", covariant=True)


class Arg(Input[T_co]):
    """A result that is converted on its way from its producer to a consumer.

    If several functions take the same ``dump`` of the same output, ``dump`` runs once for all of them. ``load`` runs
    separately for each function.

    Args:
        producer: The output to convert.
        dump: A function that takes the result. It runs on the producer's host, and its return value travels. Default:
            the result travels unchanged.
        load: A function that takes the value that travelled. It runs on the consumer's host, and the consumer gets the
            return value of ``load``. Default: the consumer gets the value unchanged.

    Raises:
        GraphError: The producer is not an output, neither ``dump`` nor ``load`` is given, or one of them is not
            callable.

    Example:
        ```python
        import json

        model = graph.add(train, data)
        text = graph.add(render, handout.Arg(model, dump=json.dumps, load=json.loads))
        ```
    """

    __slots__ = ("dump", "load", "producer")

    producer: Input[Any]
    """The output to convert."""
    dump: Callable[[Any], Any] | None
    """The function that runs on the producer's host, or None."""
    load: Callable[[Any], Any] | None
    """The function that runs on the consumer's host, or None."""

    @overload
    def __new__(cls, producer: Input[A], /, *, dump: Callable[[A], B], load: Callable[[B], C]) -> Arg[C]: ...
    @overload
    def __new__(cls, producer: Input[A], /, *, load: Callable[[A], C]) -> Arg[C]: ...
    @overload
    def __new__(cls, producer: Input[A], /, *, dump: Callable[[A], B]) -> Arg[B]: ...
    def __new__(
        cls,
        producer: Input[Any],
        /,
        *,
        dump: Callable[[Any], Any] | None = None,
        load: Callable[[Any], Any] | None = None,
    ) -> Arg[Any]:
        """Make an `Arg`. Type checkers infer the type of its value from the types of ``dump`` and ``load``."""
        if not issubclass(type(producer), Input | str | tuple):  # `function` accepts the id of a producer, as text
            raise GraphError(
                f"Arg: {brief(producer)} is not an output.",
                remedy="Give an output: Arg(out, load=...). A plain value can be converted before it is passed.",
            )
        if dump is None and load is None:
            raise GraphError("an Arg without dump= and load= converts nothing.", remedy="Pass the output itself.")
        for name, convert in (("dump", dump), ("load", load)):
            if convert is not None and not is_function(convert):
                raise GraphError(f"Arg: {name}={brief(convert)} is not callable.", remedy="Give a function.")
        self = super().__new__(cls)
        self.producer = producer
        self.dump = dump
        self.load = load
        return self

    if not TYPE_CHECKING:  # otherwise type checkers would accept ``arg[0]``

        def __getitem__(self, key: object) -> NoReturn:
            raise NotAValueError(
                f"{self!r} has no elements, because its value exists only once the graph runs.",
                remedy=f"Write Arg(out[{brief(key)}], ...), or take the element in a function that takes the Arg.",
            )

    def __repr__(self) -> str:
        parts = [repr(self.producer)]
        parts += [f"dump={brief(self.dump)}"] if self.dump else []
        parts += [f"load={brief(self.load)}"] if self.load else []
        return f"Arg({', '.join(parts)})"
