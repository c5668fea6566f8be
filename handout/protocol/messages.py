"""Every message between the controller, the agent, the workers and the supervisor: names, fields, types and units.

A message is a `NamedTuple`. Its name on the link is its key in one of the six tables at the end of this module, one
table for each direction of each link. A table is a `TypedDict` of handlers. The type checkers refuse an end of
a link that lacks a handler, or whose handler takes another message.

`handout.protocol.codec` turns messages into bytes. This module only declares them:

- A ``Column`` has one entry for each row. All columns of a message have the same number of rows.
- A field with a default may be left out.
- A payload is bytes that travel beside the fields without being encoded as JSON. The docstring of a message that has
  a payload says so.

``docs/protocol.md`` is drawn from this module by ``tools/draw_protocol.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, TypedDict, TypeVar, get_args, get_type_hints

__all__ = [
    "FROM_SUPERVISOR",
    "FROM_WORKER",
    "INLINE",
    "TO_AGENT",
    "TO_CONTROLLER",
    "TO_SUPERVISOR",
    "TO_WORKER",
    "AnyMessage",
    "Handler",
    "LineHandler",
]

T = TypeVar("T")
M = TypeVar("M")

#: One entry for each row.
Column = Sequence[T]
#: Any of the messages below.
AnyMessage = tuple[Any, ...]

#: Largest size in bytes of an object that travels in the payload of a message. A larger one travels as a stream between
#: controller and agent. Between agent and worker, a larger one is a file that both map.
INLINE = 64 << 10

# ---- the hello, which opens a connection between controller and agent ----------------------------------------------


class Greeting(NamedTuple):
    """The controller's hello. It names the agent and the conversation that this connection is for."""

    token: str
    """The secret that proves that the controller opened the connection: 32 random bytes in hexadecimal. The agent knows
    it from the bootstrap."""
    agent: str
    """The identity of the agent that the controller wants to reach."""
    conversation: str
    """Name of the conversation, chosen by the controller. A controller that takes over chooses a new name."""
    connection: int
    """Number of this connection, counted from 1 by the controller. The agent refuses a connection if the same
    conversation has had one with an equal or higher number, because then this one was delayed on the way."""
    takeover: bool = False
    """True if this controller takes over from another one. The agent then ends the other one's conversation and sends
    `Holdings`."""


class Welcome(NamedTuple):
    """The agent's hello, which answers a greeting."""

    agent: str
    """The agent's identity."""
    error: str = ""
    """Why the agent refuses the connection, which it then closes; empty if it accepts the connection."""


class Progress(NamedTuple):
    """How far a side has received the conversation; both hellos carry it under ``state``. See `Session`."""

    number: int
    """Number of the last message that this side has received. The peer sends all later messages again."""
    streams: Mapping[str, int]
    """Incoming streams by number: how many bytes this side has received. The peer continues from there."""


# ---- from the controller to the agent ------------------------------------------------------------------------------


class Functions(NamedTuple):
    """Functions that tasks will call. Sent before the first task that calls them.

    Payload: the pickled functions, one after another, at most 64 MiB together.
    """

    numbers: Column[int]
    """Number of the function, the same for equal functions of all runs of one controller."""
    sizes: Column[int]
    """Bytes of the pickled function."""


class WorkerOptions(NamedTuple):
    """The options of a function that its worker must know; a part of `NewTaskClass` and of `SetUp`.

    A worker is set up with these options, and runs only tasks with equal ones. A field that has the name of an option
    in `handout.Options` gets the value of that option.
    """

    memory_limit: int | None = None
    """Bytes of memory above which a task is killed. None: no limit."""
    max_result_bytes: int | None = None
    """Largest size in bytes of each object of a result. None: no limit."""


class NewTaskClass(NamedTuple):
    """What the tasks of one task class have in common. Sent before the first task of the class."""

    number: int
    """Number of the task class."""
    need: Mapping[str, int]
    """Amounts that a task takes from the host's ledger while it runs, in parts (1/10,000 of a unit)."""
    threads: int = 1
    """Threads that numerical libraries may use in a task."""
    shared_loop: bool = False
    """True for coroutines that run beside each other in the event loop of one worker."""
    timeout_s: float | None = None
    """Seconds after which an attempt is ended. None: no limit."""
    alone: bool = False
    """True if a worker gets a task of the class only after its previous task has ended. This is so for tasks that are
    not idempotent. Otherwise a task that kills its worker could force another one to start twice."""
    options: WorkerOptions = WorkerOptions()
    """The options that the workers of these tasks are set up with."""
    bundle: int | None = None
    """Key of the source bundle that workers import the user's modules from. None: the tasks need no bundle."""


