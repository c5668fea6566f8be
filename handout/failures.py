"""A `Failure` says why a task failed, and makes the exception that the caller gets."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from handout.errors import (
    HandoutError,
    MemoryExceededError,
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
from handout.serialization.exception_parts import attributes_of
from handout.serialization.pickling import WARM
from handout.serialization.printable import printable, printable_line
from handout.serialization.user_objects import OverdueError, short_name

__all__ = ["Failure", "bare_exception", "failure", "from_report", "lost_class", "may_have_run", "refused"]

_ATTRIBUTE = "__handout_failure__"
_TRAVEL = (
    "To get the exception itself, make its class importable in the caller, and keep locks, files and other objects "
    "that cannot be pickled out of its attributes."
)
_BRIEF = (
    "To get the exception itself, let the methods of its class return at once, and keep large values out of its "
    "attributes."
)
_TRUST = " To get the exception itself, set trust='full' for the host, if the host may run code in this program."
#: The values that a host with ``trust="data"`` may return, and what to do with others.
_DATA = (
    "Return only None, numbers, texts, bytes, types of datetime and decimal, numpy arrays without objects, and lists, "
    "tuples, dicts and sets of these. Register your dataclasses and enums with handout.trust(). In place of a "
    "handout.File, return its content: file.read_bytes(). Or set trust='full' for that host, if it may run code in "
    "this program and on the other hosts."
)
#: `Failure.reason` quotes at most this many characters of an exception's message.
_REASON = 200


@dataclass(slots=True, eq=False)
class Failure:
    """Why a task has no result. `Results.failures` holds objects of this class, and so do some events.

    Attributes:
        id: The id of the function.
        kind: The reason in one word: ``raised``, ``unserializable``, ``too_large``, ``exited``, ``died``, ``timeout``,
            ``memory``, ``cancelled``, ``input``, ``disk``, ``host`` or ``skipped``.
        host: The name of the host of the last attempt, or None if no host had the task.
        attempts: How many attempts were made.
        traceback: The traceback on the host, as text.
        stderr_tail: The last lines that the worker wrote to stderr.
        stack: The stack of the task when its worker crashed or was killed, innermost frame first.
        hosts: The names of the hosts on which attempts failed, each once.
        most_attempts: How many attempts the task gets in all if every further attempt fails in the same way, or None if
            not known.
        caused_by: The id of the other function because of which the task was skipped or cancelled, or None if there is
            no such function.
        elapsed_s: Seconds for which the last attempt ran.
        report: Further facts that the agent reported, by name.
        pickled: The pickled exception, as the host sent it.

    Example:
        ```python
        results = await handout.execute(graph, on_failure="continue")
        for id, failure in results.failures.items():
            print(id, failure.kind, failure.reason, failure.hosts)
        ```
    """

    id: str
    kind: str
    host: str | None = None
    attempts: int = 1
    traceback: str = ""
    stderr_tail: Sequence[str] = ()
    stack: Sequence[str] = ()
    hosts: Sequence[str] = ()
    most_attempts: int | None = None
    caused_by: str | None = None
    elapsed_s: float = 0.0
    report: dict[str, Any] = field(default_factory=dict, repr=False)
    pickled: bytes = field(default=b"", repr=False)
    _exception: Exception | None = field(default=None, repr=False)

    @property
    def exception(self) -> Exception:
        """The exception of the task. Its notes hold the known facts. The first access unpickles the exception."""
        if self._exception is None:
            error = self._build()
            self._annotate(error)
            self._mark(error)
            if self._exception is None:  # another thread may have made it meanwhile
                self._exception = error
        return self._exception

    def __str__(self) -> str:
        return (
            f"{self.id!r} on {self.host!r}: {self.reason}" if self.host is not None else f"{self.id!r}: {self.reason}"
        )

    def _annotate(self, error: Exception) -> None:
        """Add the known facts to the exception, as notes."""
        for note in self._notes(error):
            exceptions.add_note(error, note)

    @property
    def reason(self) -> str:
        """Why the task failed, in one line. Reading the reason does not unpickle the exception."""
        type_name = str(self.report.get("type") or "") if self.kind in ("raised", "exited") else ""
        said = str(self.report.get("message") or "")
        if self._exception is not None and not said and not type_name:
            type_name, said = short_name(self._exception), exceptions.message(self._exception)
        words = ": ".join(word for word in (type_name, said.partition("\n")[0][:_REASON]) if word)
        return words or self.kind

    def _mark(self, error: Exception) -> None:
        """Store this object in the exception, where the function `failure` finds it."""
        attributes_of(error)[_ATTRIBUTE] = self  # not by `setattr`, which the class may refuse

    def _build(self) -> Exception:
        where: dict[str, Any] = {"id": self.id, "host": self.host, "attempt": self.attempts}
        if self.kind == "raised":
            return self._raised()
        build = _BUILDERS.get(self.kind)
        if build is None:
            return TaskError(f"Task {self.id!r} failed: {self.kind} {self.report.get('message', '')}.", **where)
        return build(self, where)

    def _raised(self) -> Exception:
        """Return the task's exception, or a `RemoteError` if the exception cannot be passed on as it is."""
        if not self.pickled:
            return self._remote(None)
        try:
            error = exceptions.load_exception(self.pickled, self._substitute, self._remote)
        except Exception as problem:  # the bytes are no pickled exception, or loading it takes too long
            return self._remote(problem)
        kind = type(error)  # not `isinstance`, which asks the exception for its ``__class__``
        if issubclass(kind, Exception) and not issubclass(kind, StopIteration | StopAsyncIteration):
            return error  # type: ignore[return-value]
        return self._as_remote_error("", self._advice())  # raised in the caller, it would end a loop or the program

    def _remote(self, problem: BaseException | None) -> RemoteError:
        """Return the error that stands for an exception that cannot be made again, and say why it cannot."""
        if self.report.get("missing") is not None:
            return self._as_remote_error("", self._advice())
        if self.report.get("data_only"):
            said = " From a host with trust='data', Handout takes only the text of an exception."
            return self._as_remote_error(said, self._advice() + _TRUST)
        if problem is None:
            return self._as_remote_error(" The exception cannot be pickled and rebuilt.", _TRAVEL)
        if type(problem) is exceptions.NotSentError:
            return self._as_remote_error(f" The exception itself was not sent: {problem}.", _BRIEF)
        if type(problem) is OverdueError:
            return self._as_remote_error(f" The exception was not rebuilt here: {problem}.", _BRIEF)
        said = f"{short_name(problem)}: {exceptions.message(problem)}"
        return self._as_remote_error(f" The exception could not be rebuilt here: {said}.", _TRAVEL)

    def _as_remote_error(self, reason: str, remedy: str) -> RemoteError:
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

    def _substitute(self, type_name: str, message: str) -> RemoteError:
        """Return the error that stands for an exception that could not be unpickled.

        This exception is the one that the task raised, or one of its causes.
        """
        return RemoteError(
            f"{type_name}: {message}",
            id=self.id,
            host=self.host,
            type_name=type_name,
            message=message,
        )

    def _notes(self, error: Exception) -> list[str]:
        notes = []
        if self.host is not None and self.attempts:
            notes.append(self._where())
        if self.traceback:
            notes.append(f"Traceback on the host:\n{self.traceback.rstrip()}")
        if self.stack:
            notes.append("Stack of the task when its worker crashed or was killed:\n" + "\n".join(self.stack))
        if self.stderr_tail:
            notes.append(
                "Last lines of the worker's standard error:\n" + "\n".join(f"  {line}" for line in self.stderr_tail)
            )
        own = issubclass(type(error), HandoutError)
        advice = attributes_of(error).get("remedy", "") if own else self._advice()
        if notes and advice:
            # The message may contain the advice already. The advice is also the last note, because users read the end
            # of a traceback first.
            notes.append(f"What to do: {advice}")
        return notes

    def _where(self) -> str:
        """Describe the last attempt: its number, host, duration and memory, and the hosts that were tried."""
        most = f" of {self.most_attempts}" if self.most_attempts is not None else ""
        took = f" after {_duration(self.elapsed_s)}" if self.elapsed_s else ""
        peak = self.report.get("maxrss") if self.kind != "died" else None
        memory = f"; its process took up to {peak / 1e6:.0f} MB of memory" if peak else ""
        others = f"; hosts tried: {', '.join(map(repr, self.hosts))}" if len(self.hosts) > 1 else ""
        return f"Task {self.id!r}, attempt {self.attempts}{most}, on host {self.host!r}{took}{memory}{others}."

    def _advice(self) -> str:
        """Return what the user can do about an exception that the task raised."""
        if self._met_the_limit():
            return (
                "No further process or thread can be started on that host: those of this run, or those of all programs "
                "of the login user, have reached their limit. Find the function that starts too many, which need not "
                "be the function that failed, or run fewer tasks at once."
            )
        missing = self.report.get("missing")
        if missing is not None and self.report.get("retryable"):
            return f"{_install(self)} Or raise retries= if another host may have it."
        if missing is not None:
            return (
                f"{_install(self)} A task that lacks a package is tried again only if its retry_on= names "
                "ModuleNotFoundError."
            )
        looked_up = self._looked_up_in_vain()
        if looked_up:
            return looked_up
        if self.report.get("undecided"):
            return "Fix the function, and its retry_on=, which gave no answer: another note says why."
        if self.report.get("retryable") is False:
            return "Fix the function. Its retry_on= does not allow another attempt after this exception."
        if self.attempts > 1:
            return "Fix the function, or raise retries= if one more attempt may help."
        return "Fix the function, or set retries= if another attempt may help."

    def _looked_up_in_vain(self) -> str:
        """Return what to do about a variable, a file or a program that the host does not have."""
        variable, file, folder, program = (self.report.get(name) for name in ("variable", "file", "folder", "program"))
        if variable is not None:
            return _NO_VARIABLE.format(variable, self.host)
        if file is not None:
            where = f"in the folder {folder!r} of host {self.host!r}" if folder else f"on host {self.host!r}"
            return _NO_FILE.format(file, where, _FOLDER if folder else "")
        if program is not None:
            return _NO_PROGRAM.format(program, self.host, _INTERPRETER if "/" in program else "")
        return ""

    def _met_the_limit(self) -> bool:
        """Return True if the operating system refused to start one more process or thread for the task."""
        kind, said = self.report.get("type", ""), str(self.report.get("message"))
        if kind != "BlockingIOError":
            return kind == "RuntimeError" and _NO_THREAD in said
        # Busy locks, sockets and pipes raise the same error, so the innermost frame of the traceback decides: it shows
        # whether the task was starting a process.
        innermost = self.traceback.rpartition('  File "')[2]
        return _NO_PROCESS in said and _STARTS.search(innermost) is not None


