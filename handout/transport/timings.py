"""The time limits for silence between the controller and a host: the lease, and the steps before its end."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields

from handout.errors import HandoutError
from handout.resources.near_arguments import names_near_arguments

__all__ = ["Timings"]

#: The largest value of a timing: 100 years. The clocks and timers of all systems can count that far.
_LONGEST_S = 100 * 365 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """The time limits for silence between the controller and a host, and some related ones. All values are seconds.

    Args:
        heartbeat_s: Time between heartbeats on an idle connection, in both directions.
        suspect_s: A host that was silent for this long gets no new tasks.
        reconnect_s: After this much silence the controller replaces the connection by a new one.
        host_timeout_s: The lease. After this much silence the host kills user code, and the controller treats the host
            as lost.
        grace_s: After the lease, the controller waits this much longer before it runs a lost host's tasks on other
            hosts. The lost host has killed the tasks by then.
        linger_s: An agent keeps finished results for this long after its lease. Then it ends and removes its files.
        restart_s: Pause before the controller starts an agent again on a host that was lost. The pause doubles with
            each further try.
        unstable_s: A host that is lost three times within this time is put into quarantine. If a host stays connected
            for longer than this, its earlier losses no longer count.
        quarantine_s: The controller does not use a host in quarantine for this long. The quarantine is twice as long
            after each further loss.
        kill_after_s: Code that exceeds its time limit gets SIGTERM, and gets SIGKILL this much later.
        answer_s: A host with ``trust="data"`` must end each task and send each object within this time. A task's own
            ``timeout_s`` is added. After this time, the host is not used any more. Other hosts have no such limit.
        blocked_s: The controller logs a warning if the caller's event loop was blocked for longer than this.

    Raises:
        HandoutError: A value is not a number above 0 and up to 100 years, or ``heartbeat_s``, ``suspect_s``,
            ``reconnect_s`` and ``host_timeout_s`` do not increase in this order.

    Example:
        ```python
        # Running tasks outlive an hour without a connection.
        patient = handout.Timings(host_timeout_s=3600)
        results = await handout.execute(graph, timings=patient)
        ```
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
    answer_s: float = 86_400.0
    blocked_s: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST_S:
                raise HandoutError(
                    f"{field.name}={value!r} is not a number of seconds above 0 and up to 100 years.",
                    remedy="Give seconds as a number, such as 15.0.",
                )
        order = ("heartbeat_s", "suspect_s", "reconnect_s", "host_timeout_s")
        for earlier, later in itertools.pairwise(order):
            if getattr(self, earlier) >= getattr(self, later):
                raise HandoutError(
                    f"{earlier}={getattr(self, earlier):g} is not below {later}={getattr(self, later):g}.",
                    remedy="Set the other timings too. Timings().scaled(factor) changes all timings in proportion.",
                )

    def scaled(self, factor: float) -> Timings:
        """Return these timings with every value multiplied by a factor.

        Args:
            factor: The factor. With ``0.1``, lost hosts are found ten times sooner. Small factors suit tests, and
                networks without pauses.

        Returns:
            The new timings.

        Raises:
            HandoutError: A new value is not above 0, or is above 100 years.
        """
        return Timings(**{field.name: getattr(self, field.name) * factor for field in fields(self)})


# The dataclass has made this function, so a decorator in the class would not see it.
Timings.__init__ = names_near_arguments()(Timings.__init__)  # type: ignore[method-assign]
