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
from typing import Any, Final, NoReturn

__all__ = ["USES", "refuse_uses"]

_COMPUTE: Final = "Put the computation into a function: graph.add(lambda x: {expression}, out)."
_ORDER: Final = "Compare in a function: graph.add(lambda x: {expression}, out)."
_CONVERT: Final = "Do this in a function: graph.add({expression}, out)."
_LOOP: Final = (
    "For elements, write out[0], out[1] and so on. To use all elements, add a function that takes the whole "
    "result. If the program needs the number of elements to build a graph, run this graph first."
)
_CHANGE: Final = "Add a function that takes the result and returns a changed copy."
_AWAIT: Final = "Run the graph, and take the value from the results: results = await handout.execute(graph)."
_CALL: Final = "Call it in a function: graph.add(lambda x: x(), out)."
_ENTER: Final = "Enter it in a function that takes the result."
_PATH: Final = "Open the file in a function that takes the result. On a host, the value is an ordinary path."
_FORMAT: Final = (
    'Make the text in a function: graph.add(lambda x: f"{x}", out). To show the id in a message, write f"{out!r}".'
)

#: For each special method: what the program did with the promise, what to write instead, and the expression in that
#: advice. The expression is "" if the advice has none.
USES: Final[dict[str, tuple[str, str, str]]] = {
    "__bool__": ("used as a condition", "Decide in a function that takes the result.", ""),
    "__len__": ("measured with len()", _CONVERT, "len"),
    "__iter__": ("iterated over or unpacked", _LOOP, ""),
    "__next__": ("iterated over with next()", _LOOP, ""),
    "__aiter__": ("iterated over with async for", _LOOP, ""),
    "__contains__": ("searched with in", "Search in a function that takes the result.", ""),
    "__setitem__": ("changed by an assignment to an item", _CHANGE, ""),
    "__delitem__": ("changed with del", _CHANGE, ""),
    "__call__": ("called", _CALL, ""),
    "__await__": ("awaited", _AWAIT, ""),
    "__enter__": ("entered with a with block", _ENTER, ""),
    "__exit__": ("left with a with block", _ENTER, ""),
    "__aenter__": ("entered with an async with block", _ENTER, ""),
    "__aexit__": ("left with an async with block", _ENTER, ""),
    "__format__": ("put into a text", _FORMAT, ""),
    "__fspath__": ("used as a path", _PATH, ""),
    "__bytes__": ("converted to bytes", _CONVERT, "bytes"),
    "__int__": ("converted to an int", _CONVERT, "int"),
    "__float__": ("converted to a float", _CONVERT, "float"),
    "__complex__": ("converted to a complex number", _CONVERT, "complex"),
    "__index__": ("used as a whole number", "Use the number in a function that takes the result.", ""),
    "__round__": ("rounded", _CONVERT, "round"),
    "__abs__": ("used in a computation with abs()", _CONVERT, "abs"),
    "__neg__": ("used in a computation with -", _COMPUTE, "-x"),
    "__pos__": ("used in a computation with +", _COMPUTE, "+x"),
    "__invert__": ("used in a computation with ~", _COMPUTE, "~x"),
    "__divmod__": ("used in a computation with divmod()", _COMPUTE, "divmod(x, ...)"),
    "__rdivmod__": ("used in a computation with divmod()", _COMPUTE, "divmod(..., x)"),
}
for _name, _sign in {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "lshift": "<<", "rshift": ">>", "and": "&", "or": "|", "xor": "^",
}.items():  # fmt: skip
    USES[f"__{_name}__"] = (f"used in a computation with {_sign}", _COMPUTE, f"x {_sign} ...")
    USES[f"__r{_name}__"] = (f"used in a computation with {_sign}", _COMPUTE, f"... {_sign} x")
USES["__radd__"] = (
    USES["__add__"][0],
    f"{_COMPUTE} For the sum of outputs, write graph.add(sum, [out, other]).",
    "... + x",
)
for _name, _sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    USES[f"__{_name}__"] = (f"compared with {_sign}", _ORDER, f"x {_sign} ...")


def refuse_uses(refuse: Callable[[Any, str, str], NoReturn]) -> dict[str, Callable[..., NoReturn]]:
    """Return a method for each of the `USES`.

    Args:
        refuse: Function that raises the error. It takes the promise, what the program did with the promise, and a
            remedy.
    """

    def method(name: str) -> Callable[..., NoReturn]:
        what, advice, expression = USES[name]
        remedy = advice.replace("{expression}", expression)

        def refused(self: Any, *_: object, **__: object) -> NoReturn:
            refuse(self, what, remedy)

        refused.__name__ = name
        return refused

    return {name: method(name) for name in USES}
