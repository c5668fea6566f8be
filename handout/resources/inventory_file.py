"""Reads the arguments of an `Inventory` from a TOML file. Errors name the line of a wrong value.

The place of a value is the sequence of keys and indices that lead to it, such as ``("hosts", "gpu1", "port")``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, Final

from handout.errors import InventoryError
from handout.resources.did_you_mean import nearest_name
from handout.resources.host import Host
from handout.resources.host_variables import read_variables
from handout.resources.toml_file import Place, TomlFile
from handout.resources.tracker import Tracker

_FILE_KEYS: Final = ("defaults", "hosts", "shared", "interval_s", "tracker")
_HOST_KEYS: Final = (
    "address",
    "port",
    "username",
    "python",
    "capabilities",
    "price_per_hour",
    "ssh",
    "trust",
    "env",
    "workdir",
    "setup",
)
#: The keys that the table of this machine may have.
_LOCAL_KEYS: Final = ("local", "name", "capabilities", "price_per_hour", "python", "env", "workdir", "setup")
#: Tables that are merged key by key: a key of the host's own table wins over the same key of the defaults.
_MERGED_KEYS: Final = ("capabilities", "ssh")


class InventoryFile:
    """A TOML file that describes an inventory.

    Raises:
        InventoryError: The file cannot be read, or is not TOML.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._file = TomlFile(path)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `Inventory`.

        Raises:
            InventoryError: A key is unknown, or a host has a wrong value.
        """
        data = self._file.data
        self._check_keys((), data, _FILE_KEYS)
        given: dict[str, Any] = {key: data[key] for key in ("shared", "interval_s") if key in data}
        if "tracker" in data:
            given["tracker"] = self._tracker(data["tracker"])
        given["hosts"] = list(self._hosts(data.get("hosts"), self._defaults()).values())
        return given

    def blame(self, error: InventoryError) -> InventoryError:
        """Return an error that also names the file and the line of the wrong value."""
        return error if error.file else self._file.error([_inner(error)], error.problem, error.remedy)

    def _defaults(self) -> dict[str, Any]:
        defaults = self._table(("defaults",), self._file.data.get("defaults", {}))
        self._check_keys(("defaults",), defaults, _HOST_KEYS)
        if self._table(("defaults", "ssh"), defaults.get("ssh", {})).get("known_hosts") is False:
            raise self._file.error(
                [("defaults", "ssh", "known_hosts")],
                "host keys cannot be left unchecked for all hosts at once.",
                "Write known_hosts = false in the table of each host that needs it.",
            )
        return defaults

    def _hosts(self, written: Any, defaults: dict[str, Any]) -> dict[str, Host]:
        hosts: dict[str, Host] = {}
        for place, name, entry in self._host_tables(written):
            host = self._host(place, name, entry, defaults)
            if host.name in hosts:
                remedy = "Give one of them a name of its own, and an address."
                raise self._file.error([place], f"two hosts have the name {host.name!r}.", remedy, host=host.name)
            hosts[host.name] = host
        return hosts

    def _host_tables(self, hosts: Any) -> Iterator[tuple[Place, str | None, dict[str, Any] | str]]:
        """Yield three values for each host: its place in the file, its name, and its table or text.

        The name is None if the hosts are a list, because their places then contain numbers and no names.
        """
        if not hosts:
            raise self._file.error([("hosts",)], "there are no hosts.", "Add a table [hosts.NAME] for each host.")
        if isinstance(hosts, dict):
            for name, table in hosts.items():
                yield ("hosts", name), name, self._table(("hosts", name), table)
        elif isinstance(hosts, list):
            for index, one in enumerate(hosts):
                place = ("hosts", index)
                yield place, None, one if isinstance(one, str) else self._table(place, one)
        else:
            raise self._file.error(
                [("hosts",)], "the value is not a table or a list.", "Add a table [hosts.NAME] for each host."
            )

    def _host(self, place: Place, name: str | None, entry: dict[str, Any] | str, defaults: dict[str, Any]) -> Host:
        """Return the host of an entry. Keys of the entry win over the defaults."""
        table = {} if isinstance(entry, str) else entry
        self._check_keys(place, table, (*_HOST_KEYS, "local") if name is not None else (*_HOST_KEYS, "local", "name"))
        given = {**defaults, **table}
        for key in _MERGED_KEYS:
            below, above = defaults.get(key, {}), table.get(key, {})
            given[key] = {**self._table(("defaults", key), below), **self._table((*place, key), above)}
        if given["ssh"].get("known_hosts") is False:
            # asyncssh checks no host keys with known_hosts=None. TOML has no null, so users write false.
            given["ssh"]["known_hosts"] = None
        local = given.pop("local", False)
        name = given.pop("name", name)
        try:
            # `env` may be a list of names here and a table there, so it is not merged as a table.
            variables = [read_variables(name or str(entry), each["env"]) for each in (defaults, table) if "env" in each]
            given["env"] = {name: value for each in variables for name, value in each.items()}
            if isinstance(entry, str):
                return Host.parse(entry, **given)
            if name is None:
                raise InventoryError("the host has no name.", remedy="Add name = '...'.")
            host = Host(name, **given)
            return self._local(place, host, table) if local is not False else host
        except InventoryError as error:
            if error.file is not None:
                raise
            inner = _inner(error)
            problem = error.problem.removeprefix(f"host {error.host!r}: ")
            places = [(*place, *inner), ("defaults", *inner)]
            raise self._file.error(places, problem, error.remedy, host=error.host) from error

    def _local(self, place: Place, host: Host, table: Mapping[str, Any]) -> Host:
        """Return this machine as a host, with what ``host`` says about it.

        Args:
            place: The place of the host's table.
            host: The host, as the table and the defaults describe it.
            table: The host's own table. Only this table can name the Python, because the default is for other machines.
        """
        if table["local"] is not True:
            raise self._file.error(
                [(*place, "local")],
                f"{table['local']!r} is neither true nor false.",
                "Write local = true, or leave out local.",
            )
        for key in table:
            if key not in _LOCAL_KEYS:
                raise self._file.error(
                    [(*place, key)], "a local host is not reached over SSH.", f"Leave out either {key} or local = true."
                )
        here = Host.local(
            host.name,
            host.capabilities,
            python=table.get("python"),
            env=host.env,
            workdir=host.workdir,
            setup=host.setup,
        )
        here.price_per_hour = host.price_per_hour
        return here

    def _tracker(self, name: Any) -> Tracker | None:
        if name is None:
            return None
        try:
            module, _, attribute = name.partition(":")
            found: Tracker = getattr(importlib.import_module(module), attribute)
        except (AttributeError, ImportError, TypeError, ValueError) as error:
            raise self._file.error(
                [("tracker",)], f"{name!r} cannot be imported: {error}.", "Write tracker = 'module:function'."
            ) from error
        return found

    def _table(self, place: Place, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        raise self._file.error(
            [place], f"{value!r} is not a table.", f"Write {'.'.join(map(str, place))} as a table of keys and values."
        )

    def _check_keys(self, place: Place, table: Mapping[str, Any], known: Iterable[str]) -> None:
        for key in table:
            if key not in known:
                nearest = nearest_name(key, known)
                remedy = f"Did you mean {nearest!r}?" if nearest else f"Known keys are {', '.join(known)}."
                if not nearest and "capabilities" in known:
                    remedy += " What the host offers belongs under capabilities."
                raise self._file.error([(*place, key)], "this key is unknown.", remedy)


def _inner(error: InventoryError) -> Place:
    """Return the key that an error names, split into the parts that end a place.

    ``capabilities.memory`` becomes ``("capabilities", "memory")``. The key is split only at the first dot, because
    names of capabilities may contain dots.
    """
    return tuple(error.key.split(".", 1)) if error.key else ()