def failure(error: BaseException) -> Failure | None:
    """Return the `Failure` behind an exception that `execute` raised.

    Args:
        error: An exception that a run or an access to its results raised.

    Returns:
        The failure, or None if the exception does not come from a task.

    Example:
        ```python
        try:
            await handout.execute(graph)
        except Exception as error:
            failure = handout.failure(error)
            if failure is not None:
                print(failure.id, failure.host, failure.attempts)
        ```
    """
    if not issubclass(type(error), BaseException):
        return None
    found = attributes_of(error).get(_ATTRIBUTE)
    return found if isinstance(found, Failure) else None


def bare_exception(failure: Failure) -> Exception:
    """Return the exception of a failure without adding notes, for callers that do not know all facts yet."""
    return failure._build() if failure._exception is None else failure._exception


def lost_class(failure: Failure) -> type[BaseException] | None:
    """Return the class of a task's exception, if the class is known here and the exception may not load.

    If the host has ``trust="data"``, only one class is known, by its name: that of the error for a missing package.
    """
    if failure.pickled:
        return exceptions.load_class(failure.pickled)
    report = failure.report
    is_missing = report.get("missing") is not None and report.get("type") == ModuleNotFoundError.__name__
    return ModuleNotFoundError if is_missing else None


def may_have_run(failure: Failure) -> bool:
    """Return True if the worker may have called the task's function in the failed attempt."""
    if failure.kind == "cancelled" and not failure.report.get("elapsed_s"):
        return False
    if _made_value(failure):
        return False
    return failure.report.get("argument") is not True  # True: the host had no room for an argument


