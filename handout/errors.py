"""The classes of errors, as a tree. The text beside a class says who must act, or what has gone wrong.

```
HandoutError
├── GraphError                the author of the graph
│   ├── CostError             a cost or a capability that cannot be read
│   ├── NotAValueError        an output was used as if it were a value
│   └── UnserializableError   an argument or a function that cannot be serialized
├── PlacementError            no host covers a cost: change the cost or the inventory
│   └── AllocatorError        the author of the allocator
├── TaskError                 the author of a function
│   ├── RemoteError           an exception that cannot be passed on to the caller as it is
│   ├── ResultError           a result that cannot be serialized
│   ├── ResultTooLargeError   a result larger than max_result_bytes
│   ├── TrustError            a host with trust="data" sent something other than data
│   ├── TaskExitedError       the function called sys.exit()
│   ├── WorkerDiedError       the worker died while it ran the task
│   ├── TaskTimeoutError      the task ran longer than timeout_s
│   ├── MemoryExceededError   the task took more memory than its cost says
│   ├── OutcomeUnknownError   the task may have run, and must not be repeated
│   ├── TaskCancelledError    the caller cancelled the task
│   └── DependencyError       the task was skipped, because a task that it depends on failed
├── HostError                 the administrator of the hosts
│   ├── InventoryError        an inventory that cannot be read
│   ├── HostUnreachableError  the controller cannot connect
│   ├── HostKeyError          a wrong or unknown host key
│   ├── AuthenticationError   the host refused the login
│   ├── BootstrapError        the controller connected, but the agent did not start
│   │   ├── SetupError        the setup line of a host failed
│   │   └── WorkdirError      tasks cannot run in the folder that the entry of a host names
│   ├── HostLostError         the host is gone or silent
│   └── HostUnstableError     the host was lost again and again
├── JournalError              a journal that cannot record or resume a run
├── DamagedFileError          a result on the controller's disk is not as it was written
├── RunTimeoutError           the run took longer than timeout_s
├── WireError                 a message that the protocol does not allow
└── InternalError             a defect of Handout
```

A program can read the facts about an error from its attributes. The message tells the most important facts in words.
Every error can be pickled.
"""

from __future__ import annotations

from typing import Any

from handout.serialization.printable import printable

__all__ = [
    "AllocatorError",
    "AuthenticationError",
    "BootstrapError",
    "CostError",
    "DamagedFileError",
    "DependencyError",
    "GraphError",
    "HandoutError",
    "HostError",
    "HostKeyError",
    "HostLostError",
    "HostUnreachableError",
    "HostUnstableError",
    "InternalError",
    "InventoryError",
    "JournalError",
    "MemoryExceededError",
    "NotAValueError",
    "OutcomeUnknownError",
    "PlacementError",
    "RemoteError",
    "ResultError",
    "ResultTooLargeError",
    "RunTimeoutError",
    "SetupError",
    "TaskCancelledError",
    "TaskError",
    "TaskExitedError",
    "TaskTimeoutError",
    "TrustError",
    "UnserializableError",
    "WireError",
    "WorkdirError",
    "WorkerDiedError",
]


class HandoutError(Exception):
    """Base class of all errors that Handout defines.

    Args:
        problem: What Handout tried to do, and why this failed.
        remedy: What the user can do next. The message ends with this text.
        **fields: Facts about the error. Each fact becomes an attribute of the error.

    Attributes:
        problem: What Handout tried to do, and why this failed.
        remedy: What the user can do next, or ``""``.

    Example:
        ```python
        try:
            results = await handout.execute(graph, inventory="missing.toml")
        except handout.InventoryError as error:
            print(error.file, error.problem, error.remedy)
        except handout.HandoutError as error:
            print(error)
        ```
    """

    problem: str
    remedy: str

    def __init__(self, problem: str = "", *, remedy: str = "", **fields: Any) -> None:
        # A message may quote text from a host.
        problem, remedy = printable(f"{problem}"), printable(f"{remedy}")
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.__dict__.update(fields)

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        # All fields are pickled as state, not as arguments, because a field may refer back to the error.
        return type(self), (self.problem,), dict(self.__dict__)


class GraphError(HandoutError):
    """The graph, or an option of a function, is wrong. No function has run."""


