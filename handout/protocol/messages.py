"""Every message between the controller, the agent, the workers and the supervisor: names, fields, types and units.

A message is a `NamedTuple`. `handout.protocol.codec` turns messages into bytes. This module only declares them:

- The docstring of a message says what the message tells. If the docstring begins with an imperative, such as "Delete
  objects", it says what the receiver must do.
- A sender may leave out a field that has a default.
- Some messages tell the same facts about many tasks or objects. Such a message has a field of the type ``Column`` for
  each fact. A column has one entry for each task or object, and its description describes one entry. All columns of a
  message have the same length. The entries with the same index, which belong together, are called a row.
- A payload is bytes that travel beside the fields and are not encoded as JSON. If a message has a payload, its
  docstring says so.

Controller and agent use one connection after another, because connections can break. All that they tell each other
over these connections is called their conversation. The first frame that each side sends on a connection is called its
hello. A large object travels as a stream, which means that its bytes are sent in chunks, between messages.

Six tables at the end of this module list the messages: two for controller and agent, two for agent and worker, and two
for agent and supervisor. Each table lists the messages of one direction, by name. A table is a `TypedDict` of handlers,
and receivers annotate their handlers with it. So a type checker reports a receiver that lacks a handler, or whose
handler takes a different message.

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
    """The controller's hello. It names the agent and the conversation for which the controller made the connection."""

    token: str
    """A secret by which the controller proves that it opened the connection: 32 random bytes in hexadecimal. The agent
    got the same secret when it started."""
    agent: str
    """The identity of the agent that the controller wants to reach."""
    conversation: str
    """Name of the conversation. Each controller chooses a name of its own, and keeps it when it connects again."""
    connection: int
    """Number of this connection. The controller counts its connections from 1. The agent refuses the connection if the
    same conversation has already had one with an equal or higher number, because then this one was delayed on the way.
    """
    takeover: bool = False
    """True if this controller takes the agent over from an earlier controller, which was lost. The agent then ends the
    conversation with the earlier controller and sends `Holdings`."""


class Welcome(NamedTuple):
    """The agent's hello. It is the answer to a `Greeting`."""

    agent: str
    """The agent's identity."""
    error: str = ""
    """Why the agent refuses the connection and closes it. Empty if the agent accepts the connection."""


class Progress(NamedTuple):
    """What the sender of a hello has received of the conversation so far. Every hello that does not refuse the
    connection has these fields, in a JSON object under the further key ``state``. See `Session`.
    """

    number: int
    """Number of the last message that the sender of the hello has received. The other side sends all later messages
    again."""
    streams: Mapping[str, int]
    """For each incoming stream, by its number: how many bytes of the stream the sender of the hello has received. The
    other side continues the stream after these bytes."""


# ---- from the controller to the agent ------------------------------------------------------------------------------


class Functions(NamedTuple):
    """Functions that tasks will call. The controller sends a function before the first task that calls it.

    Payload: the pickled functions, one after another, at most 64 MiB together.
    """

    numbers: Column[int]
    """Number of the function. Equal functions have the same number in all runs of one controller."""
    sizes: Column[int]
    """Size of the pickled function in bytes."""


class WorkerOptions(NamedTuple):
    """The options of a function that a worker must know. `NewTaskClass` and `SetUp` contain them.

    The agent sets up a worker with these options, and gives that worker only tasks that have equal options. A field
    that has the name of an option in `handout.Options` has the value of that option.
    """

    memory_limit: int | None = None
    """How many bytes of memory a task may use. A task that uses more is killed. None: no limit."""
    max_result_bytes: int | None = None
    """How many bytes an object of a result may have. None: no limit."""


