"""The controller's proxy of one host's agent. The proxy sends messages, and remembers which code the agent has.

Code means functions, task classes and source bundles. A task class has the amounts and the options that several tasks
share. A source bundle is an archive of the user's own modules.

Commands and messages about several tasks have columns. A column is a list with one entry for each task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set

from handout.execution.membership.answer_limit import AnswerLimit
from handout.execution.membership.takeover import FoundAgent
from handout.execution.shell.object_streams import BytesSource, Fetches, Sink
from handout.execution.shell.run_state import RunState
from handout.execution.shell.task_classes import TaskClass
from handout.protocol import messages, numbering
from handout.protocol.frames import MAX_PAYLOAD, Buffer
from handout.protocol.messages import INLINE
from handout.scheduler.commands import CancelTasks, RecallTasks, StartTasks
from handout.submission.code_bundles import FunctionBlob
from handout.transport.agent_link import AgentLink

__all__ = ["AgentProxy"]

#: Desired size in bytes of a message's payload. A larger payload is split into several messages, so that no message
#: comes near `MAX_PAYLOAD`.
_BATCH_BYTES = MAX_PAYLOAD // 16


class AgentProxy:
    """The proxy of one host's agent. The agent gets each message once, and all messages in order.

    Args:
        name: The host's name.
        link: The link to the agent.
        trusted: True if objects from the host may be unpickled. If False, only the restricted reader, which accepts
            nothing but data, may read them.
        answer_s: Seconds within which an agent that is not trusted must end a task or send an object.
    """

    def __init__(self, name: str, link: AgentLink, *, trusted: bool = True, answer_s: float = math.inf) -> None:
        self.name = name
        self.trusted = trusted
        self.link = link
        #: The exchange of messages with the agent. It goes on when the link makes a new connection.
        self.conversation = link.conversation
        self.fetches = Fetches()
        #: What the agent has still to answer. None for a trusted agent, which may run tasks for as long as they take.
        self.answers = None if trusted else AnswerLimit(name, answer_s, self.conversation.give_up)
        #: True once the controller has logged that the host's disk is full, so that this is logged only once.
        self.was_full = False
        self._functions: set[int] = set()
        self._classes: set[int] = set()
        self._bundles: dict[int, bytes] = {}
        self._commands = 0
        #: The proxy adds this to the number of each function, task class and source bundle that it sends, because an
        #: earlier controller has used the numbers up to this one. It is 0 unless the agent was taken over.
        self.shift = 0
        #: For each `RunProgram` that the agent has not answered, by its number: the function that takes the answer.
        self.programs: dict[int, Callable[[int, bytes], None]] = {}

    @property
    def python(self) -> str:
        """The path of the Python on the host that runs the agent and its workers, or "" if it is not known."""
        started = self.link.started
        return "" if started is None else started.executable

    # ---- tasks ---------------------------------------------------------------------------------------------

    def start_tasks(
        self,
        run: RunState,
        command: StartTasks,
        classes: Sequence[TaskClass],
        shown: Sequence[int],
        checkpoints: Sequence[int] | None = None,
        function: FunctionBlob | None = None,
    ) -> None:
        """Hand tasks over to the agent. Before that, send the agent the code that it lacks.

        Args:
            run: The run of the tasks.
            command: Names the tasks.
            classes: The task class of each task of ``command``.
            shown: The number of the attempt that each task is told.
            checkpoints: The key of the checkpoint that each task may restore; see `Tasks.checkpoints`.
            function: A function that replaces the functions of the tasks, or None.
        """
        calls = run.encoded.calls
        self._send_classes(classes)
        for first, end in _batches([len(calls[task]) for task in command.tasks]):
            self._start_slice(run, command, classes, shown, checkpoints, function, first, end)

    def _start_slice(
        self,
        run: RunState,
        command: StartTasks,
        classes: Sequence[TaskClass],
        shown: Sequence[int],
        checkpoints: Sequence[int] | None,
        function: FunctionBlob | None,
        first: int,
        end: int,
    ) -> None:
        tasks, attempts = command.tasks[first:end], command.attempts[first:end]
        variants, keep = command.variants[first:end], command.keep[first:end]
        encoded, base = run.encoded, run.base
        ids, wanted, made = run.ids, run.wanted, run.task_objects
        shift = self.shift
        blobs = [encoded.calls[t] for t in tasks]
        if function is None:
            functions = [encoded.functions[encoded.fn[t]].number + shift for t in tasks]
            self._send_functions([encoded.functions[index] for index in {encoded.fn[t] for t in tasks}])
        else:
            functions = [function.number + shift] * len(tasks)
            self._send_functions([function])
        message = messages.Tasks(
            [numbering.attempt_id(run.number, t, a) for t, a in zip(tasks, attempts, strict=True)],
            functions,
            [each.message.number + shift for each in classes[first:end]],
            [len(blob) for blob in blobs],
            [[base | o for o in encoded.inputs[t]] for t in tasks]
            if not run.borrowed
            else [[run.key_of(o) for o in encoded.inputs[t]] for t in tasks],
            [[base | o if wanted[o] else -1 for o in made[t]] for t in tasks],
            [int(k) for k in keep],
            [ids[t] for t in tasks],
            shown[first:end],
            variants,
            None if checkpoints is None else checkpoints[first:end],
        )
        self.conversation.send(message, blobs)
        if self.answers is not None:
            for task, attempt_id in zip(tasks, message.attempt_ids, strict=True):
                self.answers.handed_over(attempt_id, ids[task], run.options_of(task).timeout_s)

    def _send_functions(self, functions: Sequence[FunctionBlob]) -> None:
        """Send the functions that the agent lacks."""
        fresh = []
        for function in functions:
            if function.number not in self._functions:
                self._functions.add(function.number)
                fresh.append(function)
        for first, end in _batches([len(f.blob) for f in fresh]):
            part = fresh[first:end]
            message = messages.Functions([f.number + self.shift for f in part], [len(f.blob) for f in part])
            self.conversation.send(message, [f.blob for f in part])

    def _send_classes(self, classes: Sequence[TaskClass]) -> None:
        """Send the task classes that the agent lacks. The source bundle of a class is sent before the class."""
        known = self._classes
        for each in classes:
            message = each.message
            if message.number not in known:
                known.add(message.number)
                if each.bundle is not None:
                    self._send_bundle(*each.bundle)
                bundle = None if message.bundle is None else message.bundle + self.shift
                self.conversation.send(message._replace(number=message.number + self.shift, bundle=bundle))

    def _send_bundle(self, key: int, data: bytes) -> None:
        """Send a source bundle, unless the agent has it."""
        if key not in self._bundles:
            self._bundles[key] = data
            self.put(key + self.shift, [data], len(data))

    def send_bundle_again(self, key: int) -> None:
        """Send a source bundle again whose file has vanished from the host, unless no run needs it any more.

        Args:
            key: The key under which the agent had the bundle.
        """
        data = self._bundles.get(key - self.shift)
        if data is not None:
            self.put(key, [data], len(data))

    def release_code(self, functions: Set[int], classes: Set[int], bundles: Set[int]) -> None:
        """Tell the agent to drop code that no open run uses. Numbers of code that the agent never got are ignored."""
        shift = self.shift
        forgotten = self._functions & functions, self._classes & classes, self._bundles.keys() & bundles
        self._functions -= functions
        self._classes -= classes
        for key in forgotten[2]:
            del self._bundles[key]
        if any(forgotten):
            self.conversation.send(messages.Release(*([number + shift for number in each] for each in forgotten)))

    def cancel(self, command: CancelTasks, grace_s: float) -> None:
        """Tell the agent to end attempts, including attempts that have not started."""
        self._send_wish(messages.Cancel(_attempt_ids(command), grace_s))

    def recall(self, command: RecallTasks) -> None:
        """Recall attempts. The agent lets an attempt continue if it has already started."""
        self._send_wish(messages.Recall(_attempt_ids(command)))

    def exceed_memory(self, attempt_ids: list[int]) -> None:
        """End attempts as if they had exceeded their memory limits. Only `handout.testing` needs this."""
        self.conversation.send(messages.ExceedMemory(attempt_ids))

    def _send_wish(self, message: messages.Cancel | messages.Recall) -> None:
        if self.answers is not None:
            self.answers.wanted_back(message.attempt_ids)
        self.conversation.send(message)

    # ---- objects -------------------------------------------------------------------------------------------

    def put(self, key: int, segments: Sequence[Buffer], nbytes: int) -> bool:
        """Send an object to the agent's store.

        Returns:
            True if the agent stores the object before it handles the next message. False if the object is streamed. The
            agent then reports with `Arrived` that the object has arrived.
        """
        if nbytes <= INLINE:
            self.conversation.send(messages.Objects([key], [nbytes]), segments)
            return True
        self.conversation.send_object(key, BytesSource(list(segments)))
        return False

    def put_many(self, keys: list[int], blobs: list[bytes]) -> None:
        """Send small objects in few messages."""
        sizes = [len(b) for b in blobs]
        for first, end in _batches(sizes):
            self.conversation.send(messages.Objects(keys[first:end], sizes[first:end]), blobs[first:end])

    def distrust(self, keys: list[int]) -> None:
        """Tell the host to read objects with the restricted reader. The caller must not have sent these objects yet."""
        from handout.serialization.untrusted import reader

        self.conversation.send(messages.Distrust(keys, reader.registered()))

    def fetch(self, key: int, sink: Sink) -> None:
        """Ask the agent for an object. The bytes of the object go to ``sink``."""
        self.fetches.expect(key, sink if self.answers is None else self.answers.fetched(key, sink))
        self.conversation.send(messages.Fetch(key))

    def drop(self, run: int, objects: Sequence[int]) -> None:
        """Tell the agent to delete objects of a run."""
        base = numbering.base(run)
        self.conversation.send(messages.Drop([base | o for o in objects]))

    def drop_keys(self, keys: Sequence[int]) -> None:
        """Tell the agent to delete objects."""
        self.conversation.send(messages.Drop(keys))

    def drop_other_runs(self, found: FoundAgent, run: int) -> None:
        """After a takeover, tell the agent to end the attempts and delete the objects of all runs except ``run``."""
        foreign = [attempt_id for attempt_id in found.attempt_ids if numbering.parts(attempt_id)[0] != run]
        if foreign:
            self.conversation.send(messages.Cancel(foreign, 0.0))
        keys = [key for key, _ in found.objects if numbering.key_parts(key)[0] != run]
        if keys:
            self.conversation.send(messages.Drop(keys))

    def watch_reports(self, wanted: bool) -> None:
        """Tell the agent if a program watches a run, so that it sends the reports that tasks make about themselves."""
        self.conversation.send(messages.WatchReports(wanted))

    # ---- limits and programs -------------------------------------------------------------------------------

    def limits(self, amounts: dict[str, int], devices: Sequence[int]) -> None:
        """Set the amounts and the devices that the agent's ledger may grant to tasks."""
        self.conversation.send(messages.Limits(amounts, list(devices)))

    def run_program(self, argv: Sequence[str], timeout_s: float, answer: Callable[[int, bytes], None]) -> int:
        """Run a program on the host, outside all tasks. Return the key of the program in ``programs``.

        Args:
            argv: The program and its arguments.
            timeout_s: Seconds after which the agent kills the program.
            answer: Called with the exit status of the program, and with what the program printed.
        """
        self._commands += 1
        self.programs[self._commands] = answer
        self.conversation.send(messages.RunProgram(self._commands, list(argv), timeout_s))
        return self._commands


def _batches(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Split a sequence of items into slices, one for each message. Yield the start and the end index of each slice.

    ``sizes`` has the size of each item in bytes. A slice ends as soon as it has more than `_BATCH_BYTES` bytes.
    """
    size, first = 0, 0
    for i, each in enumerate(sizes, 1):
        size += each
        if size > _BATCH_BYTES or i == len(sizes):
            yield first, i
            size, first = 0, i


def _attempt_ids(command: CancelTasks | RecallTasks) -> list[int]:
    return [numbering.attempt_id(command.run, t, a) for t, a in zip(command.tasks, command.attempts, strict=True)]
