"""Callers that add tasks to an open run one after another, as the calls of a cluster do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

from handout.allocators import Allocator
from handout.errors import InternalError
from handout.execution.shell.driver import Driver
from handout.execution.shell.open_run import OpenRun
from handout.scheduler import Outcome
from handout.sim.allocators import Manner
from handout.sim.run_plan import FUNCTIONS, Fate, RunPlan, SimulatedHome
from handout.submission.call_snapshots import CallBytes
from handout.submission.code_bundles import FunctionBlob
from handout.submission.single_call import CallOptions, EncodedCall

__all__ = ["Callers", "CallsPlan"]

#: Seconds that a caller waits before it lets go of a task that has ended.
_HOLDS_S = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class CallsPlan(RunPlan):
    """An open run that callers ask for. Its producers are the tasks; the values follow from the tasks' inputs."""

    #: For each task: the seconds after ``at_s`` at which its caller adds it, in ascending order.
    added_s: Sequence[float] = ()
    #: For each task: the seconds after which its caller cancels it, or None.
    patience_s: Sequence[float | None] = ()
    #: For each task: the sizes of the values that it takes.
    value_sizes: Sequence[Sequence[int]] = ()

    @classmethod
    def draw(cls, rng: Random, number: int, horizon_s: float) -> CallsPlan:
        """Return an open run."""
        count = rng.choice((1, 4, 8, 16, 30))
        quick = rng.random() < 0.5
        # A task that must not run twice is in the list, and also one whose attempts fail.
        some = rng.choice(((0,), (0, 6), (0, 4), range(len(FUNCTIONS))))
        bad = {}
        if rng.random() < 0.3:
            for t in rng.sample(range(count), min(count, 2)):
                bad[t] = rng.choice(((1, Fate.RAISES), (9, Fate.RAISES), (1, Fate.POISON), (99, Fate.POISON)))
        return cls(
            number=number,
            at_s=rng.choice((0.0, rng.random() * horizon_s * 0.3)),
            functions=[rng.choice(some) for _ in range(count)],
            inputs=[()] * count,
            producers=range(count),
            groups=[-1] * count,
            priorities=[0.0] * count,
            outputs=range(count),
            keep=(),
            options={"priority": rng.choice((0.0, 0.0, 1.0))},
            speculation=None,
            manner=Manner.draw(rng),
            durations_s=[rng.choice((1e-4, 1e-3, 1e-2) if quick else (1e-3, 0.1, 1.0, 4.0)) for _ in range(count)],
            sizes=[rng.choice((100, 100, 100, 10**5, 10**6)) for _ in range(count)],
            bad=bad,
            added_s=sorted(rng.choice((0.0, rng.random() * horizon_s * 0.5)) for _ in range(count)),
            patience_s=[rng.choice((None, None, None, rng.random() * 5.0)) for _ in range(count)],
            value_sizes=[[rng.choice((10, 10**5))] * rng.choice((0, 0, 1, 2)) for _ in range(count)],
        )

    @property
    def is_calm(self) -> bool:
        """True if all tasks end well when nothing else goes wrong."""
        return (
            not self.bad
            and self.manner.is_sound
            and not self.cold
            and not any(each is not None for each in self.patience_s)
        )

    def first(self, count: int) -> CallsPlan:
        """Return this run with only its first ``count`` tasks."""
        return replace(self, functions=self.functions[:count], added_s=self.added_s[:count])

    @cached_property
    def calls(self) -> Sequence[EncodedCall]:
        """The call of each task."""
        options = [CallOptions(options) for _, options in FUNCTIONS]
        made = []
        for t, index in enumerate(self.functions):
            fn, sizes = FUNCTIONS[index][0], self.value_sizes[t]
            values = [[bytes(n)] for n in sizes]
            warm = {0: f"{self.warm[t]}"} if t in self.warm and values else {}
            found = CallBytes(FunctionBlob(index + 1, b"", False, False), b"", values, frozenset(), warm)
            own = options[index].of(fn, (), {})
            made.append(EncodedCall(fn.__name__, fn.__name__, found, own, False))
        return made

    def recipe_of(self, inputs: Sequence[int], value: str) -> int:
        """Return the key of the object by which a task makes a warm value."""
        return inputs[0]

    def nbytes(self, o: int) -> int:
        """Return the size of an object in bytes."""
        if o < len(self):
            return self.sizes[o]
        return next(size for sizes in self.value_sizes for size in sizes)


class Callers:
    """The callers of one open run, in one life of the controller.

    Args:
        plan: The open run.
        driver: The driver of the controller.
        allocator: The allocator of the run.
        rng: Makes the random choices.
        spawn: Runs a coroutine for as long as the controller lives.
        over: Called with the outcome of the run, when all callers have let go of their tasks.
        homes: Objects that another run keeps. The tasks take them in turn.
    """

    def __init__(
        self,
        plan: CallsPlan,
        driver: Driver,
        allocator: Allocator,
        rng: Random,
        spawn: Callable[..., object],
        over: Callable[[Outcome], None],
        homes: Sequence[SimulatedHome] = (),
    ) -> None:
        self._plan = plan
        self._homes = homes
        self._rng = rng
        self._over = over
        self._left = len(plan)
        self._done = 0
        self.run = OpenRun(
            driver, plan.number, len(plan), priority=plan.options.get("priority", 0.0), allocator=allocator
        )
        self._spawn = spawn
        spawn(self._add_all())

    async def _add_all(self) -> None:
        """Add the tasks, each at its time. The number of a task in the run is its number in the plan."""
        passed_s = 0.0
        for t, at_s in enumerate(self._plan.added_s):
            await asyncio.sleep(at_s - passed_s)
            passed_s = at_s
            if self.run.state.ended.is_set():
                return  # the run was closed
            self._spawn(self._call(t))
            await asyncio.sleep(0)

    async def _call(self, t: int) -> None:
        """Act as the caller of one task."""
        plan, run, state = self._plan, self.run, self.run.state
        ended, ends = asyncio.Event(), 0

        def on_end() -> None:
            nonlocal ends
            ends += 1
            ended.set()

        call = plan.calls[t]
        if self._homes:
            home = self._homes[t % len(self._homes)]
            call = replace(call, bytes=call.bytes._replace(values=[*call.bytes.values, home]))
        task = run.add(call, None, f"c{t}", on_end)
        try:
            async with asyncio.timeout(plan.patience_s[t]):
                await ended.wait()
            await asyncio.sleep(self._rng.choice(_HOLDS_S))
        except TimeoutError:
            run.let_go(task)
        else:
            outcome = state.outcomes[task]
            if outcome is None and not state.ended.is_set():
                raise InternalError(f"R1: the caller of task {task} of run {plan.number} was told of an end too early")
            if ends != 1:
                raise InternalError(f"R1: the caller of task {task} of run {plan.number} was told {ends} ends")
            if outcome is Outcome.DONE and task not in state.objects and not state.ended.is_set():
                raise InternalError(f"R1: task {task} of run {plan.number} is done, but its result has not arrived")
            self._done += outcome is Outcome.DONE
            run.let_go(task)
        self._left -= 1
        if not self._left:
            self._over(Outcome.DONE if self._done == len(plan) else Outcome.FAILED)
