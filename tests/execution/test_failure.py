"""The exception of a failed task: what it says, and that it can be pickled and copied."""

from __future__ import annotations

import collections
import copy
import copyreg
import errno
import fcntl
import gc
import itertools
import os
import pickle
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import handout
from handout.errors import DependencyError, HandoutError, RunTimeoutError
from handout.failures import Failure, bare_exception, from_report, lost_class, of_exception
from handout.serialization import exceptions, user_objects
from handout.serialization.user_objects import has_text, type_name
from tests.patience import HANG_S


class MuteError(Exception):
    """An exception that raises another one when it is turned into text."""

    def __str__(self) -> str:
        raise ValueError("no text")


class BreakingError(Exception):
    """An exception that raises a `MuteError` when it is unpickled."""

    def __reduce__(self) -> Any:
        return _break, ()


def _break() -> Any:
    raise MuteError


REPORTS: dict[str, tuple[type[Exception], dict[str, Any], str]] = {
    "died": (handout.WorkerDiedError, {"signal": 11, "maxrss": 5e6, "deaths": 3, "hosts": ["a"]}, r"signal 11.*5 MB"),
    "timeout": (
        handout.TaskTimeoutError,
        {"limit_s": 2, "elapsed_s": 2.1},
        r"2\.1 s, over its limit of 2 s.*timeout_s",
    ),
    "memory": (handout.MemoryExceededError, {"limit": 1e6, "peak": 3e6}, r"3 MB, over its memory cost of 1 MB"),
    "exited": (handout.errors.TaskExitedError, {"exit": 3}, r"status 3.*Return a value"),
    "unserializable": (
        handout.errors.ResultError,
        {"path": "result[0]", "type": "its.Error", "culprit": "Lock"},
        r"result\[0\] is a Lock",
    ),
    "cancelled": (handout.errors.TaskCancelledError, {}, "was cancelled"),
    "host": (
        handout.errors.TaskError,
        {"message": "no."},
        r"lost on host 'far': no\. Its function did not fail\. Find",
    ),
    "input": (handout.TaskError, {"message": "no room"}, r"could not be started on host 'far': no room"),
    "package missing at load": (
        handout.TaskError,
        {"kind": "input", "message": "No module named 'x'.", "missing": "x"},
        r"on host 'far': No module named 'x'\. Hosts that were tried.*: 'far'\. Install 'x' for the Python of that host, or name",
    ),
    "package missing, from a host of which only data is taken": (
        handout.RemoteError,
        {
            "kind": "raised",
            "type": "ModuleNotFoundError",
            "message": "No module named 'x'.",
            "missing": "x",
            "python": "/py",
        },
        r"raised ModuleNotFoundError: No module named 'x'\. Install 'x' for the Python of that host, /py, or name",
    ),
    "disk": (handout.TaskError, {"message": "full"}, r"'far' could not store.*disk cost"),
    "raised": (handout.RemoteError, {"type": "Odd", "message": "hm"}, "raised Odd: hm"),
    "of a newer agent": (handout.TaskError, {"message": "hm"}, "of a newer agent hm"),
}


@pytest.mark.parametrize("kind", REPORTS)
def test_each_kind_has_its_error_with_facts_and_notes(kind: str) -> None:
    cls, report, words = REPORTS[kind]
    failure = from_report("fit", "far", 2, {"kind": kind, "text": "Traceback: x", "stderr": ["oops"], **report}, b"")
    error = failure.exception
    assert type(error) is cls
    assert error is failure.exception
    with pytest.raises(cls, match=words):
        raise error
    notes = "\n".join(error.__notes__)
    assert "'fit', attempt 2, on host 'far'" in notes
    assert "Traceback: x" in notes
    assert "  oops" in notes
    assert handout.failure(error) is failure
    assert (error.id, error.host, error.attempt) == ("fit", "far", 2)  # type: ignore[attr-defined]


def test_what_has_no_text_is_told_of_all_the_same() -> None:
    said = "no text: str() raised ValueError"
    pickled, _ = exceptions.dump_exception(MuteError())
    assert pickled is not None
    failure = from_report("fit", "far", 1, {"kind": "raised"}, pickled)
    assert type(failure.exception) is MuteError
    assert said in str(failure)
    failure = from_report("fit", "far", 1, {"kind": "raised", "type": "Odd"}, pickle.dumps(BreakingError()))
    with pytest.raises(handout.RemoteError, match=rf"could not be rebuilt here: MuteError: <{re.escape(said)}"):
        raise failure.exception
    with pytest.raises(MuteError) as caught:
        raise MuteError
    assert "MuteError" in of_exception("fit", caught.value, kind="raised", host="far", attempts=1).traceback


