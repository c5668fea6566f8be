"""Texts of user objects, which may raise anything, hang and be huge."""

from __future__ import annotations

import functools
import signal
import threading
from typing import Any
from unittest.mock import Mock

import pytest

from handout.serialization import exceptions, user_objects
from handout.serialization.user_objects import (
    bounded,
    brief,
    has_text,
    is_coroutine_function,
    is_interruption,
    shortened,
    text,
    type_name,
)  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_objects, "LIMIT_S", 0.05)


class Text(str):
    """A text with methods of its own."""

    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError("no item")


def raising(error: BaseException) -> Any:
    """Return an object whose text and ``repr`` raise an error."""

    def fail(self: object) -> str:
        raise error

    return type("Raising", (Exception,), {"__str__": fail, "__repr__": fail, "__getattr__": lambda *_: fail(None)})()


@pytest.mark.parametrize("error", [ValueError("v"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("ask", [text, brief])
def test_a_text_that_raises_is_told_as_such(error: BaseException, ask: Any) -> None:
    assert f"raised {type(error).__name__}>" in ask(raising(error))
    assert f"raised {type(error).__name__}" in exceptions.describe(raising(error)).message


def hanging() -> Any:
    def hang(self: object) -> str:
        threading.Event().wait()
        return ""

    return type("Hanging", (Exception,), {"__str__": hang, "__repr__": hang})()


@pytest.mark.parametrize("ask", [text, brief])
@pytest.mark.usefixtures("quick")
def test_a_text_that_hangs_is_given_up_and_its_type_is_not_asked_again(ask: Any) -> None:
    one = hanging()
    said = ask(one)
    assert "Handout stopped waiting for " in said
    assert "after 0.05 s" in said
    assert "of an object of this type before" in ask(type(one)())
    assert not has_text(one)
    assert has_text(ValueError("v"))


@pytest.mark.usefixtures("quick")
def test_an_exception_whose_text_hangs_is_described_by_its_type_and_its_frames() -> None:
    try:
        raise hanging()
    except Exception as error:
        told = exceptions.describe(error, 1 << 20)
    assert told.is_overdue
    assert told.type.endswith("Hanging")
    assert "Handout stopped waiting for str() after 0.05 s" in told.message
    assert "raise hanging()" in told.text
    assert told.pickled is not None
    assert exceptions.load_class(told.pickled).__name__ == "Hanging"  # type: ignore[union-attr]


def test_a_text_of_a_subclass_is_an_exact_text() -> None:
    class Textual(Exception):
        def __str__(self) -> str:
            return Text("said")

    assert type(text(Textual())) is str
    assert text(Textual()) == "said"


def test_a_long_text_loses_its_middle() -> None:
    said = text(ValueError("a" * 20_000 + "z"))
    assert len(said) <= user_objects.MAX_TEXT
    assert said.startswith("aaa")
    assert said.endswith("z")
    assert "characters left out" in said
    assert shortened("short", 10) == "short"


HUGE = [10**6000, -(10**6000), [10**6000], {"a": 10**6000}, ("x" * 10**6, [1] * 10**6)]


@pytest.mark.parametrize("value", HUGE, ids=lambda value: type(value).__name__)
def test_a_huge_value_has_a_short_repr(value: object) -> None:
    assert len(brief(value)) <= 1000
    assert "raised" not in brief(value)


@pytest.mark.parametrize("value", [None, True, 3, -2.5, "a'b", b"x", [1, "a"], (1,), {"a": [2]}, {1}, (), {}])
def test_a_small_value_is_shown_as_it_is(value: object) -> None:
    assert brief(value) == repr(value)


def test_a_class_cannot_change_how_its_objects_are_named() -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError(f"no {name}")

        def __hash__(cls) -> int:
            raise RuntimeError("no hash")

        def __eq__(cls, other: object) -> bool:
            raise RuntimeError("no comparison")

    class Odd(Exception, metaclass=Meta):
        pass

    assert type_name(Odd()).endswith("Odd")
    assert text(Odd("said")) == "said"


def test_a_limited_call_inside_of_another_one_starts_no_thread() -> None:
    assert bounded(lambda: threading.get_ident() == bounded(threading.get_ident))


class Refusing(Exception):
    """An exception that takes no notes and no attributes, and shows none."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(f"no {name}")

    def add_note(self, note: str) -> None:
        raise RuntimeError("no notes")


def test_an_exception_that_refuses_everything_takes_notes() -> None:
    error = Refusing("said")
    exceptions.add_note(error, "one")
    assert exceptions.notes(error) == ["one"]
    back = exceptions.load_exception(exceptions.dump_exception(error)[0])
    assert type(back) is Refusing
    assert exceptions.notes(back) == ["one"]


@pytest.mark.parametrize("notes", [5, None, "text", ("a", "b"), {"a": 1}])
def test_notes_that_are_no_list_stay_as_they_are(notes: Any) -> None:
    error = ValueError("v")
    error.__notes__ = notes
    exceptions.add_note(error, "one")
    assert error.__notes__ is notes


class Leaving:
    def leave(self, number: int, _: object) -> None:
        raise SystemExit(number)

    __call__ = leave

    def reset_and_leave(self, number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        self.leave(number, frame)

    def be_late(self, _number: int, _frame: object) -> None:
        raise TimeoutError


def raised_by(handler: Any) -> BaseException:
    """Return what a signal handler raises."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        signal.raise_signal(signal.SIGUSR1)
    except BaseException as error:
        return error
    finally:
        signal.signal(signal.SIGUSR1, before)
    raise AssertionError("the handler raised nothing")


@pytest.mark.parametrize(
    "handler",
    [
        Leaving().leave,
        Leaving(),
        Leaving().reset_and_leave,
        functools.partial(Leaving().leave),
        lambda *given: Leaving().leave(*given),
        functools.partial(lambda *given, own: Leaving().leave(*given), own=1),
    ],
)
def test_what_a_signal_handler_raises_is_an_interruption(handler: Any) -> None:
    assert is_interruption(raised_by(handler))


def test_an_exit_of_other_code_and_an_exception_of_a_handler_are_no_interruptions() -> None:
    assert not is_interruption(raised_by(Leaving().be_late))
    with pytest.raises(SystemExit) as caught:
        Leaving().leave(int(signal.SIGUSR1), None)
    assert not is_interruption(caught.value)
    assert is_interruption(KeyboardInterrupt())


class AsyncCall:
    async def __call__(self) -> None: ...


async def wait() -> None: ...


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (wait, True),
        (AsyncCall(), True),
        (functools.partial(AsyncCall()), True),
        (AsyncCall, False),
        (print, False),
        (Mock(), False),
    ],
)
def test_what_returns_a_coroutine(fn: Any, expected: bool) -> None:
    assert is_coroutine_function(fn) is expected


def test_what_raises_when_it_is_asked_returns_no_coroutine() -> None:
    assert not is_coroutine_function(raising(RuntimeError()))
