"""The draft of an allocator's answer: the placements so far, and the amounts that they leave free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from handout.allocators.host_view import HostView, free_ledger, offer_of
from handout.allocators.task import Task, requirements_of
from handout.errors import AllocatorError
from handout.protocol.resource_ledger import Claim, Ledger
from handout.resources import nearest_name
from handout.resources.feasibility import feasible_variants

__all__ = ["Draft"]


class Draft(Mapping[str, str]):
    """The host of each placed task, by task id, with an account of the amounts that these tasks take.

    Make a draft with `ClusterView.draft`. An allocator may return the draft as its answer.

    Example:
        ```python
        async def any_host(frontier, view):
            draft = view.draft()
            for task in frontier:
                if host := next((name for name in view.hosts if draft.fits(task, name)), None):
                    draft.place(task, host)
            return draft

        results = await handout.execute(graph, allocator=any_host)
        ```
    """

    __slots__ = ("_claims", "_hosts", "_ledgers", "_placed", "_shared", "_shared_total", "ask_again_s")

    ask_again_s: float | None
    """Seconds after which the core asks the allocator again, even if nothing has changed. None: only after a change."""

    def __init__(self, hosts: Mapping[str, HostView], shared: Ledger, shared_total: Mapping[str, int]) -> None:
        self._hosts = hosts
        self._shared = shared
        self._shared_total = shared_total
        self._placed: dict[str, str] = {}
        self._ledgers: dict[str, Ledger] = {}
        #: By id of a placed task: the ledgers that its claims are in. They are released if the task is placed again.
        self._claims: dict[str, list[tuple[Ledger, Claim]]] = {}
        self.ask_again_s = None

    def fits(self, task: Task, host: str) -> bool:
        """Return True if the host has room for the task now, in addition to the tasks that the draft has placed there.

        Raises:
            AllocatorError: The view has no such host.
        """
        return self._variant(task, host) is not None

    def place(self, task: Task, host: str) -> None:
        """Place the task on the host.

        The host may have no room for the task now. If the task's expected duration is short, the task then waits on
        the host. Otherwise the task comes back in the next frontier.

        Raises:
            AllocatorError: The view has no such host.
        """
        own = self._ledger(host)
        for ledger, claim in self._claims.pop(task.id, ()):
            ledger.release(claim)
        variant = self._variant(task, host)
        self._placed[task.id] = host
        if variant is None:
            return
        need, shared = requirements_of(task)[variant].needs(self._shared_total)
        claims = [(ledger, ledger.claim(amounts)) for ledger, amounts in ((own, need), (self._shared, shared))]
        self._claims[task.id] = [(ledger, claim) for ledger, claim in claims if claim is not None]

    def ask_again(self, in_s: float) -> None:
        """Have the core ask the allocator again after ``in_s`` seconds, even if nothing has changed by then.

        If this is called several times, the shortest time counts. The core waits at least 0.01 s.
        """
        if self.ask_again_s is None or in_s < self.ask_again_s:
            self.ask_again_s = max(0.0, in_s)

    def _variant(self, task: Task, host: str) -> int | None:
        """Return the index of the first variant of the task's cost that the host has room for, or None."""
        ledger = self._ledger(host)
        requirements = requirements_of(task)
        for variant in feasible_variants(requirements, offer_of(self._hosts[host]), self._shared_total):
            need, shared = requirements[variant].needs(self._shared_total)
            if ledger.fits(need) and (not shared or self._shared.fits(shared)):
                return variant
        return None

    def _ledger(self, host: str) -> Ledger:
        ledger = self._ledgers.get(host)
        if ledger is None:
            view = self._hosts.get(host)
            if view is None:
                nearest = nearest_name(host, self._hosts)
                raise AllocatorError(
                    f"the allocator asks for host {host!r}, which the view does not have.",
                    remedy=f"Did you mean {nearest!r}?" if nearest else "Take names from view.hosts.",
                )
            ledger = self._ledgers[host] = free_ledger(view)
        return ledger

    def __getitem__(self, id: str, /) -> str:
        return self._placed[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._placed)

    def __len__(self) -> int:
        return len(self._placed)

    def __repr__(self) -> str:
        return f"Draft({self._placed})"
