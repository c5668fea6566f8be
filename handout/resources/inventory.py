"""`Inventory`: the hosts that functions may run on, and the amounts that these hosts share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from types import MappingProxyType
from typing import Any, Final

from handout.errors import CostError, InventoryError
from handout.resources.cost import Amount
from handout.resources.host import Host, as_host
from handout.resources.inventory_file import InventoryFile
from handout.resources.names import KNOWN_NAMES
from handout.resources.near_arguments import names_near_arguments
from handout.resources.numbers import is_finite_number
from handout.resources.tracker import Tracker
from handout.resources.units import read_amount
from handout.serialization.user_objects import brief

Path = str | PathLike[str]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Inventory(Mapping[str, Host]):
    """A mapping of names to the hosts that functions may run on.

    Args:
        hosts: `Host` objects, or text such as ``"user@host:2222"``.
        shared: Amounts that all hosts share, by name, such as licence seats. Tasks on all hosts consume them together.
            Default: none.
        tracker: An async function that tells what a host offers now; see `Tracker`. Default: none.
        interval_s: Seconds between two calls of the tracker for the same host. Default: 30.

    Raises:
        InventoryError: Two hosts have the same name, or a value is wrong.

    Example:
        ```python
        inventory = handout.Inventory(["gpu1", "ann@node2:2222"], shared={"licence": 5})
        ```
    """

    @names_near_arguments()
    def __init__(
        self,
        hosts: Iterable[Host | str],
        *,
        shared: Mapping[str, Amount] = _NOTHING,
        tracker: Tracker | None = None,
        interval_s: float = 30.0,
    ) -> None:
        if isinstance(hosts, str | PathLike):
            raise InventoryError(
                f"{brief(hosts)} is not a list of hosts.",
                remedy=f"Read a file with Inventory.load({str(hosts)!r}), or give a list: [{str(hosts)!r}].",
            )
        if isinstance(hosts, Host):
            raise InventoryError(
                f"{brief(hosts)} is not a list of hosts.", remedy="Give a list, also for a single host."
            )
        self._hosts: dict[str, Host] = {}
        for host in map(as_host, hosts):
            if host.name in self._hosts:
                raise InventoryError(
                    f"two hosts have the name {host.name!r}.",
                    remedy="Give one of them a name of its own: Host('other', address=...).",
                    host=host.name,
                    key="name",
                )
            self._hosts[host.name] = host
        self.shared_amounts: Mapping[str, int] = MappingProxyType(_read_shared(shared))
        """The shared amounts in parts (1/10,000 of a unit), by name."""
        self.shared: Mapping[str, Amount] = MappingProxyType(dict(shared))
        """The shared amounts as they were given, by name."""
        if tracker is not None and not callable(tracker):
            raise InventoryError(
                f"tracker={brief(tracker)} cannot be called.",
                remedy="Give an async function that takes a host and returns capabilities.",
                key="tracker",
            )
        self.tracker: Tracker | None = tracker
        """The tracker, or None."""
        self.interval_s: float = _read_interval(interval_s)
        """Seconds between two calls of the tracker for the same host."""

    @classmethod
    def load(cls, path: Path) -> Inventory:
        """Read an inventory from a TOML file.

        A host is a table ``[hosts.NAME]`` with arguments of `Host`, a table ``[[hosts]]`` that also has a ``name``, or
        a text in a list such as ``hosts = ["user@host:2222"]``. ``local = true`` in a table means that the host is this
        machine. ``[defaults]`` holds arguments for all hosts, and a host's own arguments win over these.
        ``capabilities``, ``ssh`` and ``env`` are merged key by key. ``[shared]``, ``interval_s`` and
        ``tracker = "module:function"`` are the arguments of `Inventory`.

        Args:
            path: Path of the file.

        Raises:
            InventoryError: The file cannot be read, or a value in it is wrong. The error names the file, the line and
                the key.
        """
        file = InventoryFile(path)
        try:
            return cls(**file.arguments())
        except InventoryError as error:
            raise file.blame(error) from error

    def with_hosts(self, hosts: Iterable[Host]) -> Inventory:
        """Return an inventory with other hosts, and with the same shared amounts and tracker.

        Raises:
            InventoryError: Two of the hosts have the same name.
        """
        return Inventory(hosts, shared=self.shared, tracker=self.tracker, interval_s=self.interval_s)

    def __getitem__(self, name: str, /) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def __repr__(self) -> str:
        shared = f", shared={dict(self.shared)}" if self.shared else ""
        return f"Inventory({list(self._hosts.values())}{shared})"


InventoryLike = Inventory | Sequence[Host | str] | Path | None
"""An `Inventory`, a list of hosts, the path of a TOML file, or None. None means this machine alone."""


def as_inventory(inventory: InventoryLike) -> Inventory:
    """Return the inventory for a list of hosts, the path of a TOML file, or None. None means this machine alone.

    Raises:
        InventoryError: The value has another type, the file cannot be read, or one of the hosts is wrong.
    """
    if isinstance(inventory, Inventory):
        return inventory
    if inventory is None:
        return Inventory([Host.local()])
    if isinstance(inventory, str | PathLike):
        return Inventory.load(inventory)
    if isinstance(inventory, Mapping) or not isinstance(inventory, Iterable):
        remedy = "Give an Inventory, a list of hosts, or the path of a TOML file."
        if isinstance(inventory, Host):
            remedy = f"Give a list of hosts: [{brief(inventory)}]."
        raise InventoryError(f"{brief(inventory)} is not an inventory.", remedy=remedy)
    return Inventory(inventory)


def _read_shared(shared: Mapping[str, Amount]) -> dict[str, int]:
    if not isinstance(shared, Mapping):
        raise InventoryError(
            f"shared={brief(shared)} is not a mapping.", remedy="Give amounts by name: {'licence': 5}.", key="shared"
        )
    amounts = {}
    for name, amount in shared.items():
        if name in KNOWN_NAMES:
            raise InventoryError(
                f"shared {name}={brief(amount)} is wrong: every host has its own {name}.",
                remedy="Give the shared amount another name.",
                key=f"shared.{name}",
            )
        try:
            amounts[name], _ = read_amount(amount, size=False, name=name)
        except CostError as error:
            raise InventoryError(f"shared {error.problem}", remedy=error.remedy, key=f"shared.{name}") from error
    return amounts


def _read_interval(interval_s: Any) -> float:
    if is_finite_number(interval_s) and interval_s > 0:
        return float(interval_s)
    raise InventoryError(
        f"interval_s={brief(interval_s)} is wrong: it is not a number of seconds above 0.",
        remedy="Write a number of seconds, such as 30.",
        key="interval_s",
    )
