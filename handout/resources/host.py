"""One host of an inventory: how it is reached and what it is said to offer."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, Literal, NoReturn, cast

from pydantic import ValidationError

from handout.errors import CostError, InventoryError
from handout.resources.capabilities import Capabilities, CapabilitiesLike, as_capabilities
from handout.resources.names import nearest_name

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_SSH_PORT: Final = 22
#: What may be made of the bytes that a host sends.
Trust = Literal["full", "data"]
_ADDRESS = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@\s/]+)@)?(?P<host>\[[^\]\s]+\]|[^:@\s\[\]/]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)"
    r"(?::(?P<port>\d+))?/?"
)


class Host:
    """A machine that functions can run on.

    Reached as ``ssh name`` would reach it: ``~/.ssh/config``, the agent, keys, jump hosts and ``known_hosts``
    are honoured.

    Args:
        name: What it is called everywhere; also what is connected to, where no ``address`` is given.
        address: Host name, IP address or alias of the SSH configuration.
        port: Port of its SSH server; 22 leaves it to the SSH configuration.
        username: Who to log in as; otherwise as the SSH configuration says.
        python: Path or name of the Python to use there; otherwise the best one is found.
        capabilities: What it offers; what is left out is probed on the host.
        price_per_hour: What it costs, in any currency that all hosts are given in.
        network: Hosts of the same network reach each other directly.
        ssh: Any further options of ``asyncssh.connect``; these win over everything else.
        trust: ``"full"``: its results are unpickled, so it can run code wherever they are. ``"data"``: only data is
            taken from it: built-in types, numpy arrays, and classes registered with ``handout.trust``.
    Raises:
        InventoryError: One of these cannot be; it names the host and the key.
    """

    __slots__ = (
        "_local",
        "address",
        "capabilities",
        "name",
        "network",
        "port",
        "price_per_hour",
        "python",
        "ssh",
        "trust",
        "username",
    )

    name: str
    address: str | None
    port: int
    username: str | None
    python: str | None
    capabilities: Capabilities
    price_per_hour: float
    network: str | None
    ssh: Mapping[str, Any]
    trust: Trust

    def __init__(
        self,
        name: str,
        *,
        address: str | None = None,
        port: int = _SSH_PORT,
        username: str | None = None,
        python: str | None = None,
        capabilities: CapabilitiesLike = _NOTHING,
        price_per_hour: float = 0.0,
        network: str | None = None,
        ssh: Mapping[str, Any] = _NOTHING,
        trust: Trust = "full",
    ) -> None:
        _check_name(name, address)
        self.name = name
        self.address = _text(name, "address", address)
        self.port = _port(name, port)
        self.username = _text(name, "username", username)
        self.python = _text(name, "python", python)
        self.price_per_hour = _price(name, price_per_hour)
        self.network = _text(name, "network", network)
        self.ssh = _ssh(name, ssh)
        self.trust = _trust(name, trust)
        self._local = False
        try:
            self.capabilities = as_capabilities(capabilities)
        except CostError as error:
            key = "capabilities" if error.name == "capabilities" else f"capabilities.{error.name}"
            raise InventoryError(f"host {name!r}: {error.problem}", remedy=error.remedy, host=name, key=key) from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(["capabilities", *map(str, first["loc"])])
            _refuse(name, key, first.get("input"), first["msg"], "")

    @classmethod
    def local(cls, name: str = "local", capabilities: CapabilitiesLike = _NOTHING) -> Host:
        """This machine: the same agent, over a pipe, without SSH."""
        host = cls(name, capabilities=capabilities)
        host._local = True
        return host

    @classmethod
    def parse(cls, text: str, **given: Any) -> Host:
        """A host from ``"user@host:2222"``, of which only the host is needed; it is also the name.

        Args:
            text: As on the command line of ``ssh``, with an optional port; IPv6 addresses in brackets.
            **given: Further arguments of `Host`; what the text says wins.
        Raises:
            InventoryError: It is no such text.
        """
        match = _ADDRESS.fullmatch(text.strip())
        if match is None:
            raise InventoryError(
                f"{text!r} is no host.", remedy="Write 'host', 'user@host' or 'user@host:2222'.", host=str(text)
            )
        if match["user"]:
            given["username"] = match["user"]
        if match["port"]:
            given["port"] = int(match["port"])
        return cls(match["host"].strip("[]"), **given)

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, reached over a pipe."""
        return self._local

    def connect_options(self) -> dict[str, Any]:
        """Arguments of ``asyncssh.connect``; what is not among them is left to the SSH configuration."""
        options: dict[str, Any] = {"host": self.address or self.name}
        if self.port != _SSH_PORT:
            options["port"] = self.port
        if self.username is not None:
            options["username"] = self.username
        options.update(self.ssh)
        return options

    def check_ssh(self, accepted: Collection[str]) -> None:
        """Compare the ``ssh`` options with those that exist, once asyncssh has been imported.

        Raises:
            InventoryError: There is none of such a name.
        """
        for key in self.ssh:
            if key not in accepted:
                nearest = nearest_name(key, accepted)
                raise InventoryError(
                    f"host {self.name!r}: ssh option {key!r} is unknown.",
                    remedy=f"Did you mean {nearest!r}?"
                    if nearest
                    else "Options are those of asyncssh.SSHClientConnectionOptions.",
                    host=self.name,
                    key=f"ssh.{key}",
                )

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Host.__slots__}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Host) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        """As it would be written, without what is as usual."""
        given = [
            f"{name}={value!r}"
            for name, value in self._fields().items()
            # Options can hold passwords and keys: a repr ends up in logs.
            if name not in ("name", "ssh", "port", "_local", "capabilities") and value and value != "full"
        ]
        if self.port != _SSH_PORT:
            given.append(f"port={self.port}")
        if self.ssh:
            given.append(f"ssh=<{', '.join(sorted(self.ssh))}>")
        return f"Host{'.local' if self._local else ''}({', '.join([repr(self.name), *sorted(given)])})"