class Objects(NamedTuple):
    """Small objects for the agent's store.

    Payload: the objects, one after another. Each has at most 64 KiB.
    """

    keys: Column[int]
    """Key of the object: run and number. The key of a source bundle is lower than that of any object of a run."""
    sizes: Column[int]
    """Bytes of the object."""


class Tasks(NamedTuple):
    """Attempts of tasks, handed over to the agent. The agent starts each attempt when its inputs are in the store and
    the host's ledger has room for it.

    Payload: the pickled calls, one after another. The controller splits messages above 4 MiB.
    """

    attempt_ids: Column[int]
    """Id of the attempt: run, task and attempt number; see `numbering`."""
    functions: Column[int]
    """Number of the function to call."""
    task_classes: Column[int]
    """Number of the task class."""
    call_sizes: Column[int]
    """Bytes of the pickled call."""
    inputs: Column[Sequence[int]]
    """Keys of the objects that the call takes."""
    outputs: Column[Sequence[int]]
    """Keys of the objects that the result becomes: one for the whole result, then one for each element that is taken
    from it. -1 in place of a key: no task and no caller needs this object."""
    keep: Column[int]
    """1 if small results also stay in the agent's store, 0 if only the controller gets them."""
    names: Column[str]
    """Id of the function in its graph, for ``handout.current()``."""
    attempt_numbers: Column[int]
    """1 for the first attempt of a task."""
    variants: Column[int]
    """Index of the chosen variant of the cost, counted from 0."""


class StreamObject(NamedTuple):
    """Announces a stream of chunks that carries one object. It gives the receiver the object's key and size."""

    stream: int
    """Number of the stream, counted by its sender."""
    key: int
    """Key of the object."""
    size: int
    """Bytes of the object."""


class StopStream(NamedTuple):
    """The rest of a stream will not come, because the sender has lost the source."""

    stream: int
    """Number of the stream."""


class Fetch(NamedTuple):
    """The controller wants an object. The agent answers with `StreamObject` or `Missing`."""

    key: int
    """Key of the object."""


class Drop(NamedTuple):
    """No task needs these objects on this host any more. The agent deletes them."""

    keys: Column[int]
    """Key of the object."""


class Distrust(NamedTuple):
    """Objects that the controller sends next have passed through a host with ``trust="data"``. Workers read them with
    the restricted reader instead of unpickling them.
    """

    keys: Column[int]
    """Key of the object."""
    types: Sequence[Any]
    """The classes that the restricted reader accepts in addition to its own; see `reader.registered`."""


class Cancel(NamedTuple):
    """End attempts. The agent does not start those that wait, and ends those that run."""

    attempt_ids: Column[int]
    """Id of the attempt. The agent ignores attempts that it does not have."""
    grace_s: float
    """Seconds between SIGTERM and SIGKILL."""


class Recall(NamedTuple):
    """Recall attempts that have not started. The agent answers with `Recalled` for these. Running attempts go on."""

    attempt_ids: Column[int]
    """Id of the attempt. The agent ignores attempts that it does not have."""


class Release(NamedTuple):
    """Code that no open run uses any more. The agent drops the code once none of the agent's tasks needs it, and has
    its workers drop it too. If the controller sends the code again first, the agent keeps it.
    """

    functions: Sequence[int]
    """Numbers of functions."""
    task_classes: Sequence[int]
    """Numbers of task classes. The controller does not use the numbers again."""
    bundles: Sequence[int]
    """Keys of source bundles."""


class Limits(NamedTuple):
    """What the agent's ledger may grant to tasks from now on."""

    amounts: Mapping[str, int]
    """Amounts by name, in parts (1/10,000 of a unit)."""
    devices: Column[int]
    """Memory of each GPU in bytes, multiplied by 10,000 (in parts)."""


class RunProgram(NamedTuple):
    """Run a program outside all tasks. Trackers use it to find out what a host offers. The answer is `ProgramEnded`."""

    id: int
    """Number of the request."""
    argv: Sequence[str]
    """The program and its arguments."""
    timeout_s: float
    """Seconds after which the program is killed."""


class Stop(NamedTuple):
    """End the agent and all its processes. The connection closes when no process is left on the host."""


# ---- from the agent to the controller ------------------------------------------------------------------------------


class Finished(NamedTuple):
    """Attempts that returned a result.

    Payload: the inline objects of all results, one after another.
    """

    attempt_ids: Column[int]
    """Id of the attempt."""
    elapsed_us: Column[int]
    """Microseconds that the attempt ran."""
    sizes: Column[Sequence[int]]
    """Bytes of each object of the result; -1 for an object that is not needed."""
    inline_sizes: Column[Sequence[int]]
    """Bytes of each object of the result in the payload; -1 for an object that is not needed, or that is only in the
    agent's store."""


