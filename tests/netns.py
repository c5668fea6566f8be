"""Network namespaces for hosts. A test can break the line to a namespace: drop or reset packets, or pull the cable.

`make_namespace` makes a namespace and its virtual cable. At the end of its block, it removes both, and kills all
processes in the namespace. This needs root, ``ip`` and ``nft``.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.patience import HANG_S

__all__ = ["Namespace", "make_namespace", "why_none"]

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_number = itertools.count()


def why_none() -> str | None:
    """Return the reason why this machine cannot make namespaces with packet rules, or None."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    for tool, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(tool, path=_PATH) is None:
            return f"needs {tool}: install {package}"
    name = f"handout-try-{os.getpid()}"
    tried = _call("ip", "netns", "add", name, check=False)
    if tried.returncode:
        return f"cannot make network namespaces here: {tried.stderr.strip()}"
    rules = _call("ip", "netns", "exec", name, "nft", "add", "table", "inet", "faults", check=False)
    _call("ip", "netns", "del", name)
    return f"cannot make rules for packets here: {rules.stderr.strip()}" if rules.returncode else None


class Namespace:
    """A network namespace whose connection to this machine can have faults.

    Args:
        name: The name of the namespace.
        subnet: The first three numbers of the addresses at both ends of the cable, such as ``198.18.0``.
    """

    def __init__(self, name: str, subnet: str) -> None:
        self.name = name
        #: The address of a server in the namespace, as seen from here.
        self.address = f"{subnet}.2"
        #: The beginning of a command line that runs in the namespace.
        self.prefix = ("ip", "netns", "exec", name)
        self._cable = f"ho{secrets.token_hex(4)}"
        self._subnet = subnet

    def make(self) -> None:
        """Make the namespace, and a cable from here into it."""
        here, there = self._cable, f"{self._cable}p"
        _call("ip", "netns", "add", self.name)
        _call("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", self.name)
        _call("ip", "address", "add", f"{self._subnet}.1/24", "dev", here)
        _call("ip", "link", "set", here, "up")
        _call("ip", "-n", self.name, "address", "add", f"{self.address}/24", "dev", there)
        for device in (there, "lo"):
            _call("ip", "-n", self.name, "link", "set", device, "up")

    def end_processes(self) -> None:
        """Kill every process in the namespace."""
        until = time.monotonic() + HANG_S
        while pids := self.pids():
            assert time.monotonic() < until, f"processes that cannot be killed: {pids}"
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.01)

    def remove(self) -> None:
        """Remove the namespace with its processes and its cable."""
        self.end_processes()
        _call("ip", "link", "del", self._cable, check=False)
        _call("ip", "netns", "del", self.name, check=False)

    def pids(self) -> list[int]:
        """Return the processes in the namespace."""
        return list(map(int, _call("ip", "netns", "pids", self.name, check=False).stdout.split()))

    # ---- faults ----------------------------------------------------------------------------------------------

    def drop(self, *, arriving: bool = True, leaving: bool = True) -> None:
        """Drop packets silently: those that arrive in the namespace, those that leave it, or both."""
        self._rule("drop", arriving, leaving)

    def reset(self) -> None:
        """Answer every packet of every connection with a reset, in both directions."""
        self._rule("meta l4proto tcp reject with tcp reset", True, True)

    def lose(self, percent: int) -> None:
        """Drop `percent` % of the packets in each direction, at random."""
        self._rule(f"numgen random mod 100 < {percent} drop", True, True)

    def heal(self) -> None:
        """End all faults, except a pulled cable."""
        self._nft("flush ruleset")

    def pull(self) -> None:
        """Pull the cable."""
        _call("ip", "link", "set", self._cable, "down")

    def plug(self) -> None:
        """Put the cable in again."""
        _call("ip", "link", "set", self._cable, "up")

    def _rule(self, rule: str, arriving: bool, leaving: bool) -> None:
        there = f"{self._cable}p"
        chains = []
        if arriving:
            chains.append(("input", f'iifname "{there}" {rule}'))
        if leaving:
            chains.append(("output", f'oifname "{there}" {rule}'))
        body = "\n".join(
            f"chain {hook} {{\ntype filter hook {hook} priority 0; policy accept;\n{line}\n}}" for hook, line in chains
        )
        self._nft(f"flush ruleset\ntable inet faults {{\n{body}\n}}")

    def _nft(self, rules: str) -> None:
        _call(*self.prefix, "nft", "-f", "-", text=rules + "\n")


@contextmanager
def make_namespace() -> Iterator[Namespace]:
    """Make a namespace, and remove it when the block ends, even if the block raises."""
    taken = _call("ip", "-4", "-o", "address").stdout
    # RFC 2544 reserves 198.18.0.0/15 for network tests. The choice is random, because other tests may run here now.
    subnets = (f"198.{18 + secrets.randbelow(2)}.{secrets.randbelow(256)}" for _ in range(1000))
    subnet = next(subnet for subnet in subnets if f" {subnet}." not in taken)
    namespace = Namespace(f"handout-{os.getpid()}-{next(_number)}", subnet)
    try:
        namespace.make()
        yield namespace
    finally:
        namespace.remove()


def _call(*argv: str, check: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, check=False, env={**os.environ, "PATH": _PATH}
    )
    assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.stderr.strip()}\n{text}"
    return done
