"""`Execution`: the caller's access to one run of one graph.

The core is the part of the scheduler that makes all decisions. The driver performs these decisions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, cast, overload

import anyio

from handout.errors import GraphError, HandoutError, PlacementError, RunTimeoutError
from handout.events import RunEvent
from handout.execution.cluster_runtime import ClusterRuntime
from handout.execution.event_streams import Ended, watch_ends, watch_events, watch_log
from handout.execution.recording.recorder import Recorder
from handout.execution.results import Results, run_of
from handout.execution.reuse import Reuse, find_reusable
from handout.execution.reused_results import HandedOver, elements_of, hand_over
from handout.execution.run_options import RunOptions, check_run_options
from handout.execution.run_values import read_kept_value
from handout.execution.shell.driver import Driver
from handout.execution.shell.run_state import GraphRun
from handout.execution.shell.run_submission import make_run
from handout.execution.sliced import sliced
from handout.execution.start_hint import STARTS, Start
from handout.execution.stored_object import keep
from handout.graph import Graph, Output
from handout.graph.check import check_placement
from handout.graph.plan import Plan
from handout.scheduler import events as ev
from handout.scheduler.explain import Explanation, explain
from handout.scheduler.task_states import Outcome, State
from handout.serialization import exceptions
from handout.serialization.printable import printable
from handout.serialization.untrusted.allowlist import registered_by_value
from handout.submission.arguments import encode_plan
from handout.transport.shielded import uninterrupted

__all__ = ["Execution"]

logger = logging.getLogger("handout")

R = TypeVar("R")

#: Seconds that leaving the ``async with`` block of an `Execution` may take. Cancelled tasks end, or are killed, within
#: about 2.5 s.
_LEAVE_TIMEOUT_S = 5.0
#: Seconds of `_LEAVE_TIMEOUT_S` that are reserved for ending the agents, if the execution has a cluster of its own.
#: Closing the journal may also take this many seconds, even if `_LEAVE_TIMEOUT_S` is over by then.
_CLOSE_S = 2.0
#: How many unfinished tasks a timeout error names.
_NAMED = 3


class Execution:
    """One run of one graph, made by `start` or `Cluster.start`: ``async with handout.start(graph) as execution``.

    The run begins when the block is entered. When the block is left, tasks that have not ended are cancelled, and their
    code on the hosts is ended. Leaving the block takes at most 5 seconds, or 7 seconds if the journal's disk does not
    answer.

    Raises:
        GraphError: When the block is entered: the graph is wrong. Nothing was run.
        PlacementError: When the block is entered: no host of the inventory covers the cost of a function.
        HostError: When the block is entered: fewer hosts can be reached than ``require`` asks for.
        JournalError: When the block is entered: the journal cannot be opened or read.
        HandoutError: When the block is entered a second time.

    Example:
        ```python
        async def main() -> None:
            graph = handout.Graph()
            powers = graph.map(pow, [2, 3, 4], [10, 10, 10])
            async with handout.start(graph) as execution:
                async for ended in execution.ended(powers):
                    print(ended.id, await ended.result())
        ```
    """

    def __init__(
        self, cluster: ClusterRuntime, graph: Graph, options: RunOptions, *, owns_cluster: bool = False
    ) -> None:
        check_run_options(options)
        self._cluster = cluster
        self._graph = graph
        self._options = options
        self._entered = False
        #: The driver that the cluster had when the run began. A cluster gets a new driver each time that it is opened.
        self._driver: Driver | None = None
        self._owns_cluster = owns_cluster
        self._run: GraphRun | None = None
        self._recorder: Recorder | None = None
        self._results: Results | None = None
        self._deadline: asyncio.TimerHandle | None = None
        #: The start of the cluster, if the execution has a cluster of its own and has begun to start it.
        self._start: Start | None = None

    def __repr__(self) -> str:
        run, driver = self._run, self._driver
        if run is None or driver is None:
            return "<Execution, not begun>"
        handed = driver.core.counts(run.number).get(State.HANDED, 0)
        ended = [f"{count} {outcome.value}" for outcome, count in run.counts().items() if count]
        return f"<Execution of {len(run.plan)} tasks: {', '.join([*ended, f'{handed} handed over'])}>"

    # ---- life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._entered:
            raise HandoutError("This execution was used before.", remedy="Call start(...) again for another run.")
        self._entered = True
        options = self._options
        if not self._owns_cluster:
            _ = self._cluster.driver  # raises if the cluster is not open, whatever is wrong with the graph
        if self._owns_cluster and options.get("keep") is not None:
            raise HandoutError(
                "keep= leaves objects on the hosts of a cluster, and the hosts of this run are released after it.",
                remedy="Open a Cluster, and run the graph on it: async with Cluster(...) as cluster: ...",
            )
        given = options.get("given")
        earlier = run_of(given) if isinstance(given, Results) else None
        plan = await sliced(
            self._graph._compile(options.get("outputs"), None if earlier is not None else given, options.get("keep"))
        )
        if earlier is None:
            await sliced(check_placement(plan, self._cluster.inventory))
        journal = options.get("journal")
        try:
            if journal is not None:
                self._recorder = await Recorder.open(journal, plan)
                self._recorder.prior.adopt_classes()
            run, found = await self._prepare(plan, earlier)
            if self._owns_cluster:
                self._start = STARTS.begin()
                self._cluster.begin({} if self._recorder is None else self._recorder.prior.known_agents())
                if self._cluster.required > 1:
                    await self._until_enough(run)
            await self._begin(run, earlier, found)
            if self._owns_cluster:
                await self._until_usable(run)
                if self._start is not None:
                    self._start.succeed()
        except BaseException:
            await self._leave()
            raise
        return self

    if not TYPE_CHECKING:  # otherwise type checkers would accept `with start(...)` and `await start(...)`

        def __enter__(self) -> NoReturn:
            raise _not_entered("with")

        def __exit__(self, *exc: object) -> None:
            """Python asks for this method before it calls `__enter__`."""

        def __await__(self) -> NoReturn:
            raise _not_entered("await")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def _begin(self, run: GraphRun, earlier: GraphRun | None, found: Reuse | None) -> None:
        """Submit the run. If it has a journal, first read what earlier runs have committed.

        Args:
            run: The run.
            earlier: The run whose results the caller gave.
            found: What the run takes from these results.
        """
        recorder = run.recorder = self._recorder
        if recorder is None:
            handed = HandedOver()
            if earlier is not None and found is not None:
                handed = await sliced(hand_over(run, earlier, found))
            self._submit(run, handed.added_to(run, []))
            return
        hosts = self._cluster.inventory.values()
        await recorder.prior.read(run, {host.name for host in hosts if host.trust != "full"})
        await self._cluster.wait_until_adopted()
        handed = HandedOver()
        if earlier is not None and found is not None:
            handed = await sliced(hand_over(run, earlier, found, recorder.prior.reused))
        # `adopted` is called only after all waits above, because it leaves out agents that were lost during them.
        facts = recorder.begin(run, self._cluster.adopted())
        facts = handed.added_to(run, facts, frozenset(recorder.prior.done))
        if self._owns_cluster:
            # Agents of a shared cluster are not recorded, because they serve other runs too and outlive this run.
            self._cluster.driver.recorder = recorder
        self._submit(run, facts)
        # `release` is called in the next turn of the event loop, after the core has handled the submission.
        asyncio.get_running_loop().call_soon(self._cluster.release, run.number)

    async def _prepare(self, plan: Plan, earlier: GraphRun | None) -> tuple[GraphRun, Reuse | None]:
        """Return the run, and what it takes from the results of an earlier run."""
        number = self._cluster.next_run()
        companions = registered_by_value() if self._cluster.has_data_hosts else ()
        encoded = await sliced(encode_plan(plan, companions))
        if encoded.bulk and not all(host.is_local for host in self._cluster.inventory.values()):
            logger.warning("%s", printable(encoded.bulk))
        for home in encoded.borrowed.values():
            if self._owns_cluster:
                raise HandoutError(
                    f"Stored object {home.id!r} is on the hosts of a cluster, and this run has hosts of its own.",
                    remedy="Run the graph on that cluster: `await cluster.execute(graph)`.",
                )
            home.check(self._cluster.driver)
        if self._recorder is not None and self._owns_cluster:  # a shared cluster numbers its runs itself
            number = await sliced(self._recorder.prior.number_after(number, encoded))
        allocator = self._cluster.allocator
        if earlier is None:
            return await sliced(make_run(plan, encoded, self._options, number, allocator)), None
        found = await sliced(find_reusable(plan, encoded, earlier, elements_of(earlier)))
        await sliced(check_placement(plan, self._cluster.inventory, found.done))
        run = await sliced(make_run(plan, encoded, self._options, number, allocator, found.is_made))
        run.note_identities(found.identities)
        return run, found

    async def _until_enough(self, run: GraphRun) -> None:
        """Wait until the required hosts have joined.

        The run is submitted only after this, so that its first tasks are spread over all of these hosts.
        """
        limit_s = run.policy.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._cluster.wait_until_usable()
        except TimeoutError:
            raise _too_long(limit_s or 0.0, run, f"none had begun, {self._not_ready()}") from None

    def _not_ready(self) -> str:
        """Name a few hosts that are not ready, with their states, for a run that waits for hosts."""
        hosts = [host for host in self._cluster.driver.core.view.hosts.values() if host.state != "ready"]
        named = ", ".join(f"{host.name!r} ({host.state})" for host in hosts[:_NAMED])
        more = f" and {len(hosts) - _NAMED} more" if len(hosts) > _NAMED else ""
        return f"because too few hosts were ready; those that were not: {named}{more}"

    async def _until_usable(self, run: GraphRun) -> None:
        """Wait until the required hosts have joined or the run has ended, for example because of its ``timeout_s``."""
        usable = asyncio.ensure_future(self._cluster.wait_until_usable())
        ended = asyncio.ensure_future(run.ended.wait())
        try:
            await asyncio.wait({usable, ended}, return_when=asyncio.FIRST_COMPLETED)
            if usable.done() or run.error is None:
                await usable
        finally:
            usable.cancel()
            ended.cancel()

    def _submit(self, run: GraphRun, facts: Sequence[ev.Event]) -> None:
        """Submit the run to the driver, with facts about earlier runs. The caller must call `_leave` later."""
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

    def _unfinished(self, run: GraphRun) -> str:
        """Describe a few unfinished tasks. Running tasks come first, then other handed-over tasks, then all others."""
        driver = self._driver
        known = None if driver is None else driver.core.world.runs.get(run.number)
        if driver is None or known is None:
            return "none had begun"
        order = (State.HANDED, State.BACKOFF, State.READY, State.WAITING)
        others = (
            t for state in order for t, each in enumerate(known.state) if each == state and t not in known.started
        )
        tasks = islice(chain(sorted(known.started), others), _NAMED)
        said = [f"{run.plan.ids[t]!r}: {driver.core.explain(run.number, t).reason}" for t in tasks]
        more = run.outcomes.count(None) - len(said)
        return "; ".join([*said, f"and {more} more"] if more > 0 else said)

    async def _leave(self) -> None:
        """Cancel the tasks and wait until they have ended. Then close the journal, and the cluster if it is not shared.

        All of this is done even if the caller is cancelled.
        """
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
            if driver.is_held(run):
                run.recorder = None  # the journal is closed below, and what is made again is not recorded
            else:
                driver.forget(run)
            run.finish(None)
        if self._owns_cluster:
            if self._start is not None:
                self._start.end()
            await self._cluster.close(within_s=deadline - loop.time())
        if self._recorder is not None:
            if run is not None and (driver is None or not driver.is_held(run)):
                # Drop the objects that were fetched only for the journal. The caller's results stay. If the run keeps
                # objects for later runs, all stay, because the core counts on the controller's replicas.
                run.objects.drop(set(run.spec.outputs).difference(run.plan.outputs))
            await self._recorder.close(max(_CLOSE_S, deadline - loop.time()))

    def _post(self, event: ev.Event) -> None:
        if self._driver is not None:
            self._driver.post(event)

    @property
    def _active(self) -> GraphRun:
        if self._run is None:
            raise HandoutError("This execution has not begun.", remedy="Enter its `async with` block first.")
        return self._run

    # ---- results ---------------------------------------------------------------------------------------------

    async def results(self) -> Results:
        """Wait until the run has ended, and return its results.

        Returns:
            The results. They stay usable after the block is left.

        Raises:
            Exception: The exception of the first function that failed, unless ``on_failure="continue"``. Its notes
                give the task, the host, the attempt and the remote traceback, and name the other tasks that failed.
            TaskCancelledError: No function failed, but some were cancelled, unless ``on_failure="continue"``.
            PlacementError: The run has a task that no host can ever run.
            RunTimeoutError: The run took longer than its ``timeout_s``.
            HostError: All hosts were lost.
            JournalError: The journal cannot be written any more.
        """
        run = self._active
        await run.ended.wait()
        if self._results is None:
            self._results = Results(run)
            if run.plan.keep and run.error is None and self._driver is not None:
                self._results._keep(keep(self._driver, run))
        if run.error is not None:
            raise self._explained(run.error)
        if run.policy.on_failure == "fail_fast":
            self._results.raise_failures()
        return self._results

    def _explained(self, error: Exception) -> Exception:
        """Add a note to the run's error for each host that cannot be used, unless the error names the host already.

        Return the error.
        """
        known = exceptions.notes(error)
        told = error.lacks if isinstance(error, PlacementError) else {}
        for host, reason in self._cluster.unavailable.items():
            note = f"Host {host!r} could not be used: {reason}"
            if note not in known and host not in told:
                exceptions.add_note(error, note)
        return error

    @overload
    async def result(self, output: Output[R], /) -> R: ...
    @overload
    async def result(self, output: str, /) -> Any: ...
    async def result(self, output: Output[Any] | str, /) -> Any:
        """Wait for one output and return its value. The run goes on meanwhile.

        Args:
            output: An output of the graph, or the id of a function.

        Returns:
            The value.

        Raises:
            Exception: The exception that the output's function raised, or the error that ended the run.
            KeyError: The value was dropped before this call, because no task or caller needed it.
            GraphError: The graph has no such output.
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
            if not (number in run.objects or run.ended.is_set() or self._has_failed(number) or self._is_gone(number)):
                arrived = asyncio.Event()
                run.on_object.setdefault(number, []).append(arrived.set)
                await arrived.wait()
        assert self._driver is not None  # the run was submitted to it
        return await read_kept_value(self._driver.reading_threads, run, number, path, output)

    def _is_gone(self, number: int) -> bool:
        """Return True if an object was made, and was dropped later because no task or caller needed it."""
        run = self._active
        producer = run.spec.producer[number]
        made = producer >= 0 and run.outcomes[producer] is Outcome.DONE
        return (
            made
            and number not in run.spec.outputs
            and (self._driver is None or self._driver.core.is_gone(run.number, number))
        )

    def _has_failed(self, number: int) -> bool:
        run = self._active
        return run.spec.producer[number] in run.failures

    def _want(self, number: int) -> None:
        """If an object is not one of the run's outputs, make it one, unless a host was told already not to keep it."""
        run = self._active
        if number not in run.spec.outputs and not run.ended.is_set():
            run.wanted[number] = 1
            self._post(ev.OutputsWanted(run.number, [number]))

    def ended(self, outputs: Iterable[Output[R]], /) -> AsyncIterator[Ended[R]]:
        """Yield the given outputs, each of them once, in the order in which their functions end.

        Args:
            outputs: Outputs of the graph.

        Returns:
            An async iterator of `Ended`. It begins with outputs of functions that have already ended.

        Raises:
            GraphError: An element of ``outputs`` is not an output of this graph.
        """
        return watch_ends(self._active, outputs, self.result)

    # ---- watching --------------------------------------------------------------------------------------------

    def events(self) -> AsyncIterator[RunEvent]:
        """Yield the events of the run from now on, until it has ended.

        Returns:
            An async iterator of events. Each kind of event is a subclass of `Event`. If a reader is more than 100,000
            events behind, the oldest of these events are dropped. In their place the reader gets an `EventsMissed`,
            which says how many events were dropped.
        """
        return watch_events(self._active)

    def logs(self, id: str | Output[Any], /, *, colours: bool = False) -> AsyncIterator[str]:
        r"""Yield the lines that a task prints: first the kept lines, then new lines until the task has ended.

        The controller keeps up to 256 KiB of lines for each task and 32 MiB for a run. A reader may be up to 1 MiB
        behind. Beyond these limits, the oldest lines are dropped, and a line ``[n lines dropped]`` takes their place.

        Control characters are escaped in the lines, such as ``\x1b``, because a terminal would obey them.

        Args:
            id: The id of a function, or its output.
            colours: True to keep the sequences that set colours and styles (ECMA-48 SGR).

        Returns:
            An async iterator of lines.

        Raises:
            GraphError: The graph has no such function, or the output is a plain value.
        """
        return watch_log(self._active, self._task_of(id), colours)

    def explain(self, id: str | Output[Any], /) -> Explanation:
        """Explain where a task is, and why it does not run.

        Args:
            id: The id of a function, or its output.

        Returns:
            An `Explanation`. It has the state, the attempt, the host and the reason.

        Raises:
            GraphError: The graph has no such function, or the output is a plain value.
            HandoutError: The block has been left.
        """
        run, driver, task = self._active, self._driver, self._task_of(id)
        if driver is None or run.number not in driver.runs:
            raise HandoutError("This execution is over.", remedy="Call explain() inside its `async with` block.")
        if run.number not in driver.core.world.runs:
            if run.ended.is_set():
                return Explanation(task, run.plan.ids[task], State.CANCELLED, 0, "", "the run has ended")
            return Explanation(task, run.plan.ids[task], State.WAITING, 0, "", "the run is being submitted")
        found, failure = explain(driver.core.world, run.number, task), run.failures.get(task)
        if failure is None or found.state not in (State.FAILED, State.SKIPPED):
            return found
        cause = failure.reason if found.state is State.FAILED else repr(failure.caused_by)
        return replace(found, reason=f"{found.reason}: {cause}")

    def _task_of(self, id: str | Output[Any]) -> int:
        """Return the number of the task that has the given id or makes the given output.

        Raises:
            GraphError: The graph has no such output, or the output is a plain value.
        """
        run = self._active
        task = run.spec.producer[run.plan.locate(id)[0]]
        if task < 0:
            name = id if isinstance(id, str) else id.id
            raise GraphError(
                f"{name!r} is a value in this run, and no function makes this value.",
                remedy="Name a function, or an output that a function makes.",
            )
        return task

    async def cancel(self, *outputs: Output[Any] | str | Sequence[Output[Any] | str]) -> None:
        """Cancel functions and all functions that depend on them, or the whole run.

        The call returns when the code of the cancelled functions has ended on the hosts. The other functions go on. At
        the end of the run, `results` raises a `TaskCancelledError`, unless the run has ``on_failure="continue"``.

        Args:
            *outputs: Outputs, ids of functions, or lists of these. An empty list cancels nothing. Without an argument,
                the whole run is cancelled.

        Raises:
            GraphError: The graph has no such output.

        Example:
            ```python
            async with handout.start(graph, on_failure="continue") as execution:
                async for event in execution.events():
                    match event:
                        case handout.events.TaskReported(id=id, facts={"loss": float(loss)}) if loss > 100:
                            await execution.cancel(id)
                results = await execution.results()
            ```
        """
        run = self._active
        if not outputs:
            self._post(ev.CancelRequested(run.number))
            await run.ended.wait()
            return
        tasks = {run.spec.producer[run.plan.locate(output)[0]] for output in _listed(outputs)}
        pending = [task for task in tasks if task >= 0 and run.outcomes[task] is None]
        self._post(ev.CancelRequested(run.number, pending))
        for task in pending:
            ended = asyncio.Event()
            run.on_task_end.setdefault(task, []).append(ended.set)
            if run.outcomes[task] is None and not run.ended.is_set():
                await ended.wait()


def _listed(outputs: Iterable[Output[Any] | str | Sequence[Output[Any] | str]]) -> Iterator[Output[Any] | str]:
    for each in outputs:
        if isinstance(each, list | tuple):
            yield from each
        else:  # anything else that is no output is refused when it is looked up
            yield cast(Output[Any] | str, each)


def _not_entered(how: str) -> HandoutError:
    return HandoutError(
        f"An execution cannot be used with `{how}`.",
        remedy="Write `async with start(...) as execution:`. To run a graph to its end, write `await execute(...)`, "
        "or in code that is not async `run(...)`.",
    )


def _too_long(limit_s: float, run: GraphRun, where: str) -> RunTimeoutError:
    tasks = len(run.plan)
    unfinished = run.outcomes.count(None) if run.outcomes else tasks
    return RunTimeoutError(
        f"The run took longer than its timeout_s of {limit_s:g} s and was cancelled. {tasks - unfinished} of {tasks} "
        f"tasks had ended. State of the unfinished tasks: {where}.",
        remedy="Raise timeout_s, or run fewer functions.",
        limit_s=limit_s,
        tasks=tasks,
        unfinished=unfinished,
    )
