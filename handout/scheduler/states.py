"""What can become of a task: the states and every legal move between them, as data.

The documentation's diagrams are drawn from `TRANSITIONS`; the core raises on a move that is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final

__all__ = ["ENDED", "LEGAL", "TRANSITIONS", "Outcome", "State"]


class State(IntEnum):
    """Where a task is. The numbers are what a run's state column holds."""

    #: Some input does not exist yet.
    WAITING = 0
    #: All inputs exist; in the frontier.
    READY = 1
    #: With an agent: running, queued there, or waiting there for inputs that are being made or copied.
    HANDED = 2
    #: Failed, and to be tried again after a pause.
    BACKOFF = 3
    DONE = 4
    FAILED = 5
    #: Never ran, because something that it needs failed.
    SKIPPED = 6
    CANCELLED = 7


class Outcome(Enum):
    """How a task, or a whole run, ended."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


_W, _R, _H, _B = State.WAITING, State.READY, State.HANDED, State.BACKOFF
_D, _F, _S, _C = State.DONE, State.FAILED, State.SKIPPED, State.CANCELLED

#: From each state to those that may follow, with what brings it about.
TRANSITIONS: Final[Mapping[State, Mapping[State, str]]] = MappingProxyType(
    {
        _W: {
            _R: "the last input exists",
            _H: "handed over with the tasks that make its inputs",
            _S: "an input's producer failed",
            _C: "cancelled",
            _F: "must be repeated, and is not safe to repeat",
        },
        _R: {
            _H: "placed",
            _W: "an input was lost",
            _S: "an input's producer failed",
            _C: "cancelled",
            _F: "must be repeated, and is not safe to repeat",
        },
        _H: {
            _H: "attempted a second time beside the first, or one of the two is over",
            _D: "finished",
            _F: "failed for good",
            _B: "failed, to be retried after a pause",
            _R: "returned, or the attempt was lost",
            _W: "returned or lost, and an input is missing",
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

#: States that a task does not leave, but for DONE when its result is lost.
ENDED: Final = frozenset({_D, _F, _S, _C})

#: ``LEGAL[old << 3 | new]``: the same table, for the hot path.
LEGAL: Final = bytes(new in TRANSITIONS[State(old)] for old in State for new in State)
