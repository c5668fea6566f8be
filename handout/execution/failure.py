"""Why a task failed, as the caller reads it."""

from __future__ import annotations

import traceback as traceback_module
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from handout.agent import serial
from handout.errors import (
    HandoutError,
    MemoryExceededError,
    OutcomeUnknownError,
    RemoteError,
    ResultError,
    TaskCancelledError,
    TaskError,
    TaskExitedError,
    TaskTimeoutError,
    WorkerDiedError,
)

__all__ = ["Failure", "failure", "from_report"]

_ATTRIBUTE = "__handout_failure__"


@dataclass(slots=True, eq=False)
class Failure:
    """Why a task failed.

    ``exception`` is built when it is first asked for: what a host sent stays opaque bytes until then.
    """

    id: str
    #: Why, in a word: raised, unserializable, exited, died, timeout, memory, cancelled, input, disk, skipped.
    kind: str
    host: str | None = None
    #: How many attempts were made.
    attempts: int = 1
    #: The remote traceback, as text.
    traceback: str = ""
    stderr_tail: Sequence[str] = ()
    #: The id of the function at the root, None when it is this one.
    caused_by: str | None = None
    elapsed_s: float = 0.0
    report: dict[str, Any] = field(default_factory=dict, repr=False)
    pickled: bytes = field(default=b"", repr=False)
    _exception: Exception | None = field(default=None, repr=False)

    @property
    def exception(self) -> Exception:
        """The exception to raise for it, with what is known as notes."""
        if self._exception is None:
            self._exception = self._build()
            for note in self._notes():
                self._exception.add_note(note)
            self._mark()
        return self._exception

    def _mark(self) -> None:
        """Let :func:`failure` find this from its exception."""
        try:
            setattr(self._exception, _ATTRIBUTE, self)
        except AttributeError:
            pass  # a class with slots: its notes still tell

    def _build(self) -> Exception:
        where: dict[str, Any] = {"id": self.id, "host": self.host, "attempt": self.attempts}
        if self.kind == "raised":
            return self._raised()
        build = _BUILDERS.get(self.kind)
        if build is None:
            return TaskError(f"Task {self.id!r} failed: {self.kind} {self.report.get('message', '')}.", **where)
        return build(self, where)

    def _raised(self) -> Exception:
        """The task's own exception where it can travel and cannot be mistaken for the caller's own."""
        reason = ""
        if self.pickled:
            try:
                error = serial.load_exception(self.pickled, self._stand_in)
            except Exception as problem:  # whatever a user's __setstate__ or __init__ may raise
                reason = f" (it could not be rebuilt here: {type(problem).__name__}: {problem})"
            else:
                if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
                    return error
        name, message = self.report.get("type", "an exception"), self.report.get("message", "")
        return RemoteError(
            f"Task {self.id!r} raised {name}: {message}{reason}",
            id=self.id,
            host=self.host,
            attempt=self.attempts,
            type_name=name,
            message=message,
            traceback=self.traceback,
        )

    def _stand_in(self, type_name: str, message: str, traceback: str) -> RemoteError:
        """For a link of a chain of causes that could not travel."""
        return RemoteError(
            f"{type_name}: {message}",
            id=self.id,
            host=self.host,
            type_name=type_name,
            message=message,
            traceback=traceback,
        )

    def _notes(self) -> list[str]:
        took = f" after {self.elapsed_s:.1f} s" if self.elapsed_s >= 0.05 else ""
        notes = []
        if self.host is not None and self.attempts:
            notes.append(f"Task {self.id!r}, attempt {self.attempts}, on host {self.host!r}{took}.")
        if self.traceback:
            notes.append(f"On the host:\n{self.traceback.rstrip()}")
        if self.stderr_tail:
            notes.append("Last lines of its standard error:\n" + "\n".join(f"  {line}" for line in self.stderr_tail))
        return notes


def failure(error: BaseException) -> Failure | None:
    """The :class:`Failure` behind an exception that ``execute`` raised, or None where there is none."""
    found = getattr(error, _ATTRIBUTE, None)
    return found if isinstance(found, Failure) else None


def from_report(id: str, host: str, attempts: int, report: dict[str, Any], pickled: bytes) -> Failure:
    """The failure that an agent's ``failed`` message describes."""
    return Failure(
        id=id,
        kind=str(report.get("kind", "raised")),
        host=host,
        attempts=attempts,
        traceback=str(report.get("text") or ""),
        stderr_tail=tuple(report.get("stderr") or ()),
        elapsed_s=float(report.get("elapsed_s") or 0.0),
        report=report,
        pickled=pickled,
    )