class Failed(NamedTuple):
    """An attempt that failed. The kind decides which other fields are set.

    Payload: the pickled exception, if there is one; at most 16 MiB.
    """

    attempt_id: int
    """Id of the attempt."""
    kind: str
    """``raised``, ``exited``, ``died``, ``timeout``, ``memory``, ``cancelled``, ``unserializable``, ``too_large``,
    ``input``, ``disk`` or ``host``."""
    type: str = ""
    """Qualified name of the exception's class."""
    message: str = ""
    """Text of the exception, or a description of the failure."""
    text: str = ""
    """The traceback."""
    elapsed_s: float = 0.0
    """Seconds that the attempt ran."""
    maxrss: int | None = None
    """The largest memory of the worker's process, in bytes."""
    stderr: Sequence[str] = ()
    """The last lines that the task wrote to its standard error."""
    stack: Sequence[str] = ()
    """The task's stack when it crashed or was ended, innermost frame first."""
    exit: int | str | None = None
    """``exited``, ``died``: the exit status, or the text given to `sys.exit`."""
    signal: int | None = None
    """``died``: the signal that killed the worker."""
    oom: bool | None = None
    """``died`` by SIGKILL: True if the kernel killed the worker for lack of memory, False if it did not, None if the
    agent cannot know."""
    cut: bool = False
    """``died``: True if the task closed the worker's descriptors, or replaced the worker's process."""
    declared: int | None = None
    """``died``: memory in the task's cost, in bytes."""
    limit_s: float | None = None
    """``timeout``: the limit, in seconds."""
    limit: int | None = None
    """``memory``, ``too_large``: the limit, in bytes."""
    peak: int | None = None
    """``memory``: the largest memory that the agent measured, in bytes."""
    size: int | None = None
    """``too_large``: bytes of the object."""
    path: str | None = None
    """``unserializable``: path to the part that cannot be pickled. ``disk``: the folder that is full."""
    culprit: str | None = None
    """``unserializable``: class of the part that cannot be pickled."""
    need: int | None = None
    """``disk``: bytes that did not fit."""
    free: int | None = None
    """``disk``: bytes that were free."""
    argument: bool = False
    """``disk``: True if there was no room for an argument, so that the function was not called."""


class Recalled(NamedTuple):
    """Attempts that go back to the controller without having started. The controller sent `Recall`, the producer of an
    input failed on the host, or the lease ended.
    """

    attempt_ids: Column[int]
    """Id of the attempt."""


class Started(NamedTuple):
    """Attempts that have been running for 50 ms. The agent does not report the start of shorter ones."""

    attempt_ids: Column[int]
    """Id of the attempt."""


class Stored(NamedTuple):
    """Objects that were streamed to the agent and are in its store now."""

    keys: Column[int]
    """Key of the object."""
    sizes: Column[int]
    """Bytes of the object."""


class Missing(NamedTuple):
    """The answer to a `Fetch` of an object that the agent does not have."""

    key: int
    """Key of the object."""


class Log(NamedTuple):
    """Output of a running task. The agent sends it in turn with the streams, so that it never delays another message.

    Payload: whole lines, at most 64 KiB.
    """

    attempt_id: int
    """Id of the attempt."""
    fd: int
    """1 for standard output, 2 for standard error."""
    dropped: int
    """How many lines the agent dropped before these, because the task printed faster than the link could send."""


class ProgramEnded(NamedTuple):
    """The answer to `RunProgram`.

    Payload: the first MiB of the program's output, standard error included.
    """

    id: int
    """Number of the request."""
    status: int
    """Exit status. The negative number of the signal if a signal killed the program; 127 if it could not be started."""


class Holdings(NamedTuple):
    """The attempts and objects that the agent has from an earlier controller. The first message after a takeover."""

    attempt_ids: Sequence[int]
    """Ids of the attempts that have not ended, and of those whose end the earlier controller has not confirmed."""
    keys: Column[int]
    """Key of the object."""
    sizes: Column[int]
    """Bytes of the object."""
    shift: int
    """The highest number of a function, a task class or a bundle that the agent has seen. The new controller counts its
    own from 1 and adds this number, so that no number is used twice."""


# ---- from the agent to a worker ------------------------------------------------------------------------------------


