"""Every message between the controller, the agent, the workers and the supervisor: names, fields, types and units.

A message is a `NamedTuple`. Six tables at the end of this module list the messages: one table for each direction of
each link. The key of a message in its table is its name on the link. A table is a `TypedDict` of handlers. So a type
checker reports a receiver that lacks a handler, or whose handler takes a different message.

`handout.protocol.codec` turns messages into bytes. This module only declares them:

- A ``Column`` has one entry for each row. All columns of a message have the same number of rows.
- A sender may leave out a field that has a default.
- A payload is bytes that travel beside the fields and are not encoded as JSON. If a message has a payload, its
  docstring says so.

``tools/draw_protocol.py`` draws ``docs/protocol.md`` from this module.
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

#: A sequence with one entry for each row of a message.
Column = Sequence[T]
#: Any of the messages below.
AnyMessage = tuple[Any, ...]

#: Largest size in bytes of an object that travels in the payload of a message. Between controller and agent, a larger
#: object travels as a stream. Between agent and worker, a larger object is a file in the store.
INLINE = 64 << 10

# ---- the hello, which opens a connection between controller and agent ----------------------------------------------


class Greeting(NamedTuple):
    """The controller's hello. It names the agent and the conversation that this connection is for."""

    token: str
    """A secret by which the controller proves that it opened the connection: 32 random bytes in hexadecimal. The agent
    received the same secret from the bootstrap."""
    agent: str
    """The identity of the agent that the controller wants to reach."""
    conversation: str
    """Name of the conversation, which the controller chooses. A controller that takes over chooses a new name."""
    connection: int
    """Number of this connection. The controller counts its connections from 1. If the same conversation has already had
    a connection with an equal or higher number, this one was delayed on the way, and the agent refuses it."""
    takeover: bool = False
    """True if this controller takes over from another controller. The agent then ends the conversation with the other
    controller and sends `Holdings`."""


class Welcome(NamedTuple):
    """The agent's hello. It is the answer to a greeting."""

    agent: str
    """The agent's identity."""
    error: str = ""
    """Why the agent refuses the connection and closes it. Empty if the agent accepts the connection."""


class Progress(NamedTuple):
    """What a side has received of the conversation so far. Both hellos have this under ``state``. See `Session`."""

    number: int
    """Number of the last message that this side has received. The peer sends all later messages again."""
    streams: Mapping[str, int]
    """By number of an incoming stream: how many bytes of it this side has received. The peer continues from there."""


# ---- from the controller to the agent ------------------------------------------------------------------------------


class Functions(NamedTuple):
    """Functions that tasks will call. The controller sends a function before the first task that calls it.

    Payload: the pickled functions, one after another, at most 64 MiB together.
    """

    numbers: Column[int]
    """Number of the function. Equal functions have the same number in all runs of one controller."""
    sizes: Column[int]
    """Bytes of the pickled function."""


class WorkerOptions(NamedTuple):
    """The options of a function that its worker must know. `NewTaskClass` and `SetUp` contain them.

    The agent sets up a worker with these options, and gives it only tasks that have equal options. A field that has the
    name of an option in `handout.Options` gets the value of that option.
    """

    memory_limit: int | None = None
    """Most memory in bytes that a task may use. A task that uses more is killed. None: no limit."""
    max_result_bytes: int | None = None
    """Largest size in bytes that an object of a result may have. None: no limit."""


class NewTaskClass(NamedTuple):
    """What the tasks of one task class have in common. The controller sends it before the first task of the class."""

    number: int
    """Number of the task class."""
    need: Mapping[str, int]
    """Amounts that a task takes from the host's ledger while it runs, in parts (1/10,000 of a unit)."""
    threads: int = 1
    """Threads that numerical libraries may use in a task."""
    shared_loop: bool = False
    """True if the tasks are coroutines that run concurrently in the event loop of one worker."""
    timeout_s: float | None = None
    """Seconds after which the agent ends an attempt. None: no limit."""
    alone: bool = False
    """True if a worker gets a task of the class only after the worker's previous task has ended. This is so for tasks
    that are not idempotent: a task that is queued on a worker behind another task can start twice if the other task
    kills the worker."""
    options: WorkerOptions = WorkerOptions()
    """The options with which the agent sets up the workers of these tasks."""
    bundle: int | None = None
    """Key of the source bundle from which workers import the user's modules. None: the tasks need no bundle."""