def of_exception(id: str, error: Exception, *, kind: str, host: str | None, attempts: int) -> Failure:
    """A failure that this side found, not a host."""
    text = "".join(traceback_module.format_exception(error)) if error.__traceback__ else ""
    found = Failure(id=id, kind=kind, host=host, attempts=attempts, traceback=text, _exception=error)
    found._mark()
    return found


#: What a signal that ended a worker mostly means.
_REMEDIES = {
    9: "Signal 9 mostly means out of memory: raise its memory cost.",
    11: "Signal 11 is a crash in native code: look at the last lines of its standard error.",
}


def _died(self: Failure, where: dict[str, Any]) -> Exception:
    signal, code, peak = self.report.get("signal"), self.report.get("exit"), self.report.get("maxrss")
    how = f"signal {signal}" if signal else f"exit status {code}"
    memory = f", peak memory {peak / 1e6:.0f} MB" if peak else ""
    if self.report.get("oom"):
        how += ", for want of memory"
    return WorkerDiedError(
        f"The process under task {self.id!r} died ({how}{memory}) on host {self.host!r}; "
        f"deaths: {self.report.get('deaths', 1)}.",
        remedy=_REMEDIES.get(signal or 0, "It ended its own process, or native code did: let it return or raise."),
        signal=signal,
        exit_code=code,
        peak_memory=peak,
        stderr_tail=tuple(self.stderr_tail),
        hosts=tuple(self.report.get("hosts", ())),
        **where,
    )


def _timeout(self: Failure, where: dict[str, Any]) -> Exception:
    limit = self.report.get("limit_s") or 0.0
    return TaskTimeoutError(
        f"Task {self.id!r} ran for {self.elapsed_s:.1f} s, over its limit of {limit:g} s, and was killed.",
        remedy="Raise timeout_s, or make it do less.",
        limit_s=limit,
        elapsed_s=self.elapsed_s,
        **where,
    )


def _memory(self: Failure, where: dict[str, Any]) -> Exception:
    limit, peak = self.report.get("limit", 0), self.report.get("peak", 0)
    return MemoryExceededError(
        f"Task {self.id!r} used {peak / 1e6:.0f} MB, over its memory cost of {limit / 1e6:.0f} MB, and was killed.",
        remedy="Raise its memory cost.",
        limit=limit,
        peak=peak,
        **where,
    )


def _exited(self: Failure, where: dict[str, Any]) -> Exception:
    code = self.report.get("exit")
    name = self.report.get("type") or "SystemExit"
    return TaskExitedError(
        f"Task {self.id!r} ended its process ({name}, status {code!r}) instead of returning.",
        remedy="Return a value or raise an exception.",
        code=code,
        **where,
    )


def _unserializable(self: Failure, where: dict[str, Any]) -> Exception:
    path, type_name = self.report.get("path", "result"), self.report.get("type", "")
    return ResultError(
        f"The result of task {self.id!r} cannot travel: {self.report.get('message') or f'{path} is a {type_name}'}.",
        remedy="Return plain data instead of what holds a lock, a file, a thread or a generator.",
        path=path,
        type=type_name,
        **where,
    )


def _cancelled(self: Failure, where: dict[str, Any]) -> Exception:
    why = f", because {self.caused_by!r} ended otherwise" if self.caused_by is not None else ""
    return TaskCancelledError(f"Task {self.id!r} was cancelled{why}.", **where)


def _unknown(self: Failure, where: dict[str, Any]) -> Exception:
    return OutcomeUnknownError(
        f"Task {self.id!r} is marked idempotent=False and was lost on host {self.host!r} while it may have run.",
        remedy="Check by hand whether it took effect; it is not run again.",
        **where,
    )


def _input(self: Failure, where: dict[str, Any]) -> Exception:
    return TaskError(
        f"Task {self.id!r} could not be started on host {self.host!r}: {self.report.get('message', '')}",
        **where,
    )


def _disk(self: Failure, where: dict[str, Any]) -> HandoutError:
    return TaskError(
        f"Host {self.host!r} had no room for the result of task {self.id!r}: {self.report.get('message', '')}",
        remedy="Free some space there, or give the task a disk cost.",
        **where,
    )


_BUILDERS = {
    "died": _died,
    "timeout": _timeout,
    "memory": _memory,
    "exited": _exited,
    "unserializable": _unserializable,
    "cancelled": _cancelled,
    "host": _unknown,
    "input": _input,
    "disk": _disk,
}