def _made_value(failure: Failure) -> bool:
    """Return True if the attempt failed while a warm value was made for the task."""
    return failure.report.get("recipe") is not None


def from_report(id: str, host: str, attempts: int, report: dict[str, Any], pickled: bytes | None) -> Failure:
    """Return the failure that an agent's ``failed`` message describes.

    All texts of the message are made safe for a terminal. The pickled exception is data, and stays as it is. It is None
    for a host with ``trust="data"``: unpickling may run any code, so only the text of such an exception is used.
    """
    report = {name: printable(value) if isinstance(value, str) else value for name, value in report.items()}
    if pickled is None:
        report["data_only"] = True
    return Failure(
        id=id,
        kind=str(report.get("kind", "raised")),
        host=host,
        attempts=attempts,
        traceback=str(report.get("text") or ""),
        stderr_tail=tuple(map(printable_line, report.get("stderr") or ())),
        stack=tuple(map(printable_line, report.get("stack") or ())),
        hosts=(host,),
        elapsed_s=float(report.get("elapsed_s") or 0.0),
        report=report,
        pickled=pickled or b"",
    )


def of_exception(
    id: str, error: Exception, *, kind: str, host: str | None, attempts: int, facts: Failure | None = None
) -> Failure:
    """Return the failure for an error that was made on the controller, not on a host.

    Args:
        id: The id of the function.
        error: The exception that the caller gets.
        kind: The kind of the failure, as in `Failure.kind`.
        host: The name of the host of the last attempt, or None.
        attempts: How many attempts were made.
        facts: The failure that a host reported for the same attempt. Its facts become notes of the exception.
    """
    if facts is None:
        text = exceptions.describe(error).text if error.__traceback__ else ""
        found = Failure(id=id, kind=kind, host=host, attempts=attempts, traceback=text, _exception=error)
    else:
        found = replace(facts, kind=kind, most_attempts=attempts, pickled=b"", _exception=error)
        found._annotate(error)
    found._mark(error)
    return found


