"""`Host`: one host of an inventory, with its address and its capabilities."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NoReturn, cast
from urllib.parse import unquote

from pydantic import ValidationError

from handout.errors import CostError, InventoryError
from handout.resources.capabilities import Capabilities, CapabilitiesLike, as_capabilities
from handout.resources.did_you_mean import nearest_name
from handout.resources.host_variables import Variables, VariablesLike, read_variables, taken_from_caller
from handout.resources.names import KNOWN_AMOUNTS
from handout.resources.near_arguments import names_near_arguments
from handout.resources.numbers import is_finite_number, is_whole
from handout.serialization.user_objects import brief, text

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_SSH_PORT: Final = 22
#: Of these mappings, a repr has only the names, because the values can be passwords, and a repr may appear in logs.
_SECRET: Final = ("env", "ssh")
#: "full": the results of the host are unpickled. "data": only data is read from the results.
Trust = Literal["full", "data"]
#: The user's name ends at the last ``@``, as it does for ``ssh``. Directories have names such as ``me@example.com``.
_ADDRESS = re.compile(
    r"(?P<uri>ssh://)?(?:(?P<user>(?(uri)[^\s/]+|[^\s]+))@)?(?P<host>\[[^\]\s]+\]|[^:@\s\[\]/]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)"
    r"(?::(?P<port>\d+))?/?"
)
_AS_CAPABILITY: Final = "What the host offers is one argument: capabilities={{{0!r}: ...}}."
_AS_KEY: Final = "A key file is an option of SSH: ssh={'client_keys': ['~/.ssh/my_key']}."
#: What to write in place of arguments that a host does not have.
_CAPABILITIES: Final = {name: _AS_CAPABILITY.format(name) for name in KNOWN_AMOUNTS}
_ELSEWHERE: Final = {
    **_CAPABILITIES,
    **dict.fromkeys(("key", "key_file", "key_filename", "keys", "identity_file", "client_keys"), _AS_KEY),
    "password": "A password is an option of SSH: ssh={'password': ...}. A key is safer.",
    "known_hosts": "This is an option of SSH: ssh={'known_hosts': ...}.",
}


class Host:
    """A machine that functions can run on.

    The controller connects to the machine as ``ssh name`` would. It uses ``~/.ssh/config``, the SSH agent, keys, jump
    hosts and ``known_hosts``.

    Args:
        name: Name of the host in the inventory, in events and in messages. Without ``address`` it is also the address.
        address: Host name, IP address or alias of the SSH configuration. Default: ``name``.
        port: Port of the SSH server. Default: the port in the SSH configuration, or 22 if none is there.
        username: User to log in as. Default: the user that ``ssh`` would take.
        python: Path or name of the Python to use on the host. Default: a Python of the same minor version as the
            controller's Python. If there is none on the host, the newest Python there.
        capabilities: What the host offers. The agent probes the names that are left out. Default: all are probed.
        price_per_hour: Price of one hour on the host. All hosts must use the same currency. Default: 0.
        ssh: Further options of ``asyncssh.connect``. They win over the arguments above and over the SSH configuration.
            Default: none.
        trust: ``"full"``: results of the host are unpickled, so the host can run code in the controller and on other
            hosts. ``"data"``: only data is read from the host's results, which means built-in types, numpy arrays, and
            classes registered with `trust`. Default: ``"full"``.
        env: Environment variables for the tasks on the host. Either values by name, or a list of names whose values
            come from the caller's environment each time that the controller starts an agent there. In a mapping, the
            value None also means this. No other variable of the caller travels to the host. Handout shows these values
            nowhere: see [variables](../howto/security.md#environment-variables). Default: none.
        workdir: The folder on the host in which tasks begin. The folder must exist. ``~`` is the home folder. Default:
            the folder in which the login begins, or to which ``setup`` changes.
        setup: A line of shell code that prepares the host, such as ``"module load cuda && source env.sh"``. A login
            shell runs the line before Handout looks for a Python: ``bash -l``, or ``sh -l`` if the host has no bash.
            What the line exports holds for the choice of the Python, for the agent and for the tasks. If the exit
            status of the line is not 0, the host cannot be used, and the error is a `SetupError`. Default: none.

    Raises:
        InventoryError: A value is wrong. The error names the host and the key.

    Example:
        ```python
        gpu = handout.Host("gpu1", address="10.0.0.2", username="ann", capabilities={"gpu": 2})
        cpu = handout.Host("node3", env={"OMP_NUM_THREADS": "4"}, workdir="~/runs", setup="module load gcc")
        inventory = handout.Inventory([gpu, cpu, "ann@node2:2222"])
        ```
    """

    __slots__ = (
        "_local",
        "address",
        "capabilities",
        "env",
        "name",
        "port",
        "price_per_hour",
        "python",
        "setup",
        "ssh",
        "trust",
        "username",
        "workdir",
    )

    name: str
    address: str | None
    port: int
    username: str | None
    python: str | None
    capabilities: Capabilities
    price_per_hour: float
    ssh: Mapping[str, Any]
    trust: Trust
    env: Variables
    workdir: str | None
    setup: str | None

    @names_near_arguments(_ELSEWHERE)
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
        ssh: Mapping[str, Any] = _NOTHING,
        trust: Trust = "full",
        env: VariablesLike = _NOTHING,
        workdir: str | None = None,
        setup: str | None = None,
    ) -> None:
        _check_name(name, address)
        self.name = name
        self.address = _text(name, "address", address)
        self.port = _port(name, port)
        self.username = _text(name, "username", username)
        self.python = _text(name, "python", python)
        self.price_per_hour = _price(name, price_per_hour)
        self.ssh = _ssh(name, ssh)
        self.trust = _trust(name, trust)
        self.env = read_variables(name, env)
        self.workdir = _text(name, "workdir", workdir)
        self.setup = _setup(name, setup)
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
    @names_near_arguments(_CAPABILITIES)
    def local(
        cls,
        name: str = "local",
        capabilities: CapabilitiesLike = _NOTHING,
        *,
        python: str | None = None,
        env: VariablesLike = _NOTHING,
        workdir: str | None = None,
        setup: str | None = None,
    ) -> Host:
        """Return this machine as a host. The controller starts the same agent here as elsewhere, but without SSH.

        The agent here has the environment of the caller.

        Args:
            name: Name of the host.
            capabilities: What this machine offers. The agent probes the names that are left out.
            python: Path or name of the Python to use. Default: the Python that runs the caller, even if ``setup``
                activates another one.
            env: See `Host`.
            workdir: See `Host`. Default: the current folder of the caller, or the folder to which ``setup`` changes.
            setup: See `Host`.
        """
        host = cls(name, capabilities=capabilities, python=python, env=env, workdir=workdir, setup=setup)
        host._local = True
        return host

    @classmethod
    def parse(cls, text: str, **given: Any) -> Host:
        """Return the host that a text such as ``"user@host:2222"`` describes. The part ``host`` is also its name.

        Args:
            text: ``host``, optionally with ``user@`` before it and ``:port`` after it. An IPv6 address with a port
                must be in brackets.
            **given: Further arguments of `Host`. A user and a port in the text win over ``username`` and ``port``.

        Raises:
            InventoryError: The text has another form.
        """
        match = _ADDRESS.fullmatch(text.strip())
        if match is None:
            raise InventoryError(
                f"{brief(text)} is not a host.",
                remedy="Write 'host', 'user@host' or 'user@host:2222'.",
                host=str(text),
            )
        if match["user"]:
            given["username"] = unquote(match["user"]) if match["uri"] else match["user"]
        if match["port"]:
            given["port"] = int(match["port"])
        return cls(match["host"].strip("[]"), **given)

    @property
    def is_local(self) -> bool:
        """True if the host is this machine, which the controller reaches without SSH."""
        return self._local

    def environment(self) -> dict[str, str]:
        """Return the variables of ``env``, with the values that the caller's environment has at the moment.

        Raises:
            InventoryError: The caller's environment lacks a variable.
        """
        return taken_from_caller(self.name, self.env)

    def connect_options(self) -> dict[str, Any]:
        """Return the arguments for ``asyncssh.connect``. asyncssh reads everything else from the SSH configuration."""
        options: dict[str, Any] = {"host": self.address or self.name}
        if self.port != _SSH_PORT:
            options["port"] = self.port
        if self.username is not None:
            options["username"] = self.username
        options.update(self.ssh)
        return options

    def check_ssh(self, accepted: Collection[str]) -> None:
        """Check the names of the ``ssh`` options.

        Args:
            accepted: The names of the options that asyncssh has. The caller gives them, because this module does not
                import asyncssh.

        Raises:
            InventoryError: An option has an unknown name.
        """
        for key in self.ssh:
            if key not in accepted:
                nearest = nearest_name(key, accepted)
                raise InventoryError(
                    f"host {self.name!r}: ssh option {key!r} is unknown.",
                    remedy=f"Did you mean {nearest!r}?"
                    if nearest
                    else "Give an option of asyncssh.SSHClientConnectionOptions.",
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
        """Return the call that makes this host, without defaults, capabilities and values of ``ssh`` and ``env``."""
        given = [
            f"{name}={value!r}"
            for name, value in self._fields().items()
            if name not in ("name", *_SECRET, "port", "_local", "capabilities") and value and value != "full"
        ]
        if self.port != _SSH_PORT:
            given.append(f"port={self.port}")
        for name in _SECRET:
            if names := sorted(getattr(self, name)):
                given.append(f"{name}=<{', '.join(names)}>")
        return f"Host{'.local' if self._local else ''}({', '.join([repr(self.name), *sorted(given)])})"


def as_host(host: Host | str) -> Host:
    """Return the host that a text such as ``"user@host:2222"`` describes. A `Host` is returned as it is.

    Raises:
        InventoryError: The value is neither a `Host` nor text, or the text does not describe a host.
    """
    if isinstance(host, Host):
        return host
    if isinstance(host, str):
        return Host.parse(host)
    raise InventoryError(f"{brief(host)} is not a host.", remedy="Give a Host, or text such as 'user@host:2222'.")


def _check_name(name: Any, address: str | None) -> None:
    if not isinstance(name, str) or not name.strip() or name != name.strip() or name.startswith("-"):
        raise InventoryError(
            f"{brief(name)} cannot be the name of a host.",
            remedy="Give a text such as 'gpu1'.",
            host=text(name),
            key="name",
        )
    if address is None and ("@" in name or re.fullmatch(r"[^:]+:\d+", name)):
        raise InventoryError(
            f"host {name!r}: the name is also the address, and an address contains neither a user nor a port.",
            remedy=f"Put the text {name!r} itself into the list of hosts, or give username= and port=.",
            host=name,
            key="name",
        )


def _text(host: str, key: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        _refuse(host, key, value, "it is not text", "")
    if not value.strip() or value.startswith("-"):
        _refuse(host, key, value, "it is empty or begins with a dash", "")
    if "\0" in value or "\n" in value:
        _refuse(host, key, value, "it has more than one line, or the character NUL", "")
    return value


def _setup(host: str, line: Any) -> str | None:
    if line is None or (isinstance(line, str) and line.strip() and "\0" not in line):
        return line
    _refuse(host, "setup", line, "it is not a line of shell code", "Write a text such as 'module load cuda'.")


def _port(host: str, port: Any) -> int:
    if is_whole(port) and 0 < port < 65536:
        return int(port)
    _refuse(host, "port", port, "it is not a port", "Write a whole number from 1 to 65535.")


def _price(host: str, price: Any) -> float:
    if is_finite_number(price) and price >= 0:
        return float(price)
    _refuse(host, "price_per_hour", price, "it is not a price", "Write a number, 0 or more.")


def _trust(host: str, trust: Any) -> Trust:
    if trust in ("full", "data"):
        return cast(Trust, trust)
    _refuse(host, "trust", trust, "it is not a kind of trust", "Write 'full' or 'data'.")


def _ssh(host: str, ssh: Any) -> dict[str, Any]:
    if not isinstance(ssh, Mapping) or not all(isinstance(key, str) for key in ssh):
        _refuse(host, "ssh", ssh, "it is not a mapping", "Give options of asyncssh.connect by name.")
    if "host" in ssh:
        _refuse(host, "ssh.host", ssh["host"], "the address is not an SSH option", "Write address=... instead.")
    return dict(ssh)


def _refuse(host: str, key: str, value: Any, why: str, remedy: str) -> NoReturn:
    raise InventoryError(f"host {host!r}: {key}={brief(value)} is wrong: {why}.", remedy=remedy, host=host, key=key)