class NewTaskClass(NamedTuple):
    """Describes a task class, which is a group of tasks for which all fields of this message have the same values. The
    controller sends the message before the first task of the class.
    """

    number: int
    """Number of the task class."""
    need: Mapping[str, int]
    """Amounts that a task takes from the host's ledger while it runs, by name, in parts (1/10,000 of a unit)."""
    threads: int = 1
    """How many threads numerical libraries may use in a task."""
    shared_loop: bool = False
    """True if the tasks are coroutines that run concurrently in the event loop of one worker."""
    timeout_s: float | None = None
    """Seconds after which the agent ends an attempt. None: no limit."""
    alone: bool = False
    """True if a worker gets a task of the class only after the worker's previous task has ended. This is so for tasks
    that are not idempotent, because a task that is queued behind another task can start twice if the other task kills
    the worker."""
    options: WorkerOptions = WorkerOptions()
    """The options with which the agent sets up the workers of these tasks."""
    bundle: int | None = None
    """Key of the source bundle, the archive from which workers import the user's modules. None: the tasks need no
    bundle."""
    warm: Sequence[str] = ()
    """The identities of the warm values that the tasks take, in hexadecimal."""


class Objects(NamedTuple):
    """Small objects for the agent's store, in which the agent keeps the objects of its host.

    Payload: the objects, one after another. Each of them has at most 64 KiB.
    """

    keys: Column[int]
    """Key of the object; see `numbering`. Source bundles are sent as objects too. Their keys are lower than the keys of
    all objects of runs."""
    sizes: Column[int]
    """Size of the object in bytes."""


class Tasks(NamedTuple):
    """Attempts of tasks that the controller hands over to the agent. The agent starts an attempt when the inputs are in
    the store and the host's ledger has room for the attempt.

    Payload: the pickled calls, one after another. A call has those arguments of a task that are not sent as objects.
    Once the calls have more than 4 MiB, the controller sends further attempts in another message.
    """

    attempt_ids: Column[int]
    """Id of the attempt; see `numbering`."""
    functions: Column[int]
    """Number of the function to call."""
    task_classes: Column[int]
    """Number of the task class."""
    call_sizes: Column[int]
    """Size of the pickled call in bytes."""
    inputs: Column[Sequence[int]]
    """Keys of the objects that the task takes as inputs."""
    outputs: Column[Sequence[int]]
    """Keys of the objects that are made from the result. The first object is the whole result. Each further object is
    an element of the result. The key is -1 if neither a task nor the caller needs the object."""
    keep: Column[int]
    """1 if the agent must also keep small objects of the result in its store. 0 if the agent only needs to send them to
    the controller."""
    names: Column[str]
    """Id of the function in its graph. ``handout.current()`` shows it to the task."""
    attempt_numbers: Column[int]
    """Number of the attempt, as ``handout.current()`` shows it to the task. It counts only attempts that began, or may
    have begun. The number in the id of the attempt counts all attempts that were handed over."""
    variants: Column[int]
    """Index of the variant of the cost with which the task was placed, counted from 0."""
    checkpoints: Column[int] | None = None
    """Key of the checkpoint of an earlier attempt that the task may restore. 0: there is none. The agent starts the
    attempt when the checkpoint is in the store. None in place of the column: no task has a checkpoint."""


class StreamObject(NamedTuple):
    """Announces a stream, which carries one object in chunks."""

    stream: int
    """Number of the stream. Each sender counts its own streams."""
    key: int
    """Key of the object."""
    size: int
    """Size of the object in bytes."""


class StopStream(NamedTuple):
    """Announces that the rest of a stream will not come, because the sender itself could not get the missing bytes."""

    stream: int
    """Number of the stream."""


class Fetch(NamedTuple):
    """Stream an object to the controller. The agent first answers with `StreamObject`, or only with `Missing` if it
    does not have the object.
    """

    key: int
    """Key of the object."""


class Drop(NamedTuple):
    """Delete objects, because no task needs them on this host any more."""

    keys: Column[int]
    """Key of the object."""


