"""The states of a task and every legal move between them, as data.

`Run.move` raises on a move that `TRANSITIONS` does not have. The diagram in the documentation is drawn from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final

__all__ = ["EFFECTS", "ENDED", "TRANSITIONS", "Outcome", "State"]


class State(IntEnum):
    """Where a task is. A run's state column holds the numbers."""

    WAITING = 0
    """Some input does not exist yet."""
    READY = 1
    """All inputs exist; the task is in the frontier."""
    HANDED = 2
    """With an agent: running, queued there, or waiting there for inputs that are being made or copied."""
    BACKOFF = 3
    """Failed, and to be tried again after a pause."""
    DONE = 4
    """The task's result exists, or existed and is not needed any more."""
    FAILED = 5
    """Failed for good."""
    SKIPPED = 6
    """Never ran, because a task that it needs failed."""
    CANCELLED = 7
    """Cancelled by the caller, or with its run."""


class Outcome(Enum):
    """How a task, or a whole run, ended."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


_W, _R, _H, _B = State.WAITING, State.READY, State.HANDED, State.BACKOFF
_D, _F, _S, _C = State.DONE, State.FAILED, State.SKIPPED, State.CANCELLED

_DONE_BEFORE = "an earlier run had finished it, or the result that it was repeated for is not needed any more"

#: From each state to those that may follow, each with its cause.
TRANSITIONS: Final[Mapping[State, Mapping[State, str]]] = MappingProxyType(
    {
        _W: {
            _R: "the last input exists",
            _H: "handed over with the tasks that make its inputs",
            _D: _DONE_BEFORE,
            _S: "an input's producer failed",
            _C: "cancelled",
            _F: "must be repeated, and is not safe to repeat",
        },
        _R: {
            _H: "placed",
            _W: "an input was lost",
            _D: _DONE_BEFORE,
            _S: "an input's producer failed",
            _C: "cancelled",
            _F: "must be repeated, and is not safe to repeat",
        },
        _H: {
            _H: "attempted a second time beside the first attempt",
            _D: "finished",
            _F: "failed for good",
            _B: "failed, to be retried after a pause",
            _R: "recalled, or the attempt was lost",
            _W: "recalled or lost, and an input is missing",
            _S: "an input's producer failed",
            _C: "cancelled",
        },
        _B: {
            _R: "the pause is over",
            _W: "the pause is over, and an input is missing",
            _S: "an input's producer failed",
            _C: "cancelled",
        },
        _D: {
            _W: "its result was lost, is still needed, and an input is missing",
            _R: "its result was lost and is still needed",
        },
        _F: {},
        _S: {},
        _C: {},
    }
)

#: The states of a task that has ended. A task leaves none of them but DONE, which it leaves if its result is lost.
ENDED: Final = frozenset({_D, _F, _S, _C})


def _effect(old: State, new: State) -> tuple[int, int] | tuple[()] | None:
    if new not in TRANSITIONS[old]:
        return None
    effect = (new is _H) - (old is _H), (old in ENDED) - (new in ENDED)
    return effect if any(effect) else ()


#: The same table for the hot path. ``EFFECTS[old][new]`` is None if the move is not legal. Otherwise it is what the
#: move adds to the count of active tasks and to the count of unended tasks, or empty if it adds nothing to either.
EFFECTS: Final = tuple(tuple(_effect(old, new) for new in State) for old in State)