class SetUp(NamedTuple):
    """Sets up a blank worker. Sent once, before the first batch."""

    host: str
    """Name of the host, as in the inventory."""
    folders: Sequence[str]
    """The store's folder in memory and its folder on disk."""
    scratch: str
    """Folder in which the worker makes the scratch folders of its tasks."""
    env: Mapping[str, str]
    """Environment variables to set."""
    nonce: str
    """16 bytes in hexadecimal. Each mark in the worker's output begins with them; see `output_capture`."""
    suffix: str
    """The end of the name of each file that the worker writes into the store, until the agent renames the file."""
    bundle_path: str | None = None
    """File of the source bundle, or None."""
    shared_loop: bool = False
    """True if tasks are coroutines that run beside each other."""
    options: WorkerOptions = WorkerOptions()
    """The options of the worker's tasks."""
    group: str | None = None
    """Folder of the worker's control group; None if its tasks have no memory limit or the host has no such groups."""


class Batch(NamedTuple):
    """Tasks to run one after another in this order. A worker with a shared loop runs them beside each other.

    Payload: the pickled functions, the objects, then the pickled calls.
    """

    first_number: int
    """Number of the first task of the batch. The agent counts the tasks of each worker from 1."""
    outputs: Column[Sequence[int]]
    """Keys of the objects that the result becomes; -1 for an object that is not needed."""
    functions: Column[int]
    """Number of the function to call."""
    call_sizes: Column[int]
    """Bytes of the pickled call."""
    inputs: Column[Sequence[int]]
    """Keys of the objects that the call takes."""
    names: Column[str]
    """Id of the function in its graph."""
    attempt_numbers: Column[int]
    """1 for the first attempt of a task."""
    variants: Column[int]
    """Index of the chosen variant of the cost, counted from 0."""
    new_functions: Sequence[int] = ()
    """Numbers of the functions that the worker does not have yet."""
    new_function_sizes: Sequence[int] = ()
    """Bytes of each of these functions."""
    objects: Sequence[int] = ()
    """Keys of the small inputs whose bytes are in the payload. Larger inputs are files in the store."""
    object_sizes: Sequence[int] = ()
    """Bytes of each of these objects."""
    distrusted: Sequence[int] = ()
    """Keys of the inputs that the worker must read with the restricted reader."""
    types: Sequence[Any] = ()
    """See `Distrust`."""


class ForgetFunctions(NamedTuple):
    """Drop functions, because no task needs them any more."""

    numbers: Column[int]
    """Number of the function."""


class CancelCoroutines(NamedTuple):
    """Cancel tasks of a shared loop."""

    numbers: Column[int]
    """Number of the task on this worker."""


# ---- from a worker to the agent ------------------------------------------------------------------------------------


class BatchReport(NamedTuple):
    """How tasks ended. A worker sends it after a batch, and earlier if a task takes long or the report is large.

    Payload: the inline objects of all results, one after another.
    """

    numbers: Column[int]
    """Number of a task that returned a result."""
    elapsed_us: Column[int]
    """Microseconds that the task ran."""
    sizes: Column[Sequence[int]]
    """Bytes of each object of the result; -1 for an object that is not needed."""
    inline_sizes: Column[Sequence[int]] | None = None
    """Bytes of each object in the payload, -1 for an object that is a file. None: all objects are in the payload."""
    folders: Column[Sequence[int]] | None = None
    """For each object that is a file, the index of the store's folder that has the file. None: there are no files."""
    skipped: Sequence[int] = ()
    """Numbers of tasks that were recalled before they started."""
    lacking: Sequence[int] = ()
    """Numbers of tasks that the worker did not run because an input is not on the host. The producer of the input
    failed, or the input was dropped."""
    leaving: bool = False
    """True if the worker ends now and takes no more tasks."""


class TaskFailure(NamedTuple):
    """A task that failed. The worker reports the tasks that ended before, and then sends this at once.

    Payload: the pickled exception, if there is one.
    """

    number: int
    """Number of the task on this worker."""
    elapsed_us: int
    """Microseconds that the task ran."""
    kind: str
    """See `Failed`, which has this field and all further ones."""
    type: str = ""
    """Qualified name of the exception's class."""
    message: str = ""
    """Text of the exception."""
    text: str = ""
    """The traceback."""
    maxrss: int | None = None
    """The largest memory of the worker's process, in bytes."""
    exit: int | str | None = None
    """``exited``: the value that was given to `sys.exit`."""
    limit: int | None = None
    """``too_large``: the limit, in bytes."""
    size: int | None = None
    """``too_large``: bytes of the object."""
    path: str | None = None
    """``unserializable``: path to the part that cannot be pickled. ``disk``: the folder that is full."""
    culprit: str | None = None
    """``unserializable``: class of that part."""
    need: int | None = None
    """``disk``: bytes that did not fit."""
    free: int | None = None
    """``disk``: bytes that were free."""


