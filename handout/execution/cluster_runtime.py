"""Does the work of a `Cluster`: opens and closes its hosts, and lets runs use them.

Each host has a host manager, which starts the host's agent and stays connected to the agent. The core is the part of
the scheduler that makes all decisions. The driver performs these decisions, and tells the core what happened.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup

from handout.allocators import Allocator
from handout.errors import HandoutError, HostError, HostUnreachableError, InventoryError
from handout.execution.bulk_calls import BulkCalls
from handout.execution.calls import Calls
from handout.execution.cluster_hint import OPEN
from handout.execution.loop_monitor import LoopMonitor
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.membership.declared import expecting
from handout.execution.membership.host_manager import HostManager
from handout.execution.membership.members import Members
from handout.execution.membership.takeover import FoundAgent, KnownAgent
from handout.execution.open_loop import OpenLoop, not_open
from handout.execution.shell.driver import Driver
from handout.execution.slots import most_tasks
from handout.project.loaded import remember_loaded
from handout.resources import (
    PARTS,
    Host,
    Inventory,
    InventoryLike,
    Requirement,
    as_host,
    as_inventory,
    compile_capabilities,
)
from handout.resources.names import MAX_CONCURRENCY
from handout.resources.numbers import is_whole
from handout.scheduler import events as ev
from handout.serialization.user_objects import brief
from handout.transport.bootstrap import choose_hash_seed
from handout.transport.launcher import Launcher
from handout.transport.launcher_choice import Launchers
from handout.transport.refusing_launcher import RefusingLauncher
from handout.transport.shielded import uninterrupted
from handout.transport.timings import Timings

__all__ = ["CLOSE_TIMEOUT_S", "ClusterRuntime", "Require"]

Require = Literal["any", "all"] | int

logger = logging.getLogger("handout")

#: Seconds that closing a cluster may take by default. The agents must end within this time minus the two times below.
CLOSE_TIMEOUT_S = 5.0
#: After the agents' time is over, the cluster's asyncio tasks get this many seconds to end. `close` then cancels them.
_LET_GO_S = 0.25
#: Seconds that `close` waits for the cancelled asyncio tasks. The wait needs a limit, because the user's allocator or
#: tracker may ignore a cancellation.
_CANCEL_TIMEOUT_S = 0.25


class ClusterRuntime:
    """Does the work of one `Cluster`. The constructor takes the arguments of `Cluster`."""

    def __init__(
        self,
        inventory: InventoryLike = None,
        *,
        allocator: Allocator | None = None,
        require: Require = "any",
        timings: Timings | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        self.inventory: Inventory = as_inventory(inventory)
        self.max_concurrency = _limit(max_concurrency, self.inventory)
        if allocator is not None and not callable(allocator):
            raise HandoutError(
                f"allocator={brief(allocator)} is not an async function of frontier and view.",
                remedy="Give such a function, for example handout.locality.",
            )
        self.allocator = allocator
        self.required: int = _required(require, len(self.inventory))
        if timings is not None and not isinstance(timings, Timings):
            raise HandoutError(
                f"timings={brief(timings)} is not a Timings.", remedy="Give Timings(host_timeout_s=...)."
            )
        self._timings = timings or Timings()
        self.bulk_calls = BulkCalls(lambda: self.inventory)
        #: The seed of Python's hash function in all workers of the cluster.
        self._hash_seed = choose_hash_seed()
        self._runs = itertools.count(1)
        self._driver: Driver | None = None
        self._calls: Calls | None = None
        #: True if the cluster was opened by a plain ``with``, so that its event loop has a thread of its own.
        self.has_thread = False
        self._serving: asyncio.Task[None] | None = None
        self._loop: OpenLoop | None = None
        #: Held while a thread opens the cluster, because another thread may try it too.
        self._opening = threading.Lock()
        self._closing = asyncio.Event()
        #: Seconds that agents get to end when the cluster is closed.
        self._stop_s = 0.0
        #: Maps the name of a host to None if it has joined, otherwise to the error that says why it cannot be used.
        self._settled: dict[str, HandoutError | None] = {}
        self._settling = asyncio.Event()
        #: Maps the name of each host that is lost, in quarantine or cannot be reached to the error that says why.
        self._unavailable: dict[str, HandoutError] = {}
        #: Runs a coroutine. Returns False, and closes the coroutine, if no task group can run it.
        self._spawn: Callable[[Coroutine[Any, Any, None]], bool] = _refuse
        self._members: Members | None = None
        #: The hosts on which no agent may start, and those to which nothing may connect, each with the reason. Both are
        #: empty unless `handout.testing.Faults` is in use.
        self.no_starts: dict[str, str] = {}
        self.no_connections: dict[str, str] = {}
        #: Maps the name of a host to the agent that an earlier controller started there, as the journal describes it.
        self._known: Mapping[str, KnownAgent] = {}
        #: Maps the name of a host in ``_known`` to what became of its agent: None if the agent could not be taken over,
        #: otherwise the agent's proxy, and the attempts and objects that the agent reported.
        self._found: dict[str, tuple[AgentProxy, FoundAgent] | None] = {}

    # ---- life ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start to connect, and wait until as many hosts as required are usable; see `Cluster.open`."""
        remember_loaded()  # a cluster may be open for weeks, and the files on disk may change meanwhile
        self.begin()
        OPEN.note(self, self.inventory)
        try:
            await self.wait_until_usable()
        except BaseException:
            await self.close()
            raise

    async def close(self, *, within_s: float = CLOSE_TIMEOUT_S) -> None:
        """End all agents and connections; see `Cluster.close`."""
        if self._serving is None or self._is_abandoned:
            self._serving = None
            OPEN.forget(self)
            return
        if not self._serving.done():
            self._check_loop(self._serving)
        OPEN.forget(self)
        serving, driver, self._serving = self._serving, self._driver, None
        assert driver is not None
        if self._loop is not None:
            self._loop.shut()
        self._stop_s = max(0.0, within_s - _LET_GO_S - _CANCEL_TIMEOUT_S)
        self._closing.set()
        await uninterrupted(_end(serving, driver, self._stop_s + _LET_GO_S))

    def begin(self, known: Mapping[str, KnownAgent] | None = None) -> None:
        """Start to connect to the hosts, without waiting for them. The caller must call `close` later.

        Args:
            known: Maps the name of a host to an agent that an earlier controller started there. If the agent still
                runs, the host manager takes over the agent, and holds back the agent's messages until `release` is
                called.

        Raises:
            HostError: The cluster is already open.
        """
        if not threading.main_thread().is_alive():
            raise HandoutError(
                "A cluster cannot be opened after the main thread of the program has ended, because Python's pools of "
                "threads take no more work then.",
                remedy="Let the main thread wait for the thread that opens the cluster: thread.join().",
            )
        with self._opening:
            if self._serving is not None and not self._is_abandoned:
                raise HostError("This cluster is open already. Close the cluster before you open it again.")
            self._begin(known)

    def _begin(self, known: Mapping[str, KnownAgent] | None) -> None:
        # The cluster may have been open in another event loop before.
        self._closing, self._settling = asyncio.Event(), asyncio.Event()
        self._settled.clear()
        self._unavailable.clear()
        self._known = {name: agent for name, agent in (known or {}).items() if name in self.inventory}
        for agent in self._known.values():
            # Agents that start now must hash as those that are taken over.
            if agent.started.hash_seed is not None:
                self._hash_seed = agent.started.hash_seed
        self._found.clear()
        self._driver = Driver(lambda coroutine: self._spawn(coroutine))
        self._calls = Calls(self._driver, self.next_run, self.allocator)
        shared = dict(self.inventory.shared_amounts)
        if self.max_concurrency is not None:
            shared[MAX_CONCURRENCY] = self.max_concurrency * PARTS
        self._driver.classes.share(frozenset(shared))
        self._driver.post(ev.SharedChanged(shared))
        for host in self.inventory.values():
            # The core gets these events before any event about a run, so that the runs wait for the hosts.
            self._driver.post(expecting(host, self._timings))
        self._loop = OpenLoop(asyncio.get_running_loop())
        self._serving = asyncio.create_task(
            self._serve(self._driver, self._calls, self._closing, self._loop), name="handout cluster"
        )
        self._serving.add_done_callback(_retrieve)

    async def wait_until_adopted(self) -> None:
        """Wait until it is known, for each agent of an earlier controller, whether it could be taken over.

        This wait always ends, because each host manager limits the time of a takeover.
        """
        while len(self._found) < len(self._known) and self._serving is not None and not self._serving.done():
            self._settling.clear()
            await self._settling.wait()

    def adopted(self) -> Mapping[str, FoundAgent]:
        """Return a mapping from the name of a host to the attempts and objects that its agent had at the takeover.

        Agents that were lost after the takeover are left out.
        """
        peers = self.driver.agents
        return {name: each[1] for name, each in self._found.items() if each is not None and peers.get(name) is each[0]}

    def release(self, run: int) -> None:
        """Deliver the messages that have been held back since agents were taken over.

        Call this only after the core has learned of the run to which these messages belong.

        Args:
            run: Number of the run that has just been submitted.
        """
        if self._members is not None:
            self._members.release(run)

    def retry(self, name: str) -> None:
        """Try to start the agent of a lost host at once; see `HostManager.retry`."""
        if self._members is not None:
            self._members.retry(name)

    def _on_adopted(self, name: str, found: FoundAgent | None) -> None:
        self._found[name] = None if found is None else (self.driver.agents[name], found)
        self._settling.set()

    async def wait_until_usable(self) -> None:
        """Wait until as many hosts as required have joined.

        Raises:
            HostError: So many hosts have failed that the required number cannot join any more.
            HandoutError: The cluster was closed, or the driver has failed.
        """
        total = len(self.inventory)
        while True:
            joined = sum(1 for error in self._settled.values() if error is None)
            failed = [error for error in self._settled.values() if error is not None]
            if joined >= self.required:
                return
            if total - len(failed) < self.required:
                raise _too_few(failed, self.required, total)
            if self._serving is None or self._serving.done():
                broken = None if self._driver is None else self._driver.broken
                raise broken or HandoutError(
                    "The cluster was closed while it was being opened. Open it again to use it."
                )
            self._settling.clear()
            await self._settling.wait()

    async def _serve(self, driver: Driver, calls: Calls, closing: asyncio.Event, loop: OpenLoop) -> None:
        """Run the host managers and the driver's coroutines in one task group, until the cluster is closed."""
        launchers = Launchers()
        watch = LoopMonitor(self._timings.blocked_s)
        watch.start()
        inventory = self.inventory
        known = dict(self._known)
        members: Members | None = None

        async def launcher_of(host: Host) -> Launcher:
            return RefusingLauncher(await launchers.of(host), host.name, self.no_starts, self.no_connections)

        def make(host: Host, settled: Callable[[str, HandoutError | None], None]) -> HostManager:
            return HostManager(
                host,
                driver,
                partial(launcher_of, host),
                self._timings,
                self._hash_seed,
                inventory.tracker,
                inventory.interval_s,
                settled,
                self._on_lost,
                known.pop(host.name, None),
                self._on_adopted,
            )

        try:
            async with anyio.create_task_group() as group:
                spawned: asyncio.Queue[Coroutine[Any, Any, None]] = asyncio.Queue()
                self._spawn = partial(_put, spawned)
                group.start_soon(self._start_spawned, spawned, group)
                members = self._members = Members(driver, group, make, self._on_settled, self._forget, self._timings)
                for host in inventory.values():
                    members.keep(host)
                await closing.wait()
                await members.close(self._stop_s)
                group.cancel_scope.cancel()
        except asyncio.CancelledError:
            if not closing.is_set():  # asyncio.run cancels all that its main function has left behind
                logger.warning(
                    "A cluster was not closed before its event loop ended, so Handout has ended its agents and its "
                    "tasks. Write `async with Cluster(...) as cluster`, or await cluster.close() in a `finally` block."
                )
            raise
        except Exception as error:
            driver.break_down(error)
            raise
        finally:
            watch.stop()
            loop.shut()
            driver.close()
            calls.close()
            if members is not None:
                members.end()
            if self._driver is driver:
                self._spawn, self._members = _refuse, None
                self._settling.set()

    async def _start_spawned(self, spawned: asyncio.Queue[Coroutine[Any, Any, None]], group: TaskGroup) -> None:
        """Start coroutines as tasks of a group, until this coroutine is cancelled.

        Callbacks of the event loop cannot do so themselves: if ``sniffio`` is installed, anyio sees the event loop only
        in a task.
        """
        try:
            while True:
                group.start_soon(_awaited, await spawned.get())
        finally:
            self._spawn = _refuse
            while not spawned.empty():
                group.start_soon(_awaited, spawned.get_nowait())  # it is cancelled at its first await

    def _on_settled(self, name: str, error: HandoutError | None) -> None:
        self._settled[name] = error
        if error is None:
            self._unavailable.pop(name, None)
        else:
            self._unavailable[name] = error
        self._settling.set()

    def _on_lost(self, name: str, error: HandoutError) -> None:
        self._unavailable[name] = error

    # ---- membership ------------------------------------------------------------------------------------------

    async def add(self, host: Host | str, /) -> None:
        """Add a host; see `Cluster.add`."""
        members = await self._open_members()
        host = as_host(host)
        if host.name in self.inventory:
            raise InventoryError(
                f"This cluster already has a host {host.name!r}.",
                remedy="Give the new host another name: Host('other', address=...). Or drain the old host first.",
                host=host.name,
                key="name",
            )
        self.inventory = self.inventory.with_hosts([*self.inventory.values(), host])
        await members.add(host)

    async def drain(self, name: str, /) -> None:
        """Remove a host without harm to any run; see `Cluster.drain`."""
        members = await self._open_members()
        await members.drain(name)

    async def _open_members(self) -> Members:
        """Return the `Members` of this cluster. If `_serve` has not made it yet, wait for one turn of the event loop.

        Raises:
            HostError: The cluster is not open, or is being closed.
        """
        driver = self.driver
        if self._members is None:
            await asyncio.sleep(0)
        if self._members is None or self._closing.is_set():
            raise driver.broken or HostError("This cluster is being closed. To add or drain hosts, open it again.")
        return self._members

    def _forget(self, name: str) -> None:
        """Remove a host from the inventory, after it was drained or could not be added."""
        self.inventory = self.inventory.with_hosts(host for host in self.inventory.values() if host.name != name)
        self.required = min(self.required, len(self.inventory))
        self._settled.pop(name, None)
        self._unavailable.pop(name, None)
        self._settling.set()

    @property
    def driver(self) -> Driver:
        """The driver of the open cluster.

        Raises:
            HostError: The cluster is not open.
            HandoutError: The cluster was opened in another event loop than the running one.
        """
        if self._driver is None or self._serving is None or self._is_abandoned:
            raise not_open()
        self._check_loop(self._serving)
        return self._driver

    def check_awaitable(self) -> None:
        """Raise `HandoutError` if the caller is not in the event loop of the cluster, which a plain ``with`` opened."""
        if self._serving is not None and asyncio._get_running_loop() is not self._serving.get_loop():
            raise _in_plain_with()

    def _check_loop(self, serving: asyncio.Task[None]) -> None:
        """Raise `HandoutError` if the cluster was opened in another event loop than the running one."""
        if asyncio._get_running_loop() not in (None, serving.get_loop()):
            if self.has_thread:
                raise _in_plain_with()
            raise HandoutError(
                "This cluster was opened in another event loop, and can be used only there.",
                remedy="Use the cluster in the event loop that opened it, or open another cluster in this event loop. "
                "From other threads, cluster.run(graph) and cluster.executor() can be used.",
            )

    @property
    def calls(self) -> Calls:
        """The calls of the open cluster.

        Raises:
            HostError: The cluster is not open.
            HandoutError: The cluster was opened in another event loop than the running one.
        """
        _ = self.driver  # raises if the cluster cannot be used here
        assert self._calls is not None
        return self._calls

    @property
    def open_loop(self) -> OpenLoop:
        """The event loop in which the cluster is open.

        Raises:
            HostError: The cluster is not open.
        """
        if self._serving is None or self._loop is None or self._is_abandoned:
            raise not_open()
        return self._loop

    @property
    def is_closed(self) -> bool:
        """True if the cluster is not open, or is being closed."""
        return self._serving is None or self._closing.is_set() or self._is_abandoned

    @property
    def is_forked(self) -> bool:
        """True in a process that was forked from the one that opened the cluster."""
        return self._loop is not None and self._loop.is_forked

    @property
    def _is_abandoned(self) -> bool:
        """True if the event loop of the cluster has ended, and the cluster was not closed before."""
        serving = self._serving
        return serving is not None and (serving.cancelled() or serving.get_loop().is_closed())

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> bool:
        """Run a coroutine until the cluster is closed. Return False, and close the coroutine, if it is closed already.

        Only code in the cluster's event loop may call this.
        """
        if self._members is None or self.is_closed:
            coroutine.close()
            return False
        return self._spawn(coroutine)

    def slots(self, requirements: Sequence[Requirement]) -> int:
        """Return how many tasks with these variants of a cost the hosts can run at one time.

        A host that has not joined counts with its declared capabilities.
        """
        driver = self._driver
        known = {} if driver is None else dict(driver.core.world.fleet.by_name)
        offers = [
            known[host.name].offer if host.name in known else compile_capabilities(host.capabilities)
            for host in self.inventory.values()
        ]
        return sum(most_tasks(offer, requirements, self.inventory.shared_amounts) for offer in offers)

    @property
    def has_data_hosts(self) -> bool:
        """True if only data is accepted from some host of the inventory."""
        return any(host.trust == "data" for host in self.inventory.values())

    @property
    def unavailable(self) -> Mapping[str, HandoutError]:
        """Maps the name of each host that is lost, in quarantine or cannot be reached to the error that says why.

        Any thread may ask, because Python copies a dictionary in one step.
        """
        return dict(self._unavailable)

    def next_run(self) -> int:
        """Return a run number that no earlier run of this cluster has."""
        return next(self._runs)


