"""An answer in the making: placements so far, and what they leave free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from handout.errors import AllocatorError
from handout.protocol.ledger import Ledger
from handout.resources import nearest_name

if TYPE_CHECKING:
    from handout.allocators.task import Task
    from handout.allocators.view import ClusterView

__all__ = ["Draft"]


class Draft(Mapping[str, str]):
    """Placements by task id; return it from an allocator.

    Example:
        >>> async def any_host(frontier, view):
        ...     draft = view.draft()
        ...     for task in frontier:
        ...         if host := next((name for name in view.hosts if draft.fits(task, name)), None):
        ...             draft.place(task, host)
        ...     return draft
    """

    __slots__ = ("_ledgers", "_placed", "_shared", "_view", "ask_again_s")

    def __init__(self, view: ClusterView) -> None:
        self._view = view
        self._placed: dict[str, str] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._shared: Ledger | None = None
        #: When the allocator wants to be asked again though nothing has happened; None: it need not be.
        self.ask_again_s: float | None = None

    def fits(self, task: Task, host: str) -> bool:
        """Whether the host has room for the task now, beside what has been placed.

        Raises:
            AllocatorError: The view has no such host.
        """
        return self._variant(task, host) is not None

    def place(self, task: Task, host: str) -> None:
        """Let the task run on the host.

        Where it does not fit there now it waits there, if it is short, or comes back to the next frontier.

        Raises:
            AllocatorError: The view has no such host.
        """
        variant = self._variant(task, host)
        self._placed[task.id] = host
        if variant is None:
            return
        need, shared = task.requirements[variant].needs(self._view.shared_total)
        self._ledger(host).claim(need)
        if shared:
            self._shared_ledger().claim(shared)

    def ask_again(self, in_s: float) -> None:
        """Ask for another request after a while, even if nothing happens until then."""
        if self.ask_again_s is None or in_s < self.ask_again_s:
            self.ask_again_s = max(0.0, in_s)

    def _variant(self, task: Task, host: str) -> int | None:
        """The first variant of the task's cost that is free on the host."""
        ledger = self._ledger(host)
        offer, all_shared = self._view.hosts[host].offer, self._view.shared_total
        for variant, requirement in enumerate(task.requirements):
            need, shared = requirement.needs(all_shared)
            if ledger.fits(need) and not requirement.lacks(offer, all_shared):
                if not shared or self._shared_ledger().fits(shared):
                    return variant
        return None

    def _ledger(self, host: str) -> Ledger:
        ledger = self._ledgers.get(host)
        if ledger is None:
            view = self._view.hosts.get(host)
            if view is None:
                nearest = nearest_name(host, self._view.hosts)
                raise AllocatorError(
                    f"the allocator asks for host {host!r}, which the view does not have.",
                    remedy=f"Did you mean {nearest!r}?" if nearest else "Take names from view.hosts.",
                )
            ledger = self._ledgers[host] = view.ledger()
        return ledger

    def _shared_ledger(self) -> Ledger:
        if self._shared is None:
            self._shared = self._view.shared_ledger()
        return self._shared

    def __getitem__(self, id: str, /) -> str:
        return self._placed[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._placed)

    def __len__(self) -> int:
        return len(self._placed)

    def __repr__(self) -> str:
        return f"Draft({self._placed})"
