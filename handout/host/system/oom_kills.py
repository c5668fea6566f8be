"""Whether the kernel has killed something here for lack of memory: SIGKILL alone does not say who sent it."""

from __future__ import annotations

from handout.host.system.probe import cgroup_folders, read_value

#: A kill is taken for the cause of a death up to this long afterwards, twice at most.
_PERIOD_S = 2.0


def count_kills(workers: str | None = None) -> int | None:
    """How often the kernel has killed for lack of memory.

    Args:
        workers: The control group that all workers are below, where there is one; else it is that of this process,
            or the whole machine.
    Returns: None where nobody knows.
    """
    for folder in [workers] if workers is not None else cgroup_folders("memory")[:1]:
        found = kills_in(folder)
        if found is not None:
            return found
    return read_value("/proc/vmstat", "oom_kill")


def kills_in(group: str) -> int | None:
    """How often the kernel has killed in one control group for lack of memory, whichever limit was met."""
    for name in ("memory.events", "memory.oom_control"):  # version 2, then 1
        found = read_value(f"{group}/{name}", "oom_kill")
        if found is not None:
            return found
    return None


class OomKills:
    """The kernel's kills, told from those of a while ago.

    Args:
        workers: See `count_kills`.
    """

    def __init__(self, workers: str | None = None) -> None:
        self._workers = workers
        self._before = self._latest = count_kills(workers)
        self._looked_at = 0.0

    def refresh(self, now: float) -> None:
        """Note the count now and then: what was killed before has explained what it could.

        Args:
            now: Monotonic seconds.
        """
        if now - self._looked_at >= _PERIOD_S:
            self._before, self._latest = self._latest, count_kills(self._workers)
            self._looked_at = now

    def reset(self) -> None:
        """What was killed until now has explained what it could."""
        self._before = self._latest = count_kills(self._workers)

    def claim(self) -> bool | None:
        """Whether a death by SIGKILL was the kernel's doing; None where nobody knows. Each kill explains one."""
        kills = count_kills(self._workers)
        if kills is None or self._before is None:
            return None
        if kills <= self._before:
            return False
        self._before += 1
        if self._latest is not None:
            self._latest = max(self._latest, self._before)
        return True