@pytest.mark.parametrize(("report", "what"), [({}, "the result"), ({"argument": True}, "an argument")])
def test_an_error_for_want_of_room_says_what_found_none(report: dict[str, Any], what: str) -> None:
    error = from_report("fit", "far", 2, {"kind": "disk", "message": "full", **report}, b"").exception
    assert f"could not store {what} of task 'fit'" in str(error)


@pytest.mark.parametrize(
    ("report", "remedy"),
    [
        ({"signal": 9, "oom": None}, r"\. Find out if the task, another program or the kernel killed"),
        (
            {"signal": 9, "oom": False, "limit_s": 30.0},
            r"has used 30 s of processor time.*ulimit -t.*Find out if the task",
        ),
        ({"signal": 24, "limit_s": None}, r"has used up the processor time.*ulimit -t"),
    ],
)
def test_a_process_that_was_killed_for_its_processor_time_says_so(report: dict[str, Any], remedy: str) -> None:
    error = from_report("fit", "far", 2, {"kind": "died", **report}, b"").exception
    assert re.search(remedy, str(error))


NO_PROCESS = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
NO_THREAD = RuntimeError("can't start new thread")


def said_at(error: Exception, *places: str) -> str:
    """Return the last note of a task's error.

    Args:
        error: The exception that the task raised.
        places: The frames of its traceback, innermost last.
    """
    text = "\n".join(["Traceback (most recent call last):", *places, f"{type(error).__name__}: {error}"])
    report = {"kind": "raised", "type": type(error).__name__, "message": str(error), "text": text}
    pickled, _ = exceptions.dump_exception(error)
    assert pickled is not None
    return str(from_report("fit", "far", 1, report, pickled).exception.__notes__[-1])


MINE = '  File "/home/me/mine.py", line 3, in fit'
POPEN = '  File "/usr/lib/python3.11/subprocess.py", line 1026, in __init__\n    self._execute_child(args, executable'
CHILD = '  File "/usr/lib/python3.11/subprocess.py", line 1883, in _execute_child'


@pytest.mark.parametrize(
    ("error", "places"),
    [
        (NO_PROCESS, [MINE, POPEN, CHILD]),  # no source line for the innermost frame
        (NO_PROCESS, [MINE, POPEN, f"{CHILD}\n    self.pid = _fork_exec(\n               ^^^^^^^^^^^"]),
        (NO_PROCESS, [f"{MINE}\n    pid = os.fork()\n          ^^^^^^^^^"]),
        (NO_PROCESS, [f"{MINE}\n    child, fd = pty.fork()"]),
        (NO_PROCESS, [f"{MINE}\n    os.posix_spawnp(program, arguments, os.environ)"]),
        (NO_THREAD, [f"{MINE}\n    threading.Thread(target=int).start()"]),
    ],
)
def test_who_meets_the_limit_of_processes_is_told_that_it_may_be_anothers_doing(
    error: Exception, places: list[str]
) -> None:
    assert "reached their limit" in said_at(error, *places)
    assert "reached their limit" not in said_at(type(error)("other"), *places)


def lock() -> None:
    with tempfile.NamedTemporaryFile() as file, open(file.name) as again:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def receive() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        here.recv(1)


@pytest.mark.parametrize("busy", [lock, receive])
def test_what_is_busy_is_no_limit_of_processes(busy: Callable[[], None]) -> None:
    with pytest.raises(BlockingIOError, match=os.strerror(errno.EAGAIN)) as caught:
        busy()
    pickled, text = exceptions.dump_exception(caught.value)
    report = {"kind": "raised", "type": "BlockingIOError", "message": str(caught.value), "text": text}
    assert pickled is not None
    assert "reached their limit" not in from_report("fit", "far", 1, report, pickled).exception.__notes__[-1]
    assert "reached their limit" in said_at(caught.value, f"{MINE}\n    os.fork()")


@pytest.mark.parametrize("kind", REPORTS)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_an_error_with_its_failure_can_be_pickled_and_copied(kind: str, again: Any) -> None:
    error = from_report("fit", "far", 2, {"kind": kind, **REPORTS[kind][1]}, b"").exception
    twin = again(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.__notes__ == error.__notes__
    found = handout.failure(twin)
    assert found is not None
    assert found.id == "fit"
    assert found.exception is twin


def test_errors_pickle_with_fields_and_remedy() -> None:
    error = RunTimeoutError("late", remedy="Hurry.", limit_s=3.0)
    error.add_note("a note")
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.limit_s, twin.__notes__) == ("late Hurry.", 3.0, ["a note"])


def test_a_failure_that_this_side_found_is_behind_its_exception_as_well() -> None:
    error = DependencyError("skipped")
    failure = of_exception("b", error, kind="skipped", host=None, attempts=0)
    assert failure.exception is error
    assert handout.failure(error) is failure


