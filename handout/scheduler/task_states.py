"""The states of a task, and tables of the legal moves between states.

`Run.move` raises `InternalError` for a move that is not in the table `TRANSITIONS`. The diagram in the documentation is
also made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final

__all__ = ["EFFECTS", "ENDED", "TRANSITIONS", "Outcome", "State"]


class State(IntEnum):
    """The state of a task. The column ``Run.state`` holds one of these numbers for each task."""

    WAITING = 0
    """Some input does not exist yet."""
    READY = 1
    """All inputs exist, and the task is in the frontier."""
    HANDED = 2
    """An agent has the task. The task runs, is queued, or waits for inputs that are being made or copied."""
    BACKOFF = 3
    """The task failed, and will be tried again after a pause."""
    DONE = 4
    """The result of the task exists, or it has existed and is not needed any more."""
    FAILED = 5
    """The task failed for good."""
    SKIPPED = 6
    """The task ended without a result, because a task that it depends on failed."""
    CANCELLED = 7
    """The caller cancelled the task or a task that it depends on, or its run ended before the task did."""


class Outcome(Enum):
    """How a task, or a whole run, ended."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


_W, _R, _H, _B = State.WAITING, State.READY, State.HANDED, State.BACKOFF
_D, _F, _S, _C = State.DONE, State.FAILED, State.SKIPPED, State.CANCELLED

_NOT_AGAIN = "must be repeated, and is not safe to repeat, or no host can make its warm value"
_DONE_BEFORE = "an earlier run had finished it, or it was to make a lost result again that is not needed any more"

#: Maps each state to the states that may follow it, each with the cause of the move.
TRANSITIONS: Final[Mapping[State, Mapping[State, str]]] = MappingProxyType(
    {
        _W: {
            _R: "the last input exists",
            _H: "handed over with the tasks that make its inputs",
            _D: _DONE_BEFORE,
            _S: "an input's producer failed",
            _C: "cancelled",
            _F: _NOT_AGAIN,
        },
        _R: {
            _H: "placed",
            _W: "an input was lost",
            _D: _DONE_BEFORE,
            _S: "an input's producer failed",
            _C: "cancelled",
            _F: _NOT_AGAIN,
        },
        _H: {
            _H: "attempted a second time beside the first attempt",
            _D: "finished",
            _F: "failed for good",
            _B: "failed, to be retried after a pause",
            _R: "recalled, or the attempt was lost",
            _W: "recalled, or the attempt was lost, while an input is missing",
            _S: "an input's producer failed",
            _C: "cancelled",
        },
        _B: {
            _R: "the pause is over",
            _W: "the pause is over, and an input is missing",
            _F: "no host can make its warm value",
            _S: "an input's producer failed",
            _C: "cancelled",
        },
        _D: {
            _W: "its result was lost and is still needed, but an input is missing",
            _R: "its result was lost and is still needed",
        },
        _F: {},
        _S: {},
        _C: {},
    }
)

#: The states of a task that has ended. A task leaves DONE if its result is lost and still needed. A task never leaves
#: the other three states.
ENDED: Final = frozenset({_D, _F, _S, _C})


def _effect(old: State, new: State) -> tuple[int, int] | tuple[()] | None:
    if new not in TRANSITIONS[old]:
        return None
    effect = (new is _H) - (old is _H), (old in ENDED) - (new in ENDED)
    return effect if any(effect) else ()


#: The legal moves in a form that is fast to look up. ``EFFECTS[old][new]`` is None if the move is not legal. Otherwise
#: it is a tuple of two numbers. The move adds the first number to the count of tasks that are HANDED, and the second
#: number to the count of tasks that have not ended. An empty tuple means that both numbers are 0.
EFFECTS: Final = tuple(tuple(_effect(old, new) for new in State) for old in State)
