"""Describes the failure of a task for the controller."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Callable, NamedTuple

from handout.host.system import processes
from handout.host.worker import importer
from handout.host.worker.call_loader import MissingBundleError
from handout.host.worker.looked_up import looked_up_in_vain
from handout.host.worker.objects import DiskFullError, OversizedResultError, StoreAccessError
from handout.protocol import frames, messages
from handout.serialization import diagnosis, exceptions, pickling

__all__ = ["FailureReport", "report_failure"]

#: The largest pickled exception that a worker sends, in bytes. Of a larger exception, the worker sends only the type,
#: the message and the traceback.
_MAX_EXCEPTION = frames.MAX_PAYLOAD // 4


class FailureReport(NamedTuple):
    """The report of a failed task, and its payload."""

    failure: messages.TaskFailure
    payload: list[frames.Buffer]
    #: True if a method of the exception has not returned. It still runs in a thread of this process.
    leaves_thread: bool


def report_failure(
    number: int, error: BaseException, cancelled: bool, announce: Callable[[messages.TaskRaised], None]
) -> FailureReport:
    """Return the report of a failure, and its payload: the pickled exception, or nothing if none is sent.

    The report has the duration 0. The caller must set the right one.

    Args:
        number: The task's number.
        error: The exception that was raised by the function, or while its arguments were loaded, or while its
            result was encoded.
        cancelled: True if the agent cancelled the task.
        announce: Called before code of the exception's class runs, which may end this process.
    """
    kind, facts = _kind_of(error, cancelled)
    if kind == "raised" and not exceptions.is_plain(error):
        announce(messages.TaskRaised(number, exceptions.type_name(error)))
    # The first frames of the traceback are left out, because they show the worker's own code, and the event loop that
    # it runs a coroutine in.
    trace = exceptions.traceback_of(error)
    while trace is not None and (_is_own_frame(trace) or _package_of(trace) == "asyncio"):
        trace = trace.tb_next
    BaseException.with_traceback(error, trace)
    # The agent has no use for the bytes of an exception of another kind, for which the controller has an error.
    told = exceptions.describe(error, _MAX_EXCEPTION if kind in ("raised", "input") else 0)
    text = told.text if kind != "host" else ""  # the traceback would only show Handout's own code
    if kind in ("unserializable", "too_large"):
        cause = exceptions.cause_of(error)
        if _is_raised_by_handout(error if cause is None else cause):
            text = ""  # the traceback would only show Handout's own code
    text = importer.controller_paths(text)
    failure = messages.TaskFailure(number, 0, kind, told.type, told.message, text, processes.peak_memory(), **facts)
    return FailureReport(failure, [told.pickled] if told.pickled is not None else [], told.is_overdue)


def _kind_of(error: Any, cancelled: bool) -> tuple[str, dict[str, Any]]:
    """Return the kind of a failure, and the fields of `TaskFailure` that failures of this kind set in addition."""
    kind = type(error)  # not `isinstance`, which asks the exception for its ``__class__``
    if issubclass(kind, diagnosis.CannotPickleError):
        return "unserializable", {"path": error.path, "culprit": error.type}
    if issubclass(kind, MissingBundleError):
        return "bundle", {}
    if issubclass(kind, pickling.LoadError):
        return "input", {"missing": importer.explain_missing(exceptions.cause_of(error))}
    if issubclass(kind, DiskFullError):
        return "disk", {"path": error.path, "need": error.need, "free": error.free}
    if issubclass(kind, StoreAccessError):
        return "host", {}
    if issubclass(kind, OversizedResultError):
        return "too_large", {"size": error.size, "limit": error.limit}
    if issubclass(kind, SystemExit):
        return "exited", {"exit": _status(error)}
    if issubclass(kind, asyncio.CancelledError) and cancelled:
        return "cancelled", {}
    return "raised", {"missing": importer.explain_missing(error), **looked_up_in_vain(error)._asdict()}


def _status(error: BaseException) -> int | str | None:
    """Return the status that a `SystemExit` carries: a number that a message may hold, or a text."""
    code = _CODE.__get__(error)
    if code is None:
        return None
    if issubclass(type(code), int):
        status = int.__index__(code)  # an exact integer, also for a subclass with methods of its own
        # A larger integer is no exit status, and the controller would refuse a message that contains it.
        return status if abs(status) < 1 << 63 else exceptions.message(status)
    return exceptions.message(code)


_CODE: Any = SystemExit.__dict__["code"]


def _is_raised_by_handout(error: BaseException) -> bool:
    """Return True if Handout's own code raised an exception, or if C code that Handout called raised it."""
    trace = exceptions.traceback_of(error)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or _is_own_frame(trace)


def _is_own_frame(trace: TracebackType) -> bool:
    """Return True if a frame runs Handout's own code."""
    return _package_of(trace).startswith(("handout.host", "handout.serialization"))


def _package_of(trace: TracebackType) -> str:
    """Return the name of the package whose code a frame runs, or "" if it has none."""
    package = trace.tb_frame.f_globals.get("__package__")
    return package if isinstance(package, str) else ""