_NO_VARIABLE = (
    "The variable {0!r} is not set on host {1!r}. A task has the environment that its host had when the host was "
    "connected, and the environment of the caller does not travel. To give the host the caller's value, name the "
    "variable: Host({1!r}, env=[{0!r}]). For another value, write Host({1!r}, env={{{0!r}: 'value'}})."
)
_NO_FILE = (
    "The task looked for {0!r} {1}. Files of the caller do not travel by themselves. If the file is the caller's, pass "
    "handout.File({0!r}) to the function as an argument, and open this.{2}"
)
_NO_PROGRAM = (
    "Host {1!r} has no program {0!r}{2}. Install it on the host, give its whole path, or add its folder to PATH by a "
    "line such as Host({1!r}, setup='module load ...'). A program of yours travels as handout.File."
)
_INTERPRETER = ", or not the interpreter that its first line (#!) names"
_FOLDER = (
    " If the file is on the host, give its whole path, or name the folder in which tasks begin: Host(workdir=...)."
)
#: The text of Python's error when no further thread can be started.
_NO_THREAD = "can't start new thread"
#: The text of the system's error when no further process can be started.
_NO_PROCESS = "Resource temporarily unavailable"
#: Matches the innermost frame of a traceback if the frame starts a process.
_STARTS = re.compile(r'[/\\]subprocess\.py", |\b_?(?:fork|posix_spawn)\w*\(')
#: What the user can do about a worker that was killed. The key is True if the kernel killed the worker for lack of
#: memory, False if it did not, and None if this is not known.
_KILLED: dict[bool | None, str] = {
    True: "Raise memory in the task's cost, so that the task gets a host with enough memory and fewer other tasks.",
    False: "Find out if the task itself or another program killed the process. The kernel did not kill it for lack of "
    "memory.",
    None: "Find out if the task, another program or the kernel killed the process. If it was the kernel, raise memory "
    "in the task's cost.",
}
#: The beginning of the same text, if the system limits the processor time of each process.
_LIMITED = (
    "The host kills a process that has used {:g} s of processor time. If the task needs more, raise the limit on the "
    "host (ulimit -t). If not: "
)
_OUT_OF_TIME = (
    "The process has used up the processor time that it may use. Raise the limit (ulimit -t, or RLIMIT_CPU if the task "
    "sets it), or divide the task."
)
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT})
_CRASHED = "Native code crashed: look at the stack of the task, and at the last lines of its standard error."
_CUT = "Let the task close only file descriptors that it opened itself, and start other programs with subprocess."
_ENDED = "The function, or native code that it called, ended the process: let the function return or raise instead."


