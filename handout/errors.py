"""The error tree: each branch names the party that must act.

```
HandoutError
├── GraphError                the author of the graph
│   ├── CostError             a cost or capability that cannot be read
│   └── UnserializableError   an argument or function that cannot travel
├── PlacementError            no host covers a cost: change the cost or the inventory
│   └── AllocatorError        the author of the allocator
├── TaskError                 the author of a function
│   ├── RemoteError           an exception that cannot travel, or that the caller would take for its own
│   ├── ResultError           a result that cannot be serialized
│   ├── ResultTooLargeError   a result over its limit
│   ├── TrustError            more than data from a host with trust="data"
│   ├── TaskExitedError       the function called sys.exit()
│   ├── WorkerDiedError       the worker died under the task
│   ├── TaskTimeoutError      the task was over its time
│   ├── MemoryExceededError   the task was over its memory
│   ├── OutcomeUnknownError   the task may have run, and must not be repeated
│   ├── TaskCancelledError    the caller cancelled the task
│   └── DependencyError       the task was skipped, because another one failed
├── HostError                 the administrator of the hosts
│   ├── InventoryError        an inventory that cannot be read
│   ├── HostUnreachableError  no connection
│   ├── HostKeyError          a wrong or unknown host key
│   ├── AuthenticationError   the host refused the login
│   ├── BootstrapError        connected, but the agent did not start
│   ├── HostLostError         the host is gone or silent
│   └── HostUnstableError     the host was lost again and again
├── JournalError              a journal that cannot record or resume a run
├── RunTimeoutError           the run was over its time
├── WireError                 a message that the protocol does not allow
└── InternalError             a defect of Handout
```

Facts are attributes, and the message is made from them. Every class can be pickled.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AllocatorError",
    "AuthenticationError",
    "BootstrapError",
    "CostError",
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
    "OutcomeUnknownError",
    "PlacementError",
    "RemoteError",
    "ResultError",
    "ResultTooLargeError",
    "RunTimeoutError",
    "TaskCancelledError",
    "TaskError",
    "TaskExitedError",
    "TaskTimeoutError",
    "TrustError",
    "UnserializableError",
    "WireError",
    "WorkerDiedError",
]


class HandoutError(Exception):
    """Base of all errors that Handout raises by itself.

    Args:
        problem: What was tried, on what, and why it failed.
        remedy: What the reader can do next. It is the last sentence of the message.
        **fields: Facts about the failure, kept as attributes.

    Attributes:
        problem: What was tried, on what, and why it failed.
        remedy: What the reader can do next, or ``""``.

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
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.__dict__.update(fields)

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        # All fields travel as state, not as arguments, because a field may refer back to the error.
        return type(self), (self.problem,), dict(self.__dict__)


class GraphError(HandoutError):
    """The graph or an option of a function is wrong. No function was run."""


class CostError(GraphError):
    """A cost or capability cannot be read.

    Attributes:
        name: The name of the amount, such as ``memory``.
        value: The value that cannot be read.
    """

    name: str = ""
    value: Any = None


class UnserializableError(GraphError):
    """An argument or a function cannot travel to a host.

    Attributes:
        path: Where the object is, such as ``args[1].model.lock``.
        type: The type of the object.
    """

    path: str = ""
    type: str = ""


class PlacementError(HandoutError):
    """No host can ever run a task.

    Attributes:
        id: The id of the function.
        lacks: By host name, what the host lacks.
    """

    id: str = ""
    lacks: dict[str, str] = {}  # noqa: RUF012 - replaced per instance, never mutated


class AllocatorError(PlacementError):
    """The allocator raised, did not answer in time, or made a placement that was never possible."""


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
    """A function raised an exception that cannot travel, or that the caller would take for one of its own.

    Attributes:
        type_name: The name of the exception's type.
        message: The text of the exception.
        traceback: The traceback on the host, as text.
    """

    type_name: str = ""
    message: str = ""
    traceback: str = ""


class ResultError(TaskError):
    """A result cannot be serialized.

    Attributes:
        path: Where in the result the object is.
        type: The type of the object.
    """

    path: str = ""
    type: str = ""


