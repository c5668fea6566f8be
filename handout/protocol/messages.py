"""Every message between the controller, the agent, the workers and the supervisor: names, fields, types and units.

A message is a `NamedTuple`. Its name on the link is its key in one of the six tables at the end of this module, one
table for each direction of each link. A table is a `TypedDict` of handlers: an end that lacks a handler, or whose
handler takes another message, does not pass the type checkers.

How a message becomes bytes is the business of `handout.protocol.codec` alone. This module says only what is told:

- A ``Column`` has one entry a row. All columns of a message have equally many rows.
- A field with a default may be left out.
- The payload is bytes beside the fields, which neither end parses on the way. A message that has one says so.

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

#: One entry a row.
Column = Sequence[T]
#: Any of the messages below.
AnyMessage = tuple[Any, ...]

#: Bytes of an object that travels in the payload of a message. A larger one is a stream (between controller and agent)
#: or a file that both sides map (between agent and worker).
INLINE = 64 << 10

# ---- the hello, which opens a connection between controller and agent ----------------------------------------------


class Greeting(NamedTuple):
    """The controller's hello: which agent it means, and which conversation it wants to go on with."""

    token: str
    """Proves that the connection is the controller's: 32 random bytes in hexadecimal, known from the bootstrap."""
    agent: str
    """The identity of the agent that is meant."""
    conversation: str
    """Name of the conversation, chosen by the controller. Another controller that takes over chooses another name."""
    connection: int
    """Number of this connection, counted from 1 by the controller. The agent refuses a connection whose number is not
    above the last one of the same conversation: it was delayed on the way."""
    takeover: bool = False
    """True where this controller takes over from another one: the agent ends that conversation and tells `Holdings`."""


class Welcome(NamedTuple):
    """The agent's hello, which answers a greeting."""

    agent: str
    """The agent's identity."""
    error: str = ""
    """Why the agent refuses the connection, which it closes; empty where it does not."""


class Progress(NamedTuple):
    """How far a side has received the conversation; both hellos carry it under ``state``. See `Session`."""

    number: int
    """The last message that was received; the sender sends again what comes after it."""
    streams: Mapping[str, int]
    """By number of an incoming stream: the bytes that were received of it, from where the sender resumes."""


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
    """Options of a function that its worker honours; a part of `NewTaskClass` and of `SetUp`.

    A worker is set up with them, and serves only tasks with the same ones. A field that has the name of an option in
    `handout.Options` gets the value of that option.
    """

    memory_limit: int | None = None
    """Bytes of memory above which a task is killed, or None."""
    max_result_bytes: int | None = None
    """Bytes that each object of a result may have, or None."""


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
    """Seconds after which an attempt is ended, or None."""
    alone: bool = False
    """True where a worker is never sent a second task of the class before the first has ended: a task that is not
    idempotent must not be started twice because of its neighbour."""
    options: WorkerOptions = WorkerOptions()
    """The options that its workers honour."""
    bundle: int | None = None
    """Key of the source bundle that workers import the user's modules from, or None."""


class Objects(NamedTuple):
    """Small objects for the agent's store.

    Payload: the objects, one after another; each has at most 64 KiB.
    """

    keys: Column[int]
    """Key of the object: run and number. The keys of source bundles lie below those of all runs."""
    sizes: Column[int]
    """Bytes of the object."""


class Tasks(NamedTuple):
    """Attempts of tasks, handed over to the agent. It starts each when its inputs are in the store and the host's
    ledger has room.

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
    """Keys of the objects that the result becomes: the whole of it, then its elements; -1 for one that no task
    and no caller wants."""
    keep: Column[int]
    """1 where small results stay in the agent's store as well, 0 where the controller alone gets them."""
    names: Column[str]
    """Id of the function in its graph, for ``handout.current()``."""
    attempt_numbers: Column[int]
    """1 for the first attempt of a task."""
    variants: Column[int]
    """Which of the alternative costs was chosen, from 0."""