class CostError(GraphError):
    """A cost or a capability cannot be read.

    Attributes:
        name: The name of the amount, such as ``memory``.
        value: The value that cannot be read.
    """

    name: str = ""
    value: Any = None


class NotAValueError(GraphError, TypeError):
    """An output was used as if it were the value that it promises, for example in a condition or in a loop.

    If the program has asked for an attribute of the value, the error is an `AttributeError` too.
    """


class UnserializableError(GraphError):
    """An argument or a function cannot be serialized, so it cannot be sent to a host.

    Attributes:
        path: Where the part is that cannot be serialized, such as ``args[1].model.lock``.
        type: The type of this part.
    """

    path: str = ""
    type: str = ""


class PlacementError(HandoutError):
    """No host can ever run a task.

    Attributes:
        id: The id of the function.
        lacks: Why each host cannot run the task, by the name of the host.
    """

    id: str = ""
    lacks: dict[str, str] = {}  # noqa: RUF012 - replaced per instance, never mutated


class AllocatorError(PlacementError):
    """The allocator raised an exception, did not answer in time, or answered in a way that cannot be carried out.

    An answer cannot be carried out if it has a placement that was never possible, or a placement on a host for which no
    task waits any longer, or if it places no task although all hosts are idle and nothing is expected to change.
    """


class TaskError(HandoutError):
    """A task failed.

    Attributes:
        id: The id of the function.
        host: The name of the host of the last attempt, or None if no host had the task.
        attempt: The number of the last attempt, from 1.
    """

    id: str = ""
    host: str | None = None
    attempt: int = 0


class RemoteError(TaskError):
    """A function raised an exception that cannot be passed on to the caller as it is.

    Either the exception cannot be pickled and rebuilt, or it would disturb the caller's program. For example,
    ``StopIteration`` would end a loop in that program.

    Attributes:
        type_name: The name of the exception's type.
        message: The text of the exception.
        traceback: The traceback on the host, as text.
    """

    type_name: str = ""
    message: str = ""
    traceback: str = ""


class ResultError(TaskError):
    """A result cannot be serialized on its host, or its unpickling on the controller raised `SystemExit` or the like.

    An ordinary exception that the unpickling raises stays as it is, and gets a note that names the task.

    Attributes:
        path: Where in the result the part is that cannot be serialized.
        type: The type of this part.
    """

    path: str = ""
    type: str = ""


class ResultTooLargeError(TaskError):
    """A result is larger than the function's ``max_result_bytes``.

    Attributes:
        size: The size of the result in bytes.
        limit: The limit in bytes.
    """

    size: int = 0
    limit: int = 0


class TrustError(TaskError):
    """A host with ``trust="data"`` sent an object of a type that does not count as data. The object was not created.

    Attributes:
        type: The name of the type that was refused.
    """

    type: str = ""


class TaskExitedError(TaskError):
    """A function called ``sys.exit``.

    Attributes:
        code: The argument of ``sys.exit`` if it is a number, a text or None, and otherwise its text.
    """

    code: Any = None


class WorkerDiedError(TaskError):
    """The worker died in three attempts of the task, or five hosts were lost while they may have run it.

    Attributes:
        signal: The signal that killed the worker, or None.
        exit_code: The exit status of the worker, or None if a signal killed it.
        peak_memory: The peak memory of the worker in bytes, or None if not known.
        declared_memory: The ``memory`` of the task's cost, in bytes, or None.
        out_of_memory: True if the kernel killed the worker for lack of memory, False if not, or None if not known.
        stderr_tail: The last lines that the worker wrote to stderr.
        hosts: The names of the hosts that were tried. If five hosts were lost, only the last one is named.
    """

    signal: int | None = None
    exit_code: int | None = None
    peak_memory: int | None = None
    declared_memory: int | None = None
    out_of_memory: bool | None = None
    stderr_tail: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


class TaskTimeoutError(TaskError):
    """A task ran longer than its ``timeout_s`` and was killed.

    Attributes:
        limit_s: The limit in seconds.
        elapsed_s: Seconds for which the attempt ran.
        stack: The stack of the task when it was stopped, innermost frame first.
    """

    limit_s: float = 0.0
    elapsed_s: float = 0.0
    stack: tuple[str, ...] = ()