def as_host(host: Host | str) -> Host:
    """A host from what a user may give for it.

    Raises:
        InventoryError: It is neither a `Host` nor text such as ``"user@host:2222"``.
    """
    if isinstance(host, Host):
        return host
    if isinstance(host, str):
        return Host.parse(host)
    raise InventoryError(f"{host!r} is no host.", remedy="Give a Host, or text such as 'user@host:2222'.")


def _check_name(name: Any, address: str | None) -> None:
    if not isinstance(name, str) or not name.strip() or name != name.strip() or name.startswith("-"):
        raise InventoryError(
            f"{name!r} is no name of a host.", remedy="Give a text such as 'gpu1'.", host=str(name), key="name"
        )
    if address is None and ("@" in name or re.fullmatch(r"[^:]+:\d+", name)):
        raise InventoryError(
            f"host {name!r}: a name is connected to as it is, and no host name holds a user or a port.",
            remedy=f"Put the text {name!r} itself into the inventory, or use username= and port=.",
            host=name,
            key="name",
        )


def _text(host: str, key: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.strip() and not value.startswith("-")):
        return value
    _refuse(host, key, value, "it is no text" if not isinstance(value, str) else "it means nothing", "")


def _port(host: str, port: Any) -> int:
    if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536:
        return port
    _refuse(host, "port", port, "it is no port", "Write a whole number from 1 to 65535.")


def _price(host: str, price: Any) -> float:
    if isinstance(price, int | float) and not isinstance(price, bool) and isfinite(price) and price >= 0:
        return float(price)
    _refuse(host, "price_per_hour", price, "it is no price", "Write a number, 0 or more.")


def _trust(host: str, trust: Any) -> Trust:
    if trust in ("full", "data"):
        return cast(Trust, trust)
    _refuse(host, "trust", trust, "it is no kind of trust", "Write 'full' or 'data'.")


def _ssh(host: str, ssh: Any) -> dict[str, Any]:
    if not isinstance(ssh, Mapping) or not all(isinstance(key, str) for key in ssh):
        _refuse(host, "ssh", ssh, "it is no mapping", "Give options of asyncssh.connect by name.")
    if "host" in ssh:
        _refuse(host, "ssh.host", ssh["host"], "where to connect to is said beside it", "Write address=... instead.")
    return dict(ssh)


def _refuse(host: str, key: str, value: Any, why: str, remedy: str) -> NoReturn:
    raise InventoryError(f"host {host!r}: {key}={value!r} cannot be: {why}.", remedy=remedy, host=host, key=key)