class ResultTooLargeError(TaskError):
    """A result is larger than its ``max_result_bytes``.

    Attributes:
        size: The size of the result in bytes.
        limit: The limit in bytes.
    """

    size: int = 0
    limit: int = 0


class TrustError(TaskError):
    """A host with ``trust="data"`` sent more than data. The object was not made.

    Attributes:
        type: The type that was refused.
    """

    type: str = ""


class TaskExitedError(TaskError):
    """A function called ``sys.exit``.

    Attributes:
        code: The argument of ``sys.exit``.
    """

    code: Any = None


class WorkerDiedError(TaskError):
    """The worker process died under the task, three times.

    Attributes:
        signal: The signal that killed it, or None.
        exit_code: Its exit status, or None if a signal killed it.
        peak_memory: The most memory that it had, in bytes, or None if not known.
        declared_memory: The ``memory`` of the task's cost, in bytes, or None.
        out_of_memory: True if the kernel killed it for lack of memory, None if not known.
        stderr_tail: The last lines of its stderr.
        hosts: The names of the hosts that were tried.
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
        elapsed_s: Seconds that the attempt ran.
        stack: The stack of the task when it was stopped, innermost first.
    """

    limit_s: float = 0.0
    elapsed_s: float = 0.0
    stack: tuple[str, ...] = ()


class MemoryExceededError(TaskError):
    """A task took more memory than its cost says, and was killed.

    Attributes:
        limit: The limit in bytes.
        peak: The most memory that the task had, in bytes.
    """

    limit: int = 0
    peak: int = 0


class OutcomeUnknownError(TaskError):
    """A task with ``idempotent=False`` was lost while it may have run. It is not run again."""


class TaskCancelledError(TaskError):
    """The caller cancelled the task, or the run ended before it."""


class DependencyError(TaskError):
    """A task was skipped, because a function that it depends on failed.

    Attributes:
        caused_by: The id of the function that failed.
        chain: The ids from the skipped function to the one that failed, which is the last.
    """

    caused_by: str = ""
    chain: tuple[str, ...] = ()


class HostError(HandoutError):
    """Hosts cannot be used.

    Attributes:
        host: The name of the host, or several names.
    """

    host: str = ""


class InventoryError(HostError):
    """An inventory cannot be read, or names a host wrongly.

    Attributes:
        file: The path of the file, or None if the inventory is no file.
        line: The line in the file, if known.
        key: The key that is wrong.
    """

    file: str | None = None
    line: int | None = None
    key: str = ""


class HostUnreachableError(HostError):
    """The controller cannot connect to a host: its name, route or port is wrong, or the server refused."""


class HostKeyError(HostError):
    """A host showed a key that is unknown, or not the one on record. The controller does not try again."""


class AuthenticationError(HostError):
    """A host refused the login. The controller tries once.

    Attributes:
        username: The user name of the login.
    """

    username: str = ""


class BootstrapError(HostError):
    """The agent did not start on a host: no Python, too old a Python, or no space.

    Attributes:
        output: What the host printed instead.
    """

    output: str = ""


class HostLostError(HostError):
    """A host is gone or silent.

    Attributes:
        gone: True if its agent has certainly ended.
    """

    gone: bool = False


class HostUnstableError(HostError):
    """A host was lost again and again, and is in quarantine.

    Attributes:
        losses: How often it was lost.
        pause_s: Seconds for which the controller leaves it alone.
    """

    losses: int = 0
    pause_s: float = 0.0


class JournalError(HandoutError):
    """A journal is in use, has another format, or cannot be read or written.

    Attributes:
        path: The path of the journal.
    """

    path: str = ""


class RunTimeoutError(HandoutError, TimeoutError):
    """A run took longer than its ``timeout_s`` and was cancelled. The message says where unfinished tasks were.

    Attributes:
        limit_s: The limit in seconds.
        tasks: How many tasks the run had.
        unfinished: How many of them had not ended.
    """

    limit_s: float = 0.0
    tasks: int = 0
    unfinished: int = 0


class WireError(HandoutError):
    """The peer sent bytes or a message that the protocol does not allow. The connection was closed."""


class InternalError(HandoutError):
    """Handout has a defect. Please report it."""
