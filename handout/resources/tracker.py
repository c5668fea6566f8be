"""The protocols for trackers. A tracker is an async function that the user writes. It tells what a host offers now."""

from __future__ import annotations

from typing import Protocol

from handout.resources.capabilities import Capabilities, CapabilitiesLike


class LiveHost(Protocol):
    """A host with a running agent, as a `Tracker` sees it.

    Example:
        ```python
        async def free_disk(host: handout.LiveHost) -> handout.CapabilitiesLike:
            free = await host.run("df", "--output=avail", "/scratch")
            return {"scratch": f"{free.split()[1]} KiB"}
        ```
    """

    @property
    def name(self) -> str:
        """Name of the host in the inventory."""
        ...

    @property
    def declared(self) -> Capabilities:
        """The capabilities that the inventory declares for the host."""
        ...

    @property
    def probed(self) -> Capabilities:
        """The capabilities that the agent probed when it started."""
        ...

    async def run(self, *argv: str, timeout_s: float = 10.0) -> str:
        """Run a program on the host, outside all tasks.

        Args:
            *argv: The program and its arguments. No shell interprets them.
            timeout_s: Seconds after which the program is killed.

        Returns:
            The standard output of the program.

        Raises:
            HostError: The program failed or took too long, or the host was lost.
        """
        ...


class Tracker(Protocol):
    """An async function that tells what a host offers now.

    The controller calls the function when a host joins. After that, it calls the function every ``interval_s`` seconds
    (an argument of `Inventory`). A name that the returned capabilities leave out keeps its declared or probed value. To
    say that a host no longer has something, return ``False`` or ``0`` under its name. Running tasks keep the amounts
    that they hold. A call may take at most twice the ``host_timeout_s`` of `Timings`.

    Example:
        ```python
        async def licences(host: handout.LiveHost) -> handout.CapabilitiesLike:
            return {"licence": int(await host.run("count-licences"))}

        inventory = handout.Inventory(["gpu1", "gpu2"], tracker=licences)
        ```
    """

    async def __call__(self, host: LiveHost, /) -> CapabilitiesLike:
        """Return what one host offers now."""
        ...