class MemoryExceededError(TaskError):
    """A task took more memory than its cost says, and was killed.

    Attributes:
        limit: The ``memory`` of the task's cost, in bytes.
        peak: The peak memory of the task in bytes.
    """

    limit: int = 0
    peak: int = 0


class OutcomeUnknownError(TaskError):
    """A task with ``idempotent=False`` may have run, and its outcome is not known. The task is not run again."""


class TaskCancelledError(TaskError):
    """The caller cancelled the task or a task that it depends on, or the run ended before the task did."""


class DependencyError(TaskError):
    """A task was skipped, because a function that it depends on failed.

    Attributes:
        caused_by: The id of the function that failed.
        chain: The ids of the functions on the path from the skipped function to the failed one, both included.
    """

    caused_by: str = ""
    chain: tuple[str, ...] = ()


class HostError(HandoutError):
    """One or more hosts cannot be used.

    Attributes:
        host: The name of the host, or a text with the names of several hosts.
    """

    host: str = ""


class InventoryError(HostError):
    """An inventory cannot be read, or an entry in it is wrong.

    Attributes:
        file: The path of the file, or None if the inventory is not from a file.
        line: The number of the line in the file, or None if not known.
        key: The key that is wrong, or ``""``.
    """

    file: str | None = None
    line: int | None = None
    key: str = ""


class HostUnreachableError(HostError):
    """The controller cannot connect to a host.

    For example, the host's name, route or port is wrong, or its SSH server refused the connection.
    """


class HostKeyError(HostError):
    """A host's key is not in ``known_hosts``, or differs from the key there. The controller does not try again."""


class AuthenticationError(HostError):
    """A host refused the login. The controller does not try again.

    Attributes:
        username: The user name of the login.
    """

    username: str = ""


class BootstrapError(HostError):
    """The agent did not start on a host. For example, the host has no Python, an old Python, or no free disk space.

    Attributes:
        output: The text that the host printed instead of the agent's first message.
    """

    output: str = ""


class SetupError(BootstrapError):
    """The setup line of a host failed, ended its shell, printed too much, or did not end in time.

    Attributes:
        output: The end of what the line printed. The name of a variable of ``Host(env=...)`` replaces its value.
        setup: The line.
        status: The exit status of the shell that ran the line, or None if the shell was stopped.
    """

    setup: str = ""
    status: int | None = None


class WorkdirError(BootstrapError):
    """Tasks cannot run in the folder that the entry of a host names, for example because the folder does not exist.

    Attributes:
        path: The path of the folder, as the entry has it.
    """

    path: str = ""


class HostLostError(HostError):
    """A host is lost, an object could not be copied to or from a host, or a lost object could not be made again.

    Attributes:
        gone: True if the agent has certainly ended, False if the host may only be silent.
    """

    gone: bool = False


class HostUnstableError(HostError):
    """A host was lost again and again, and is in quarantine.

    Attributes:
        losses: How often the host was lost.
        pause_s: Seconds for which the controller does not use the host.
    """

    losses: int = 0
    pause_s: float = 0.0


class JournalError(HandoutError):
    """A journal is in use, has a format that this Handout does not know, or cannot be read or written.

    Attributes:
        path: The path of the journal.
    """

    path: str = ""


class DamagedFileError(HandoutError):
    """A file on the controller's machine does not have the bytes of a result that were written to it, or is not there.

    Handout notices this by a checksum, before the bytes are used. A task of the run that still needs the result gets it
    made anew. So only a caller that takes a damaged result from a run that has ended gets this error.

    Attributes:
        path: The path of the file.
        id: The id of the function whose result was in the file. It is empty if the error was not raised by `Results`.
    """

    path: str = ""
    id: str = ""


class RunTimeoutError(HandoutError, TimeoutError):
    """A run took longer than its ``timeout_s`` and was cancelled. The message says where the unfinished tasks were.

    Attributes:
        limit_s: The limit in seconds.
        tasks: How many tasks the run had.
        unfinished: How many of these tasks had not ended.
    """

    limit_s: float = 0.0
    tasks: int = 0
    unfinished: int = 0


class WireError(HandoutError):
    """The other side of a connection sent bytes or a message that the protocol does not allow.

    The connection was closed.
    """


class InternalError(HandoutError):
    """Handout has a defect. Please report it."""
