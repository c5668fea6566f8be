"""The second live attempt of a task, which runs at the same time as the present attempt.

The columns of a run describe one attempt of each task, the present one. If a task has two live attempts, a
`SecondAttempt` describes the other one. The attempt that finishes first gives the task's result. If one of the attempts
ends in another way, the other one goes on alone.
"""

from __future__ import annotations

from typing import NamedTuple

from handout.protocol.resource_ledger import Claim

__all__ = ["SecondAttempt"]


class SecondAttempt(NamedTuple):
    """The live attempt of a task that is not the present one. Each field stands for an entry in a column of `Run`."""

    host: int
    attempt: int
    claim: Claim | None
    shared: Claim | None
    variant: int
    started_s: float | None