class Distrust(NamedTuple):
    """Names objects that have passed through a host with ``trust="data"``, from which only data is accepted. The
    controller sends this message before it sends the objects. Workers do not unpickle these objects. They read them
    with the restricted reader, which accepts only data and runs no code of the objects.
    """

    keys: Column[int]
    """Key of the object."""
    types: Sequence[Any]
    """The classes that the restricted reader accepts in addition to the types that it always accepts; see
    `reader.registered`."""


class Cancel(NamedTuple):
    """End attempts. The agent ends attempts that run, and does not start attempts that wait."""

    attempt_ids: Column[int]
    """Id of the attempt. The agent ignores attempts that it does not have."""
    grace_s: float
    """Seconds between SIGTERM and SIGKILL."""


class ExceedMemory(NamedTuple):
    """End running attempts as if they had exceeded their memory limits. Attempts that do not run go on. The controller
    sends this only for a fault that `handout.testing.Faults` has planned.
    """

    attempt_ids: Column[int]
    """Id of the attempt."""


class Recall(NamedTuple):
    """Give back attempts if they have not started. The agent names these attempts in a `Recalled`. Attempts that have
    started go on.
    """

    attempt_ids: Column[int]
    """Id of the attempt. The agent ignores attempts that it does not have."""


class Release(NamedTuple):
    """Names code that no open run uses any more: functions, task classes and source bundles. The agent and its workers
    drop each of these once none of the agent's tasks needs it. If the controller sends one of them again before it was
    dropped, the agent keeps it.
    """

    functions: Sequence[int]
    """Numbers of functions."""
    task_classes: Sequence[int]
    """Numbers of task classes. The controller never gives these numbers to other task classes."""
    bundles: Sequence[int]
    """Keys of source bundles."""


class Limits(NamedTuple):
    """Sets all amounts and GPUs that the agent's ledger may grant to tasks from now on."""

    amounts: Mapping[str, int]
    """Amounts by name, in parts (1/10,000 of a unit)."""
    devices: Column[int]
    """Memory of each GPU, in parts (1/10,000 of a byte)."""


class WatchReports(NamedTuple):
    """Says if a program watches a run. While none does, workers do not send the reports of tasks."""

    wanted: bool
    """True if the agent sends `ProgressReports`."""


class RunProgram(NamedTuple):
    """Run a program that belongs to no task. Trackers in the controller use this to find out what a host offers. The
    agent answers with `ProgramEnded`.
    """

    id: int
    """Number of the request. The answer has the same number."""
    argv: Sequence[str]
    """The program and its arguments."""
    timeout_s: float
    """Seconds after which the agent kills the program."""


class Stop(NamedTuple):
    """End the agent and all processes that belong to it. The connection closes when none of these processes is left on
    the host.
    """


# ---- from the agent to the controller ------------------------------------------------------------------------------


class Finished(NamedTuple):
    """Attempts that returned a result.

    Payload: the objects whose ``inline_sizes`` are not -1, one after another.
    """

    attempt_ids: Column[int]
    """Id of the attempt."""
    elapsed_us: Column[int]
    """Microseconds that the attempt ran."""
    sizes: Column[Sequence[int]]
    """For each object of the result, its size in bytes. -1 if the object is not needed."""
    inline_sizes: Column[Sequence[int]]
    """For each object of the result, how many bytes it has in the payload. -1 if the object is not needed, or if it is
    only in the agent's store."""


