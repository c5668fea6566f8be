"""A host behind a line of its own."""

from __future__ import annotations

from dataclasses import dataclass

from handout import Host
from tests.netns import Namespace
from tests.sshd import OpenSsh

__all__ = ["Far"]


@dataclass(frozen=True)
class Far:
    """A server in a namespace: ``far.line`` breaks what leads to it."""

    line: Namespace
    server: OpenSsh

    def host(self, cpu: int = 1) -> Host:
        """Its entry in an inventory."""
        return self.server.host("far", {"cpu": cpu})
