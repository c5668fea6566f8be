"""Calls methods of the user's objects: their text, their ``repr``, their conversions and their unpickling.

A user's ``__str__``, ``__repr__`` or ``__reduce__`` may raise anything, may never return, and may return gigabytes. So
Handout calls such methods only through this module. Each call is guarded against every exception, takes at most
`LIMIT_S` seconds, and returns at most `MAX_TEXT` characters.

A call with a limit runs in a daemon thread, because no other means ends the wait for code that catches every exception
or hangs in C. The thread of a call that is overdue goes on until the process ends. No thread is started for text that
is made without user code.
"""

from __future__ import annotations

import contextvars
import inspect
import reprlib
import signal
import threading
import types
import weakref
from typing import Any, Callable, TypeVar

__all__ = [
    "LIMIT_S", "MAX_TEXT", "OverdueError", "bounded", "brief", "has_text", "holds", "is_atom",
    "is_coroutine_function", "is_interruption", "is_plain", "qualified_name", "short_name", "shortened", "text",
    "type_name",
]  # fmt: skip

T = TypeVar("T")

#: Seconds that a call of a user object may take. It is a third of the default lease, so that one such call on the
#: thread of an event loop never makes a host count as lost.
LIMIT_S = 5.0
#: The most characters of the text of a user object.
MAX_TEXT = 10_000
#: The most characters of the ``repr`` of a user object in a message.
_MAX_BRIEF = 300
#: Integers with more bits are described by their size. Python refuses to write integers of more than 4,300 digits.
_MAX_BITS = 2_000
#: At most this many wrappers are taken off a function.
_MOST_WRAPPERS = 16
#: Types whose ``str`` and ``repr`` run no user code.
_ATOMS: tuple[type, ...] = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))

#: `active` is True in a thread that runs a call with a limit.
_inside = threading.local()
#: The user's types whose text was overdue once, by ``id``. Handout does not ask for such a text again, so that many
#: objects of one type cost one wait. The types are no keys, because a metaclass may define ``__hash__``.
_overdue: dict[int, weakref.ref[type]] = {}


class OverdueError(Exception):
    """A call of a user object did not return within its limit.

    Args:
        text: The message.
        thread: The thread that makes the call.
    """

    def __init__(self, text: str, thread: threading.Thread) -> None:
        super().__init__(text)
        self.thread = thread


def is_interruption(error: BaseException) -> bool:
    """Return True if an error asks this program to end, whatever code was running when the error came.

    So does a `KeyboardInterrupt`. So does what a signal handler raises if it is no `Exception`, such as a `SystemExit`
    after SIGTERM. A guard around user code must let such an error pass.
    """
    if issubclass(type(error), KeyboardInterrupt):
        return True
    if issubclass(type(error), Exception):
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {each.__code__ for each in handlers if type(each) is types.FunctionType}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes or _is_handler(trace.tb_frame):
            return True
        trace = trace.tb_next
    return False


def qualified_name(fn: Any) -> str:
    """Return the qualified name of a function, method or class, or of the class of another callable.

    Another callable may have a ``__getattr__`` that raises an error.
    """
    is_named = issubclass(type(fn), (types.FunctionType, types.MethodType, types.BuiltinFunctionType, type))
    name: str = (fn if is_named else type(fn)).__qualname__
    return name


def holds(question: Callable[[Any], bool], value: Any) -> bool:
    """Return the answer to a question about a user object, or False if the object raises an error when it is asked."""
    try:
        return question(value)
    except BaseException as error:  # a ``__getattr__`` or a property may raise anything
        if is_interruption(error):
            raise
        return False


def is_coroutine_function(fn: Any) -> bool:
    """Return True if calling an object returns a coroutine. This includes an object with an ``async def __call__``.

    For a partial or a wrapper with an attribute ``func``, the function inside counts.
    """
    return holds(_is_coroutine_function, fn)


def _is_coroutine_function(fn: Any) -> bool:
    for _ in range(_MOST_WRAPPERS):  # each attribute of a mock leads to another mock
        if inspect.isfunction(fn) or not hasattr(fn, "func"):
            break
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or (
        not inspect.isroutine(fn)
        and not inspect.isclass(fn)
        and inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004 - the method itself is wanted
    )


