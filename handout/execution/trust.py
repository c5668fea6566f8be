"""`trust`: which of the caller's classes may be made of what a host with ``trust="data"`` sends."""

from __future__ import annotations

from typing import TypeVar

from handout.serialization.untrusted import reader

__all__ = ["trust"]

C = TypeVar("C", bound=type)


def trust(cls: C, /) -> C:
    """Accept objects of this class from hosts with ``trust="data"``. Serves as a decorator; gives the class back.

    The fields of such an object are what the host says they are: they are set on a bare object, and neither
    ``__init__`` nor ``__post_init__`` has looked at them. A ``__setstate__`` of its own does run.

    Args:
        cls: A dataclass or an ``Enum``. Classes derived from it must be registered on their own.
    Raises:
        TypeError: It is neither.
    """
    return reader.register(cls)