class Failed(NamedTuple):
    """An attempt that failed. The descriptions of some fields begin with kinds of failures, such as ``died``. Only
    failures of these kinds set such a field.

    Payload: the pickled exception, or only its class, if there is one; at most 16 MiB.
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
    """The most memory that the worker's process has used, in bytes. If ``peak`` is higher, the value is ``peak``."""
    stderr: Sequence[str] = ()
    """The last lines that the task wrote to its standard error."""
    stack: Sequence[str] = ()
    """The lines of the task's stack at the time when the task crashed or was ended, innermost call first. Empty if
    there is no such stack."""
    exit: int | str | None = None
    """``exited``, ``died``: the exit status, or the text that was given to `sys.exit`."""
    signal: int | None = None
    """``died``: the signal that killed the worker."""
    oom: bool | None = None
    """``died``, if SIGKILL killed the worker: True if the kernel sent the signal for lack of memory, False if it did
    not, and None if the agent cannot know."""
    cut: bool = False
    """``died``: True if the task closed the worker's own descriptors, wrote to them, or replaced the program that the
    worker's process runs."""
    declared: int | None = None
    """``died``: the memory that the task's cost states, in bytes."""
    limit_s: float | None = None
    """``timeout``: the limit, in seconds. ``died``, if SIGKILL or SIGXCPU killed the worker: the processor time that
    the system allows each process of the login, in seconds, or None if there is no such limit."""
    limit: int | None = None
    """``memory``, ``too_large``: the limit, in bytes."""
    peak: int | None = None
    """``memory``: the most memory that the task is known to have used, in bytes."""
    size: int | None = None
    """``too_large``: size of the object in bytes."""
    path: str | None = None
    """``unserializable``: path to the part that cannot be pickled. ``disk``: the folder that is full."""
    culprit: str | None = None
    """``unserializable``: class of the part that cannot be pickled."""
    missing: str | None = None
    """``raised``, ``input``: name of the module that the task has tried to import, if the host does not have it."""
    variable: str | None = None
    """``raised``: name of the environment variable that the task has looked up in `os.environ`, if it is not there."""
    file: str | None = None
    """``raised``: path of the file that the task has tried to open, if the host does not have it."""
    folder: str | None = None
    """``raised``: the folder in which the task has looked for ``file``. Empty if the path is absolute."""
    program: str | None = None
    """``raised``: name or path of the program that the task has tried to start, if the host does not have it."""
    need: int | None = None
    """``disk``: how many bytes did not fit."""
    free: int | None = None
    """``disk``: how many bytes were free."""
    argument: bool = False
    """``disk``: True if the host had no room for an argument, so that the function was not called."""
    recipe: int | None = None
    """If the task has not begun because making a warm value failed, the key of the object by which it is made."""


class Recalled(NamedTuple):
    """Attempts that the agent gives back to the controller before they have started. The agent does this after a
    `Recall`, when the lease ends, and when the task that was to make an input has failed on this host. When another
    controller takes over, the agent also gives back the attempts whose source bundle has not arrived.
    """

    attempt_ids: Column[int]
    """Id of the attempt."""


class Started(NamedTuple):
    """Attempts that have been running for 50 ms. The agent does not report the start of an attempt that ends sooner."""

    attempt_ids: Column[int]
    """Id of the attempt."""


class ProgressReports(NamedTuple):
    """What tasks have reported with ``handout.current().report``: the newest report of each task. While a task goes on,
    its reports take turns with the chunks of streams, so that they never delay any other message.
    """

    attempt_ids: Column[int]
    """Id of the attempt."""
    progress: Column[float | None]
    """The share of the work that is done, from 0 to 1. None: the task has not told it."""
    facts: Column[Mapping[str, Any]]
    """Texts, numbers, True, False and None, by name; see `reported_facts`."""


class Checkpointed(NamedTuple):
    """The newest checkpoint of an attempt is in the agent's store, where the controller can `Fetch` it. Earlier
    checkpoints of the attempt, and the one that the attempt got, are not in the store any more. While the attempt goes
    on, the agent tells of its next checkpoint only after the controller has asked for this one or has had it dropped.
    """

    attempt_id: int
    """Id of the attempt."""
    key: int
    """Key of the checkpoint."""
    size: int
    """Size of the checkpoint in bytes."""


class Arrived(NamedTuple):
    """Objects that the controller announced with `StreamObject`, and that are in the agent's store now."""

    keys: Column[int]
    """Key of the object."""
    sizes: Column[int]
    """Size of the object in bytes."""


