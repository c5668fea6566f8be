"""The uses of a value that a promise of a value refuses: arithmetic, comparisons, loops, conversions and others.

A promise is an output or an `Arg`. Python calls a special method of the class for each of these uses, and each of these
methods raises an error that says what to write instead.

Some uses are not refused with such a text. Equality serves as the key of dictionaries, and `str` and `repr` serve logs.
Setting an attribute has Python's own error, because a method for it would make `Graph.add` slower by half. ``f(**out)``
and ``"".join([out])`` never ask the promise. NumPy may put promises into an array, for example as a column of a table,
because each computation with the array then asks the promises in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

__all__ = ["GET", "USES", "Use", "refuse_uses"]


class Use(NamedTuple):
    """A use of a value that a promise refuses."""

    what: str
    """What the program did, as in "cannot be awaited"."""
    remedy: str
    """What to write instead. In this text, ``out`` is the promise."""


def _with(function: str) -> str:
    return f"Do this in a function: graph.add({function}, out)."


def _of(expression: str) -> str:
    return f"Do this in a function: graph.add(lambda x: {expression}, out)."


_LOOP: Final = (
    "For elements, write out[0], out[1] and so on. To use all elements, add a function that takes the whole result. If "
    "the program needs the number of elements to build a graph, run this graph first."
)
#: How a program gets the value of an output.
GET: Final = "Run the graph, and take the value from the results: results = await handout.execute(graph)."
_CHANGE: Final = "Add a function that takes the result and returns a changed copy."
_ENTER: Final = "Enter it in a function that takes the result."
_NUMBER: Final = "Use the number in a function that takes the result."
_PATH: Final = "Open the file in a function that takes the result. On a host, the value is an ordinary path."
_SUM: Final = "For the sum of outputs, write graph.add(sum, [out, other])."
_TEXT: Final = 'To show the id in a message, write f"{out!r}".'

#: The refused uses, by the special method that Python calls.
USES: Final[dict[str, Use]] = {
    "__bool__": Use("used as a condition", "Decide in a function that takes the result."),
    "__len__": Use("measured with len()", _with("len")),
    "__iter__": Use("iterated over or unpacked", _LOOP),
    "__next__": Use("iterated over with next()", _LOOP),
    "__reversed__": Use("iterated over or unpacked", _LOOP),
    "__aiter__": Use("iterated over with async for", _LOOP),
    "__contains__": Use("searched with in", "Search in a function that takes the result."),
    "__setitem__": Use("changed by an assignment to an item", _CHANGE),
    "__delitem__": Use("changed with del", _CHANGE),
    "__call__": Use("called", _of("x()")),
    "__await__": Use("awaited", GET),
    "__enter__": Use("entered with a with block", _ENTER),
    "__exit__": Use("left with a with block", _ENTER),
    "__aenter__": Use("entered with an async with block", _ENTER),
    "__aexit__": Use("left with an async with block", _ENTER),
    "__format__": Use("put into a text", _of('f"{x}"') + " " + _TEXT),
    "__fspath__": Use("used as a path", _PATH),
    "__bytes__": Use("converted to bytes", _with("bytes")),
    "__int__": Use("converted to an int", _with("int")),
    "__float__": Use("converted to a float", _with("float")),
    "__complex__": Use("converted to a complex number", _with("complex")),
    "__index__": Use("used as a whole number", _NUMBER),
    "__round__": Use("rounded", _with("round")),
    "__abs__": Use("used in a computation with abs()", _with("abs")),
    "__neg__": Use("used in a computation with -", _of("-x")),
    "__pos__": Use("used in a computation with +", _of("+x")),
    "__invert__": Use("used in a computation with ~", _of("~x")),
    "__divmod__": Use("used in a computation with divmod()", _of("divmod(x, ...)")),
    "__rdivmod__": Use("used in a computation with divmod()", _of("divmod(..., x)")),
}
for _name, _sign in {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "lshift": "<<", "rshift": ">>", "and": "&", "or": "|", "xor": "^",
}.items():  # fmt: skip
    USES[f"__{_name}__"] = Use(f"used in a computation with {_sign}", _of(f"x {_sign} ..."))
    USES[f"__r{_name}__"] = Use(f"used in a computation with {_sign}", _of(f"... {_sign} x"))
USES["__radd__"] = Use(USES["__radd__"].what, f"{USES['__radd__'].remedy} {_SUM}")  # ``sum`` calls this method
for _name, _sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    USES[f"__{_name}__"] = Use(f"compared with {_sign}", _of(f"x {_sign} ..."))


def refuse_uses(refuse: Callable[[Any, Use], NoReturn]) -> dict[str, Callable[..., NoReturn]]:
    """Return a method for each of the `USES`.

    Args:
        refuse: Function that raises the error. It takes the promise and the use.
    """

    def method(name: str, use: Use) -> Callable[..., NoReturn]:
        def refused(self: Any, *_: object, **__: object) -> NoReturn:
            refuse(self, use)

        refused.__name__ = name
        return refused

    return {name: method(name, use) for name, use in USES.items()}
