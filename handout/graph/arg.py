"""An argument that is converted on its way: on the producer's host, on the consumer's, or on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from handout.errors import GraphError
from handout.graph.output import Input

__all__ = ["Arg"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T_co = TypeVar("T_co", covariant=True)


class Arg(Input[T_co]):
    """A producer's result, converted: ``dump`` runs where it was made, ``load`` where it is needed.

    What travels is what ``dump`` returned. Several functions may take one `Arg`: ``dump`` runs once for all of
    them, ``load`` in each.

    Args:
        producer: The output to convert.
        dump: Called with the result, on the producer's host.
        load: Called with what travelled, on the consumer's host; the function gets what it returns.
    """

    __slots__ = ("dump", "load", "producer")

    producer: Input[Any]
    dump: Callable[[Any], Any] | None
    load: Callable[[Any], Any] | None

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
        """Check what can be checked here."""
        if dump is None and load is None:
            raise GraphError("an Arg without dump= and load= converts nothing.", remedy="Pass the output itself.")
        for name, convert in (("dump", dump), ("load", load)):
            if convert is not None and not callable(convert):
                raise GraphError(f"Arg: {name}={convert!r} is not callable.", remedy="Give a function.")
        self = super().__new__(cls)
        self.producer = producer
        self.dump = dump
        self.load = load
        return self

    def __repr__(self) -> str:
        parts = [repr(self.producer)]
        parts += [f"dump={self.dump!r}"] if self.dump else []
        parts += [f"load={self.load!r}"] if self.load else []
        return f"Arg({', '.join(parts)})"