class MadeWarm(NamedTuple):
    """A worker of the host has made a warm value that no other worker of the host has."""

    value: str
    """The identity of the value in hexadecimal."""
    elapsed_us: int
    """Microseconds that it took."""


class Cooled(NamedTuple):
    """The last worker with a warm value has ended."""

    value: str
    """The identity of the value in hexadecimal."""


class Missing(NamedTuple):
    """The answer to a `Fetch` of an object that the agent does not have."""

    key: int
    """Key of the object."""


class Vanished(NamedTuple):
    """Objects and source bundles that were in the agent's store, and whose files another program has removed or
    damaged. The agent does not have them any more. It gives back the attempts that need them and have not started.
    """

    keys: Column[int]
    """Key of the object or bundle."""


class Log(NamedTuple):
    """Text that a task has printed. This message takes turns with the chunks of streams, so that it never delays any
    other message.

    Payload: the text, at most 64 KiB. The last line may be unfinished.
    """

    attempt_id: int
    """Id of the attempt."""
    fd: int
    """1 if the task wrote the text to its standard output, 2 if to its standard error."""
    dropped: int
    """How many lines the agent dropped before this text, because the task printed faster than the agent could send."""


class ProgramEnded(NamedTuple):
    """The answer to `RunProgram`.

    Payload: the first MiB of what the program wrote to its standard output and standard error, and a note if the agent
    killed the program because of the timeout. If the program could not be started, the reason.
    """

    id: int
    """Number of the request."""
    status: int
    """Exit status of the program. If a signal killed the program, the negative number of the signal, such as -9. If the
    program could not be started, 127."""


class Holdings(NamedTuple):
    """The attempts and objects that the agent has from an earlier controller. After a takeover, this is the first
    message that the new controller gets from the agent.
    """

    attempt_ids: Sequence[int]
    """Ids of the attempts that have not ended. Also ids of attempts that have ended or were given back, if the earlier
    controller has not confirmed the message that reports it."""
    keys: Column[int]
    """Key of the object."""
    sizes: Column[int]
    """Size of the object in bytes."""
    shift: int
    """The highest number that a function, a task class or a source bundle on the agent has had so far. The new
    controller adds it to all numbers that it gives to its own functions, task classes and source bundles, so that no
    number is used twice."""
    attempt_numbers: Sequence[int] = ()
    """The number of the attempt that its task was told; see `Tasks.attempt_numbers`. The entries belong to the first
    entries of ``attempt_ids``. They are the attempts that have not ended."""


# ---- from the agent to a worker ------------------------------------------------------------------------------------


class SetUp(NamedTuple):
    """Prepares a new worker for the tasks that it will get. The agent sends this once to each worker, before the first
    `Batch`.
    """

    host: str
    """Name of the host, as in the inventory."""
    folders: Sequence[str]
    """The store's folder in memory and its folder on disk. Both may be the same folder."""
    scratch: str
    """Folder in which the worker makes the scratch folders of its tasks, which are removed when the tasks end."""
    env: Mapping[str, str]
    """Environment variables to set."""
    nonce: str
    """16 bytes in hexadecimal, with which the worker's marks begin. The worker writes a mark before each piece of text
    that a task prints, to say which task printed it; see `output_capture`."""
    suffix: str
    """The ending of the name of each file that the worker writes into the store's folders. When the agent adds such a
    file to the store, it renames the file to the name without the ending."""
    bundle_path: str | None = None
    """Path of the source bundle. None: the tasks need no bundle."""
    modules_folder: str = ""
    """Folder into which the first worker with this bundle unpacks it."""
    shared_loop: bool = False
    """True if the tasks are coroutines that run concurrently in one event loop, the worker's shared loop."""
    options: WorkerOptions = WorkerOptions()
    """The options of the worker's tasks."""
    group: str | None = None
    """Folder of the Linux control group that limits the worker's memory. None: the tasks have no memory limit, or no
    group could be made."""