class Objects(NamedTuple):
    """Small objects for the agent's store.

    Payload: the objects, one after another. Each has at most 64 KiB.
    """

    keys: Column[int]
    """Key of the object; see `numbering`. The key of a source bundle is lower than the keys of all objects of runs."""
    sizes: Column[int]
    """Bytes of the object."""


class Tasks(NamedTuple):
    """Attempts of tasks that the controller hands over to the agent. The agent starts an attempt when the inputs are in
    the store and the host's ledger has room for the attempt.

    Payload: the pickled calls, one after another. The controller splits messages above 4 MiB.
    """

    attempt_ids: Column[int]
    """Id of the attempt; see `numbering`."""
    functions: Column[int]
    """Number of the function to call."""
    task_classes: Column[int]
    """Number of the task class."""
    call_sizes: Column[int]
    """Bytes of the pickled call."""
    inputs: Column[Sequence[int]]
    """Keys of the objects that the call takes."""
    outputs: Column[Sequence[int]]
    """Keys of the objects that are made from the result: first the whole result, then each element that is taken from
    it. -1 in place of a key: neither a task nor the caller needs this object."""
    keep: Column[int]
    """1 if a small result also stays in the agent's store. 0 if the agent only sends it to the controller."""
    names: Column[str]
    """Id of the function in its graph. ``handout.current()`` shows it to the task."""
    attempt_numbers: Column[int]
    """Number of the attempt; 1 for the first attempt of a task."""
    variants: Column[int]
    """Index of the chosen variant of the cost, counted from 0."""


class StreamObject(NamedTuple):
    """Announces a stream of chunks that carries one object. It gives the receiver the object's key and size."""

    stream: int
    """Number of the stream. Each sender counts its own streams."""
    key: int
    """Key of the object."""
    size: int
    """Bytes of the object."""


class StopStream(NamedTuple):
    """Announces that the rest of a stream will not come, because the sender has lost the source of the bytes."""

    stream: int
    """Number of the stream."""


class Fetch(NamedTuple):
    """Ask for an object. The agent answers with `StreamObject` or `Missing`."""

    key: int
    """Key of the object."""


class Drop(NamedTuple):
    """Delete objects, because no task needs them on this host any more."""

    keys: Column[int]
    """Key of the object."""


class Distrust(NamedTuple):
    """Names objects that have passed through a host with ``trust="data"``. The controller sends the objects afterwards.
    Workers read these objects with the restricted reader instead of unpickling them.
    """

    keys: Column[int]
    """Key of the object."""
    types: Sequence[Any]
    """The classes that the restricted reader accepts in addition to its own; see `reader.registered`."""


class Cancel(NamedTuple):
    """End attempts. The agent ends attempts that run, and does not start attempts that wait."""

    attempt_ids: Column[int]
    """Id of the attempt. The agent ignores attempts that it does not have."""
    grace_s: float
    """Seconds between SIGTERM and SIGKILL."""


class Recall(NamedTuple):
    """Recall attempts. The agent answers `Recalled` for the attempts that have not started. The others go on."""

    attempt_ids: Column[int]
    """Id of the attempt. The agent ignores attempts that it does not have."""


class Release(NamedTuple):
    """Names code that no open run uses any more. The agent and its workers drop the code once none of the agent's tasks
    needs it. If the controller sends the same code again before that, the agent keeps it.
    """

    functions: Sequence[int]
    """Numbers of functions."""
    task_classes: Sequence[int]
    """Numbers of task classes. The controller never uses these numbers again."""
    bundles: Sequence[int]
    """Keys of source bundles."""


class Limits(NamedTuple):
    """Sets the amounts that the agent's ledger may grant to tasks from now on."""

    amounts: Mapping[str, int]
    """Amounts by name, in parts (1/10,000 of a unit)."""
    devices: Column[int]
    """Memory of each GPU, in parts (1/10,000 of a byte)."""


class RunProgram(NamedTuple):
    """Run a program that belongs to no task. Trackers run programs to find out what a host offers. The agent answers
    with `ProgramEnded`.
    """

    id: int
    """Number of the request."""
    argv: Sequence[str]
    """The program and its arguments."""
    timeout_s: float
    """Seconds after which the agent kills the program."""