class StreamObject(NamedTuple):
    """An object follows as a stream of chunks. The receiver of the object learns its key and size before its bytes."""

    stream: int
    """Number of the stream, counted by its sender."""
    key: int
    """Key of the object."""
    size: int
    """Bytes of the object."""


class StopStream(NamedTuple):
    """The rest of a stream will not come: its source was lost."""

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
    """Objects that are about to come have passed through a host with ``trust="data"``. Workers read them with the
    restricted reader instead of unpickling them.
    """

    keys: Column[int]
    """Key of the object."""
    types: Sequence[Any]
    """The classes that the restricted reader accepts beside its own, as `reader.registered` tells them."""


class Cancel(NamedTuple):
    """End attempts. One that has not started does not start; one that runs is ended."""

    attempt_ids: Column[int]
    """Id of the attempt. The agent ignores attempts that it does not have."""
    grace_s: float
    """Seconds between SIGTERM and SIGKILL."""


class Recall(NamedTuple):
    """Retract attempts that have not started. The agent answers `Recalled` for these; those that run go on."""

    attempt_ids: Column[int]
    """Id of the attempt. The agent ignores attempts that it does not have."""


class Release(NamedTuple):
    """Code that no open run uses any more. The agent drops it, and has its workers drop it, as soon as no task that it
    still has needs it. Code that is sent again later stays.
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
    """Memory of each GPU, in parts of a byte."""


class RunProgram(NamedTuple):
    """Run a program outside all tasks: how trackers ask a host what it offers. Answered by `ProgramEnded`."""

    id: int
    """Number of the request."""
    argv: Sequence[str]
    """The program and its arguments."""
    timeout_s: float
    """Seconds after which the program is killed."""


class Stop(NamedTuple):
    """End the agent and all that runs on the host. The connection closes when nothing of it is left."""


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
    """Bytes of each object of the result; -1 for one that is not wanted."""
    inline_sizes: Column[Sequence[int]]
    """Bytes of each object of the result in the payload; -1 for one that lies in the agent's store instead, or is not
    wanted."""


class Failed(NamedTuple):
    """An attempt that failed. Which facts are told depends on the kind.

    Payload: the pickled exception, where there is one; at most 16 MiB.
    """

    attempt_id: int
    """Id of the attempt."""
    kind: str
    """``raised``, ``exited``, ``died``, ``timeout``, ``memory``, ``cancelled``, ``unserializable``, ``too_large``,
    ``input``, ``disk`` or ``host``."""
    type: str = ""
    """Qualified name of the exception's class."""
    message: str = ""
    """Text of the exception, or of what happened."""
    text: str = ""
    """The traceback."""
    elapsed_s: float = 0.0
    """Seconds that the attempt ran."""
    maxrss: int | None = None
    """The most memory of the worker's process, in bytes."""
    stderr: Sequence[str] = ()
    """The last lines that the task wrote to its standard error."""
    stack: Sequence[str] = ()
    """Where the task was when it crashed or was ended, innermost frame first."""
    exit: int | str | None = None
    """``exited``, ``died``: the exit status, or the text given to `sys.exit`."""
    signal: int | None = None
    """``died``: the signal that killed the worker."""
    oom: bool | None = None
    """``died`` by SIGKILL: True where the kernel killed the worker for lack of memory, False where it did not, None
    where the agent cannot tell."""
    cut: bool = False
    """``died``: the task closed the worker's descriptors, or replaced its process."""
    declared: int | None = None
    """``died``: memory in the task's cost, in bytes."""
    limit_s: float | None = None
    """``timeout``: the limit, in seconds."""
    limit: int | None = None
    """``memory``, ``too_large``: the limit, in bytes."""
    peak: int | None = None
    """``memory``: the most memory that was seen, in bytes."""
    size: int | None = None
    """``too_large``: bytes of the object."""
    path: str | None = None
    """``unserializable``: path to the part that cannot be pickled. ``disk``: folder without room."""
    culprit: str | None = None
    """``unserializable``: class of the part that cannot be pickled."""
    need: int | None = None
    """``disk``: bytes that did not fit."""
    free: int | None = None
    """``disk``: bytes that were free."""
    argument: bool = False
    """``disk``: True where an argument found no room, and the function was not called."""