class Batch(NamedTuple):
    """Tasks for a worker. The worker runs them one after another, in this order. If it has a shared loop, it runs them
    concurrently.

    Payload: the pickled ``new_functions``, then the small inputs that ``objects`` names, then the pickled calls.
    """

    first_number: int
    """Number of the first task of the batch. The agent counts the tasks of each worker from 1."""
    outputs: Column[Sequence[int]]
    """Keys of the objects that are made from the result; see `Tasks`. -1 for an object that is not needed."""
    functions: Column[int]
    """Number of the function to call."""
    call_sizes: Column[int]
    """Size of the pickled call in bytes."""
    inputs: Column[Sequence[int]]
    """Keys of the objects that the task takes as inputs."""
    names: Column[str]
    """Id of the function in its graph."""
    attempt_numbers: Column[int]
    """Number of the attempt, as ``handout.current()`` shows it to the task."""
    variants: Column[int]
    """Index of the variant of the cost with which the task was placed, counted from 0."""
    checkpoints: Column[int] | None = None
    """Key of the checkpoint that the task may restore. 0: there is none. None in place of the column: no task has a
    checkpoint."""
    new_functions: Sequence[int] = ()
    """Numbers of the functions that the worker does not have yet."""
    new_function_sizes: Sequence[int] = ()
    """Size of each of the ``new_functions`` in bytes."""
    objects: Sequence[int] = ()
    """Keys of the small inputs whose bytes are in the payload. The worker has all other inputs in its memory, or
    reads them from the store."""
    object_sizes: Sequence[int] = ()
    """Size of each of the ``objects`` in bytes."""
    distrusted: Sequence[int] = ()
    """Keys of the inputs that the worker must read with the restricted reader; see `Distrust`."""
    types: Sequence[Any] = ()
    """The classes that the restricted reader accepts in addition to the types that it always accepts."""


class ForgetFunctions(NamedTuple):
    """Drop functions, because no task needs them any more."""

    numbers: Column[int]
    """Number of the function."""


class ForgetWarm(NamedTuple):
    """Drop warm values, and leave their context managers, because an object from which they were made was deleted."""

    keys: Column[int]
    """Key of the object."""


class CancelCoroutines(NamedTuple):
    """Cancel tasks of a shared loop."""

    numbers: Column[int]
    """Number of the task on this worker."""


# ---- from a worker to the agent ------------------------------------------------------------------------------------


class BatchReport(NamedTuple):
    """Reports tasks that returned a result, and tasks that the worker did not run. A worker sends the report after a
    batch, and earlier if a task takes long or the report is large.

    Payload: the objects whose ``inline_sizes`` are not -1, one after another.
    """

    numbers: Column[int]
    """Number of the task on this worker. The task returned a result."""
    elapsed_us: Column[int]
    """Microseconds that the task ran."""
    sizes: Column[Sequence[int]]
    """For each object of the result, its size in bytes. -1 if the object is not needed."""
    inline_sizes: Column[Sequence[int]] | None = None
    """For each object of the result, how many bytes it has in the payload. -1 if the object is not needed, or if it is
    a file in the store. None in place of the column: all objects of all results are in the payload."""
    folders: Column[Sequence[int]] | None = None
    """For each object of the result that is a file, the index of its folder in the ``folders`` of `SetUp`. 0 for any
    other object. None in place of the column: all objects of all results are in the payload."""
    skipped: Sequence[int] = ()
    """Numbers of tasks that the worker did not start, because they were recalled or because the worker is ending."""
    lacking: Sequence[int] = ()
    """Numbers of tasks that the worker did not run, because an input is not on the host: the task that was to make the
    input failed, or the agent deleted the input."""
    leaving: bool = False
    """True if the worker is ending and takes no more tasks."""


