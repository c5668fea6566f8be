"""What silence means: the lease between controller and hosts, and how soon each step towards its end is taken."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields

from handout.errors import HandoutError

__all__ = ["Timings"]

#: What the clocks and timers of all systems can count.
_LONGEST_S = 100 * 365 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """What silence means, all in seconds: ``Timings(host_timeout_s=3600)`` lets running tasks outlive a long cut.

    Args:
        heartbeat_s: Who has nothing to say lets itself be heard this often.
        suspect_s: No new work goes to a host that was silent for this long.
        reconnect_s: A connection that was silent for this long is made again, from scratch.
        host_timeout_s: The lease. Who has not heard from the other side for this long lets go: a host kills user
            code, the controller gives the host up.
        grace_s: How much later than that the controller runs elsewhere what was there.
        linger_s: How long an agent keeps finished results beyond its lease; then it and its files are gone.
        restart_s: Pause before a host that was lost is started again; doubled for each further try.
        unstable_s: Three losses within this time put a host into quarantine; one that stayed for longer has a clean
            record.
        quarantine_s: How long it is left alone then; doubled for each further loss.
        kill_after_s: Code that is over its time is asked to end (SIGTERM), and so much later killed.
        blocked_s: An event loop of the caller's that was blocked for longer than this is worth a warning.

    Raises:
        HandoutError: A value is no number above 0, or a step would come before the one that precedes it.
    """

    heartbeat_s: float = 2.0
    suspect_s: float = 6.0
    reconnect_s: float = 9.0
    host_timeout_s: float = 15.0
    grace_s: float = 3.0
    linger_s: float = 60.0
    restart_s: float = 0.5
    unstable_s: float = 60.0
    quarantine_s: float = 10.0
    kill_after_s: float = 5.0
    blocked_s: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST_S:
                raise HandoutError(f"{field.name}={value!r} is no number of seconds above 0, and of at most 100 years.")
        order = ("heartbeat_s", "suspect_s", "reconnect_s", "host_timeout_s")
        for earlier, later in itertools.pairwise(order):
            if getattr(self, earlier) >= getattr(self, later):
                raise HandoutError(
                    f"{earlier}={getattr(self, earlier):g} is not below {later}={getattr(self, later):g}.",
                    remedy="Set the others, too; Timings().scaled(factor) keeps their proportions.",
                )

    def scaled(self, factor: float) -> Timings:
        """All of them times ``factor``: shorter for a line that is never silent, or for tests."""
        return Timings(**{field.name: getattr(self, field.name) * factor for field in fields(self)})
