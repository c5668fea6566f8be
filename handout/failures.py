"""Why a task failed, as the caller reads it."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from handout.errors import (
    HandoutError,
    MemoryExceededError,
    OutcomeUnknownError,
    RemoteError,
    ResultError,
    ResultTooLargeError,
    TaskCancelledError,
    TaskError,
    TaskExitedError,
    TaskTimeoutError,
    TrustError,
    WorkerDiedError,
)
from handout.serialization import exceptions

__all__ = ["Failure", "failure", "from_report", "has_text", "may_have_run", "refused"]

_ATTRIBUTE = "__handout_failure__"
_TRAVEL = "For it to arrive as itself, have its class importable here, and made from the arguments in its args."
#: Characters of a message that stand in other errors.
_REASON = 200


@dataclass(slots=True, eq=False)
class Failure:
    """Why a task failed.

    ``exception`` is built when it is first asked for: what a host sent stays opaque bytes until then.
    """

    id: str
    #: Why, in a word: raised, unserializable, too_large, exited, died, timeout, memory, cancelled, input, disk, host,
    #: skipped.
    kind: str
    host: str | None = None
    #: How many attempts were made.
    attempts: int = 1
    #: The remote traceback, as text.
    traceback: str = ""
    stderr_tail: Sequence[str] = ()
    #: Where it was when its process crashed or was ended, innermost first.
    stack: Sequence[str] = ()
    #: The hosts on which attempts failed, each once.
    hosts: Sequence[str] = ()
    #: How many attempts there could have been, had each failed like this one; None where that is not known.
    most_attempts: int | None = None
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
            self._annotate()
            self._mark()
        return self._exception

    def bare(self) -> Exception:
        """The exception without notes: not all that they tell may be known yet."""
        return self._build() if self._exception is None else self._exception

    def __str__(self) -> str:
        return (
            f"{self.id!r} on {self.host!r}: {self.reason}" if self.host is not None else f"{self.id!r}: {self.reason}"
        )

    def _annotate(self) -> None:
        """Add what is known to the exception."""
        assert self._exception is not None
        for note in self._notes():
            self._exception.add_note(note)

    @property
    def reason(self) -> str:
        """Why, in a line, without building the exception."""
        type_name = str(self.report.get("type") or "") if self.kind in ("raised", "exited") else ""
        said = str(self.report.get("message") or "")
        if self._exception is not None and not said:
            type_name, said = type(self._exception).__name__, exceptions.message(self._exception)
        words = ": ".join(word for word in (type_name, said.partition("\n")[0][:_REASON]) if word)
        return words or self.kind

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
        reason, remedy = " It cannot be pickled and made again.", _TRAVEL
        if self.pickled:
            try:
                error = exceptions.load_exception(self.pickled, self._stand_in)
            except Exception as problem:  # whatever a user's __setstate__ or __init__ may raise
                reason = f" It could not be rebuilt here: {type(problem).__name__}: {exceptions.message(problem)}."
            else:
                if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
                    return error
                reason, remedy = "", self._advice()  # it would be mistaken for the caller's own
        name, message = self.report.get("type", "an exception"), self.report.get("message", "")
        said = f"{name}: {message}" if message else name
        return RemoteError(
            f"Task {self.id!r} raised {said}{'' if said.endswith(('.', '!', '?')) else '.'}{reason}",
            remedy=remedy,
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
        notes = []
        if self.host is not None and self.attempts:
            notes.append(self._where())
        if self.traceback:
            notes.append(f"On the host:\n{self.traceback.rstrip()}")
        if self.stack:
            notes.append("Where it was:\n" + "\n".join(self.stack))
        if self.stderr_tail:
            notes.append("Last lines of its standard error:\n" + "\n".join(f"  {line}" for line in self.stderr_tail))
        advice = getattr(self._exception, "remedy", "") if isinstance(self._exception, HandoutError) else self._advice()
        if notes and advice:
            # Once more where it is read first: a terminal shows the end.
            notes.append(f"What to do: {advice}")
        return notes

    def _where(self) -> str:
        """Which attempt it was, where, for how long, with how much memory, and which hosts were tried."""
        most = f" of {self.most_attempts}" if self.most_attempts is not None else ""
        took = f" after {_duration(self.elapsed_s)}" if self.elapsed_s else ""
        peak = self.report.get("maxrss") if self.kind != "died" else None
        memory = f"; its process took up to {peak / 1e6:.0f} MB of memory" if peak else ""
        others = f"; hosts tried: {', '.join(map(repr, self.hosts))}" if len(self.hosts) > 1 else ""
        return f"Task {self.id!r}, attempt {self.attempts}{most}, on host {self.host!r}{took}{memory}{others}."

    def _advice(self) -> str:
        """What to do about an exception of the task's own."""
        if self._met_the_limit():
            return (
                "The processes and threads of this run's tasks on that host, or of its user, have reached their limit: "
                "find the function that starts them without end, which may be another one, or run fewer tasks at once."
            )
        if self.report.get("retryable") is False:
            return "Mend the function; its retry_on= says that this is not worth another try."
        if self.attempts > 1:
            return "Mend the function, or raise retries= where one more attempt may help."
        return "Mend the function, or set retries= where another attempt may help."

    def _met_the_limit(self) -> bool:
        """Whether the system refused it one more process or thread."""
        kind, said = self.report.get("type", ""), str(self.report.get("message"))
        if kind != "BlockingIOError":
            return kind == "RuntimeError" and _NO_THREAD in said
        # Locks, sockets and pipes say the same of what is busy: where it was tells them apart.
        innermost = self.traceback.rpartition('  File "')[2]
        return _NO_PROCESS in said and _STARTS.search(innermost) is not None