class ProgressReport(NamedTuple):
    """A task has called ``handout.current().report``. The worker leaves out reports that are followed by a newer one
    within 50 ms.
    """

    number: int
    """Number of the task on this worker."""
    progress: float | None
    """The share of the work that is done, from 0 to 1. None: the task has not told it."""
    facts: Mapping[str, Any]
    """Texts, numbers, True, False and None, by name; see `reported_facts`."""


class Checkpoint(NamedTuple):
    """A task has called ``handout.current().checkpoint``.

    Payload: the pickled value, unless it is in a file.
    """

    number: int
    """Number of the task on this worker."""
    size: int
    """Size of the pickled value in bytes."""
    file: int = 0
    """If the value is in a file of the store, the number in the file's name; see `checkpoint_name`. Otherwise 0."""
    folder: int = 0
    """The index of the file's folder in the ``folders`` of `SetUp`."""


class WarmingBegan(NamedTuple):
    """A task takes a warm value that the worker makes now. The task's time stands still until `WarmingEnded`."""

    number: int
    """Number of the task on this worker."""
    recipe: int
    """Key of the object by which the value is made."""
    timeout_s: float
    """Seconds after which the agent ends the task."""


class WarmingEnded(NamedTuple):
    """The worker makes the warm value for the task no longer."""

    number: int
    """Number of the task on this worker."""
    value: str
    """The identity of the value in hexadecimal, if the worker has it now. Otherwise empty."""
    inputs: Sequence[int]
    """Keys of the objects from which it was made."""
    leaves: bool
    """True if the worker has something to do when it ends: it leaves the context managers of its warm values."""


class TaskRaised(NamedTuple):
    """A task has raised an exception, and the worker describes it now, which runs code of the exception's class. The
    worker sends `TaskFailure` next. If the worker ends before, the task has failed all the same.
    """

    number: int
    """Number of the task on this worker."""
    type: str
    """Qualified name of the exception's class."""


class TaskFailure(NamedTuple):
    """A task that failed. The worker sends this as soon as the task has failed, but first reports the tasks that ended
    before this one.

    Payload: the pickled exception, or only its class, if there is one.
    """

    number: int
    """Number of the task on this worker."""
    elapsed_us: int
    """Microseconds that the task ran."""
    kind: str
    """How the task failed; see `Failed.kind`. ``bundle``: the task has not run, because the file of its source bundle
    has vanished. `Failed` has all the following fields too."""
    type: str = ""
    """Qualified name of the exception's class."""
    message: str = ""
    """Text of the exception."""
    text: str = ""
    """The traceback."""
    maxrss: int | None = None
    """The most memory that the worker's process has used, in bytes."""
    exit: int | str | None = None
    """``exited``: the exit status, or the text, that was given to `sys.exit`."""
    limit: int | None = None
    """``too_large``: the limit, in bytes."""
    size: int | None = None
    """``too_large``: size of the object in bytes."""
    path: str | None = None
    """``unserializable``: path to the part that cannot be pickled. ``disk``: the folder that is full."""
    culprit: str | None = None
    """``unserializable``: class of the part that cannot be pickled."""
    missing: str | None = None
    """``raised``, ``input``: name of the module that the task has tried to import, if the host does not have it."""
    variable: str | None = None
    """``raised``: name of the environment variable that the task has looked up in `os.environ`, if it is not there."""
    file: str | None = None
    """``raised``: path of the file that the task has tried to open, if the host does not have it."""
    folder: str | None = None
    """``raised``: the folder in which the task has looked for ``file``. Empty if the path is absolute."""
    program: str | None = None
    """``raised``: name or path of the program that the task has tried to start, if the host does not have it."""
    need: int | None = None
    """``disk``: how many bytes did not fit."""
    free: int | None = None
    """``disk``: how many bytes were free."""
    recipe: int | None = None
    """If making a warm value has failed, the key of the object by which it is made."""


# ---- between the agent and the supervisor --------------------------------------------------------------------------


