"""Two live attempts of one task: the present one, which the run's columns describe, and one beside it.

The first attempt to finish gives the task's result. If one of the two ends in another way, the other goes on alone.
"""

from __future__ import annotations

from typing import NamedTuple

from handout.protocol.resource_ledger import Claim

__all__ = ["SecondAttempt"]


class SecondAttempt(NamedTuple):
    """The attempt beside the present one, with what a run's columns hold of the present one."""

    host: int
    attempt: int
    claim: Claim | None
    shared: Claim | None
    variant: int
    started: bool