class Stop(NamedTuple):
    """End the agent and all its processes. The connection closes when none of these processes is left on the host."""


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
    """For each object of the result, its bytes in the payload. -1 if the object is not needed, or if it is only in the
    agent's store."""


class Failed(NamedTuple):
    """An attempt that failed. If the description of a field begins with one or more kinds, such as ``died``, only
    failures of these kinds set the field.

    Payload: the pickled exception, if there is one; at most 16 MiB.
    """

    attempt_id: int
    """Id of the attempt."""
    kind: str
    """How the attempt failed: ``raised``, ``exited``, ``died``, ``timeout``, ``memory``, ``cancelled``,
    ``unserializable``, ``too_large``, ``input``, ``disk`` or ``host``."""
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
    """The task's stack at the time when the task crashed or was ended, innermost frame first."""
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
    """``died``: the memory that the task's cost states, in bytes."""
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
    """``disk``: True if there was no room for an argument. In that case, the function was not called."""


class Recalled(NamedTuple):
    """Attempts that the agent gives back to the controller before they have started. This happens if the controller
    sent `Recall`, if the producer of an input failed on the host, if the lease ended, or if the attempt's source bundle
    had not arrived at the time of a takeover.
    """

    attempt_ids: Column[int]
    """Id of the attempt."""


class Started(NamedTuple):
    """Attempts that have been running for 50 ms. The agent does not report the start of an attempt that ends sooner."""

    attempt_ids: Column[int]
    """Id of the attempt."""


class Stored(NamedTuple):
    """Objects that the controller announced with `StreamObject`, and that are in the agent's store now."""

    keys: Column[int]
    """Key of the object."""
    sizes: Column[int]
    """Bytes of the object."""


class Missing(NamedTuple):
    """The answer to a `Fetch` of an object that the agent does not have."""

    key: int
    """Key of the object."""


class Log(NamedTuple):
    """Output of a running task. It takes turns with the chunks of streams, so that it never delays another message.

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
    """Exit status of the program. It is negative if a signal killed the program, and is then the number of the signal
    with a minus. It is 127 if the program could not be started."""


class Holdings(NamedTuple):
    """The attempts and objects that the agent has from an earlier controller. After a takeover, the agent sends this
    message first.
    """

    attempt_ids: Sequence[int]
    """Ids of attempts that have not ended, and of ended attempts whose end the earlier controller has not confirmed."""
    keys: Column[int]
    """Key of the object."""
    sizes: Column[int]
    """Bytes of the object."""
    shift: int
    """The highest number of a function, a task class or a bundle that the agent has seen. The new controller counts its
    own functions, task classes and bundles from 1, and adds this number. So no number is used twice."""


# ---- from the agent to a worker ------------------------------------------------------------------------------------


class SetUp(NamedTuple):
    """Sets up a blank worker. The agent sends it once, before the first batch."""

    host: str
    """Name of the host, as in the inventory."""
    folders: Sequence[str]
    """The store's folder in memory and its folder on disk. Both may be the same folder."""
    scratch: str
    """Folder in which the worker makes the scratch folders of its tasks."""
    env: Mapping[str, str]
    """Environment variables to set."""
    nonce: str
    """16 bytes in hexadecimal. Each mark that the worker writes into its output begins with these bytes; see
    `output_capture`."""
    suffix: str
    """The ending of the name of each file that the worker writes into the store's folders. When the agent adds the file
    to the store, the agent removes the ending."""
    bundle_path: str | None = None
    """Path of the source bundle. None: the tasks need no bundle."""
    shared_loop: bool = False
    """True if the tasks are coroutines that run concurrently."""
    options: WorkerOptions = WorkerOptions()
    """The options of the worker's tasks."""
    group: str | None = None
    """Folder of the worker's control group. None: the tasks have no memory limit, or no group could be made."""