def test_a_task_that_was_nowhere_says_nothing_of_a_host() -> None:
    error = Failure("a", "cancelled", attempts=0, caused_by="b").exception
    assert str(error) == "Task 'a' was cancelled, because 'b' failed or was cancelled."
    assert not hasattr(error, "__notes__")


def test_an_exception_that_cannot_be_rebuilt_comes_as_remote_error_and_says_why() -> None:
    error = from_report("a", "far", 1, {"kind": "raised", "type": "Odd", "message": "hm"}, b"not a pickle").exception
    assert isinstance(error, handout.RemoteError)
    assert "could not be rebuilt here" in str(error)
    assert error.type_name == "Odd"


class OnceOnlyError(Exception):
    """An exception that can be unpickled once. After that, unpickling raises what some test tools raise."""

    left = 1

    def __setstate__(self, state: Any) -> None:
        OnceOnlyError.left -= 1
        if OnceOnlyError.left < 0:
            raise pytest.fail.Exception("unpickled twice")


def test_an_exception_whose_unpickling_raises_anything_comes_as_remote_error() -> None:
    error = OnceOnlyError("hm")
    error.number = 1  # type: ignore[attr-defined]
    blob, _ = exceptions.dump_exception(error)
    assert blob is not None
    rebuilt = from_report("a", "far", 1, {"kind": "raised", "type": "OnceOnlyError", "message": "hm"}, blob).exception
    assert isinstance(rebuilt, handout.RemoteError)
    assert rebuilt.type_name.endswith("OnceOnlyError")


class LateError(Exception):
    """An exception whose unpickling waits once it has left its worker."""

    #: What the unpickling waits for.
    gate: threading.Event | None = None

    def __setstate__(self, state: Any) -> None:
        if LateError.gate is not None:
            LateError.gate.wait()


def test_an_exception_whose_unpickling_hangs_comes_as_remote_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_objects, "LIMIT_S", 0.05)
    error = LateError("hm")
    error.number = 1  # type: ignore[attr-defined]
    report = {"kind": "raised", "type": "LateError", "message": "hm"}
    failure = from_report("a", "far", 1, report, exceptions.dump_exception(error)[0])
    gate = threading.Event()
    monkeypatch.setattr(LateError, "gate", gate)
    rebuilt = failure.exception
    assert isinstance(rebuilt, handout.RemoteError)
    assert "was not rebuilt here: Handout stopped waiting for code of the program after 0.05 s" in str(rebuilt)
    assert "let the methods of its class return at once" in rebuilt.remedy
    assert rebuilt.type_name == "LateError"
    again = from_report("a", "far", 1, report, failure.pickled)
    assert "an earlier exception of this type is still being loaded" in str(
        bare_exception(again)
    )  # without another wait
    assert lost_class(failure) is LateError
    (thread,) = [each.thread() for (_, name), each in exceptions._overdue.items() if name.endswith("LateError")]
    assert thread is not None
    monkeypatch.setattr(user_objects, "LIMIT_S", HANG_S)
    gate.set()
    thread.join(HANG_S)
    assert type(again.exception) is LateError


def test_an_exception_that_is_too_large_says_so() -> None:
    error = ValueError("x" * 10_000)
    told = exceptions.describe(error, 5_000)
    assert told.pickled is not None
    rebuilt = bare_exception(
        from_report("a", "far", 1, {"kind": "raised", "type": "ValueError", "message": "x"}, told.pickled)
    )
    assert isinstance(rebuilt, handout.RemoteError)
    assert re.search(r"was not sent: pickled, it has \d+ bytes, and the most is 5000\.", str(rebuilt))
    assert "keep large values out of its attributes" in rebuilt.remedy


def test_an_exception_of_a_host_with_data_alone_names_the_trust_as_the_reason() -> None:
    error = from_report("a", "far", 1, {"kind": "raised", "type": "ValueError", "message": "x"}, None).exception
    assert isinstance(error, handout.RemoteError)
    assert "From a host with trust='data', Handout takes only the text" in str(error)
    assert error.remedy.startswith("Fix the function, or set retries=")
    assert "set trust='full' for the host" in error.remedy


class LateClass(type):
    """A metaclass whose classes load only when a gate is open."""

    gate = threading.Event()


def load_late(name: str) -> Any:
    LateClass.gate.wait()
    return ValueError


def test_a_class_that_is_still_being_loaded_is_not_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_objects, "LIMIT_S", 0.05)
    monkeypatch.setitem(copyreg.dispatch_table, LateClass, lambda kind: (load_late, (kind.__name__,)))
    kind: Any = LateClass("StuckError", (Exception,), {})
    error = kind(threading.Lock())
    LateClass.gate.set()
    pickled = exceptions.dump_exception(error)[0]
    LateClass.gate.clear()
    assert exceptions.load_class(pickled) is None
    monkeypatch.setattr(user_objects, "LIMIT_S", HANG_S)
    assert exceptions.load_class(pickled) is None  # without another wait
    thread = exceptions._overdue["class", type_name(error)].thread()
    assert thread is not None
    LateClass.gate.set()
    thread.join(HANG_S)
    assert exceptions.load_class(pickled) is ValueError


