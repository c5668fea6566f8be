"""Adds and removes the hosts of an open cluster while tasks run. Each host has a manager, which starts its agent.

The core is the part of the scheduler that makes all decisions. The driver performs these decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from handout.errors import HandoutError, InventoryError
from handout.execution.membership.declared import expecting
from handout.execution.membership.host_manager import HostManager
from handout.execution.shell.driver import Driver
from handout.resources import Host, nearest_name
from handout.serialization.user_objects import brief
from handout.transport.shielded import uninterrupted
from handout.transport.timings import Timings

__all__ = ["Members"]


class Members:
    """The hosts of a cluster.

    Args:
        driver: Passes events about hosts to the core.
        group: The task group that the host managers run in.
        make_manager: Makes the manager of a host from the host and a function. When the host has joined, the manager
            calls that function with the host's name and None. When the host cannot be used, the manager calls it with
            the host's name and an error.
        settled: Called for every host in the same two cases, with the same two arguments.
        left: Called with the name of each host that was removed.
        timings: The cluster's time limits.
    """

    def __init__(
        self,
        driver: Driver,
        group: TaskGroup,
        make_manager: Callable[[Host, Callable[[str, HandoutError | None], None]], HostManager],
        settled: Callable[[str, HandoutError | None], None],
        left: Callable[[str], None],
        timings: Timings,
    ) -> None:
        self._driver = driver
        self._group = group
        self._make_manager = make_manager
        self._settled = settled
        self._left = left
        self._timings = timings
        self._managers: dict[str, HostManager] = {}
        #: The hosts that are being added, by name. Each future is done when its host has joined or cannot be used.
        self._arriving: dict[str, asyncio.Future[None]] = {}
        #: The hosts that are being drained, by name. Each future is done when its host has been removed.
        self._leaving: dict[str, asyncio.Future[None]] = {}

    def keep(self, host: Host) -> None:
        """Add a host without waiting for it. Its manager starts the agent again each time that the host is lost."""
        self._driver.post(expecting(host, self._timings))
        manager = self._managers[host.name] = self._make_manager(host, self._on_settled)
        self._group.start_soon(manager.run)

    def release(self, run: int) -> None:
        """Deliver the messages that were held back since agents were taken over; see `HostManager.release`."""
        for manager in self._managers.values():
            manager.release(run)

    def retry(self, name: str) -> None:
        """Try to start the agent of a lost host at once; see `HostManager.retry`."""
        if name in self._managers:
            self._managers[name].retry()

    async def add(self, host: Host) -> None:
        """Add a host and wait until tasks can use it. If this fails or is cancelled, remove the host again.

        Raises:
            HostError: The host cannot be used.
        """
        arrived = self._arriving[host.name] = asyncio.get_running_loop().create_future()
        self.keep(host)
        try:
            await arrived
        except BaseException:
            await uninterrupted(self._remove(host.name, "it was not added"))
            raise
        finally:
            del self._arriving[host.name]

    async def drain(self, name: str) -> None:
        """Give a host no more tasks, wait until no run needs a task or an object on the host, and remove the host.

        If the caller is cancelled, the drain goes on.

        Raises:
            InventoryError: The cluster has no such host, or the host is still being added.
            PlacementError: A task could run on no other host.
        """
        if not isinstance(name, str):
            raise InventoryError(f"drain() takes the name of a host, such as 'node1', and got {brief(name)}.")
        if name in self._arriving:
            raise InventoryError(
                f"Host {name!r} cannot be drained, because it is still being added.",
                remedy="To remove the host, cancel the call of add() that is adding it.",
                host=name,
            )
        if name not in self._managers:
            nearest = nearest_name(name, self._managers)
            known = ", ".join(map(repr, self._managers)) or "none"
            raise InventoryError(
                f"Host {name!r} cannot be drained, because this cluster has no host of that name.",
                remedy=f"Did you mean {nearest!r}?" if nearest else f"The hosts of this cluster: {known}.",
                host=name,
            )
        gone = self._leaving.get(name)
        if gone is None:
            gone = self._leaving[name] = asyncio.get_running_loop().create_future()
            self._group.start_soon(self._empty, name, gone)
        await asyncio.shield(gone)

    async def _empty(self, name: str, gone: asyncio.Future[None]) -> None:
        try:
            await self._driver.drain(name)
            await uninterrupted(self._remove(name, "it was drained"))
            gone.set_result(None)
        except HandoutError as error:
            gone.set_exception(error)
        finally:
            del self._leaving[name]
            if not gone.done():
                gone.set_exception(_closed(name))
            gone.exception()  # marks the error as retrieved, because the caller of `drain` may have been cancelled

    async def _remove(self, name: str, reason: str) -> None:
        await self._managers[name].leave(reason)
        del self._managers[name]
        self._left(name)

    async def close(self, within_s: float) -> None:
        """End all agents within ``within_s`` seconds."""
        async with anyio.create_task_group() as stopping:
            for manager in list(self._managers.values()):
                stopping.start_soon(manager.stop, within_s)

    def end(self) -> None:
        """Let the calls of `add` that still wait raise an error, because the cluster closes."""
        for name, arrived in self._arriving.items():
            if not arrived.done():
                arrived.set_exception(_closed(name))

    def _on_settled(self, name: str, error: HandoutError | None) -> None:
        self._settled(name, error)
        arrived = self._arriving.get(name)
        if arrived is not None and not arrived.done():
            if error is None:
                arrived.set_result(None)
            else:
                arrived.set_exception(error)


def _closed(name: str) -> HandoutError:
    return HandoutError(
        f"The cluster was closed before host {name!r} was added or drained. Wait for add() or drain() before you close "
        "the cluster."
    )