def _died(self: Failure, where: dict[str, Any]) -> Exception:
    number, code, peak = self.report.get("signal"), self.report.get("exit"), self.report.get("maxrss")
    oom = self.report.get("oom") if number == signal.SIGKILL else False
    declared = self.report.get("declared") or None
    how = f"signal {number} ({_signal_name(number)})" if number else f"exit status {code}"
    cut = self.report.get("cut") is True
    if cut:
        how = "the task closed descriptors that are not its own, or replaced its process, and was ended"
    if peak:
        how += f", peak memory {peak / 1e6:.0f} MB"
    if oom:
        how += f", declared memory {declared / 1e6:.0f} MB" if declared else ", no memory declared in its cost"
    end = "was killed by the kernel for lack of memory" if oom else "died"
    return WorkerDiedError(
        f"The process that ran task {self.id!r} {end} ({how}) on host {self.host!r}. "
        f"Number of processes that have died while they ran this task: {self.report.get('deaths', 1)}."
        f"{' The last one died while it made a warm value for the task.' if _made_value(self) else ''}",
        remedy=_CUT if cut else _CRASHED if number in _CRASHES else _killed(self, oom) if number else _ENDED,
        signal=number,
        exit_code=code,
        peak_memory=peak,
        declared_memory=declared,
        out_of_memory=oom,
        stderr_tail=tuple(self.stderr_tail),
        hosts=tuple(self.hosts),
        **where,
    )


def _killed(self: Failure, oom: bool | None) -> str:
    if self.report.get("signal") == signal.SIGXCPU:
        return _OUT_OF_TIME
    limit_s = self.report.get("limit_s")
    return (_LIMITED.format(limit_s) if limit_s is not None else "") + _KILLED[oom]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown here"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1.0 else f"{seconds * 1000:.0f} ms"


def _timeout(self: Failure, where: dict[str, Any]) -> Exception:
    limit = self.report.get("limit_s") or 0.0
    problem = f"Task {self.id!r} ran for {self.elapsed_s:.1f} s, over its limit of {limit:g} s, and was killed."
    remedy = "Raise timeout_s, or let the task do less."
    if _made_value(self):
        problem = f"Task {self.id!r} was ended, because making a warm value for it took over its limit of {limit:g} s."
        remedy = "Give the function that makes the value more time: Warm(options(timeout_s=...)(make))."
    return TaskTimeoutError(
        problem,
        remedy=remedy,
        limit_s=limit,
        elapsed_s=self.elapsed_s,
        stack=tuple(self.stack),
        **where,
    )