def failure(error: BaseException) -> Failure | None:
    """The :class:`Failure` behind an exception that ``execute`` raised, or None where there is none."""
    found = getattr(error, _ATTRIBUTE, None)
    return found if isinstance(found, Failure) else None


def may_have_run(failure: Failure) -> bool:
    """Whether the task's code may have been called in an attempt that failed."""
    if failure.kind == "cancelled" and not failure.report.get("elapsed_s"):
        return False
    return failure.report.get("argument") is not True  # which found no room


def has_text(error: BaseException) -> bool:
    """Whether ``str(error)`` is safe: where it is not, `exceptions.message` says so in its place."""
    try:
        str(error)
    except Exception:
        return False
    return True


def from_report(id: str, host: str, attempts: int, report: dict[str, Any], pickled: bytes) -> Failure:
    """The failure that an agent's ``failed`` message describes."""
    return Failure(
        id=id,
        kind=str(report.get("kind", "raised")),
        host=host,
        attempts=attempts,
        traceback=str(report.get("text") or ""),
        stderr_tail=tuple(report.get("stderr") or ()),
        stack=tuple(report.get("stack") or ()),
        hosts=(host,),
        elapsed_s=float(report.get("elapsed_s") or 0.0),
        report=report,
        pickled=pickled,
    )


def of_exception(
    id: str, error: Exception, *, kind: str, host: str | None, attempts: int, facts: Failure | None = None
) -> Failure:
    """A failure that this side found, not a host.

    Args:
        id: The task's.
        error: What to raise for it.
        kind: Why, in a word.
        host: Where it was last.
        attempts: How many were made.
        facts: What a host reported of the same attempt: told with the exception.
    """
    if facts is None:
        text = exceptions.traceback_text(error) if error.__traceback__ else ""
        found = Failure(id=id, kind=kind, host=host, attempts=attempts, traceback=text, _exception=error)
    else:
        found = replace(facts, kind=kind, most_attempts=attempts, pickled=b"", _exception=error)
        found._annotate()
    found._mark()
    return found


#: What is said where no thread may be started any more, and where no process may.
_NO_THREAD = "can't start new thread"
_NO_PROCESS = "Resource temporarily unavailable"
#: The innermost frame of a traceback, where that starts a process.
_STARTS = re.compile(r'[/\\]subprocess\.py", |\b_?(?:fork|posix_spawn)\w*\(')
#: What to do about a process that was killed, by whether the kernel did it for lack of memory; None: unknown.
_KILLED: dict[bool | None, str] = {
    True: "Raise memory= in its cost, so that it runs where there is as much and with fewer others.",
    False: "It was not the kernel for lack of memory: the task itself did it, or whoever ends processes there.",
    None: "The task itself did it, or something outside; where that was the kernel, raise memory= in its cost.",
}
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT})
_CRASHED = "It is a crash in native code: look at where it was, and at the last lines of its standard error."
_CUT = "Let it close what it opened, and start other programs as processes of their own (subprocess)."
_ENDED = "It ended its own process, or native code did: let it return or raise."


