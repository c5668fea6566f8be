"""A simulated agent: a queue of tasks, a ledger, a store of objects, and the messages that the agent sends.

The simulated agent takes and sends the same messages as `handout.host.agent`, and uses the same ledger. Each agent has
a number, its epoch. If an agent is started again on a host, the new agent has another epoch, and is another
`SimulatedHost`. A controller that dies and is started again begins a new life.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, NamedTuple

from handout.errors import InternalError
from handout.execution.membership.takeover import FoundAgent
from handout.protocol import messages, numbering
from handout.protocol.frames import Buffer, Piece
from handout.protocol.messages import INLINE
from handout.protocol.resource_ledger import Claim, Ledger
from handout.resources import Offer
from handout.sim.clock import Clock
from handout.sim.line import Line, Way
from handout.sim.run_plan import Fate, RunPlan

__all__ = ["Frame", "HandedTask", "Said", "SimulatedHost", "attempts_of", "is_report"]

#: If a running task is cancelled, it ends within this many seconds.
_GRACE_S = 3.0
#: When a controller dies, up to this many batches of an agent's frames (see `Frame`) may have reached it although the
#: agent has got no acknowledgement of them.
_UNSURE = 2
#: The agent may report the start of a task that takes longer than this many seconds.
_TOLD_S = 0.05
#: Making a warm value takes so many seconds.
_WARMING_S = 0.4
#: The probability that the warm values of a host are given up after a task.
_COOLS = 0.1
#: Zeros that serve as the bytes of every object, because only the sizes of objects matter.
_ZEROS = memoryview(bytes(1 << 20))

_REPORTS = (messages.Finished, messages.Failed, messages.Recalled, messages.Started)


class Said(NamedTuple):
    """A message that the agent sends, and its payload."""

    message: messages.AnyMessage
    payload: Buffer = b""


#: A frame that an agent sends: a message, or bytes of an object.
Frame = Said | Piece


class _TornBytes(bytes):
    """The bytes of a `Piece` for which the controller has no room. For these bytes, ``len`` raises `OSError`."""

    def __len__(self) -> int:
        raise OSError("the simulated controller has no room for the object")


def is_report(frame: Frame) -> bool:
    """Return True if a frame is a report about attempts."""
    return isinstance(frame, Said) and isinstance(frame.message, _REPORTS)


def _is_repeated(frame: Frame) -> bool:
    """Return True if the agent sends a frame again when a new controller takes over."""
    return is_report(frame) or (isinstance(frame, Said) and isinstance(frame.message, messages.Vanished))


def attempts_of(report: Frame) -> Sequence[int]:
    """Return the ids of the attempts that a report is about."""
    assert isinstance(report, Said)
    message: Any = report.message
    return [message.attempt_id] if isinstance(message, messages.Failed) else message.attempt_ids


@dataclass(slots=True, eq=False)
class HandedTask:
    """A task that was handed over to the agent and has not ended there yet."""

    attempt_id: int
    #: The number of the controller's life in which the task was handed over.
    life: int
    plan: RunPlan
    task: int
    attempt: int
    variant: int
    keep: bool
    #: The amounts of the host that the task takes, and its warm values.
    need: Mapping[str, int]
    warm: Sequence[str]
    #: The keys of the task's inputs.
    inputs: Sequence[int]
    #: The keys of the objects that the task makes, with -1 in place of the key of an object that is not needed.
    made: Sequence[int]
    #: The task's claim on the host's ledger, or None before the task starts.
    claim: Claim | None = None
    started_at: float = 0.0

    def __str__(self) -> str:
        return f"attempt {self.attempt} of task {self.task} of run {self.plan.number}"

    def size_of(self, key: int) -> int:
        """Return the size of an object that the task makes."""
        return self.plan.nbytes(numbering.key_parts(key)[1])


class SimulatedHost:
    """A simulated agent on its host.

    Args:
        name: The host's name.
        epoch: The number of this agent.
        offer: The compiled capabilities of the host.
        clock: The virtual clock.
        rng: Makes the random choices.
        plans: The scenario's runs, by number. They say how long tasks take and how attempts end.
        tell: Called with the agent, and its frames that reach the controller together.
        began: Called when a task starts.
    """

    #: The connection to the controller.
    line: Line

    def __init__(
        self,
        name: str,
        epoch: int,
        offer: Offer,
        clock: Clock,
        rng: Random,
        plans: Mapping[int, RunPlan],
        tell: Callable[[SimulatedHost, list[Frame]], None],
        began: Callable[[SimulatedHost, HandedTask], None],
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.ledger = Ledger(offer.amounts, offer.devices)
        self.queue: dict[int, HandedTask] = {}
        self.running: dict[int, HandedTask] = {}
        #: The keys of the objects that the agent has.
        self.store: set[int] = set()
        #: The keys of the objects that are arriving, by the number of the stream.
        self.incoming: dict[int, int] = {}
        #: False once the agent's process has ended.
        self.alive = True
        #: True while the agent's lease is over. No task starts then.
        self.lapsed = False
        #: The duration of each task is multiplied by this factor.
        self.slowness = 1.0
        #: True while the store has no room for any object.
        self.full = False
        #: The keys of the objects for which the store had no room.
        self.refused: set[int] = set()
        #: The keys of the stored objects whose files have vanished, although the agent has not noticed this yet.
        self.vanished: set[int] = set()
        #: How the next fetches of stored objects fail, in order: "missing" or "broken"; see `_give`.
        self.failing: deque[str] = deque()
        #: How many batches of reports are held back on their way, so that batches that were sent later overtake them.
        self.overtaken = 0
        #: The keys of the objects that the agent had when a new controller took it over. The controller may not know
        #: all of these objects.
        self.inherited: set[int] = set()
        self._clock = clock
        self._rng = rng
        self._plans = plans
        self._tell = tell
        self._began = began
        #: The warm values that the host's workers have.
        self.warm: set[str] = set()
        #: The task classes, by number.
        self._classes: dict[int, messages.NewTaskClass] = {}
        self._functions: set[int] = set()
        #: The largest number of a function or a task class that a controller gave the agent. The next controller adds
        #: ``shift`` to its numbers, so that they differ from the earlier numbers.
        self.shift = 0
        #: For each attempt that was ever handed over, by its id: the life of the controller that last handed it over,
        #: and the keys of the objects that the task makes.
        self._handed: dict[int, tuple[int, Sequence[int]]] = {}
        self._outbox: list[Frame] = []
        #: The latest batches of frames that the agent has sent. The first `_arrived` batches have arrived, but the
        #: agent may not know that.
        self._said: deque[list[Frame]] = deque()
        self._arrived = 0
        #: True from a takeover until `go_on`, which repeats the reports.
        self._waits = False
        self._streams = 0
        self._take = self._handlers()

    # ---- messages of the controller ----------------------------------------------------------------------------

    def _handlers(self) -> dict[type, Callable[[Any, int], None]]:
        """Return the method that handles a message, for each type of message."""
        return {
            messages.Tasks: self._take_tasks,
            messages.NewTaskClass: lambda message, life: self._take_class(message),
            messages.Functions: lambda message, life: self._take_functions(message.numbers),
            messages.Release: lambda message, life: self._release_code(message),
            messages.Objects: lambda message, life: self._put(message.keys),
            messages.Drop: lambda message, life: self._drop(message.keys),
            messages.Fetch: lambda message, life: self._give(message.key),
            messages.Cancel: lambda message, life: self._cancel(message.attempt_ids),
            messages.Recall: lambda message, life: self._recall(message.attempt_ids),
            messages.Limits: lambda message, life: self._limit(dict(message.amounts), message.devices),
            messages.WatchReports: lambda message, life: None,  # simulated tasks report nothing
            messages.ExceedMemory: lambda message, life: None,  # the simulator has faults of its own
        }

    def take(self, message: messages.AnyMessage, life: int) -> None:
        """Handle a message.

        Args:
            message: A message of the controller.
            life: The number of the controller's life in which the message was sent.
        """
        self._take[type(message)](message, life)

    def _take_tasks(self, tasks: messages.Tasks, life: int) -> None:
        assert tasks.checkpoints is None  # simulated tasks make no checkpoints
        columns: Any = tasks[:-1]
        for attempt_id, fn, number, _, inputs, made, keep, _, _, variant in zip(*columns, strict=True):
            twice = (
                self._handed.get(attempt_id, (0, ()))[0] == life
                or attempt_id in self.queue
                or attempt_id in self.running
            )
            if twice or fn not in self._functions or number not in self._classes:
                how = "twice" if twice else "before its function or its class"
                raise InternalError(
                    f"R1: (run, task, attempt) {numbering.parts(attempt_id)} is handed to {self.name!r} {how}"
                )
            run, t, attempt = numbering.parts(attempt_id)
            need, warm = self._classes[number].need, self._classes[number].warm
            plan = self._plans[run]
            task = HandedTask(attempt_id, life, plan, t, attempt, variant, bool(keep), need, warm, inputs, made)
            self._handed[attempt_id] = life, made
            self.queue[attempt_id] = task
            if any(key in self.refused for key in inputs):
                self._fail(task, "disk")
        if self.lapsed:
            self._return_all()
        self.pump()

    def _take_class(self, message: messages.NewTaskClass) -> None:
        self._classes[message.number] = message
        self.shift = max(self.shift, message.number)

    def _take_functions(self, numbers: Sequence[int]) -> None:
        self._functions.update(numbers)
        self.shift = max(self.shift, *numbers)

    def _release_code(self, message: messages.Release) -> None:
        """Drop functions and task classes at once, because each `HandedTask` has copied all that it needs of them."""
        self._functions.difference_update(message.functions)
        for number in message.task_classes:
            self._classes.pop(number, None)

    def _recall(self, attempt_ids: Iterable[int]) -> None:
        """Give back the tasks that have not started."""
        for attempt_id in attempt_ids:
            if attempt_id in self.queue:
                self._return(self.queue[attempt_id])

    def _cancel(self, attempt_ids: Iterable[int]) -> None:
        """Cancel queued tasks at once, and running tasks within `_GRACE_S` seconds, unless they end before that."""
        for attempt_id in attempt_ids:
            if attempt_id in self.queue:
                self._fail(self.queue[attempt_id], "cancelled")
            elif attempt_id in self.running:
                delay_s = self._rng.random() * _GRACE_S
                self._clock.after(delay_s, partial(self.end, attempt_id, "cancelled"))

    def _drop(self, keys: Iterable[int]) -> None:
        """Forget these objects, even if they are still arriving."""
        gone = set(keys)
        self.store -= gone
        self.refused -= gone
        self.vanished -= gone
        self.incoming = {stream: key for stream, key in self.incoming.items() if key not in gone}

    def _give(self, key: int) -> None:
        """Send an object, or report that it is missing.

        If the agent has the object and `failing` has an entry, the fetch fails in the way of the entry: the agent loses
        the object ("missing"), or the controller has no room for the object's bytes ("broken").
        """
        how = self.failing.popleft() if self.failing and key in self.store else ""
        if how == "missing":
            self.vanished.add(key)
        if key not in self.store or key in self.vanished:
            self._say(messages.Missing(key))
            self._notice([key])
            return
        self._streams += 1
        stream, nbytes = self._streams, self._size_of(key)
        self._say(messages.StreamObject(stream, key, nbytes))
        self._flush()  # the announcement must arrive before the bytes
        data: Buffer = _TornBytes() if how else _ZEROS[:nbytes]
        piece = Piece(stream, 0, data, 0, True)
        self.line.stream(Way.TO_CONTROLLER, nbytes // 2 if how else nbytes, lambda: self._tell(self, [piece]))

    def _notice(self, keys: Iterable[int]) -> None:
        """Notice which of these objects have vanished: report them, and give back the queued tasks that take them."""
        gone = [key for key in keys if key in self.vanished]
        if gone:
            self.vanished.difference_update(gone)
            self.store.difference_update(gone)
            self._say(messages.Vanished(gone))
            for task in list(self.queue.values()):
                if not set(gone).isdisjoint(task.inputs):
                    self._return(task)

    def _stored(self, key: int) -> None:
        self.store.add(key)
        self.vanished.discard(key)

    def _put(self, keys: Iterable[int]) -> None:
        """Store objects that arrived inside a message."""
        for key in keys:
            if self.full:
                self._refuse(key)
            else:
                self._stored(key)
        self.pump()

    def announce(self, stream: int, key: int) -> None:
        """Expect the stream of an object, unless the store already has the object or has no room for it."""
        if key in self.store:
            self._say_stored(key)
        elif self.full:
            self._refuse(key)
        else:
            self.incoming[stream] = key

    def received(self, stream: int) -> None:
        """Store an object whose stream is complete."""
        key = self.incoming.pop(stream, None)
        if key is None:
            return  # the store had the object already, or had no room for it, or dropped it meanwhile
        self._stored(key)
        self._say_stored(key)
        self.pump()

    def stop(self, stream: int) -> None:
        """Stop expecting a stream."""
        self.incoming.pop(stream, None)

    def _limit(self, amounts: dict[str, int], devices: Sequence[int]) -> None:
        """Change the amounts that tasks may take from now on."""
        self.ledger.resize(amounts, devices)
        self.pump()

    # ---- tasks ------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Start the tasks whose inputs are here and whose needs fit, in the order in which they were handed over."""
        if self.lapsed or not self.alive:
            return
        for task in list(self.queue.values()):
            if all(key in self.store for key in task.inputs):
                if not self.vanished.isdisjoint(task.inputs):
                    self._notice(task.inputs)
                    continue
                claim = self.ledger.claim(dict(task.need))
                if claim is not None:
                    self._start(task, claim)

    def _start(self, task: HandedTask, claim: Claim) -> None:
        del self.queue[task.attempt_id]
        task.claim, task.started_at = claim, self._clock.now
        self.running[task.attempt_id] = task
        self._began(self, task)
        took_s = task.plan.durations_s[task.task] * self.slowness
        warming_s = 0.0 if self.warm.issuperset(task.warm) else _WARMING_S * self.slowness
        if took_s + warming_s > _TOLD_S and self._rng.random() < 0.7:
            self._say(messages.Started([task.attempt_id]))
        self._clock.after(took_s + warming_s, lambda: self._due(task, took_s))

    def _due(self, task: HandedTask, took_s: float) -> None:
        if not self.alive or task.attempt_id not in self.running or not self._make_warm(task):
            return
        fate = task.plan.fate(task.task, task.attempt)
        if fate is not Fate.WELL:
            self.end(task.attempt_id, "died" if fate is Fate.POISON else "raised")
        elif self.full and task.keep:
            self.end(task.attempt_id, "disk")
        else:
            self._finish(task, took_s)

    def _make_warm(self, task: HandedTask) -> bool:
        """Make the warm values of a task that the host does not have. Return False if this fails."""
        for value in task.warm:
            if value in self.warm:
                continue
            if self.name in task.plan.cold:
                self._fail(task, "raised", task.plan.recipe_of(task.inputs, value))
                self.pump()
                return False
            self.warm.add(value)
            self._say(messages.MadeWarm(value, round(_WARMING_S * 1e6)))
        return True

    def _cool(self) -> None:
        """End the idle workers that have warm values, because another task needs what they hold."""
        for value in sorted(self.warm):
            self.warm.remove(value)
            self._say(messages.Cooled(value))

    def _finish(self, task: HandedTask, took_s: float) -> None:
        self._release(task)
        awaited = {key for other in self.queue.values() for key in other.inputs}
        sizes = [-1 if key < 0 else task.size_of(key) for key in task.made]
        inline = [size if size <= INLINE else -1 for size in sizes]
        for key, size in zip(task.made, sizes, strict=True):
            if key >= 0 and (size > INLINE or task.keep or key in awaited):
                self._stored(key)
        finished = messages.Finished([task.attempt_id], [round(took_s * 1e6)], [sizes], [inline])
        self._say(finished, _ZEROS[: sum(size for size in inline if size > 0)])
        if task.warm and self._rng.random() < _COOLS:
            self._cool()
        self.pump()

    def end(self, attempt_id: int, kind: str) -> None:
        """Let a running task fail."""
        task = self.running.get(attempt_id)
        if task is not None and self.alive:
            self._fail(task, kind)
            self.pump()

    def _release(self, task: HandedTask) -> None:
        del self.running[task.attempt_id]
        assert task.claim is not None
        self.ledger.release(task.claim)

    def _fail(self, task: HandedTask, kind: str, recipe: int | None = None) -> None:
        """Let a queued or running task fail, and give back the queued tasks that wait for its results.

        Args:
            task: The task.
            kind: The kind of the failure.
            recipe: If a warm value could not be made, the key of the object by which it is made.
        """
        if task.claim is None:
            if self.queue.pop(task.attempt_id, None) is None:
                return  # the task was given back just before, because the task that makes its input failed
        else:
            self._release(task)
        elapsed_s = max(self._clock.now - task.started_at, 1e-6) if task.claim is not None else 0.0
        said = f"{kind} on {self.name}"
        failed = messages.Failed(task.attempt_id, kind, message=said, elapsed_s=elapsed_s, recipe=recipe)
        if kind == "disk":
            need = sum(task.size_of(key) for key in task.made if key >= 0)
            failed = failed._replace(need=need, argument=task.claim is None)
        self._say(failed)
        doomed = set(task.made)
        while followers := [other for other in self.queue.values() if any(k in doomed for k in self._missing(other))]:
            for other in followers:
                doomed.update(other.made)
                self._return(other)

    def _missing(self, task: HandedTask) -> list[int]:
        return [key for key in task.inputs if key not in self.store]

    def _return(self, task: HandedTask) -> None:
        del self.queue[task.attempt_id]
        self._say(messages.Recalled([task.attempt_id]))

    def _return_all(self) -> None:
        for task in list(self.queue.values()):
            self._return(task)

    def _refuse(self, key: int) -> None:
        self.refused.add(key)
        for task in list(self.queue.values()):
            if key in task.inputs:
                self._fail(task, "disk")

    def lapse(self) -> None:
        """End the lease: give back the queued tasks, and kill the running tasks."""
        if self.alive and not self.lapsed:
            self.lapsed = True
            self._return_all()
            for task in list(self.running.values()):
                self._fail(task, "host")

    def die(self) -> None:
        """End the agent's process and all its tasks."""
        self.alive = False
        self._outbox.clear()
        self.queue.clear()
        for task in list(self.running.values()):
            self._release(task)

    # ---- takeover by another controller ------------------------------------------------------------------------

    def take_over(self, line: Line) -> FoundAgent:
        """Switch to a new controller, and return the attempts and objects that the agent has.

        The caller must call `go_on` later, so that the agent repeats the reports that the previous controller may have
        missed.
        """
        self.line = line
        self.lapsed = False
        self._functions.clear()
        self._classes.clear()
        self.incoming.clear()
        self.refused.clear()
        self.inherited = set(self.store)
        for _ in range(self._arrived - min(self._arrived, self._rng.choice((0, 0, 1, _UNSURE)))):
            self._said.popleft()
        self._said.append(self._outbox)
        self._outbox, self._arrived, self._waits = [], 0, True
        attempt_ids = dict.fromkeys((*self.running, *self.queue))
        for frame in (frame for said in self._said for frame in said):
            if isinstance(frame, Said) and isinstance(frame.message, _REPORTS[:3]):
                attempt_ids.update(dict.fromkeys(attempts_of(frame)))
        sizes = [
            (key, self._plans[run].nbytes(o)) for key in sorted(self.store) for run, o in [numbering.key_parts(key)]
        ]
        return FoundAgent(list(attempt_ids), sizes, {})

    def go_on(self) -> None:
        """Repeat the reports that the previous controller may have missed, now that the new one knows the runs."""
        left = [[self._again(frame) for frame in said if _is_repeated(frame)] for said in self._said]
        self._said.clear()
        self._waits = False
        for said in left:
            self._send(said)
        self.pump()

    def _again(self, report: Frame) -> Frame:
        """Return the frame that repeats a report. The previous controller may have acted on the report already."""
        if isinstance(report, Said) and isinstance(report.message, messages.Finished):
            attempt_id = report.message.attempt_ids[0]
            made = zip(self._handed[attempt_id][1], report.message.sizes[0], strict=True)
            if any(size > INLINE and key not in self.store for key, size in made):
                # The previous controller got the report, and had the result dropped, so the agent reports a failure.
                return Said(messages.Failed(attempt_id, "host", message=f"gone from {self.name}", elapsed_s=1e-6))
        return report

    # ---- messages to the controller ----------------------------------------------------------------------------

    def _say_stored(self, key: int) -> None:
        self._say(messages.Arrived([key], [self._size_of(key)]))

    def _size_of(self, key: int) -> int:
        run, o = numbering.key_parts(key)
        return self._plans[run].nbytes(o)

    def _say(self, message: messages.AnyMessage, payload: Buffer = b"") -> None:
        """Send a message. Messages of the same half millisecond travel in one batch."""
        self._outbox.append(Said(message, payload))
        if len(self._outbox) == 1:
            self._clock.after(0.0005, self._flush)

    @property
    def quiet(self) -> bool:
        """True while the agent has nothing to send, and no message or stream is on its way in either direction."""
        return not self._outbox and not self.overtaken and not self._waits and self.line.idle

    def _flush(self) -> None:
        said, self._outbox = self._outbox, []
        if self.alive:
            self._send(said)

    def _send(self, said: list[Frame]) -> None:
        if said:
            self._said.append(said)
            self.line.send(Way.TO_CONTROLLER, lambda: self._arrive(said))

    def _arrive(self, said: list[Frame]) -> None:
        self._arrived += 1
        if self._arrived > _UNSURE:
            self._said.popleft()
            self._arrived -= 1
        self._tell(self, said)
