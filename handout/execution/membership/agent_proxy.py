"""One host as the shell talks to it: what its agent has been sent already, and the messages that send more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from handout.execution.membership.takeover import FoundAgent
from handout.execution.shell.object_streams import BytesSource, Fetches, Sink
from handout.execution.shell.run_state import RunState
from handout.protocol import numbering
from handout.protocol.frames import MAX_PAYLOAD, Buffer
from handout.scheduler.commands import CancelTasks, RecallTasks, StartTasks
from handout.transport.link import AgentLink

__all__ = ["AgentProxy"]

#: Objects up to this size travel in control messages; larger ones as streams behind them.
INLINE = 64 << 10
#: Payload of one control message; more is split, so that no message is near the frame limit.
_BATCH_BYTES = MAX_PAYLOAD // 16


class AgentProxy:
    """A host that joined. Everything sent is delivered once and in order.

    Args:
        name: The host's name.
        link: To its agent.
        trusted: Whether what it sends may be unpickled; else it is read as data.
    """

    def __init__(self, name: str, link: AgentLink, *, trusted: bool = True) -> None:
        self.name = name
        self.trusted = trusted
        self.link = link
        #: For everything that is said; the link is for what becomes of the agent.
        self.conversation = link.conversation
        self.fetches = Fetches()
        #: Whether it has been said in the log that it has no room.
        self.was_full = False
        self._functions: set[int] = set()
        self._classes: set[int] = set()
        self._bundles: set[int] = set()
        self._commands = 0
        #: Added to every number of a function, a class or a bundle: what an earlier controller used is not used again.
        self.shift = 0
        #: Answers to `run_program` that are awaited.
        self.programs: dict[int, Callable[[int, bytes], None]] = {}

    # ---- tasks ---------------------------------------------------------------------------------------------

    def start_tasks(self, run: RunState, command: StartTasks, class_of: Callable[[int, int], int]) -> None:
        """Hand tasks over, and before them whatever of code the agent has not got yet."""
        calls = run.encoded.calls
        for first, end in _batches([len(calls[task]) for task in command.tasks]):
            self._start_slice(run, command, class_of, first, end)

    def _start_slice(
        self, run: RunState, command: StartTasks, class_of: Callable[[int, int], int], first: int, end: int
    ) -> None:
        tasks, attempts = command.tasks[first:end], command.attempts[first:end]
        variants, keep = command.variants[first:end], command.keep[first:end]
        encoded, base = run.encoded, run.base
        profile, ids, wanted, made = run.spec.profile, run.plan.ids, run.wanted, run.task_objects
        shift = self.shift
        functions = [encoded.functions[encoded.fn[t]].number + shift for t in tasks]
        classes = [class_of(profile[t], v) + shift for t, v in zip(tasks, variants, strict=True)]
        blobs = [encoded.calls[t] for t in tasks]
        self._send_functions(run, tasks)
        fields: dict[str, Any] = {
            "m": "tasks",
            "ticket": [numbering.ticket(run.number, t, a) for t, a in zip(tasks, attempts, strict=True)],
            "fn": functions,
            "class": classes,
            "len": [len(blob) for blob in blobs],
            "inputs": [[base | o for o in encoded.inputs[t]] for t in tasks],
            "out": [[base | o if wanted[o] else -1 for o in made[t]] for t in tasks],
            "keep": [int(k) for k in keep],
            "id": [ids[t] for t in tasks],
            "attempt": attempts,
            "variant": variants,
        }
        self.conversation.send(fields, blobs)

    def _send_functions(self, run: RunState, tasks: Sequence[int]) -> None:
        encoded = run.encoded
        fresh = []
        for index in {encoded.fn[t] for t in tasks}:
            function = encoded.functions[index]
            if function.number not in self._functions:
                self._functions.add(function.number)
                fresh.append(function)
        for first, end in _batches([len(f.blob) for f in fresh]):
            part = fresh[first:end]
            fields = {"m": "functions", "fn": [f.number + self.shift for f in part], "len": [len(f.blob) for f in part]}
            self.conversation.send(fields, [f.blob for f in part])

    def needs_class(self, number: int) -> bool:
        """Whether the agent has yet to hear of a class; it is taken to have heard of it from now on."""
        if number in self._classes:
            return False
        self._classes.add(number)
        return True

    def send_class(self, fields: dict[str, Any]) -> None:
        """What tasks of one class need and how they are run."""
        code = fields["code"]
        moved = {"class": fields["class"] + self.shift, "code": None if code is None else code + self.shift}
        self.conversation.send({"m": "classes", "classes": [{**fields, **moved}]})

    def send_bundle(self, key: int, data: bytes) -> None:
        """The sources of the user's own modules, once."""
        if key not in self._bundles:
            self._bundles.add(key)
            self.put(key + self.shift, [data], len(data))

    def cancel(self, command: CancelTasks, grace_s: float) -> None:
        """End attempts, started or not."""
        self.conversation.send({"m": "cancel", "ticket": _tickets(command), "grace_s": grace_s})

    def take_back(self, command: RecallTasks) -> None:
        """Ask for attempts that have not started."""
        self.conversation.send({"m": "take_back", "ticket": _tickets(command)})

    # ---- objects -------------------------------------------------------------------------------------------

    def put(self, key: int, segments: Sequence[Buffer], nbytes: int) -> bool:
        """Bring an object there; True where it went along at once, False where `stored` will tell."""
        if nbytes <= INLINE:
            self.conversation.send({"m": "objects", "key": [key], "len": [nbytes]}, segments)
            return True
        self.conversation.send_object(key, BytesSource(list(segments)))
        return False

    def put_many(self, keys: list[int], blobs: list[bytes]) -> None:
        """Bring several small objects there, in as few messages as frames may be large."""
        sizes = [len(b) for b in blobs]
        for first, end in _batches(sizes):
            self.conversation.send({"m": "objects", "key": keys[first:end], "len": sizes[first:end]}, blobs[first:end])

    def distrust(self, keys: list[int]) -> None:
        """Objects that are about to come must be read as data there, too."""
        from handout.serialization.untrusted import reader

        self.conversation.send({"m": "distrust", "key": keys, "types": reader.registered()})

    def fetch(self, key: int, sink: Sink) -> None:
        """Ask for an object."""
        self.fetches.expect(key, sink)
        self.conversation.send({"m": "fetch", "key": key, "stream": 0})

    def drop(self, run: int, objects: Sequence[int]) -> None:
        """Nothing needs these there any more."""
        base = numbering.base(run)
        self.conversation.send({"m": "drop", "key": [base | o for o in objects]})

    def disown(self, found: FoundAgent, run: int) -> None:
        """End what an adopted agent has of other runs than this one, and drop their objects."""
        foreign = [ticket for ticket in found.tickets if numbering.parts(ticket)[0] != run]
        if foreign:
            self.conversation.send({"m": "cancel", "ticket": foreign, "grace_s": 0.0})
        keys = [key for key, _ in found.objects if numbering.key_parts(key)[0] != run]
        if keys:
            self.conversation.send({"m": "drop", "key": keys})

    # ---- the host itself -----------------------------------------------------------------------------------

    def limits(self, amounts: dict[str, int], devices: Sequence[int]) -> None:
        """What the agent may give to tasks at once."""
        self.conversation.send({"m": "limits", "amounts": amounts, "devices": list(devices)})

    def run_program(self, argv: Sequence[str], timeout_s: float, answer: Callable[[int, bytes], None]) -> int:
        """Run a program there outside all tasks; ``answer`` gets its exit status and output."""
        self._commands += 1
        self.programs[self._commands] = answer
        self.conversation.send({"m": "run", "id": self._commands, "argv": list(argv), "timeout_s": timeout_s})
        return self._commands


def _batches(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cuts a column so that no part is much over `_BATCH_BYTES`: first and end of each."""
    size, first = 0, 0
    for i, each in enumerate(sizes, 1):
        size += each
        if size > _BATCH_BYTES or i == len(sizes):
            yield first, i
            size, first = 0, i


def _tickets(command: CancelTasks | RecallTasks) -> list[int]:
    return [numbering.ticket(command.run, t, a) for t, a in zip(command.tasks, command.attempts, strict=True)]
