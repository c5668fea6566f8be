"""The whole error tree, split by who must act.

::

    HandoutError
    ├── GraphError                the graph's author
    │   ├── CostError             a cost that cannot be read
    │   └── UnserializableError   an argument or function that cannot travel
    ├── PlacementError            nothing fits: change the cost or the inventory
    │   └── AllocatorError        the allocator's author
    ├── TaskError                 user code
    │   ├── RemoteError           its own exception could not travel, or would be mistaken for the caller's
    │   ├── ResultError           the result could not be serialized
    │   ├── ResultTooLargeError   the result is larger than it may be
    │   ├── TrustError            a host of which only data is taken sent something else
    │   ├── TaskExitedError       it called sys.exit()
    │   ├── WorkerDiedError       its process died under it
    │   ├── TaskTimeoutError      over its time
    │   ├── MemoryExceededError   over its memory
    │   ├── OutcomeUnknownError   may have run; not safe to repeat
    │   ├── TaskCancelledError    cancelled by the caller
    │   └── DependencyError       skipped: something it needs failed
    ├── HostError                 infrastructure
    │   ├── InventoryError        the inventory cannot be read
    │   ├── HostUnreachableError  no connection
    │   ├── HostKeyError          wrong or unknown host key
    │   ├── AuthenticationError   the host refused the user
    │   ├── BootstrapError        connected, but the agent did not start
    │   ├── HostLostError         was there, is gone
    │   └── HostUnstableError     was lost again and again: left alone for a while
    ├── JournalError              a file that cannot record, or resume, a run
    ├── RunTimeoutError           the run was over its own time
    ├── WireError                 the other side spoke nonsense
    └── InternalError             our bug

Fields are attributes, the message derives from them, and every class pickles.
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
    """Base of everything that Handout raises of its own accord.

    Args:
        problem: What was tried, on what, and why it failed.
        remedy: What the reader can do next; printed as the last sentence.
        **fields: Facts about the failure, kept as attributes.
    """

    #: What was tried, on what, and why it failed.
    problem: str
    #: What the reader can do about it, or "".
    remedy: str

    def __init__(self, problem: str = "", *, remedy: str = "", **fields: Any) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.__dict__.update(fields)

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        # Everything else as state, not as arguments: fields may refer back to the error.
        return type(self), (self.problem,), dict(self.__dict__)


class GraphError(HandoutError):
    """The graph is wrong: nothing was run."""


class CostError(GraphError):
    """A cost or capability could not be read. Fields: ``name``, ``value``."""

    name: str = ""
    value: Any = None


class UnserializableError(GraphError):
    """An argument or a function cannot travel. Fields: ``path`` to the culprit, its ``type``."""

    path: str = ""
    type: str = ""


class PlacementError(HandoutError):
    """No host can ever run a task. Fields: ``id``, ``lacks`` (text by host)."""

    id: str = ""
    lacks: dict[str, str] = {}  # noqa: RUF012 - replaced per instance, never mutated


class AllocatorError(PlacementError):
    """The allocator raised, did not answer, or proposed what was never possible."""


class TaskError(HandoutError):
    """A task failed. Fields: ``id``, ``host``, ``attempt``."""

    id: str = ""
    host: str | None = None
    attempt: int = 0


class RemoteError(TaskError):
    """A task's exception that could not travel, or that would be mistaken for the caller's own.

    Fields: ``type_name``, ``message``, ``traceback`` (text from the host).
    """

    type_name: str = ""
    message: str = ""
    traceback: str = ""


class ResultError(TaskError):
    """A result cannot be serialized. Fields: ``path`` to the culprit, its ``type``."""

    path: str = ""
    type: str = ""


class ResultTooLargeError(TaskError):
    """A result is over its ``max_result_bytes``. Fields: ``size``, ``limit`` (bytes)."""

    size: int = 0
    limit: int = 0


class TrustError(TaskError):
    """A host with ``trust="data"`` sent something that is not data; it was not made here. Fields: ``type``: what."""

    type: str = ""


class TaskExitedError(TaskError):
    """The task called ``sys.exit``. Fields: ``code``."""

    code: Any = None


class WorkerDiedError(TaskError):
    """The process died under the task, three times. Fields: ``signal``, ``exit_code``, ``peak_memory`` (bytes),
    ``declared_memory`` (bytes, of its cost), ``out_of_memory`` (whether the kernel killed it for lack of memory; None
    where that is not known), ``stderr_tail``, ``hosts`` tried.
    """

    signal: int | None = None
    exit_code: int | None = None
    peak_memory: int | None = None
    declared_memory: int | None = None
    out_of_memory: bool | None = None
    stderr_tail: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


class TaskTimeoutError(TaskError):
    """The task ran over its time and was killed. Fields: ``limit_s``, ``elapsed_s``, ``stack`` (where it was)."""

    limit_s: float = 0.0
    elapsed_s: float = 0.0
    stack: tuple[str, ...] = ()


class MemoryExceededError(TaskError):
    """The task used more memory than it may. Fields: ``limit``, ``peak`` (bytes)."""

    limit: int = 0
    peak: int = 0


class OutcomeUnknownError(TaskError):
    """A task marked ``idempotent=False`` was lost while it may have run: it is not run again."""


class TaskCancelledError(TaskError):
    """The task was cancelled by the caller."""


class DependencyError(TaskError):
    """The task was skipped: something it needs failed. Fields: ``caused_by``, ``chain`` (ids, root last)."""

    caused_by: str = ""
    chain: tuple[str, ...] = ()


class HostError(HandoutError):
    """Infrastructure failed. Fields: ``host``."""

    host: str = ""


class InventoryError(HostError):
    """An inventory cannot be read. Fields: ``file``, ``line``, ``key``."""

    file: str | None = None
    line: int | None = None
    key: str = ""


class HostUnreachableError(HostError):
    """No connection could be made: name, route, port, or the server refused."""


class HostKeyError(HostError):
    """The host showed a key that is unknown or not the one on record. Never retried."""


class AuthenticationError(HostError):
    """The host refused the user. Tried once. Fields: ``username``."""

    username: str = ""


class BootstrapError(HostError):
    """Connected, but the agent did not start: no Python, too old a Python, no space. Fields: ``output``."""

    output: str = ""


class HostLostError(HostError):
    """A host that was there is gone or silent. Fields: ``gone`` (its agent has certainly ended)."""

    gone: bool = False


class HostUnstableError(HostError):
    """A host was lost again and again: it is left alone for ``pause_s`` seconds. Fields: ``losses``, ``pause_s``."""

    losses: int = 0
    pause_s: float = 0.0


class JournalError(HandoutError):
    """A journal that is in use, of another format, or cannot be read or written. Fields: ``path``."""

    path: str = ""


class RunTimeoutError(HandoutError, TimeoutError):
    """The run was over its ``timeout_s``; it was cancelled.

    Fields: ``limit_s``, ``tasks`` (how many it had), ``unfinished`` (how many of them had not ended). The message says
    of some of those where they were.
    """

    limit_s: float = 0.0
    tasks: int = 0
    unfinished: int = 0


class WireError(HandoutError):
    """The other side sent what the protocol does not allow; the connection is closed."""


class InternalError(HandoutError):
    """Handout broke a promise it made to itself: please report it."""