def _is_handler(frame: types.FrameType) -> bool:
    """Return True if a frame runs a function that got the number of a signal and the frame that was interrupted.

    This finds handlers that are no functions, and those that have given the signal another handler.
    """
    code, held = frame.f_code, frame.f_locals
    names = list(code.co_varnames[: code.co_argcount])
    if code.co_flags & inspect.CO_VARARGS:
        names.append(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
    given: list[Any] = []
    for name in names:
        value = held.get(name)
        given += value if type(value) is tuple else [value]
    pairs = zip(given, given[1:])
    return any(isinstance(number, int) and after is not None and after is frame.f_back for number, after in pairs)


def bounded(function: Callable[[], T], within_s: float | None = None) -> T:
    """Call a function in a daemon thread, and return its result.

    A call inside of another call with a limit runs at once, because the outer limit holds for it.

    Args:
        function: The function. It may run any user code.
        within_s: The limit in seconds. None means `LIMIT_S`.

    Raises:
        OverdueError: The function did not return in time. Its thread goes on.
        RuntimeError: No thread could be started.
        BaseException: The function raised it.
    """
    if getattr(_inside, "active", False):
        return function()
    results: list[T] = []
    errors: list[BaseException] = []
    context = contextvars.copy_context()

    def call() -> None:
        _inside.active = True
        try:
            results.append(context.run(function))
        except BaseException as error:  # raised again in the thread that waits
            errors.append(error)

    limit_s = LIMIT_S if within_s is None else within_s
    thread = threading.Thread(target=call, name="handout-user-object", daemon=True)
    thread.start()
    thread.join(limit_s)
    if results:
        return results[0]
    if errors:
        raise errors.pop()
    raise OverdueError(f"Handout stopped waiting for code of the program after {limit_s:g} s", thread)


def type_name(value: object) -> str:
    """Return the name of an object's type, such as ``ValueError`` or ``pkg.mod.Error``. This runs no user code."""
    kind = type(value)
    home: Any = _MODULE.__get__(kind)
    name: str = _QUALNAME.__get__(kind)
    full = name if type(home) is not str or home in ("builtins", "__main__") else f"{home}.{name}"
    return shortened(full, _MAX_BRIEF)


#: These descriptors read the names of a class even if its metaclass has attributes of the same names.
_MODULE: Any = type.__dict__["__module__"]
_QUALNAME: Any = type.__dict__["__qualname__"]
_FLAGS: Any = type.__dict__["__flags__"]


def short_name(value: object) -> str:
    """Return the name of an object's type without its module. This runs no user code."""
    name: str = _QUALNAME.__get__(type(value))
    return shortened(name.rpartition(".")[2], _MAX_BRIEF)


def text(value: object, limit: int = MAX_TEXT) -> str:
    """Return the text of an exception, a note or another object, as ``str`` gives it.

    If ``str`` raises an error or does not return in time, return a text that says this instead.

    Args:
        value: Any object.
        limit: The most characters of the text.
    """
    return _guarded(str, value, limit)


def has_text(value: object) -> bool:
    """Return True if ``str`` of an object returns in time, and raises nothing."""
    return not text(value).startswith(_NO_TEXT)


def brief(value: object, limit: int = _MAX_BRIEF) -> str:
    """Return what ``repr`` gives for an object, for a message. Long containers and texts are cut.

    Args:
        value: Any object.
        limit: The most characters of the text.
    """
    return _guarded(_short.repr, value, limit)


_NO_TEXT = "<no text: "


def _guarded(convert: Callable[[Any], str], value: object, limit: int) -> str:
    kind, name = type(value), "str()" if convert is str else "repr()"
    if is_plain(value):
        try:
            return shortened(_at_once(convert, value), limit)
        except Exception as error:
            return f"{_NO_TEXT}{name} raised {type_name(error)}>"
    known = _overdue.get(id(kind))
    if known is not None and known() is kind:
        return f"{_NO_TEXT}Handout stopped waiting for {name} of an object of this type before>"

    def work() -> str:
        try:
            return shortened(_at_once(convert, value), limit)
        except BaseException as error:  # user code may raise anything
            return f"{_NO_TEXT}{name} raised {type_name(error)}>"

    try:
        return bounded(work)
    except OverdueError:
        if _FLAGS.__get__(kind) & _HEAP_TYPE:
            _overdue[id(kind)] = weakref.ref(kind)
        return f"{_NO_TEXT}Handout stopped waiting for {name} after {LIMIT_S:g} s>"
    except RuntimeError:
        return f"{_NO_TEXT}the system has no thread left to call {name} in>"


def _at_once(convert: Callable[[Any], str], value: object) -> str:
    if type(value) is int and value.bit_length() > _MAX_BITS:
        return f"<an integer of {value.bit_length()} bits>"
    said = convert(value)
    return said if type(said) is str else str.__str__(said)  # a subclass may have methods of its own


def is_atom(value: object) -> bool:
    """Return True for a value of one of Python's own types that hold no other objects, such as a number or a text."""
    return _is_one_of(type(value), _ATOMS)


def is_plain(value: object) -> bool:
    """Return True if neither ``str`` nor ``repr`` of an object runs user code."""
    kind = type(value)
    if _is_one_of(kind, (*_ATOMS, types.FunctionType, types.BuiltinFunctionType)):
        return True
    if not issubclass(kind, BaseException) or _FLAGS.__get__(kind) & _HEAP_TYPE:
        return False
    return all(is_atom(arg) for arg in _ARGS.__get__(value))


def _is_one_of(kind: type, kinds: tuple[type, ...]) -> bool:
    return any(kind is each for each in kinds)  # a metaclass may define ``__eq__`` and ``__hash__``


_ARGS: Any = BaseException.__dict__["args"]
#: The flag of a class that was made at run time, and not by a static definition in C (``Py_TPFLAGS_HEAPTYPE``).
_HEAP_TYPE = 1 << 9


def shortened(said: str, limit: int) -> str:
    """Return a text of at most `limit` characters. Of a longer text, the middle is left out."""
    if len(said) <= limit:
        return said
    mark = f" [{len(said) - limit} characters left out] "
    kept = max(limit - len(mark), 0)
    end = kept // 3
    return said[: kept - end] + mark + (said[-end:] if end else "")


class _Short(reprlib.Repr):
    """Makes a ``repr`` of bounded size. The standard class chooses a method by the name of a type alone."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _MAX_BRIEF
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = self.maxarray = 10
        self.maxdict = 10

    def repr1(self, x: Any, level: int) -> str:
        kind = type(x)
        if _is_one_of(kind, (*_CONTAINERS, str)):
            return super().repr1(x, level)
        if is_atom(x):
            return _at_once(repr, x)
        return self.repr_instance(x, level)

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            return shortened(_at_once(repr, x), _MAX_BRIEF)
        except Exception as error:
            return f"<{type_name(x)} object whose repr() raised {type_name(error)}>"


_CONTAINERS: tuple[type, ...] = (list, tuple, dict, set, frozenset)
_short = _Short()
