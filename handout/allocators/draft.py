"""The draft of an allocator's answer: the placements so far, and the amounts that they leave free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from handout.allocators.answer import named, read_pause
from handout.allocators.host_view import HostView, free_ledger, offer_of
from handout.allocators.task import Task, requirements_of
from handout.errors import AllocatorError
from handout.protocol.resource_ledger import Claim, Ledger
from handout.resources import nearest_name
from handout.resources.feasibility import feasible_variants

__all__ = ["Draft"]


class Draft(Mapping[str, str]):
    """A mapping from the id of each placed task to its host, with an account of the amounts that the placed tasks take.

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
    """The scheduler asks the allocator again this many seconds after the answer, even if nothing has changed.

    None: the scheduler asks again only after a change.
    """

    def __init__(self, hosts: Mapping[str, HostView], shared: Ledger, shared_total: Mapping[str, int]) -> None:
        self._hosts = hosts
        self._shared = shared
        self._shared_total = shared_total
        self._placed: dict[str, str] = {}
        self._ledgers: dict[str, Ledger] = {}
        #: By id of a placed task: the ledgers that its claims are in. They are released if the task is placed again.
        self._claims: dict[str, list[tuple[Ledger, Claim]]] = {}
        self.ask_again_s = None

    def fits(self, task: Task, host: str, *, wait: bool = False) -> bool:
        """Return True if the host has room for the task now, besides the tasks that the draft has placed on this host.

        Args:
            task: A task of the frontier.
            host: The name of a host of the view.
            wait: What to return for a host that is not ready. False: such a host never fits. True: it fits if the task
                may wait for it, and if it has room as far as its capabilities are known. A host that is being drained
                or was given up never fits.

        Raises:
            AllocatorError: The view has no such host.
        """
        ledger, view = self._ledger(host), self._hosts[host]
        if view.state != "ready" and (not wait or view.given_up or view.state == "draining"):
            return False
        return self._variant(task, view, ledger) is not None

    def place(self, task: Task, host: str) -> None:
        """Place the task on the host.

        The host need not have room for the task. If the host has none, the scheduler decides: a task that is expected
        to be short waits on the host, and any other task comes back in the next frontier.

        The host need not be ready. If it is not, the task waits for it, and comes back in the frontier when the host
        has joined or was given up. To place a task on a host that was given up, or that is being drained, ends the run.

        Raises:
            AllocatorError: The view has no such host.
        """
        own = self._ledger(host)
        for ledger, claim in self._claims.pop(task.id, ()):
            ledger.release(claim)
        variant = self._variant(task, self._hosts[host], own)
        self._placed[task.id] = host
        if variant is None:
            return
        need, shared = self._needs(task, variant, self._hosts[host])
        claims = [(ledger, ledger.claim(amounts)) for ledger, amounts in ((own, need), (self._shared, shared))]
        self._claims[task.id] = [(ledger, claim) for ledger, claim in claims if claim is not None]

    def ask_again(self, in_s: float) -> None:
        """Have the scheduler ask the allocator again after ``in_s`` seconds, even if nothing has changed by then.

        If this method is called several times, the shortest time counts. The scheduler waits at least 0.01 s.
        """
        pause_s = read_pause(in_s)
        self.ask_again_s = pause_s if self.ask_again_s is None else min(pause_s, self.ask_again_s)

    def _variant(self, task: Task, view: HostView, ledger: Ledger) -> int | None:
        """Return the index of the first variant of the task's cost that the host has room for, or None."""
        for variant in feasible_variants(requirements_of(task), offer_of(view), self._shared_total):
            need, shared = self._needs(task, variant, view)
            if ledger.fits(need) and (not shared or self._shared.fits(shared)):
                return variant
        return None

    def _needs(self, task: Task, variant: int, view: HostView) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Return the amounts that a variant needs of the host and of the shared amounts.

        Amounts that are not known of the host, because its agent has not probed them yet, are left out.
        """
        need, shared = requirements_of(task)[variant].needs(self._shared_total)
        unknown = offer_of(view).unknown
        if unknown:
            need = {name: parts for name, parts in need.items() if name not in unknown}
        return need, shared

    def _ledger(self, host: Any) -> Ledger:
        is_name = isinstance(host, str)
        ledger = self._ledgers.get(host) if is_name else None
        if ledger is None:
            view = self._hosts.get(host) if is_name else None
            if view is None:
                nearest = nearest_name(host, self._hosts) if is_name else None
                raise AllocatorError(
                    f"the allocator passed {named(host)} as a host to its draft, but the view has no such host.",
                    remedy=f"Did you mean {nearest!r}?" if nearest else "Take the names of hosts from view.hosts.",
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