class Recalled(NamedTuple):
    """Attempts that go back to the controller unstarted: because of `Recall`, or because the agent cannot start them
    (what they follow failed on the host, or the lease ended).
    """

    attempt_ids: Column[int]
    """Id of the attempt."""


class Started(NamedTuple):
    """Attempts that have been running for 50 ms. Shorter ones are told only when they end."""

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
    """Output of a running task. It travels with the streams, so that it never delays another message.

    Payload: whole lines, at most 64 KiB.
    """

    attempt_id: int
    """Id of the attempt."""
    fd: int
    """1 for standard output, 2 for standard error."""
    dropped: int
    """Lines that were dropped before these, because the task printed faster than the link took it."""


class ProgramEnded(NamedTuple):
    """The answer to `RunProgram`.

    Payload: the first MiB of the program's output, standard error included.
    """

    id: int
    """Number of the request."""
    status: int
    """Exit status; the negative number of the signal that killed the program; 127 where it could not be started."""


class Holdings(NamedTuple):
    """What the agent holds of an earlier controller: the first message after a takeover."""

    attempt_ids: Sequence[int]
    """Ids of the attempts that the agent goes on with, or whose ends the earlier controller has not confirmed."""
    keys: Column[int]
    """Key of the object."""
    sizes: Column[int]
    """Bytes of the object."""
    shift: int
    """The highest number of a function, a task class or a bundle that was used. The new controller adds it to its own
    numbers, which start from 1 as well."""


# ---- from the agent to a worker ------------------------------------------------------------------------------------


class SetUp(NamedTuple):
    """What a blank worker becomes. Sent once, before the first batch."""

    host: str
    """Name of the host, as in the inventory."""
    folders: Sequence[str]
    """The store's folders: in memory, on disk."""
    scratch: str
    """Folder that scratch folders of tasks are made in."""
    env: Mapping[str, str]
    """Environment variables to set."""
    nonce: str
    """16 bytes in hexadecimal, which begin each mark in the worker's output."""
    suffix: str
    """Ends the names of files that the worker writes into the store, until the agent renames them."""
    bundle_path: str | None = None
    """File of the source bundle, or None."""
    shared_loop: bool = False
    """True where tasks are coroutines that run beside each other."""
    options: WorkerOptions = WorkerOptions()
    """The options of its tasks."""
    group: str | None = None
    """Folder of the worker's control group, where its tasks have a memory limit and the host has such groups."""


class Batch(NamedTuple):
    """Tasks to run in this order, one after another (or beside each other, in a shared loop).

    Payload: the pickled functions, the objects, then the pickled calls.
    """

    first_number: int
    """Number of the first task on this worker. Tasks are counted up from 1, without gaps within a batch."""
    outputs: Column[Sequence[int]]
    """Keys of the objects that the result becomes; -1 for one that is not wanted."""
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
    """Which of the alternative costs was chosen, from 0."""
    new_functions: Sequence[int] = ()
    """Numbers of the functions that the worker does not have yet."""
    new_function_sizes: Sequence[int] = ()
    """Bytes of each of these."""
    objects: Sequence[int] = ()
    """Keys of small inputs that go along. Larger ones are files in the store."""
    object_sizes: Sequence[int] = ()
    """Bytes of each of these."""
    distrusted: Sequence[int] = ()
    """Keys of inputs that must be read with the restricted reader."""
    types: Sequence[Any] = ()
    """See `Distrust`."""


class ForgetFunctions(NamedTuple):
    """Drop functions: no task of this worker needs them any more."""

    numbers: Column[int]
    """Number of the function."""


class CancelCoroutines(NamedTuple):
    """Cancel tasks of a shared loop."""

    numbers: Column[int]
    """Number of the task on this worker."""


# ---- from a worker to the agent ------------------------------------------------------------------------------------


