"""The hosts of an open cluster: each kept by a keeper, added and let go while work goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from handout.errors import HandoutError, InventoryError
from handout.execution.membership.host_manager import HostManager
from handout.execution.shell.driver import Driver
from handout.resources import Host, nearest_name
from handout.scheduler import events as ev
from handout.transport.uninterrupted import uninterrupted

__all__ = ["Members"]


class Members:
    """Who belongs to a cluster.

    Args:
        driver: What is told who comes and goes.
        group: Where the keepers run.
        make: Makes a keeper for a host, which calls the function given with None when the host has joined, and with
            why when it is given up.
        settled: Called like that function, for every host.
        left: Called with the name of each host that has been let go.
    """

    def __init__(
        self,
        driver: Driver,
        group: TaskGroup,
        make: Callable[[Host, Callable[[str, HandoutError | None], None]], HostManager],
        settled: Callable[[str, HandoutError | None], None],
        left: Callable[[str], None],
    ) -> None:
        self._driver = driver
        self._group = group
        self._make = make
        self._settled = settled
        self._left = left
        self._keepers: dict[str, HostManager] = {}
        #: Hosts that are being added: done when the first try to reach each has come to an end.
        self._arriving: dict[str, asyncio.Future[None]] = {}
        #: Hosts that are being drained: done when each has gone.
        self._leaving: dict[str, asyncio.Future[None]] = {}

    def keep(self, host: Host) -> None:
        """Reach a host, and keep it from then on."""
        self._driver.post(ev.HostExpected(host.name, host.price_per_hour))
        keeper = self._keepers[host.name] = self._make(host, self._on_settled)
        self._group.start_soon(keeper.run)

    def release(self, run: int) -> None:
        """The run is there that adopted agents' messages are about."""
        for keeper in self._keepers.values():
            keeper.release(run)

    async def add(self, host: Host) -> None:
        """Reach a host and wait until it is usable; where it is not, or this is cancelled, it is not kept.

        Raises:
            HostError: Why it cannot be used.
        """
        arrived = self._arriving[host.name] = asyncio.get_running_loop().create_future()
        self.keep(host)
        try:
            await arrived
        except BaseException:
            await uninterrupted(self._let_go(host.name, "it was not added"))
            raise
        finally:
            del self._arriving[host.name]

    async def drain(self, name: str) -> None:
        """Empty a host and let it go. Cancelled, that goes on without the caller.

        Raises:
            InventoryError: There is no such host.
            PlacementError: A task could run nowhere without it.
        """
        if name in self._arriving:
            raise InventoryError(f"host {name!r} is being added.", remedy="Cancel that instead.", host=name)
        if name not in self._keepers:
            nearest = nearest_name(name, self._keepers)
            known = ", ".join(map(repr, self._keepers)) or "none"
            raise InventoryError(
                f"there is no host {name!r} in this cluster.",
                remedy=f"Did you mean {nearest!r}?" if nearest else f"Hosts that are: {known}.",
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
            await uninterrupted(self._let_go(name, "it was drained"))
            gone.set_result(None)
        except HandoutError as error:
            gone.set_exception(error)
        finally:
            del self._leaving[name]
            if not gone.done():
                gone.set_exception(_closed(name))
            gone.exception()  # looked at: whoever asked may have been cancelled

    async def _let_go(self, name: str, reason: str) -> None:
        await self._keepers[name].leave(reason)
        del self._keepers[name]
        self._left(name)

    async def close(self, within_s: float) -> None:
        """End all agents, in that many seconds."""
        async with anyio.create_task_group() as stopping:
            for keeper in list(self._keepers.values()):
                stopping.start_soon(keeper.stop, within_s)

    def end(self) -> None:
        """Nothing is kept any more: nobody is to wait for what will not come."""
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
    return HandoutError(f"The cluster was closed before host {name!r} had come or gone.")
