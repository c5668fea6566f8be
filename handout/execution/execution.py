"""`Execution`: one run of one graph, while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import chain, islice
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import anyio

from handout.errors import GraphError, HandoutError, RunTimeoutError
from handout.events import RunEvent
from handout.execution.cluster_runtime import ClusterRuntime
from handout.execution.event_streams import Ended, watch_ends, watch_events, watch_log
from handout.execution.options import RunOptions, check_run_options
from handout.execution.recording.recorder import Recorder
from handout.execution.results import Results, value_of
from handout.execution.shell.driver import Driver
from handout.execution.shell.run_state import RunState
from handout.execution.shell.submission import make_run
from handout.graph import Graph, Output
from handout.graph.check import check_placement
from handout.graph.plan import Plan
from handout.scheduler import events as ev
from handout.scheduler.explain import Explanation, explain
from handout.scheduler.states import Outcome, State
from handout.transport.uninterrupted import uninterrupted

__all__ = ["Execution"]

R = TypeVar("R")

#: Bound on leaving the block. What is cancelled has ended, or been killed, after 2.5 s and a moment.
_LEAVE_TIMEOUT_S = 5.0
#: Of it, for ending the hosts of a cluster of its own.
_CLOSE_S = 2.0
#: Tasks that an error names of those that have not ended.
_NAMED = 3


class Execution:
    """One run of one graph: ``async with handout.start(graph, ...) as execution``.

    Leaving the block cancels what still runs, on the hosts too, within a few seconds.
    """

    def __init__(
        self, cluster: ClusterRuntime, graph: Graph, options: RunOptions, *, owns_cluster: bool = False
    ) -> None:
        check_run_options(options)
        self._cluster = cluster
        self._graph = graph
        self._options = options
        self._entered = False
        #: Of the cluster when the run began: it may be closed, and opened anew, before the run is left.
        self._driver: Driver | None = None
        self._owns_cluster = owns_cluster
        self._run: RunState | None = None
        self._recorder: Recorder | None = None
        self._results: Results | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        run, driver = self._run, self._driver
        if run is None or driver is None:
            return "<Execution, not begun>"
        handed = driver.core.counts(run.number).get(State.HANDED, 0)
        ended = [f"{count} {outcome.value}" for outcome, count in run.counts().items() if count]
        return f"<Execution of {len(run.plan)} tasks: {', '.join([*ended, f'{handed} with hosts'])}>"

    # ---- life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._entered:
            raise HandoutError("This execution was used before.", remedy="Call start(...) again for another run.")
        self._entered = True
        options = self._options
        plan = self._graph.compile(outputs=options.get("outputs"), keep=options.get("keep"), given=options.get("given"))
        check_placement(plan, self._cluster.inventory)
        journal = options.get("journal")
        try:
            if journal is not None:
                self._recorder = await Recorder.open(journal, plan)
            run = self._prepare(plan)
            if self._owns_cluster:
                self._cluster.begin({} if self._recorder is None else self._recorder.earlier.known_agents())
                if self._cluster.required > 1:
                    await self._until_enough(run)
            await self._begin(run)
            if self._owns_cluster:
                await self._until_usable(run)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def _begin(self, run: RunState) -> None:
        """Submit the run, with what is known of earlier ones where it has a journal."""
        recorder = run.recorder = self._recorder
        if recorder is None:
            self._submit(run, [])
            return
        await recorder.earlier.read(run)
        await self._cluster.wait_until_adopted()
        # What agents have is asked for last: who was lost in the meantime has nothing any more.
        hosts = self._cluster.inventory.values()
        facts = recorder.begin(run, self._cluster.adopted(), {host.name for host in hosts if host.trust != "full"})
        if self._owns_cluster:
            # Agents are recorded only where they end with this run: those of a cluster serve others, too.
            self._cluster.driver.recorder = recorder
        self._submit(run, facts)
        # Once the core knows the run: what it was told of comes before what is said of it.
        asyncio.get_running_loop().call_soon(self._cluster.release, run.number)

    def _prepare(self, plan: Plan) -> RunState:
        number = self._cluster.next_run()
        if self._recorder is not None and self._owns_cluster:  # agents of a shared one serve other runs, too
            number = self._recorder.earlier.number_after(number)
        return make_run(plan, self._options, number, self._cluster.allocator)

    async def _until_enough(self, run: RunState) -> None:
        """Who asks for several hosts wants the first tasks to see them all."""
        limit_s = run.policy.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._cluster.wait_until_usable()
        except TimeoutError:
            raise _too_long(limit_s or 0.0, run, "no task had begun") from None

    async def _until_usable(self, run: RunState) -> None:
        """Wait for hosts, unless something ends the run before: it may have only so much time."""
        usable = asyncio.ensure_future(self._cluster.wait_until_usable())
        ended = asyncio.ensure_future(run.ended.wait())
        try:
            await asyncio.wait({usable, ended}, return_when=asyncio.FIRST_COMPLETED)
            if usable.done() or run.error is None:
                await usable
        finally:
            usable.cancel()
            ended.cancel()

    def _submit(self, run: RunState, facts: Sequence[ev.Event]) -> None:
        """Hand the run to the driver, with what is known of earlier ones; from here on it has to be ended."""
        driver = self._driver = self._cluster.driver
        limit_s = run.policy.timeout_s
        if limit_s is not None:
            self._deadline = asyncio.get_running_loop().call_later(limit_s, self._time_out, limit_s)
        self._run = run
        driver.submit(run, facts)

    def _time_out(self, limit_s: float) -> None:
        run = self._active
        if not run.ended.is_set():
            run.error = _too_long(limit_s, run, self._unfinished(run))
            self._post(ev.CancelRequested(run.number))

    def _unfinished(self, run: RunState) -> str:
        """Where some of the tasks are that have not ended; those that run come first, then those that hosts have."""
        driver = self._driver
        known = None if driver is None else driver.core.world.runs.get(run.number)
        if driver is None or known is None:
            return "no task had begun"
        order = (State.HANDED, State.BACKOFF, State.READY, State.WAITING)
        others = (t for state in order for t, each in enumerate(known.state) if each == state and t not in known.begun)
        tasks = islice(chain(sorted(known.begun), others), _NAMED)
        said = [f"{run.plan.ids[t]!r}: {driver.core.explain(run.number, t).reason}" for t in tasks]
        more = run.outcomes.count(None) - len(said)
        return "; ".join([*said, f"and {more} more"] if more > 0 else said)

    async def _leave(self) -> None:
        """Cancel what still runs, wait until it has ended, and let go. Bounded, also where this is cancelled."""
        await uninterrupted(self._let_go())

    async def _let_go(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        run, driver = self._run, self._driver
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LEAVE_TIMEOUT_S
        if run is not None and driver is not None:
            if not run.ended.is_set():
                driver.post(ev.CancelRequested(run.number))
                with anyio.move_on_after(_LEAVE_TIMEOUT_S - (_CLOSE_S if self._owns_cluster else 0.0)):
                    await run.ended.wait()
            driver.forget(run)
            run.finish(None)
        if self._owns_cluster:
            await self._cluster.close(within_s=deadline - loop.time())
        if self._recorder is not None:
            if run is not None:
                # What only the journal wanted; some of it is nowhere else.
                run.objects.drop(set(run.spec.outputs).difference(run.plan.outputs))
            await self._recorder.close(max(_CLOSE_S, deadline - loop.time()))

    def _post(self, event: ev.Event) -> None:
        if self._driver is not None:
            self._driver.post(event)

    @property
    def _active(self) -> RunState:
        if self._run is None:
            raise HandoutError("This execution has not begun.", remedy="Use `async with`.")
        return self._run

    # ---- results ---------------------------------------------------------------------------------------------

    async def results(self) -> Results:
        """Wait until the run has ended, and return what it made.

        Raises:
            Exception: The first failure's own exception, with task, host, attempt and remote traceback as notes
                and the other failures named (unless ``on_failure="continue"``).
            PlacementError: No host can ever run a task.
            RunTimeoutError: The run was over its ``timeout_s``.
            HostError: No host was left.
        """
        run = self._active
        await run.ended.wait()
        if self._results is None:
            self._results = Results(run)
        if run.error is not None:
            raise self._explained(run.error)
        if run.policy.on_failure == "fail_fast":
            self._results.raise_failures()
        return self._results

    def _explained(self, error: Exception) -> Exception:
        """A run's error, with the hosts that could not be reached as notes."""
        notes = getattr(error, "__notes__", ())
        for host, reason in self._cluster.unavailable.items():
            note = f"Host {host!r} could not be used: {reason}"
            if note not in notes:
                error.add_note(note)
        return error

    @overload
    async def result(self, output: Output[R], /) -> R: ...
    @overload
    async def result(self, output: str, /) -> Any: ...
    async def result(self, output: Output[Any] | str, /) -> Any:
        """Wait for one output and return it, while the rest of the run goes on.

        Raises:
            Exception: What its function raised, or what ended the run.
            GraphError: It is no output of this run.
        """
        run = self._active
        number, path = run.plan.locate(output)
        if number not in run.objects and not self._is_gone(number):
            self._want(number)
            there = asyncio.Event()
            run.on_object.setdefault(number, []).append(there.set)
            producer = run.spec.producer[number]
            if producer >= 0 and run.outcomes[producer] is None:
                run.on_task_end.setdefault(producer, []).append(there.set)
            while not there.is_set() and not run.ended.is_set():
                await there.wait()
            if number not in run.objects and not run.ended.is_set() and not self._has_failed(number):
                arrived = asyncio.Event()
                run.on_object.setdefault(number, []).append(arrived.set)
                await arrived.wait()
        return value_of(run, number, path, output)

    def _is_gone(self, number: int) -> bool:
        """Whether an object was made, and dropped since, because nobody had asked for it."""
        run = self._active
        producer = run.spec.producer[number]
        made = producer >= 0 and run.outcomes[producer] is Outcome.DONE
        return (
            made
            and number not in run.spec.outputs
            and (self._driver is None or not self._driver.core.locate(run.number, number))
        )

    def _has_failed(self, number: int) -> bool:
        run = self._active
        return run.spec.producer[number] in run.failures

    def _want(self, number: int) -> None:
        """Ask for an object that was not among the outputs."""
        run = self._active
        if number not in run.spec.outputs and not run.ended.is_set():
            self._post(ev.OutputsWanted(run.number, [number]))

    def ended(self, outputs: Iterable[Output[R]], /) -> AsyncIterator[Ended[R]]:
        """The given outputs, each once, in the order in which their functions end."""
        return watch_ends(self._active, outputs, self.result)

    # ---- watching --------------------------------------------------------------------------------------------

    def events(self) -> AsyncIterator[RunEvent]:
        """What happens from now on, until the run has ended; see :mod:`handout.events`.

        Who is slower than the run by more than some 100,000 events misses the oldest, and is told by an `EventsMissed`.
        """
        return watch_events(self._active)

    def logs(self, id: str | Output[Any], /) -> AsyncIterator[str]:
        """What a task prints: what is kept of it first, then line by line until it has ended, well or by a death.

        Of each task the last 256 KiB are kept, of a run 32 MiB; who reads slower than a task prints is up to 1 MiB
        behind. The oldest lines go first; where some are missing, a line ``[n lines dropped]`` says so.
        """
        return watch_log(self._active, self._task_of(id))

    def explain(self, id: str | Output[Any], /) -> Explanation:
        """Where a task is and why it does not run, as data."""
        run, driver, task = self._active, self._driver, self._task_of(id)
        if driver is None or run.number not in driver.runs:
            raise HandoutError("This execution is over.", remedy="Ask before its block is left.")
        if run.number not in driver.core.world.runs:
            reason = "the run has ended" if run.ended.is_set() else "the run is being submitted"
            return Explanation(task, run.plan.ids[task], State.WAITING, 0, "", reason)
        return explain(driver.core.world, run.number, task)

    def _task_of(self, id: str | Output[Any]) -> int:
        """The task behind an output or an id.

        Raises:
            GraphError: There is none: it names a value.
        """
        run = self._active
        task = run.spec.producer[run.plan.locate(id)[0]]
        if task < 0:
            name = id if isinstance(id, str) else id.id
            raise GraphError(f"{name!r} is a value in this run: no function makes it.", remedy="Name a function.")
        return task

    async def cancel(self, *outputs: Output[Any] | str) -> None:
        """End these functions, and what depends on them; without arguments the whole run.

        Returns once they have ended, on the hosts too.
        """
        run = self._active
        if not outputs:
            self._post(ev.CancelRequested(run.number))
            await run.ended.wait()
            return
        tasks = {run.spec.producer[run.plan.locate(output)[0]] for output in outputs}
        pending = [task for task in tasks if task >= 0 and run.outcomes[task] is None]
        self._post(ev.CancelRequested(run.number, pending))
        for task in pending:
            ended = asyncio.Event()
            run.on_task_end.setdefault(task, []).append(ended.set)
            if run.outcomes[task] is None and not run.ended.is_set():
                await ended.wait()


def _too_long(limit_s: float, run: RunState, where: str) -> RunTimeoutError:
    tasks = len(run.plan)
    unfinished = run.outcomes.count(None) if run.outcomes else tasks
    return RunTimeoutError(
        f"The run was over its timeout_s of {limit_s:g} s and was cancelled, {tasks - unfinished} of {tasks} tasks had "
        f"ended; {where}.",
        remedy="Raise timeout_s, or run less.",
        limit_s=limit_s,
        tasks=tasks,
        unfinished=unfinished,
    )