class Batch(NamedTuple):
    """Tasks that a worker runs one after another, in this order. A worker with a shared loop runs them concurrently.

    Payload: the pickled new functions, then the small inputs, then the pickled calls.
    """

    first_number: int
    """Number of the first task of the batch. The agent counts the tasks of each worker from 1."""
    outputs: Column[Sequence[int]]
    """Keys of the objects that are made from the result; -1 for an object that is not needed."""
    functions: Column[int]
    """Number of the function to call."""
    call_sizes: Column[int]
    """Bytes of the pickled call."""
    inputs: Column[Sequence[int]]
    """Keys of the objects that the call takes."""
    names: Column[str]
    """Id of the function in its graph."""
    attempt_numbers: Column[int]
    """Number of the attempt; 1 for the first attempt of a task."""
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
    """Tells how tasks ended. A worker sends it after a batch, and earlier if a task takes long or the report is large.

    Payload: the inline objects of all results, one after another.
    """

    numbers: Column[int]
    """Number of a task that returned a result."""
    elapsed_us: Column[int]
    """Microseconds that the task ran."""
    sizes: Column[Sequence[int]]
    """Bytes of each object of the result; -1 for an object that is not needed."""
    inline_sizes: Column[Sequence[int]] | None = None
    """For each object of the result, its bytes in the payload. -1 if the object is not needed, or if it is a file.
    None: all objects of all results are in the payload."""
    folders: Column[Sequence[int]] | None = None
    """For each object of the result, the index of the store's folder that has the object's file; 0 if it is not a file.
    None: all objects of all results are in the payload."""
    skipped: Sequence[int] = ()
    """Numbers of tasks that the worker did not start, because they were recalled or because the worker is ending."""
    lacking: Sequence[int] = ()
    """Numbers of tasks that the worker did not run because an input is not on the host. The producer of the input
    failed, or the input was dropped."""
    leaving: bool = False
    """True if the worker is ending and takes no more tasks."""


class TaskFailure(NamedTuple):
    """A task that failed. The worker first reports the tasks that ended before it, and then sends this message at once.

    Payload: the pickled exception, if there is one.
    """

    number: int
    """Number of the task on this worker."""
    elapsed_us: int
    """Microseconds that the task ran."""
    kind: str
    """How the task failed. See `Failed`, which has the same field, and also all fields below."""
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
    """``unserializable``: class of the part that cannot be pickled."""
    need: int | None = None
    """``disk``: bytes that did not fit."""
    free: int | None = None
    """``disk``: bytes that were free."""


# ---- between the agent and the supervisor --------------------------------------------------------------------------


class Spawn(NamedTuple):
    """Fork a worker. The descriptors of its link, its standard output and error, and its shared page travel with the
    line.
    """

    worker: int
    """Number of the worker. The agent counts its workers."""
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
    The supervisor holds the descriptor open until none of the processes is left.
    """

    fds: int
    """How many descriptors travel with the line: 1 if there is a connection, 0 if there is none."""


class Forked(NamedTuple):
    """The supervisor has forked a worker."""

    worker: int
    """Number of the worker."""
    pid: int
    """Id of the worker's process."""


class WorkerGone(NamedTuple):
    """A worker and all processes that it started have ended, or the supervisor could not fork the worker."""

    worker: int
    """Number of the worker."""
    status: int = 0
    """The status of the worker's process, as `os.waitpid` returns it."""
    rss: int = 0
    """The largest memory of the worker's process, in bytes."""
    lapsed: bool = False
    """True if the supervisor killed the worker because the lease had ended."""
    error: str = ""
    """Why the system refused to fork the worker. Empty if the worker was forked."""


class LeaseLapsed(NamedTuple):
    """The supervisor has seen that the lease has ended, and kills the workers."""


# ---- the directions: what each end must handle ---------------------------------------------------------------------

#: Handles a message. If the handler is an unbound method, the first argument is ``self``. If it is a bound method, the
#: first argument is the sender. The second argument is the message, and the third is the message's payload.
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
    """Return the messages of a direction by name, as the annotations of its table declare them."""
    return {name: get_args(handler)[0][1] for name, handler in get_type_hints(table).items()}


TO_AGENT = _by_name(ToAgent)
TO_CONTROLLER = _by_name(ToController)
TO_WORKER = _by_name(ToWorker)
FROM_WORKER = _by_name(FromWorker)
TO_SUPERVISOR = _by_name(ToSupervisor)
FROM_SUPERVISOR = _by_name(FromSupervisor)