def _died(self: Failure, where: dict[str, Any]) -> Exception:
    number, code, peak = self.report.get("signal"), self.report.get("exit"), self.report.get("maxrss")
    oom = self.report.get("oom") if number == signal.SIGKILL else False
    declared = self.report.get("declared") or None
    how = f"signal {number} ({_signal_name(number)})" if number else f"exit status {code}"
    cut = self.report.get("cut") is True
    if cut:
        how = "it closed descriptors that are not its own, or replaced its process, and was ended"
    if peak:
        how += f", peak memory {peak / 1e6:.0f} MB"
    if oom:
        how += f", declared memory {declared / 1e6:.0f} MB" if declared else ", no memory declared in its cost"
    end = "was killed by the kernel for lack of memory" if oom else "died"
    return WorkerDiedError(
        f"The process under task {self.id!r} {end} ({how}) on host {self.host!r}; "
        f"deaths: {self.report.get('deaths', 1)}.",
        remedy=_CUT if cut else _CRASHED if number in _CRASHES else _KILLED[oom] if number else _ENDED,
        signal=number,
        exit_code=code,
        peak_memory=peak,
        declared_memory=declared,
        out_of_memory=oom,
        stderr_tail=tuple(self.stderr_tail),
        hosts=tuple(self.hosts),
        **where,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown here"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1.0 else f"{seconds * 1000:.0f} ms"


def _timeout(self: Failure, where: dict[str, Any]) -> Exception:
    limit = self.report.get("limit_s") or 0.0
    return TaskTimeoutError(
        f"Task {self.id!r} ran for {self.elapsed_s:.1f} s, over its limit of {limit:g} s, and was killed.",
        remedy="Raise timeout_s, or make it do less.",
        limit_s=limit,
        elapsed_s=self.elapsed_s,
        stack=tuple(self.stack),
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
    path, type_name = self.report.get("path", "result"), self.report.get("culprit", "")
    return ResultError(
        f"The result of task {self.id!r} cannot travel: {self.report.get('message') or f'{path} is a {type_name}'}.",
        remedy="Return plain data instead of what holds a lock, a file, a thread or a generator.",
        path=path,
        type=type_name,
        **where,
    )


def _too_large(self: Failure, where: dict[str, Any]) -> Exception:
    size, limit = self.report.get("size", 0), self.report.get("limit", 0)
    return ResultTooLargeError(
        f"The result of task {self.id!r} has {size} bytes, over its max_result_bytes of {limit}; it was not kept.",
        remedy="Return less, an element of it, or a handout.File; or raise max_result_bytes.",
        size=size,
        limit=limit,
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


def refused(problem: str, type_name: str, **where: Any) -> TrustError:
    """What came from a host with ``trust="data"`` is not data, and was not made."""
    return TrustError(
        f"The result of task {where['id']!r} came from host {where['host']!r}, of which only data is taken "
        f"(trust='data'), and {problem}.",
        remedy="Return built-in types or numpy arrays, register the dataclass with handout.trust(), "
        "or give a host that may run code here trust='full'.",
        type=type_name,
        **where,
    )


def _input(self: Failure, where: dict[str, Any]) -> Exception:
    if self.report.get("type", "").endswith(".RefusedError"):
        return TrustError(
            f"An input of task {self.id!r} came from a host of which only data is taken (trust='data'), "
            f"and {self.report.get('message', '')}: it was not made on host {self.host!r} either.",
            remedy="Return built-in types or numpy arrays, or register the dataclass with handout.trust().",
            type=str(self.report.get("message", "")).removeprefix("it holds "),
            **where,
        )
    return TaskError(
        f"Task {self.id!r} could not be started on host {self.host!r}: {self.report.get('message', '')}",
        **where,
    )


def _disk(self: Failure, where: dict[str, Any]) -> HandoutError:
    what = "an argument" if self.report.get("argument") else "the result"
    return TaskError(
        f"Host {self.host!r} had no room for {what} of task {self.id!r}: {self.report.get('message', '').rstrip('.')}.",
        remedy="Free some space there, or give the task a disk cost.",
        **where,
    )


_BUILDERS = {
    "died": _died,
    "timeout": _timeout,
    "memory": _memory,
    "exited": _exited,
    "unserializable": _unserializable,
    "too_large": _too_large,
    "cancelled": _cancelled,
    "host": _unknown,
    "input": _input,
    "disk": _disk,
}