def _retrieve(serving: asyncio.Task[None]) -> None:
    """Mark the exception of an asyncio task as retrieved.

    The driver has it and gives it to all runs, except a KeyboardInterrupt, which has ended the event loop.
    """
    if not serving.cancelled():
        serving.exception()


async def _end(serving: asyncio.Task[None], driver: Driver, within_s: float) -> None:
    """Wait until the asyncio task ``serving`` has ended. Cancel that task after ``within_s`` seconds."""
    pending = set() if serving.done() else (await asyncio.wait({serving}, timeout=within_s))[1]
    if pending:
        serving.cancel()
        _, pending = await asyncio.wait({serving}, timeout=_CANCEL_TIMEOUT_S)
    driver.close()
    if pending:
        logger.warning(
            "An allocator or a tracker still runs, although the cluster has cancelled it and is now closed. "
            "An allocator or a tracker should end when asyncio.CancelledError is raised in it."
        )
    elif driver.broken is not None:
        raise driver.broken


def _in_plain_with() -> HandoutError:
    return HandoutError(
        "This cluster was opened by a plain `with`, so its coroutines cannot be awaited.",
        remedy="Use cluster.run(graph) or cluster.executor().submit(f, ...), or open the cluster with `async with`.",
    )


def _required(require: Any, hosts: int) -> int:
    """Return the number of hosts that must be reached, for an inventory with ``hosts`` hosts.

    Raises:
        InventoryError: ``require`` is above ``hosts``, or is not "any", "all" or a number of hosts.
    """
    if require == "all":
        return hosts
    required: Any = 1 if require == "any" else require
    if not isinstance(required, int) or isinstance(required, bool) or required < 0:
        raise InventoryError(
            f"require={brief(require)} is not a number of hosts.",
            remedy="Give 'any', 'all' or a whole number from 0 up.",
        )
    if required > hosts:
        raise InventoryError(
            f"require={brief(require)} asks for {required} hosts, but the inventory has {hosts}."
            if hosts
            else "The inventory has no host.",
            remedy="Add hosts to the inventory, or require fewer hosts.",
        )
    return int(required)


