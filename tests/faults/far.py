"""A host in a network namespace, whose network connection a test can break."""

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
    """An sshd in a network namespace.

    Args:
        line: The namespace. Its methods break and repair the network connection to the server.
        server: The sshd.
    """

    line: Namespace
    server: OpenSsh

    def host(self, cpu: int = 1) -> Host:
        """Return the host's entry for an inventory."""
        return self.server.host("far", {"cpu": cpu})

    def living(self) -> list[int]:
        """Return the ids of all living processes in the namespace, except those of sshd.

        A process whose parent has ended is found as well.
        """
        return [pid for pid in self.line.pids() if not gone(pid) and not _is_sshd(pid)]

    def user_code(self, agent: StartedAgent) -> list[int]:
        """Return the ids of the workers and of the processes that they started."""
        known = set() if gone(agent.supervisor) else {agent.supervisor, agent_pid(agent)}
        return [pid for pid in self.living() if pid not in known]


def _is_sshd(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").startswith("sshd")
    except OSError:
        return True