# ---- between the agent and the supervisor --------------------------------------------------------------------------


class Spawn(NamedTuple):
    """Fork a worker. Descriptors of its link, standard output, standard error and shared page travel with the line."""

    worker: int
    """Number of the worker, counted by the agent."""
    fds: int
    """How many descriptors travel with the line."""


class Kill(NamedTuple):
    """End a worker and all processes that it started."""

    worker: int
    """Number of the worker."""
    grace_s: float
    """Seconds between SIGTERM and SIGKILL. 0: SIGKILL at once, without SIGTERM."""


class SendSignal(NamedTuple):
    """Send a signal to a worker's process, but to no process that the worker started."""

    worker: int
    """Number of the worker."""
    number: int
    """Number of the signal."""


class ShutDown(NamedTuple):
    """End all processes of this agent on the host. The descriptor of the controller's connection travels with the line.
    The supervisor holds it open until no process is left.
    """

    fds: int
    """1 if there is a connection, or else 0."""


class Forked(NamedTuple):
    """The supervisor has forked a worker."""

    worker: int
    """Number of the worker."""
    pid: int
    """Id of its process."""


class WorkerGone(NamedTuple):
    """A worker and all processes that it started have ended."""

    worker: int
    """Number of the worker."""
    status: int = 0
    """The status of its process, as `os.waitpid` returns it."""
    rss: int = 0
    """The largest memory of its process, in bytes."""
    lapsed: bool = False
    """True if the supervisor killed the worker because the lease had ended."""
    error: str = ""
    """Why the system refused to fork the worker; empty if the worker was forked."""


class LeaseLapsed(NamedTuple):
    """The supervisor saw the lease end and kills the workers."""


# ---- the directions: what each end must handle ---------------------------------------------------------------------

#: Handles a message. The first argument is ``self`` if the handler is a method, or else the sender of the message. The
#: second is the message, and the third is its payload.
Handler = Callable[[Any, M, memoryview], None]
#: Handles a message of the supervisor's socket, which has no payload.
LineHandler = Callable[[Any, M], None]


class ToAgent(TypedDict):
    """What the controller sends to the agent."""

    functions: Handler[Functions]
    new_task_class: Handler[NewTaskClass]
    objects: Handler[Objects]
    tasks: Handler[Tasks]
    stream_object: Handler[StreamObject]
    stop_stream: Handler[StopStream]
    fetch: Handler[Fetch]
    drop: Handler[Drop]
    distrust: Handler[Distrust]
    cancel: Handler[Cancel]
    recall: Handler[Recall]
    release: Handler[Release]
    limits: Handler[Limits]
    run_program: Handler[RunProgram]
    stop: Handler[Stop]


class ToController(TypedDict):
    """What the agent sends to the controller."""

    finished: Handler[Finished]
    failed: Handler[Failed]
    recalled: Handler[Recalled]
    started: Handler[Started]
    stored: Handler[Stored]
    stream_object: Handler[StreamObject]
    missing: Handler[Missing]
    log: Handler[Log]
    program_ended: Handler[ProgramEnded]
    holdings: Handler[Holdings]


class ToWorker(TypedDict):
    """What the agent sends to a worker."""

    set_up: Handler[SetUp]
    batch: Handler[Batch]
    cancel_coroutines: Handler[CancelCoroutines]
    forget_functions: Handler[ForgetFunctions]


class FromWorker(TypedDict):
    """What a worker sends to the agent."""

    batch_report: Handler[BatchReport]
    task_failure: Handler[TaskFailure]


class ToSupervisor(TypedDict):
    """What the agent sends to the supervisor."""

    spawn: LineHandler[Spawn]
    kill: LineHandler[Kill]
    send_signal: LineHandler[SendSignal]
    shut_down: LineHandler[ShutDown]


class FromSupervisor(TypedDict):
    """What the supervisor sends to the agent."""

    forked: LineHandler[Forked]
    worker_gone: LineHandler[WorkerGone]
    lease_lapsed: LineHandler[LeaseLapsed]


def _by_name(table: type) -> dict[str, type[AnyMessage]]:
    """Return the messages of a direction by name, from the annotations of its table."""
    return {name: get_args(handler)[0][1] for name, handler in get_type_hints(table).items()}


TO_AGENT = _by_name(ToAgent)
TO_CONTROLLER = _by_name(ToController)
TO_WORKER = _by_name(ToWorker)
FROM_WORKER = _by_name(FromWorker)
TO_SUPERVISOR = _by_name(ToSupervisor)
FROM_SUPERVISOR = _by_name(FromSupervisor)
