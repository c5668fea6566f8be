"""Exceptions arrive as themselves, whatever their ``__init__`` takes."""

from __future__ import annotations

import copyreg
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any

import pytest

from handout.serialization import exceptions, pickling


class KeywordOnly(Exception):
    def __init__(self, *, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Computed(Exception):
    """Called with its own ``args``, the class would make another text."""

    def __init__(self, code: int, detail: str = "none") -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class Newly(ValueError):
    def __new__(cls, *, code: int) -> Newly:
        made = super().__new__(cls, code)
        made.code = code  # type: ignore[attr-defined]
        return made

    def __init__(self, *, code: int) -> None:
        pass


class Gone(OSError):
    def __init__(self, *, path: str) -> None:
        super().__init__(2, "gone", path)


class Slotted(Exception):
    __slots__ = ("__hidden", "code")

    def __init__(self, *, code: int) -> None:
        self.code, self.__hidden = code, code + 1

    def hidden(self) -> int:
        return self.__hidden


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


@dataclass(frozen=True, slots=True)
class FrozenSlots(Exception):
    code: int


class Undecodable(UnicodeDecodeError):
    def __init__(self, *, data: bytes) -> None:
        super().__init__("utf-8", data, 0, 1, "bad")


class Unimportable(ImportError):
    def __init__(self, *, module: str) -> None:
        super().__init__(f"no {module}", name=module, path="/x")


class Misspelt(SyntaxError):
    def __init__(self, *, line: int) -> None:
        super().__init__("bad", ("file", line, 2, "text"))


class Lacking(AttributeError):
    def __init__(self, *, what: str) -> None:
        super().__init__(f"no {what}", name=what, obj=threading.Lock())


class Slashed(Exception):
    """A class with attributes of the names that `BaseException` has."""

    @property
    def args(self) -> Any:
        raise RuntimeError("no args")

    @args.setter
    def args(self, _: Any) -> None:
        raise RuntimeError("no args")


class Reducing(Exception):
    def __init__(self, *, code: int) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return _reducing, (self.code,)


def _reducing(code: int) -> Reducing:
    made = Reducing(code=code)
    made.add_note("made by __reduce__")
    return made


class Stateful(Exception):
    """A class that leaves its lock out of its pickles."""

    def __init__(self, *, code: int) -> None:
        self.code, self.lock = code, threading.Lock()

    def __getstate__(self) -> Any:
        return {"code": self.code}

    def __setstate__(self, state: Any) -> None:
        self.code, self.lock = state["code"], threading.Lock()


class Inherited(Reducing):
    """The inherited ``__reduce__`` makes an exception of another class."""

    def __init__(self, *, code: int, detail: str) -> None:
        super().__init__(code=code)
        self.detail = detail


class Registered(Exception):
    def __init__(self, *, code: int) -> None:
        self.code = code


copyreg.pickle(Registered, lambda error: (_registered, (error.code,)))  # type: ignore[arg-type, return-value]


def _registered(code: int) -> Registered:
    made = Registered(code=code)
    made.add_note("made by copyreg")
    return made


def again(error: BaseException) -> Any:
    return exceptions.load_exception(exceptions.dump_exception(error)[0])


@pytest.mark.parametrize(
    "error",
    [
        KeywordOnly(status=404), Computed(404, "no page"), Newly(code=3), Gone(path="/p"), Slotted(code=1),
        Frozen(404), FrozenSlots(404), Undecodable(data=b"\xff"), Unimportable(module="m"), Misspelt(line=7),
        Lacking(what="w"), Reducing(code=2), Stateful(code=2), Registered(code=5),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", [again, lambda error: pickling.loads(b"".join(pickling.dumps(error)))])
def test_an_exception_arrives_as_itself(error: Any, way: Callable[[Any], Any]) -> None:
    back = way(error)
    assert type(back) is type(error)
    assert (back.args, str(back)) == (error.args, str(error))
    for name in ("status", "code", "detail", "errno", "strerror", "filename", "filename2", "name", "path", "lineno"):
        assert getattr(back, name, None) == getattr(error, name, None)


def test_an_inherited_reduce_that_makes_another_class_is_not_believed() -> None:
    back = again(Inherited(code=2, detail="d"))
    assert (type(back), back.code, back.detail) == (Inherited, 2, "d")


def test_slots_with_hidden_names_and_frozen_slots_keep_their_values() -> None:
    assert again(Slotted(code=1)).hidden() == 2
    assert again(FrozenSlots(404)) == FrozenSlots(404)


def test_what_a_class_says_of_its_pickles_is_respected() -> None:
    assert again(Reducing(code=2)).__notes__ == ["made by __reduce__"]
    assert type(again(Stateful(code=2)).lock) is type(threading.Lock())
    assert pickling.loads(b"".join(pickling.dumps(Reducing(code=2)))).__notes__ == ["made by __reduce__"]
    assert pickling.loads(b"".join(pickling.dumps(Registered(code=2)))).__notes__ == ["made by copyreg"]


def pickle_exception(error: BaseException) -> Any:
    """Stand for tblib's function of this name, which makes objects that only processes with tblib can load."""
    raise AssertionError("tblib was asked")


@pytest.mark.parametrize("error", [ValueError("no"), OSError(2, "no", "file"), Slotted(code=2)], ids=repr)
def test_an_exception_does_not_travel_as_tblib_says(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """dask has tblib register all exceptions of the process with `copyreg`."""
    monkeypatch.setattr(pickle_exception, "__module__", "tblib.pickling_support")
    monkeypatch.setitem(copyreg.dispatch_table, type(error), pickle_exception)
    for found in (again(error), pickling.loads(b"".join(pickling.dumps(error)))):
        assert (type(found), found.args, vars(found)) == (type(error), error.args, vars(error))


def test_a_traceback_is_refused_whatever_tblib_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_exception, "__module__", "tblib.pickling_support")
    monkeypatch.setitem(copyreg.dispatch_table, TracebackType, functools.partial(pickle_exception))
    try:
        raise ValueError
    except ValueError as error:
        trace = error.__traceback__
    with pytest.raises(TypeError, match="traceback"):
        pickling.dumps(trace)


def test_a_class_cannot_get_between_an_exception_and_its_parts() -> None:
    error = Slashed.__new__(Slashed, "real")
    assert BaseException.args.__get__(again(error)) == ("real",)  # type: ignore[attr-defined]


class Crowd(ExceptionGroup[Exception]):
    def __new__(cls, message: str, members: list[Exception], extra: int = 0) -> Crowd:
        made = super().__new__(cls, message, members)
        made.extra = extra  # type: ignore[attr-defined]
        return made


@pytest.mark.parametrize("kind", [ExceptionGroup, Crowd])
def test_a_group_arrives_with_its_members(kind: Any) -> None:
    group = kind("many", [KeywordOnly(status=1), ExceptionGroup("inner", [Frozen(2)])])
    back = again(group)
    assert type(back) is kind
    assert (back.message, vars(back)) == ("many", vars(group))
    assert [type(each) for each in back.exceptions] == [KeywordOnly, ExceptionGroup]
    assert back.exceptions[0].status == 1
    assert back.exceptions[1].exceptions == (Frozen(2),)


@pytest.mark.parametrize("kind", [ExceptionGroup, Crowd])
def test_a_member_that_cannot_be_pickled_does_not_lose_the_group(kind: Any) -> None:
    back = again(kind("many", [KeywordOnly(status=1), ValueError(threading.Lock())]))
    assert type(back) is kind
    assert back.exceptions[0].status == 1
    assert str(back.exceptions[1]).startswith("ValueError: <unlocked _thread.lock")


def test_a_group_of_a_thousand_members_arrives_whole() -> None:
    back = again(ExceptionGroup("many", [KeywordOnly(status=number) for number in range(1000)]))
    assert [each.status for each in back.exceptions] == list(range(1000))


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_a_very_long_chain_is_described_by_its_last_exceptions_and_stays_whole(link: str) -> None:
    """To compare each exception with all others, and to format them all, took minutes."""
    chain: list[ValueError] = []
    for number in range(30_000):
        error = ValueError(number)
        setattr(error, link, chain[-1] if chain else None)
        error.__suppress_context__ = False
        chain.append(error)
    told = exceptions.describe(chain[-1], 1 << 20)
    assert told.text.startswith("[only the last 1000 exceptions of the chain]\n\nValueError: 29000\n")
    assert told.text.endswith("ValueError: 29999\n")
    assert told.pickled is not None
    for older, newer in pairwise(chain):
        assert getattr(newer, link) is older
        assert newer.__suppress_context__ is False
