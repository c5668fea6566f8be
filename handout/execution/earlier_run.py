"""What a run reads of an earlier run whose results the caller gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from handout.graph.plan import Plan
from handout.scheduler.task_states import Outcome
from handout.slices import Slices
from handout.submission.run_identities import RunIdentities

__all__ = ["EarlierRun"]


class EarlierRun(Protocol):
    """A run that has ended, as another run reads it."""

    @property
    def plan(self) -> Plan:
        """The graph of the run."""
        ...

    @property
    def outcomes(self) -> Sequence[Outcome | None]:
        """How each task ended."""
        ...

    def identities(self) -> Slices[RunIdentities | None]:
        """Return the identities of the run's tasks; None if they were not noted."""
        ...

    def holds(self, number: int) -> bool:
        """Return True if the run still holds an object, so that another run can use it."""
        ...