class Spawn(NamedTuple):
    """Fork a worker. Four file descriptors travel with the message: the worker's socket to the agent, its standard
    output, its standard error, and the page of memory that it shares with the agent.
    """

    worker: int
    """Number of the worker. The agent counts its workers."""
    fds: int
    """How many descriptors travel with the message."""


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
    """End the agent and all processes that belong to it. The descriptor of the agent's connection to the controller
    travels with the message. The supervisor holds the descriptor open until none of these processes is left.
    """

    fds: int
    """How many descriptors travel with the message: 1 if there is a connection, 0 if there is none."""


class Forked(NamedTuple):
    """The supervisor has forked a worker."""

    worker: int
    """Number of the worker."""
    pid: int
    """Id of the worker's process."""


class WorkerGone(NamedTuple):
    """A worker has ended, or the supervisor could not fork it. Before the supervisor reports the end of a worker, it
    kills the processes that the worker has left behind, and waits at most 0.5 s for their end.
    """

    worker: int
    """Number of the worker."""
    status: int = 0
    """The status of the worker's process, as `os.waitpid` returns it."""
    rss: int = 0
    """The most memory that the worker's process has used, in bytes."""
    lapsed: bool = False
    """True if the supervisor killed the worker because the lease had ended."""
    error: str = ""
    """Why the system refused to fork the worker. Empty if the worker was forked."""


class LeaseLapsed(NamedTuple):
    """The lease has ended, and so the supervisor kills the workers."""


# ---- the directions: what each end must handle ---------------------------------------------------------------------

#: A function that handles a message. If the function is an unbound method, its first argument is ``self``. Otherwise,
#: the first argument is the sender of the message. The second argument is the message, and the third is its payload.
Handler = Callable[[Any, M, memoryview], None]
#: A function that handles a message between agent and supervisor. Such a message is one line of JSON without a payload.
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
    exceed_memory: Handler[ExceedMemory]
    recall: Handler[Recall]
    release: Handler[Release]
    limits: Handler[Limits]
    watch_reports: Handler[WatchReports]
    run_program: Handler[RunProgram]
    stop: Handler[Stop]


class ToController(TypedDict):
    """What the agent sends to the controller."""

    finished: Handler[Finished]
    failed: Handler[Failed]
    recalled: Handler[Recalled]
    started: Handler[Started]
    arrived: Handler[Arrived]
    progress_reports: Handler[ProgressReports]
    checkpointed: Handler[Checkpointed]
    made_warm: Handler[MadeWarm]
    cooled: Handler[Cooled]
    stream_object: Handler[StreamObject]
    missing: Handler[Missing]
    vanished: Handler[Vanished]
    log: Handler[Log]
    program_ended: Handler[ProgramEnded]
    holdings: Handler[Holdings]


class ToWorker(TypedDict):
    """What the agent sends to a worker."""

    set_up: Handler[SetUp]
    batch: Handler[Batch]
    cancel_coroutines: Handler[CancelCoroutines]
    forget_functions: Handler[ForgetFunctions]
    forget_warm: Handler[ForgetWarm]


class FromWorker(TypedDict):
    """What a worker sends to the agent."""

    batch_report: Handler[BatchReport]
    progress_report: Handler[ProgressReport]
    checkpoint: Handler[Checkpoint]
    warming_began: Handler[WarmingBegan]
    warming_ended: Handler[WarmingEnded]
    task_raised: Handler[TaskRaised]
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
    """Return the types of the messages that a table declares, by the names of the messages."""
    return {name: get_args(handler)[0][1] for name, handler in get_type_hints(table).items()}


TO_AGENT = _by_name(ToAgent)
TO_CONTROLLER = _by_name(ToController)
TO_WORKER = _by_name(ToWorker)
FROM_WORKER = _by_name(FromWorker)
TO_SUPERVISOR = _by_name(ToSupervisor)
FROM_SUPERVISOR = _by_name(FromSupervisor)