def _memory(self: Failure, where: dict[str, Any]) -> Exception:
    limit, peak = self.report.get("limit", 0), self.report.get("peak", 0)
    return MemoryExceededError(
        f"Task {self.id!r} used {peak / 1e6:.0f} MB, over its memory cost of {limit / 1e6:.0f} MB, and was killed"
        f"{' while a warm value was made for it' if _made_value(self) else ''}.",
        remedy="Raise memory in the task's cost.",
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
    what, return_ = ("A checkpoint", "Keep") if path.startswith("checkpoint") else ("The result", "Return")
    said = self.report.get("message") or f"{path} is a {type_name}"
    if said.endswith(WARM):
        remedy = f"{return_} what the function has computed with it."
    elif type_name == "handout.File":
        remedy = "Return the File of a file or folder that exists on the host when the function returns."
    else:
        remedy = f"{return_} plain data, without locks, open files, threads or generators."
    return ResultError(
        f"{what} of task {self.id!r} cannot be serialized: {said.rstrip('.')}.",
        remedy=remedy,
        path=path,
        type=type_name,
        **where,
    )


def _too_large(self: Failure, where: dict[str, Any]) -> Exception:
    size, limit = self.report.get("size", 0), self.report.get("limit", 0)
    return ResultTooLargeError(
        f"The result of task {self.id!r} has {size} bytes, over its max_result_bytes of {limit}, and was not kept.",
        remedy="Return less, or a handout.File, or raise max_result_bytes.",
        size=size,
        limit=limit,
        **where,
    )


def _cancelled(self: Failure, where: dict[str, Any]) -> Exception:
    if self.caused_by is not None:
        why = f", because {self.caused_by!r} failed or was cancelled"
    else:
        why = " by the caller: with cancel(), or because the block of its run was left before the task had ended"
    return TaskCancelledError(f"Task {self.id!r} was cancelled{why}.", **where)


def _lost(self: Failure, where: dict[str, Any]) -> Exception:
    said = str(self.report.get("message") or "").rstrip(".")
    return TaskError(
        f"Task {self.id!r} was lost on host {self.host!r}{f': {said}' if said else ''}. Its function did not fail.",
        remedy="Find out what is wrong on that host, or give the function host= with the name of another host. If the "
        "function changes the user, the root folder or the limits of its process, let it do this in a subprocess.",
        **where,
    )


def refused(problem: str, type_name: str, **where: Any) -> TrustError:
    """Return the error for a result that holds something other than data. Its host has ``trust="data"``."""
    return TrustError(
        f"The result of task {where['id']!r} came from host {where['host']!r}, from which only data is accepted "
        f"(trust='data'), and {problem}.",
        remedy=_DATA,
        type=type_name,
        **where,
    )


def _input(self: Failure, where: dict[str, Any]) -> Exception:
    if self.report.get("type", "").endswith(".RefusedError"):
        return TrustError(
            f"An input of task {self.id!r} came from a host from which only data is accepted (trust='data'), "
            f"and {self.report.get('message', '')}. Host {self.host!r} refused this input.",
            remedy=_DATA,
            type=str(self.report.get("message", "")).removeprefix("it holds "),
            **where,
        )
    problem = f"Task {self.id!r} could not be started on host {self.host!r}: {self.report.get('message', '')}"
    missing = self.report.get("missing")
    if missing is None:
        return TaskError(problem, **where)
    tried = ", ".join(map(repr, self.hosts))
    return TaskError(
        f"{problem.rstrip('.')}. Hosts that were tried, because another host may have the package: {tried}.",
        remedy=_install(self),
        **where,
    )


def _install(self: Failure) -> str:
    """Return what the user can do about a package that a host lacks."""
    python = self.report.get("python")
    missing = str(self.report["missing"])
    package = missing.rpartition(".")[0]  # a package that the host lacks would itself be the missing module
    what = f"a version of {package!r}, or another package, that has {missing!r}," if package else repr(missing)
    return (
        f"Install {what} for the Python of that host{f', {python}' if python else ''}, or name "
        "another Python in the entry of the host: Host(..., python=...). Or give the function host= with the name of a "
        "host that has the package."
    )


def _disk(self: Failure, where: dict[str, Any]) -> HandoutError:
    what = "an argument" if self.report.get("argument") else "the result"
    return TaskError(
        f"Host {self.host!r} could not store {what} of task {self.id!r}: {self.report.get('message', '').rstrip('.')}.",
        remedy="Free space on that host, raise the limit that is named, or give the task a disk cost.",
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
    "host": _lost,
    "input": _input,
    "disk": _disk,
}
