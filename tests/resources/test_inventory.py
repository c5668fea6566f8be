"""Inventories: they are made of lists and files, and their errors name the file, the line and the key."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from handout.errors import InventoryError
from handout.resources import PARTS, Host, Inventory, LiveHost, as_inventory, compile_capabilities
from handout.resources.toml_file import TomlFile


def write(folder: Path, text: str) -> Path:
    path = folder / "hosts.toml"
    path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return path


async def look(host: LiveHost) -> dict[str, Any]:
    return {}


def test_an_inventory_is_a_mapping_of_hosts_by_name() -> None:
    inventory = Inventory([Host("a"), "ann@b:2222"], shared={"licence": 5, "tape": 0.5}, tracker=look, interval_s=5)
    assert list(inventory) == ["a", "b"]
    assert inventory["b"].port == 2222
    assert dict(inventory.shared) == {"licence": 5, "tape": 0.5}
    assert dict(inventory.shared_amounts) == {"licence": 5 * PARTS, "tape": PARTS // 2}
    assert inventory.interval_s == 5.0
    assert inventory.tracker is look


def test_nothing_means_this_machine() -> None:
    inventory = as_inventory(None)
    assert [host.is_local for host in inventory.values()] == [True]


def test_what_users_may_give_becomes_an_inventory(tmp_path: Path) -> None:
    path = write(tmp_path, "[hosts.a]")
    inventory = Inventory(["a"])
    assert as_inventory(inventory) is inventory
    assert list(as_inventory([Host("a"), "b"])) == ["a", "b"]
    assert list(as_inventory(path)) == list(as_inventory(os.fspath(path))) == ["a"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"a": 1}, "list of hosts"),
        (3, "list of hosts"),
        (Host("a"), "list of hosts"),
        ([3], "Give a Host"),
        (["a", Host("a")], "two hosts have the name 'a'"),
        ("ann@a", "give a list: ['ann@a']"),
        ("missing.toml", "correct the path"),
    ],
)
def test_what_is_no_inventory_is_refused(wrong: Any, says: str) -> None:
    with pytest.raises(InventoryError) as caught:
        as_inventory(wrong)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"shared": {"licence": "many"}}, "shared.licence"),
        ({"shared": {"licence": True}}, "shared.licence"),
        ({"shared": {"licence": ">=5"}}, "shared.licence"),
        ({"shared": {"memory": "8 GB"}}, "shared.memory"),
        ({"shared": [5]}, "shared"),
        ({"interval_s": 0}, "interval_s"),
        ({"interval_s": "30"}, "interval_s"),
        ({"tracker": 3}, "tracker"),
    ],
)
def test_what_an_inventory_cannot_have_is_refused_by_its_key(given: dict[str, Any], key: str) -> None:
    with pytest.raises(InventoryError) as caught:
        Inventory(["a"], **given)
    assert caught.value.key == key
    assert caught.value.remedy


def test_a_text_is_never_a_sequence_of_letters() -> None:
    with pytest.raises(InventoryError, match=r"Inventory\.load"):
        Inventory("hosts.toml")


def test_a_file_gives_defaults_and_each_host_overrides_them(tmp_path: Path) -> None:
    inventory = Inventory.load(
        write(
            tmp_path,
            """
            interval_s = 10

            [defaults]
            username = "ann"
            port = 2222
            capabilities = { rack = "r1", memory = "8 GB" }
            ssh = { compression_algs = ["none"] }

            [hosts.node1]

            [hosts.gpu1]
            address = "10.0.0.2"
            port = 22
            price_per_hour = 2.5
            python = "/opt/python3.12"

            [hosts.gpu1.capabilities]
            memory = "64 GB"
            has_cuda = true
            camera = ["basler", "flir"]

            [hosts.gpu1.ssh]
            known_hosts = false
            client_keys = ["~/.ssh/lab"]

            [hosts."node.example.com"]

            [hosts.here]
            local = true
            price_per_hour = 1

            [shared]
            licence = 5
            """,
        )
    )
    assert list(inventory) == ["node1", "gpu1", "node.example.com", "here"]
    node, gpu = inventory["node1"], inventory["gpu1"]
    assert (node.username, node.port, node.address) == ("ann", 2222, None)
    assert compile_capabilities(node.capabilities).labels == {"rack": frozenset({"r1"})}
    assert node.capabilities.amounts["memory"] == 8 * 10**9
    assert (gpu.address, gpu.port, gpu.price_per_hour, gpu.python) == (
        "10.0.0.2",
        22,
        2.5,
        "/opt/python3.12",
    )
    offer = compile_capabilities(gpu.capabilities)
    assert offer.amounts["memory"] == 64 * 10**9 * PARTS
    assert offer.labels == {"rack": frozenset({"r1"}), "has_cuda": True, "camera": frozenset({"basler", "flir"})}
    assert gpu.ssh == {"compression_algs": ["none"], "known_hosts": None, "client_keys": ["~/.ssh/lab"]}
    assert node.ssh == {"compression_algs": ["none"]}
    assert inventory["here"].is_local
    assert inventory["here"].price_per_hour == 1
    assert dict(inventory.shared_amounts) == {"licence": 5 * PARTS}
    assert inventory.interval_s == 10


def test_a_file_gives_variables_folders_and_setup_lines(tmp_path: Path) -> None:
    inventory = Inventory.load(
        write(
            tmp_path,
            """
            [defaults]
            env = ["MY_TOKEN"]
            workdir = "~/runs"
            setup = "module load gcc"
            python = "/opt/python"

            [hosts.plain]

            [hosts.gpu]
            env = { OMP_NUM_THREADS = "4", MY_TOKEN = "own" }
            workdir = "/scratch"

            [hosts.more]
            env = ["OTHER_TOKEN"]

            [hosts.here]
            local = true
            setup = "true"

            [hosts.there]
            local = true
            python = "python3"
            """,
        )
    )
    plain, gpu, more, here, there = inventory.values()
    assert (plain.env, plain.workdir, plain.setup) == ({"MY_TOKEN": None}, "~/runs", "module load gcc")
    assert (gpu.env, gpu.workdir) == ({"MY_TOKEN": "own", "OMP_NUM_THREADS": "4"}, "/scratch")
    assert more.env == {"MY_TOKEN": None, "OTHER_TOKEN": None}
    assert (here.env, here.workdir, here.setup, here.python) == ({"MY_TOKEN": None}, "~/runs", "true", None)
    assert (there.setup, there.python) == ("module load gcc", "python3")


def test_hosts_may_be_a_list_of_tables_or_of_texts(tmp_path: Path) -> None:
    tables = Inventory.load(write(tmp_path, '[[hosts]]\nname = "a"\nport = 2222\n[[hosts]]\nname = "b"\n'))
    assert [(host.name, host.port) for host in tables.values()] == [("a", 2222), ("b", 22)]
    texts = Inventory.load(
        write(tmp_path, 'hosts = ["ann@a:2222", {name = "b", port = 23}]\n[defaults]\nusername = "bob"\n')
    )
    assert [(h.name, h.username, h.port) for h in texts.values()] == [("a", "ann", 2222), ("b", "bob", 23)]


def test_a_file_may_name_its_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eyes_of_the_lab.py").write_text("async def look(host): return {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    inventory = Inventory.load(write(tmp_path, 'tracker = "eyes_of_the_lab:look"\n[hosts.a]\n'))
    assert inventory.tracker is not None


WRONG_FILES = [
    ("[hosts.a\n", 1, "", "not TOML"),
    ("[hosts.a]\nport = 22\nport = 23\n", 3, "", "not TOML"),
    ("[host.a]\n", 1, "host", "Did you mean 'hosts'"),
    ("", None, "hosts", "there are no hosts"),
    ("hosts = 3\n", 1, "hosts", "not a table"),
    ("hosts = [3]\n", 1, "hosts.0", "not a table"),
    ("hosts = ['a b']\n", 1, "hosts.0", "is not a host"),
    ("[hosts]\na = 3\n", 2, "hosts.a", "not a table"),
    ("[hosts.a]\n\n# the port\nprot = 22\n", 4, "hosts.a.prot", "Did you mean 'port'"),
    ("[hosts.a]\nmemory = '8 GB'\n", 2, "hosts.a.memory", "belongs under capabilities"),
    ("[hosts.a]\nport = 'ssh'\n", 2, "hosts.a.port", "not a port"),
    (
        "[hosts.a]\n[hosts.b]\n[hosts.b.capabilities]\nx = 1\nmemory = '8 GX'\n",
        5,
        "hosts.b.capabilities.memory",
        "Units are",
    ),
    ("[hosts.a]\ncapabilities = {x = [\n 1,\n 2]}\n", 2, "hosts.a.capabilities.x", "means nothing"),
    ("[hosts.a]\ncapabilities.memory = '8 gb'\n", 2, "hosts.a.capabilities.memory", "Did you mean 'GB'"),
    ("[hosts.a]\ncapabilities = 3\n", 2, "hosts.a.capabilities", "not a table"),
    ("[defaults]\nport = 0\n[hosts.a]\n", 2, "hosts.a.port", "not a port"),
    ("[defaults]\nname = 'x'\n[hosts.a]\n", 2, "defaults.name", "unknown"),
    ("[defaults.ssh]\nknown_hosts = false\n[hosts.a]\n", 2, "defaults.ssh.known_hosts", "in the table of each host"),
    ("[defaults]\ncapabilities = 3\n[hosts.a]\n", 2, "defaults.capabilities", "not a table"),
    ("defaults = 3\n[hosts.a]\n", 1, "defaults", "not a table"),
    ("[[hosts]]\nname = 'a'\n\n[[hosts]]\nname = 'a'\n", 4, "hosts.1", "two hosts have the name 'a'"),
    ("[[hosts]]\nname = 'a'\n[[hosts]]\nport = 22\n", 3, "hosts.1", "no name"),
    ("[[hosts]]\nname = 'a'\n[hosts.capabilities]\nmemory = 'x'\n", 4, "hosts.0.capabilities.memory", "not an amount"),
    ("[hosts.'ann@a']\n", 1, "hosts.ann@a.name", "user nor a port"),
    ("[hosts.a]\nlocal = true\nport = 22\n", 3, "hosts.a.port", "not reached over SSH"),
    ("[hosts.a]\nenv = 'TOKEN'\n", 2, "hosts.a.env", "a list of names"),
    ("[hosts.a]\n[hosts.a.env]\nA = '1'\nB = 2\n", 4, "hosts.a.env.B", "is not text"),
    ("[defaults]\nenv = ['A B']\n[hosts.a]\n", 2, "hosts.a.env", "not the name of a variable"),
    ("hosts = ['a']\n[defaults]\nenv = [1]\n", 3, "hosts.0.env", "not the name of a variable"),
    ("[hosts.a]\nsetup = ''\n", 2, "hosts.a.setup", "not a line of shell code"),
    ("[hosts.a]\nlocal = 'yes'\n", 2, "hosts.a.local", "neither true nor false"),
    ("interval_s = 0\n[hosts.a]\n", 1, "interval_s", "number of seconds above 0"),
    ("[hosts.a]\n[shared]\nlicence = 'many'\n", 3, "shared.licence", "not an amount"),
    ("shared = 5\n[hosts.a]\n", 1, "shared", "Give amounts by name"),
    ("tracker = 'nowhere_at_all:look'\n[hosts.a]\n", 1, "tracker", "cannot be imported"),
    ("tracker = 5\n[hosts.a]\n", 1, "tracker", "cannot be imported"),
    ("[hosts.a]\n'' = 5\n", 2, "hosts.a.", "unknown"),
]


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    WRONG_FILES,
    ids=[f"{k or 'toml'}-{i}" for i, (_, _, k, _) in enumerate(WRONG_FILES)],
)
def test_a_wrong_file_is_refused_by_file_line_and_key(
    tmp_path: Path, text: str, line: int | None, key: str, says: str
) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(text)
    with pytest.raises(InventoryError) as caught:
        Inventory.load(path)
    error = caught.value
    assert says in str(error)
    assert (error.file, error.line, error.key) == (os.fspath(path), line, key)
    assert os.fspath(path) in str(error)
    assert error.remedy
    if line is not None:
        assert f"line {line}" in str(error)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"missing\.toml.*does not exist.*Create it"):
        Inventory.load(tmp_path / "missing.toml")
    with pytest.raises(InventoryError, match="cannot be read: Is a directory"):
        Inventory.load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'[hosts.a]\nusername = "Andr\xe9"\n')
    with pytest.raises(InventoryError, match="Save it as UTF-8"):
        Inventory.load(tmp_path / "latin.toml")


def test_a_name_that_is_no_file_may_be_meant_as_a_host() -> None:
    with pytest.raises(InventoryError, match=r"To name hosts, give a list: \['node1', 'node2'\]\."):
        as_inventory("node1,node2")
    one: Any = Host("node1")
    with pytest.raises(InventoryError, match=r"Give a list of hosts: \[Host\('node1'\)\]"):
        as_inventory(one)


def test_lines_are_found_after_values_that_span_several(tmp_path: Path) -> None:
    text = '''
    # a comment with [brackets] and "quotes
    [a]
    text = """
    [not.a.table]
    key = 3
    """
    list = [
      "x", # ] not the end
      "y",
    ]
    after = 1
    "quoted key" = 2
    b.c = 3

    [[many]]
    x = 1
    [many.inner]
    y = 1
    [[many]]
    x = 2
    '''
    file = TomlFile(write(tmp_path, text))
    found = {
        place: file.line(place)
        for place in [
            ("a",),
            ("a", "text"),
            ("a", "list"),
            ("a", "after"),
            ("a", "quoted key"),
            ("a", "b", "c"),
            ("many", 0, "x"),
            ("many", 0, "inner", "y"),
            ("many", 1, "x"),
            ("many", 1, "gone"),
        ]
    }
    assert list(found.values()) == [2, 3, 7, 11, 12, 13, 16, 18, 20, 19]
    assert file.line(("nowhere",)) is None