def slow_error(number: int = 0) -> bytes:
    """Return what `exceptions.dump_exception` makes of an exception that is not plain and cannot be pickled."""
    entry = {"blob": None, "type": f"Slow{number}Error", "message": "", "notes": []}
    return pickle.dumps([{**entry, "cause": -1, "context": -1, "suppress": True}], 5)


def limits(monkeypatch: pytest.MonkeyPatch, are_late: Iterable[bool]) -> list[float]:
    """Let calls with a limit be overdue or return in time, and return the list of their limits in seconds.

    The thread of each overdue call has ended before the next call.
    """
    found: list[float] = []
    late = iter(are_late)

    def bounded(function: Callable[[], Any], within_s: float) -> Any:
        found.append(within_s)
        if next(late):
            raise user_objects.OverdueError("too late", threading.Thread())
        return function()

    monkeypatch.setattr(user_objects, "bounded", bounded)
    monkeypatch.setattr(exceptions, "_overdue", collections.OrderedDict())
    return found


def test_the_waits_for_one_type_whose_loading_takes_long_sum_to_twice_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = limits(monkeypatch, [True] * 2000 + [False, True])
    for _ in range(2000):
        with pytest.raises(user_objects.OverdueError, match="too late"):
            exceptions.load_exception(slow_error())
    assert found[:3] == [user_objects.LIMIT_S, user_objects.LIMIT_S / 2, user_objects.LIMIT_S / 4]
    assert sum(found) <= 2 * user_objects.LIMIT_S
    exceptions.load_exception(slow_error(), lambda name, text: ValueError(text))
    assert not exceptions._overdue
    with pytest.raises(user_objects.OverdueError):
        exceptions.load_exception(slow_error())
    assert found[-1] == user_objects.LIMIT_S  # after a call that returned in time


def test_a_bounded_number_of_types_counts_as_overdue_and_no_thread_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exceptions, "_MAX_OVERDUE", 3)
    found = limits(monkeypatch, itertools.repeat(True))
    for number in (0, 1, 0, 2, 3, 0, 1):
        with pytest.raises(user_objects.OverdueError):
            exceptions.load_exception(slow_error(number))
    assert [limit / user_objects.LIMIT_S for limit in found] == [1, 1, 0.5, 1, 1, 0.25, 1]
    assert [name for _, name in exceptions._overdue] == ["Slow3Error", "Slow0Error", "Slow1Error"]
    gc.collect()
    assert [each.thread() for each in exceptions._overdue.values()] == [None] * 3


def noted() -> Exception:
    error = ValueError("hm")
    error.__notes__ = ["seen", "twice"]
    error.number = 1  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize("error", [ValueError("hm"), noted()], ids=["plain", "with attributes and notes"])
def test_an_exception_whose_unpickling_runs_no_user_code_starts_no_thread(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "Thread", None)
    told = exceptions.describe(error, 1 << 20)
    assert told.pickled is not None
    assert vars(exceptions.load_exception(told.pickled)) == vars(error)


@pytest.mark.parametrize("value", [ValueError, [[1]], (1,), {"a": 1}, MuteError()])
def test_an_exception_with_an_attribute_that_may_hold_user_objects_is_not_plain(value: Any) -> None:
    error = ValueError("hm")
    error.value = value  # type: ignore[attr-defined]
    assert not exceptions.is_plain(error)


def test_a_text_that_raises_anything_is_no_text() -> None:
    class LeavingError(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    assert not has_text(LeavingError())
    assert has_text(ValueError("no"))


def test_other_exceptions_have_no_failure() -> None:
    assert handout.failure(ValueError()) is None
    assert handout.failure(HandoutError("x")) is None


def test_facts_of_the_same_attempt_are_told_with_what_this_side_says_of_it() -> None:
    report = {"kind": "died", "signal": 9, "stderr": ["oops"], "elapsed_s": 1.5}
    facts = from_report("fit", "far", 1, report, b"")
    error = handout.OutcomeUnknownError("lost", remedy="Look.", attempt=1)
    found = of_exception("fit", error, kind="host", host="far", attempts=1, facts=facts)
    assert handout.failure(error) is found
    assert error.__notes__[0] == "Task 'fit', attempt 1 of 1, on host 'far' after 1.5 s."
    assert error.__notes__[1:] == ["Last lines of the worker's standard error:\n  oops", "What to do: Look."]
    assert str(facts) == "'fit' on 'far': died"
