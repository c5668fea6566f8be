"""`trust`: registers classes whose objects are accepted from hosts with ``trust="data"``."""

from __future__ import annotations

from typing import TypeVar

from handout.serialization.untrusted import reader

__all__ = ["trust"]

C = TypeVar("C", bound=type)


def trust(cls: C, /) -> C:
    """Register a class whose objects are accepted from hosts with ``trust="data"``. Can be used as a decorator.

    The host chooses the values of an object's fields. Handout sets these values on an empty object, and calls neither
    ``__init__`` nor ``__post_init__``, so these methods cannot check the values. If the class has a ``__setstate__``,
    Handout calls this method.

    Args:
        cls: A dataclass or an ``Enum``. Subclasses of ``cls`` must be registered too.

    Returns:
        The class.

    Raises:
        TypeError: The class is neither a dataclass nor an ``Enum``.

    Example:
        ```python
        from dataclasses import dataclass

        @handout.trust
        @dataclass
        class Point:
            x: float
            y: float
        ```
    """
    return reader.register(cls)
