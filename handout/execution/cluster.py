"""`Cluster`: hosts that stay connected and whose agents keep running, so that many graphs can run on them."""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, Unpack, overload

from handout.allocators import Allocator, ClusterView
from handout.errors import HandoutError, HostError
from handout.execution.cluster_runtime import CLOSE_TIMEOUT_S, ClusterRuntime, Require
from handout.execution.execution import Execution
from handout.execution.executor import ClusterExecutor
from handout.execution.loop_thread import LoopThread
from handout.execution.open_loop import OpenLoop
from handout.execution.results import Results
from handout.execution.run_options import RunOptions
from handout.execution.run_view import RunView, views_of
from handout.execution.stored_object import put
from handout.graph import Input, Options, Runnable, as_graph
from handout.graph._overloads import Result
from handout.graph.stored import Stored
from handout.resources import Host, Inventory, InventoryLike
from handout.resources.near_arguments import names_near_arguments
from handout.serialization.untrusted.allowlist import registered_by_value
from handout.submission.single_call import CallOptions, encode_call
from handout.transport.timings import Timings

__all__ = ["Cluster", "Require"]

logger = logging.getLogger("handout")

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

#: The methods whose results code that is not async cannot await.
_AWAITED: Final = ("add", "call", "drain", "execute", "put", "start")
#: How many hosts the repr of a cluster names.
_NAMED: Final = 8