class BatchReport(NamedTuple):
    """What became of tasks: sent after a batch, earlier where a task takes long or much has gathered.

    Payload: the inline objects of all results, one after another.
    """

    numbers: Column[int]
    """Number of a task that returned a result."""
    elapsed_us: Column[int]
    """Microseconds that it ran."""
    sizes: Column[Sequence[int]]
    """Bytes of each object of the result; -1 for one that is not wanted."""
    inline_sizes: Column[Sequence[int]] | None = None
    """Bytes of each object in the payload, -1 for one that is a file; None where all objects are in the payload."""
    folders: Column[Sequence[int]] | None = None
    """Which of the store's folders the file of each object is in; None where there is no file."""
    skipped: Sequence[int] = ()
    """Numbers of tasks that were recalled before they started."""
    lacking: Sequence[int] = ()
    """Numbers of tasks whose inputs are not on the host: the task that was to make them failed."""
    leaving: bool = False
    """True where the worker ends now and takes no more tasks."""


class TaskFailure(NamedTuple):
    """A task that failed. Sent at once, after the report of the tasks before it.

    Payload: the pickled exception, where there is one.
    """

    number: int
    """Number of the task on this worker."""
    elapsed_us: int
    """Microseconds that it ran."""
    kind: str
    """See `Failed`, as for all that follow."""
    type: str = ""
    """Qualified name of the exception's class."""
    message: str = ""
    """Text of the exception."""
    text: str = ""
    """The traceback."""
    maxrss: int | None = None
    """The most memory of the worker's process, in bytes."""
    exit: int | str | None = None
    """``exited``: what was given to `sys.exit`."""
    limit: int | None = None
    """``too_large``: the limit, in bytes."""
    size: int | None = None
    """``too_large``: bytes of the object."""
    path: str | None = None
    """``unserializable``: path to the part that cannot be pickled. ``disk``: folder without room."""
    culprit: str | None = None
    """``unserializable``: class of that part."""
    need: int | None = None
    """``disk``: bytes that did not fit."""
    free: int | None = None
    """``disk``: bytes that were free."""


# ---- between the agent and the supervisor --------------------------------------------------------------------------


class Spawn(NamedTuple):
    """Fork a worker. Its link, standard output, standard error and shared page go beside the line as descriptors."""

    worker: int
    """Number of the worker, counted by the agent."""
    fds: int
    """How many descriptors go beside the line."""


class Kill(NamedTuple):
    """End a worker and all that it started."""

    worker: int
    """Number of the worker."""
    grace_s: float
    """Seconds between SIGTERM and SIGKILL; 0: SIGKILL at once."""


class SendSignal(NamedTuple):
    """Send a signal to the process of a worker alone."""

    worker: int
    """Number of the worker."""
    number: int
    """Number of the signal."""


class ShutDown(NamedTuple):
    """End everything on this host. The controller's connection goes beside the line: the supervisor holds it open until
    nothing is left.
    """

    fds: int
    """1 where there is a connection, else 0."""


class Forked(NamedTuple):
    """A worker's process is there."""

    worker: int
    """Number of the worker."""
    pid: int
    """Id of its process."""


class WorkerGone(NamedTuple):
    """A worker and all that it started have ended."""

    worker: int
    """Number of the worker."""
    status: int = 0
    """How its process ended, as `os.waitpid` tells it."""
    rss: int = 0
    """The most memory of its process, in bytes."""
    lapsed: bool = False
    """True where the supervisor killed it because the lease had ended."""
    error: str = ""
    """Why the system refused to fork it; empty where it did not."""


class LeaseLapsed(NamedTuple):
    """The supervisor saw the lease end and kills the workers."""


# ---- the directions: what each end must handle ---------------------------------------------------------------------

#: Handles a message: the object that it belongs to or its sender, the message, the payload.
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
    """Return the messages of a direction by name, as the annotations of its table tell them."""
    return {name: get_args(handler)[0][1] for name, handler in get_type_hints(table).items()}


TO_AGENT = _by_name(ToAgent)
TO_CONTROLLER = _by_name(ToController)
TO_WORKER = _by_name(ToWorker)
FROM_WORKER = _by_name(FromWorker)
TO_SUPERVISOR = _by_name(ToSupervisor)
FROM_SUPERVISOR = _by_name(FromSupervisor)
