"""A host behind a line of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from handout import Host
from handout.transport.bootstrap import StartedAgent
from tests.netns import Namespace
from tests.seen import agent_pid, gone
from tests.sshd import OpenSsh

__all__ = ["Far"]


@dataclass(frozen=True)
class Far:
    """A server in a namespace: ``far.line`` breaks what leads to it."""

    line: Namespace
    server: OpenSsh

    def host(self, cpu: int = 1) -> Host:
        """Return the host's entry for an inventory."""
        return self.server.host("far", {"cpu": cpu})

    def living(self) -> list[int]:
        """Return every process of the namespace except those of sshd, whatever its parent is by now."""
        return [pid for pid in self.line.pids() if not gone(pid) and not _is_sshd(pid)]

    def user_code(self, agent: StartedAgent) -> list[int]:
        """Return the workers and the processes that they started: all but the agent and its supervisor."""
        known = set() if gone(agent.supervisor) else {agent.supervisor, agent_pid(agent)}
        return [pid for pid in self.living() if pid not in known]


def _is_sshd(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").startswith("sshd")
    except OSError:
        return True