class Cluster:
    """Hosts that stay connected, with agents and workers that keep running. Many graphs can run at the same time.

    Use a cluster in one of two ways:

    - ``async with Cluster(...) as cluster`` in a coroutine. In a notebook, await `open` and `close` instead. The
      methods that are coroutines can be used only in the event loop in which the cluster was opened.
    - ``with Cluster(...) as cluster`` in code that is not async. The cluster then has an event loop in a thread of its
      own. `run`, `executor`, `view`, `unavailable` and `runs` can be used from any thread.

    Args:
        inventory: The hosts: an `Inventory`, a list of hosts or of texts such as ``"user@host:port"``, the path of a
            TOML file, or None for this machine alone.
        allocator: The allocator for runs that name no allocator of their own. None means the built-in `locality`.
        require: How many hosts must be reached before `open` returns: ``"any"`` for one, ``"all"`` for every host of
            the inventory, or a number.
        timings: Time limits, such as how long a host may be silent. None means the defaults of `Timings`.
        max_concurrency: Largest number of tasks of all runs and calls that hosts run at one time. With this limit, a
            host gets a task only when it can start it. None means no limit but the hosts' capabilities.

    Raises:
        InventoryError: The inventory cannot be read, or ``require`` asks for more hosts than the inventory has.
        HandoutError: ``timings`` is not a `Timings`, or ``max_concurrency`` is not a whole number above 0.

    Example:
        ```python
        async def main() -> None:
            async with handout.Cluster() as cluster:
                for number in range(3):
                    graph = handout.Graph()
                    power = graph.add(pow, 2, number)
                    results = await cluster.execute(graph)
                    print(results[power])
        ```
    """

    @names_near_arguments()
    def __init__(
        self,
        inventory: InventoryLike = None,
        *,
        allocator: Allocator | None = None,
        require: Require = "any",
        timings: Timings | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        self._options = CallOptions({})
        self._runtime = ClusterRuntime(
            inventory, allocator=allocator, require=require, timings=timings, max_concurrency=max_concurrency
        )
        #: Ends the thread of the cluster's own event loop. None unless the cluster was opened by a plain ``with``.
        self._thread: ExitStack | None = None

    def __repr__(self) -> str:
        # The states of the hosts would need the cluster's event loop, and a debugger may ask while that stands still.
        names = list(self._runtime.inventory)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"<Cluster, {'not open' if self._runtime.is_closed else 'open'}: {', '.join(names[:_NAMED])}{more}>"

    async def open(self) -> Self:
        """Connect to the hosts, and return as soon as ``require`` of them are usable. The other hosts may join later.

        Returns:
            The cluster itself.

        Raises:
            HostError: The cluster is already open, or fewer hosts than required can be reached. The message gives the
                reason for each host that cannot be reached.
        """
        await self._runtime.open()
        return self

    async def close(self, *, within_s: float = CLOSE_TIMEOUT_S) -> None:
        """End all agents and connections. Each unfinished run ends with an error. A second call does nothing.

        Args:
            within_s: Seconds that closing may take. If the agent on a host has not ended by then, the controller logs a
                warning and does not wait for the agent any longer. The supervisor of that host ends the tasks there
                when the host's lease is over.
        """
        await self._runtime.close(within_s=within_s)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __enter__(self) -> Self:
        if self._thread is not None or not self._runtime.is_closed:
            raise HostError("This cluster is open already. Close the cluster before you open it again.")
        with ExitStack() as stack:
            thread = LoopThread()
            stack.callback(thread.close)
            loop = OpenLoop(thread.loop)
            loop.run_to_end(self.open)
            stack.callback(self._close_in_thread, loop)
            self._runtime.has_thread = True
            # Code that is not async never awaits the results of these methods, so it would never see their errors. The
            # methods of the class stay coroutine functions, which other packages can tell from plain functions.
            vars(self).update({name: self._checked(name) for name in _AWAITED})
            self._thread = stack.pop_all()
        atexit.register(self._close_at_exit)
        return self

    def _close_at_exit(self) -> None:
        if self._runtime.is_forked:
            return
        logger.warning(
            "A cluster that was opened by a plain `with` was still open when the program ended, so Handout closes it. "
            "Leave the `with` block before the program ends."
        )
        self.__exit__(None, None, None)

    def __exit__(self, *exc: object) -> None:
        if self._thread is not None and not self._runtime.is_closed and self._runtime.open_loop.is_current:
            raise HandoutError(
                "The `with` block of this cluster was left in the cluster's own event loop, which cannot wait for its "
                "own end. Callbacks of futures are called there.",
                remedy="Leave the block in the thread that entered it.",
            )
        atexit.unregister(self._close_at_exit)
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._runtime.is_forked:
            return  # the process that opened the cluster has the thread, and goes on to use the cluster
        thread.close()

    def _checked(self, name: str) -> Callable[..., Any]:
        """Return a method that raises at once unless it is called in the event loop of the cluster."""
        method = getattr(type(self), name)

        def checked(*args: Any, **kwargs: Any) -> Any:
            self._runtime.check_awaitable()
            return method(self, *args, **kwargs)

        return checked

    def _close_in_thread(self, loop: OpenLoop) -> None:
        for name in _AWAITED:
            vars(self).pop(name, None)
        self._runtime.has_thread = False
        loop.run_to_end(self.close)

    def start(self, graph: Runnable, /, **run: Unpack[RunOptions]) -> Execution:
        """Make an execution of a graph: ``async with cluster.start(graph) as execution``.

        The arguments of the functions must not be changed before the ``async with`` block is entered, because they are
        read in several turns of the event loop until then.

        Args:
            graph: A graph, or a list of `function` entries.
            **run: The options of the run, see `RunOptions`.

        Returns:
            The execution. The run begins when the ``async with`` block is entered.

        Raises:
            HandoutError: An option does not exist, or its value is not allowed.
        """
        return Execution(self._runtime, as_graph(graph), run)

    async def execute(self, graph: Runnable, /, **run: Unpack[RunOptions]) -> Results:
        """Run a graph and return its results.

        The arguments of the functions must not be changed before the run has begun, because they are read in several
        turns of the event loop.

        Args:
            graph: A graph, or a list of `function` entries.
            **run: The options of the run, see `RunOptions`.

        Returns:
            The results, whose bytes have all been copied to this machine.

        Raises:
            GraphError: The graph is wrong. Nothing was run.
            PlacementError: The graph has a function that no host can ever run.
            HostError: The cluster is not open, or all hosts were lost.
            Exception: The exception of the first function that failed.
        """
        async with self.start(graph, **run) as execution:
            return await execution.results()

    def run(self, graph: Runnable, /, **run: Unpack[RunOptions]) -> Results:
        """Run a graph as `execute` does, from code that is not async, and from any thread.

        Ctrl-C in the main thread ends the run, and is raised after its tasks have ended.

        Args:
            graph: A graph, or a list of `function` entries.
            **run: The options of the run, see `RunOptions`.

        Returns:
            The results, as for `execute`.

        Raises:
            HandoutError: The caller is in the event loop of the cluster. There, await `execute` instead.
            Exception: All that `execute` raises.

        Example:
            ```python
            with handout.Cluster() as cluster:
                graph = handout.Graph()
                power = graph.add(pow, 2, 10)
                assert cluster.run(graph)[power] == 1024
            ```
        """
        loop = self._runtime.open_loop
        if loop.is_current:
            raise HandoutError(
                "cluster.run waits for the run, and the event loop of the cluster cannot wait for itself.",
                remedy="Use `await cluster.execute(...)` instead.",
            )
        return loop.run_to_end(lambda: self.execute(graph, **run))

    def executor(self, **options: Unpack[Options]) -> concurrent.futures.Executor:
        """Return an executor of the standard library, for libraries that take one.

        Its functions run on the hosts of the cluster, as those of `call` do. Several executors of one cluster can have
        different options. To shut an executor down, or to leave its ``with`` block, waits for its own calls, unless
        Ctrl-C ends the block: then its calls are ended too. The cluster stays open. If the cluster is closed, calls
        that have not ended get a `BrokenExecutor`.

        A future is running from the moment at which a host gets its function. From then on ``cancel()`` returns False.
        In the event loop of the cluster, ``result()`` and ``exception()`` of a future that is not done raise an error,
        because they would wait for ever. There, await ``asyncio.wrap_future(future)``.

        Args:
            **options: Options of each function that does not have an option of the same name.

        Returns:
            The executor. Any thread may use it.

        Raises:
            GraphError: An option is wrong, or only a function of a graph can have it.
            HostError: The cluster is not open.

        Example:
            ```python
            with handout.Cluster() as cluster:
                pool = cluster.executor(cost={"memory": "100 MB"}, retries=2)
                print(sum(pool.map(abs, range(-100, 0))))
            ```
        """
        return ClusterExecutor(self._runtime, options)

    @overload  # no function matches it: mypy names the first overload in its messages
    async def call(self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Any: ...
    @overload
    async def call(self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(
        self, fn: Callable[Concatenate[A, P], Coroutine[Any, Any, R]], a: A | Input[A], /,
        *args: P.args, **kwargs: P.kwargs,
    ) -> R: ...  # fmt: skip
    @overload
    async def call(
        self, fn: Callable[Concatenate[A, P], R], a: A | Input[A], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def call(
        self, fn: Callable[Concatenate[A, B, P], Coroutine[Any, Any, R]], a: A | Input[A], b: B | Input[B], /,
        *args: P.args, **kwargs: P.kwargs,
    ) -> R: ...  # fmt: skip
    @overload
    async def call(
        self, fn: Callable[Concatenate[A, B, P], R], a: A | Input[A], b: B | Input[B], /,
        *args: P.args, **kwargs: P.kwargs,
    ) -> R: ...  # fmt: skip
    async def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run one function on a host, and return its result.

        A call is less work than a graph with one function: several thousand calls may run at the same time. The
        arguments are pickled before this method waits for anything, so the caller may change them afterwards. All
        keyword arguments go to the function. Its options are those of the decorator `options`.

        If the caller is cancelled, the function is ended on its host. This method does not wait for that.

        Args:
            fn: The function.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The result of the function.

        Raises:
            GraphError: The function cannot be called with these arguments, or it has an option that only a function of
                a graph can have.
            UnserializableError: The function or an argument cannot be pickled.
            PlacementError: No host can ever run the function.
            HostError: The cluster is not open, or all hosts were lost.
            Exception: The exception that the function raised.

        Example:
            ```python
            async def main() -> None:
                async with handout.Cluster() as cluster:
                    assert await cluster.call(pow, 2, 10) == 1024
                    async with asyncio.TaskGroup() as group:
                        powers = [group.create_task(cluster.call(pow, 2, n)) for n in range(100)]
                    print(sum(power.result() for power in powers))
            ```
        """
        runtime = self._runtime
        calls = runtime.calls
        companions = registered_by_value() if runtime.has_data_hosts else ()
        call = encode_call(fn, args, kwargs, self._options, companions)
        runtime.bulk_calls.look_at(call, args, kwargs)
        return await calls.run(call)

    async def put(self, value: T, /) -> Stored[T]:
        """Store a value, so that graphs and calls of this cluster can take it without sending it again.

        The value is pickled before this method waits for anything. The controller keeps the bytes, those of a large
        value in a file. A host gets them when one of its tasks needs the value for the first time, and keeps them until
        the value is dropped.

        Args:
            value: Any value that can be pickled.

        Returns:
            The stored object, which stands where the value is wanted.

        Raises:
            GraphError: The value is a promise of a value, such as an `Output`, or holds one.
            UnserializableError: The value cannot be pickled.
            OSError: The file of a large value cannot be written.
            HostError: The cluster is not open.

        Example:
            ```python
            async def main() -> None:
                async with handout.Cluster() as cluster:
                    table = await cluster.put(list(range(1000)))
                    print(await cluster.call(sum, table))
            ```
        """
        runtime = self._runtime
        stored: Stored[T] = await put(runtime.driver, runtime.next_run(), value)
        return stored

    async def add(self, host: Host | str, /) -> None:
        """Add a host, and return as soon as the host is usable. Runs that have begun can use the host too.

        If the host cannot be used, or if the call is cancelled, the host is removed from the cluster again.

        Args:
            host: A `Host`, or a text such as ``"user@host:2222"``.

        Raises:
            InventoryError: The argument describes no host, or the cluster already has a host of that name.
            HostError: The host cannot be reached, or no agent can be started there.
        """
        await self._runtime.add(host)

    async def drain(self, name: str, /) -> None:
        """Remove a host without harm to any run, and return as soon as the host's agent has ended.

        The host gets no new tasks. Tasks that run there may finish, however long that takes. The controller then
        fetches results that only this host has, if they are still needed. If a result cannot be fetched, its function
        runs again on another host.

        Cancelling this call does not stop the removal. Another call for the same host waits for the same removal.

        Args:
            name: The name of the host.

        Raises:
            InventoryError: The cluster has no such host, or the host is still being added.
            PlacementError: A task that has not ended can run on no other host. The host stays in the cluster.
        """
        await self._runtime.drain(name)

    @property
    def inventory(self) -> Inventory:
        """The present hosts of the cluster, with the hosts that were added and without those that were drained."""
        return self._runtime.inventory

    @property
    def view(self) -> ClusterView:
        """All hosts of the inventory, with their states, their capabilities and their free amounts. Any thread may ask.

        Allocators get the same view. `HostView.state` says if a host is starting, ready, suspected, lost, quarantined
        or draining.

        Raises:
            HostError: The cluster is not open.

        Example:
            ```python
            async with handout.Cluster("hosts.toml") as cluster:
                for name, host in cluster.view.hosts.items():
                    print(name, host.state, cluster.unavailable.get(name, ""))
            ```
        """
        runtime = self._runtime
        return runtime.open_loop.ask(lambda: runtime.driver.core.view)

    @property
    def runs(self) -> Sequence[RunView]:
        """The runs of the cluster that have not been left, for example for a health endpoint. Any thread may ask.

        All calls of the cluster, those of executors among them, are one run. A run of which the cluster keeps a result
        stays until the result is dropped.

        Raises:
            HostError: The cluster is not open.
        """
        runtime = self._runtime
        return runtime.open_loop.ask(lambda: views_of(runtime.driver))

    @property
    def unavailable(self) -> Mapping[str, HandoutError]:
        """For each host that is lost, in quarantine or cannot be reached, by the host's name: the error that says why.

        A host is listed as soon as the controller notices that it is lost, and until it has joined again. Any thread
        may ask.
        """
        return self._runtime.unavailable
