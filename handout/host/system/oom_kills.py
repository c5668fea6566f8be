"""Counts the kernel's out-of-memory (OOM) kills on this host: SIGKILL alone does not tell which process sent it."""

from __future__ import annotations

from handout.host.system.probe import cgroup_folders, read_value

#: Seconds between two counts. A kill counts as the cause of a death for at least one period and at most two.
_PERIOD_S = 2.0


def count_kills(group: str | None = None) -> int | None:
    """Return how many processes the kernel has killed for lack of memory; None if the system does not say.

    Args:
        group: The control group above those of all workers. None: the group of this process. If the group has no
            count, the function returns the count of the whole machine.
    """
    for folder in [group] if group is not None else cgroup_folders("memory")[:1]:
        kills = kills_in(folder)
        if kills is not None:
            return kills
    return read_value("/proc/vmstat", "oom_kill")


def kills_in(group: str) -> int | None:
    """Return how many processes of a control group the kernel has killed for lack of memory, at this or another limit.

    Return None if the group has no such count.
    """
    for name in ("memory.events", "memory.oom_control"):  # version 2, then 1
        kills = read_value(f"{group}/{name}", "oom_kill")
        if kills is not None:
            return kills
    return None


class OomKills:
    """The recent OOM kills that no worker's death has been matched with yet.

    Args:
        group: See `count_kills`.
    """

    def __init__(self, group: str | None = None) -> None:
        self._group = group
        #: Kills up to `_matched` are matched or too old to match. `_latest` is the count at the last `refresh`.
        self._matched = self._latest = count_kills(group)
        self._counted_at = 0.0

    def refresh(self, now: float) -> None:
        """Count the kills if a period has passed; kills before the previous count become too old to match.

        Args:
            now: Monotonic seconds.
        """
        if now - self._counted_at >= _PERIOD_S:
            self._matched, self._latest = self._latest, count_kills(self._group)
            self._counted_at = now

    def reset(self) -> None:
        """Treat all kills until now as matched."""
        self._matched = self._latest = count_kills(self._group)

    def claim(self) -> bool | None:
        """Match one death by SIGKILL with one OOM kill.

        Returns: True if there was an unmatched kill, which is matched now; False if there was none; None if the system
            counts no kills.
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
