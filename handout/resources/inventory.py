"""The hosts that functions may run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from os import PathLike
from types import MappingProxyType
from typing import Any, Final

from handout.errors import CostError, InventoryError
from handout.resources.cost import Amount
from handout.resources.host import Host, as_host
from handout.resources.inventory_file import InventoryFile
from handout.resources.names import KNOWN_NAMES
from handout.resources.tracker import Tracker
from handout.resources.units import read_amount

Path = str | PathLike[str]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Inventory(Mapping[str, Host]):
    """Hosts by name, and what they share.

    Args:
        hosts: `Host` objects, or text such as ``"user@host:2222"``.
        shared: Amounts that tasks on any host consume, such as licence seats.
        tracker: Says what each host offers now.
        interval_s: Seconds between two questions to the tracker about one host.
    Raises:
        InventoryError: Two hosts have one name, or one of the values cannot be.
    """

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
                f"{hosts!r} is no list of hosts.",
                remedy=f"Read a file with Inventory.load({str(hosts)!r}), or give a list: [{str(hosts)!r}].",
            )
        if isinstance(hosts, Host):
            raise InventoryError(f"{hosts!r} is no list of hosts.", remedy="Give a list, also for a single host.")
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
        #: In parts by name.
        self.shared_amounts: Mapping[str, int] = MappingProxyType(_read_shared(shared))
        #: As given.
        self.shared: Mapping[str, Amount] = MappingProxyType(dict(shared))
        if tracker is not None and not callable(tracker):
            raise InventoryError(
                f"tracker={tracker!r} cannot be called.",
                remedy="Give an async function of one host that answers with capabilities.",
                key="tracker",
            )
        self.tracker = tracker
        self.interval_s: float = _read_interval(interval_s)

    @classmethod
    def load(cls, path: Path) -> Inventory:
        """Read an inventory from a TOML file.

        ``[hosts.NAME]`` (or ``[[hosts]]`` with a ``name``, or ``hosts = ["user@host:2222"]``) takes the arguments
        of `Host`; ``[defaults]`` gives them for all hosts, key by key in ``capabilities`` and ``ssh``, too;
        ``[shared]``, ``interval_s`` and ``tracker = "module:function"`` are those of the inventory. ``local =
        true`` makes a host this machine.

        Raises:
            InventoryError: The file cannot be read, or something in it cannot be; names file, line and key.
        """
        file = InventoryFile(path)
        try:
            return cls(**file.arguments())
        except InventoryError as error:
            raise file.blame(error) from error

    def with_hosts(self, hosts: Iterable[Host]) -> Inventory:
        """The same inventory with these hosts instead of its own.

        Raises:
            InventoryError: Two of them have one name.
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


def as_inventory(inventory: InventoryLike) -> Inventory:
    """An inventory from what a user may give for it; None is this machine alone.

    Raises:
        InventoryError: It is none, or one of its hosts cannot be.
    """
    if isinstance(inventory, Inventory):
        return inventory
    if inventory is None:
        return Inventory([Host.local()])
    if isinstance(inventory, str | PathLike):
        return Inventory.load(inventory)
    if isinstance(inventory, Mapping) or not isinstance(inventory, Iterable):
        raise InventoryError(
            f"{inventory!r} is no inventory.",
            remedy="Give an Inventory, a list of hosts, or the path of a TOML file.",
        )
    return Inventory(inventory)


def _read_shared(shared: Mapping[str, Amount]) -> dict[str, int]:
    if not isinstance(shared, Mapping):
        raise InventoryError(
            f"shared={shared!r} is no mapping.", remedy="Give amounts by name: {'licence': 5}.", key="shared"
        )
    amounts = {}
    for name, amount in shared.items():
        if name in KNOWN_NAMES:
            raise InventoryError(
                f"shared {name}={amount!r} cannot be: every host has its own {name}.",
                remedy="Give the shared amount another name.",
                key=f"shared.{name}",
            )
        try:
            amounts[name], _ = read_amount(amount, size=False, name=name)
        except CostError as error:
            raise InventoryError(f"shared {error.problem}", remedy=error.remedy, key=f"shared.{name}") from error
    return amounts


def _read_interval(interval_s: Any) -> float:
    if (
        isinstance(interval_s, int | float)
        and not isinstance(interval_s, bool)
        and interval_s > 0
        and isfinite(interval_s)
    ):
        return float(interval_s)
    raise InventoryError(
        f"interval_s={interval_s!r} cannot be: it is no time.",
        remedy="Write seconds, more than 0.",
        key="interval_s",
    )