def _limit(limit: Any, inventory: Inventory) -> int | None:
    """Check the option ``max_concurrency`` of a cluster."""
    if limit is None:
        return None
    if not is_whole(limit) or limit < 1:
        raise HandoutError(
            f"max_concurrency={brief(limit)} is not a whole number from 1 up.", remedy="Correct this option."
        )
    if MAX_CONCURRENCY in inventory.shared_amounts:
        raise InventoryError(
            f"The inventory has a shared amount {MAX_CONCURRENCY!r}, and the cluster has the option of this name.",
            remedy="Give the shared amount another name.",
            key=MAX_CONCURRENCY,
        )
    return int(limit)


async def _awaited(coroutine: Coroutine[Any, Any, None]) -> None:
    await coroutine


def _put(spawned: asyncio.Queue[Coroutine[Any, Any, None]], coroutine: Coroutine[Any, Any, None]) -> bool:
    spawned.put_nowait(coroutine)
    return True


def _refuse(coroutine: Coroutine[Any, Any, None]) -> bool:
    coroutine.close()
    return False


def _too_few(failed: list[HandoutError], required: int, total: int) -> HandoutError:
    """Return one error for all hosts that cannot be used. If the cluster has one host, return that host's own error."""
    for each in failed:
        if isinstance(each, HostUnreachableError):
            _forget_frames(each)
    if total == 1:
        return failed[0]
    error = HostError(
        f"{len(failed)} of {total} hosts cannot be used, but {required} must be usable. " + " ".join(map(str, failed)),
        host=", ".join(getattr(each, "host", "") for each in failed),
    )
    error.__cause__ = failed[0]
    return error


def _forget_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and its causes. They lead through libraries, and would fill a screen."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__
