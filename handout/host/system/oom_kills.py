"""Counts the kernel's out-of-memory (OOM) kills on this host.

The agent needs the count when a worker has died by SIGKILL, because the signal itself does not tell who sent it.
"""

from __future__ import annotations

from handout.host.system.probe import cgroup_folders, read_value

#: Seconds between two counts. A kill can be matched with a worker's death for at least this long after the kill, and
#: for at most twice as long.
_PERIOD_S = 2.0


def count_kills(group: str | None = None) -> int | None:
    """Return how many processes the kernel has killed for lack of memory; None if the system does not count them.

    Args:
        group: The control group that contains the groups of all workers. None: the group of this process. If the group
            has no count, the function returns the count of the whole machine.
    """
    for folder in [group] if group is not None else cgroup_folders("memory")[:1]:
        kills = kills_in(folder)
        if kills is not None:
            return kills
    return read_value("/proc/vmstat", "oom_kill")


def kills_in(group: str) -> int | None:
    """Return how many processes of a control group the kernel has killed for lack of memory.

    This includes kills at the limit of a parent group or of the machine. Return None if the group has no such count.
    """
    for name in ("memory.events", "memory.oom_control"):  # the files of version 2 and of version 1 of control groups
        kills = read_value(f"{group}/{name}", "oom_kill")
        if kills is not None:
            return kills
    return None


class OomKills:
    """Matches deaths of workers with recent OOM kills, so that each kill explains one death at most.

    Args:
        group: See `count_kills`.
    """

    def __init__(self, group: str | None = None) -> None:
        self._group = group
        #: `_matched` is how many kills have been matched with a death or are too old to be matched. `_latest` is how
        #: many kills the last `refresh` counted, but is never less than `_matched`.
        self._matched = self._latest = count_kills(group)
        self._counted_at = 0.0

    def refresh(self, now: float) -> None:
        """Count the kills again if the last count is at least `_PERIOD_S` seconds old.

        The kills that the last count contained are then too old to be matched with a death.

        Args:
            now: The time of a monotonic clock in seconds.
        """
        if now - self._counted_at >= _PERIOD_S:
            self._matched, self._latest = self._latest, count_kills(self._group)
            self._counted_at = now

    def reset(self) -> None:
        """Treat all kills that have happened so far as matched."""
        self._matched = self._latest = count_kills(self._group)

    def claim(self) -> bool | None:
        """Match one death by SIGKILL with one OOM kill.

        Returns: True if this call has matched the death with a kill. False if there is no unmatched kill. None if the
            system does not count kills.
        """
        kills = count_kills(self._group)
        if kills is None or self._matched is None:
            return None
        if kills <= self._matched:
            return False
        self._matched += 1
        if self._latest is not None:
            self._latest = max(self._latest, self._matched)
        return True
