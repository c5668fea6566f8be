"""Hosts: how they are written, which options they pass on to SSH, and which values they refuse."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from handout.errors import InventoryError
from handout.resources import Capabilities, Host, Inventory, as_host


@pytest.mark.parametrize(
    ("text", "name", "username", "port"),
    [
        ("gpu1", "gpu1", None, 22),
        ("user@host:2222", "host", "user", 2222),
        ("user@host", "host", "user", 22),
        ("host:2222", "host", None, 2222),
        (" node1.example.com ", "node1.example.com", None, 22),
        ("[::1]:2222", "::1", None, 2222),
        ("ann@[fe80::1]", "fe80::1", "ann", 22),
        ("::1", "::1", None, 22),
        ("ssh://ann@host:2222", "host", "ann", 2222),
        ("first.last@host", "host", "first.last", 22),
        ("me@example.com@host", "host", "me@example.com", 22),
        ("me@example.com@host:2222", "host", "me@example.com", 2222),
        ("ssh://me@example.com@host", "host", "me@example.com", 22),
        ("ssh://me%40example.com@host", "host", "me@example.com", 22),
        ("DOMAIN\\me@host", "host", "DOMAIN\\me", 22),
        ("domain/me@host", "host", "domain/me", 22),
    ],
)
def test_text_is_read_as_on_the_command_line(text: str, name: str, username: str | None, port: int) -> None:
    host = as_host(text)
    assert (host.name, host.username, host.port) == (name, username, port)


@pytest.mark.parametrize(
    "text", ["", "@host", "user@", "host:", "host:port", "a b", "host:99999", "-oProxyCommand=x", "user@-host"]
)
def test_text_that_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(InventoryError) as caught:
        as_host(text)
    assert caught.value.remedy


def test_a_host_keeps_the_object_that_was_given() -> None:
    capabilities = Capabilities(memory="8 GB")
    host = Host("a", capabilities=capabilities)
    assert host.capabilities is capabilities
    assert as_host(host) is host


def test_what_is_left_out_is_left_to_the_ssh_configuration() -> None:
    assert Host("alias").connect_options() == {"host": "alias"}


def test_every_ssh_option_is_passed_on_and_wins() -> None:
    host = Host(
        "a", address="10.0.0.1", port=2222, username="ann", ssh={"tunnel": "jump", "known_hosts": None, "port": 22}
    )
    assert host.connect_options() == {
        "host": "10.0.0.1",
        "port": 22,
        "username": "ann",
        "tunnel": "jump",
        "known_hosts": None,
    }


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("user", r"Did you mean 'username'\?"),
        ("pyhton", r"Did you mean 'python'\?"),
        ("memory", r"capabilities=\{'memory': \.\.\.\}"),
        ("identity_file", r"ssh=\{'client_keys': \["),
    ],
)
def test_an_argument_that_a_host_does_not_have_is_named_with_what_to_write(name: str, remedy: str) -> None:
    make: Any = Host
    with pytest.raises(TypeError, match=rf"Host\(\) has no argument {name}=\. .*{remedy}"):
        make("a", **{name: "x"})


def test_the_arguments_of_a_local_host_and_of_an_inventory_are_named_too() -> None:
    local: Any = Host.local
    with pytest.raises(TypeError, match=r"Host\.local\(\) has no argument work_dir=\. Did you mean 'workdir'\?"):
        local("a", work_dir="/tmp")
    with pytest.raises(TypeError, match=r"Host\.local\(\) has no argument memory=\. .*capabilities="):
        local("a", memory="2 GB")
    inventory: Any = Inventory
    with pytest.raises(TypeError, match=r"Inventory\(\) has no argument shard=\. Did you mean 'shared'\?"):
        inventory(["a"], shard={})


def test_an_option_of_openssh_leads_to_that_of_the_library() -> None:
    with pytest.raises(InventoryError, match="Did you mean 'client_keys'"):
        Host("a", ssh={"IdentityFile": "x"}).check_ssh(["client_keys", "port"])


def test_an_ssh_option_that_does_not_exist_is_found_when_the_names_are_known() -> None:
    host = Host("a", ssh={"client_key": "x"})
    host.check_ssh(["client_key", "port"])
    with pytest.raises(InventoryError, match="Did you mean 'client_keys'") as caught:
        host.check_ssh(["client_keys", "port"])
    assert caught.value.key == "ssh.client_key"


def test_this_machine_is_local() -> None:
    assert Host.local().is_local
    assert Host.local().name == "local"
    assert Host.local("here", {"memory": "4 GB"}).capabilities.amounts["memory"] == 4 * 10**9
    assert not Host("local").is_local


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"name": ""}, "name"),
        ({"name": " a"}, "name"),
        ({"name": 3}, "name"),
        ({"name": "-a"}, "name"),
        ({"name": "user@a"}, "name"),
        ({"name": "a:2222"}, "name"),
        ({"address": "-oProxyCommand=x"}, "address"),
        ({"port": 0}, "port"),
        ({"port": "22"}, "port"),
        ({"port": True}, "port"),
        ({"username": 3}, "username"),
        ({"python": ""}, "python"),
        ({"price_per_hour": -1}, "price_per_hour"),
        ({"price_per_hour": "free"}, "price_per_hour"),
        ({"ssh": ["x"]}, "ssh"),
        ({"ssh": {"host": "b"}}, "ssh.host"),
        ({"env": "TOKEN"}, "env"),
        ({"env": 3}, "env"),
        ({"env": ["A", "B=1"]}, "env"),
        ({"env": [3]}, "env"),
        ({"env": {"A-B": "1"}}, "env"),
        ({"env": {"A": 1}}, "env.A"),
        ({"env": {"A": "x\0"}}, "env.A"),
        ({"env": {"A": "\ud800"}}, "env.A"),
        ({"env": {"PYTHONHASHSEED": "1"}}, "env.PYTHONHASHSEED"),
        ({"env": ["HANDOUT_RUN"]}, "env.HANDOUT_RUN"),
        ({"workdir": ""}, "workdir"),
        ({"workdir": "a\nb"}, "workdir"),
        ({"setup": " "}, "setup"),
        ({"setup": ["module load x"]}, "setup"),
        ({"capabilities": {"memory": "8 GX"}}, "capabilities.memory"),
        ({"capabilities": "8 GB"}, "capabilities"),
    ],
)
def test_what_cannot_be_names_the_host_and_the_key(given: dict[str, Any], key: str) -> None:
    with pytest.raises(InventoryError) as caught:
        Host(given.pop("name", "a"), **given)
    assert caught.value.key == key
    assert caught.value.host in str(caught.value)
    assert key.rpartition(".")[2] in str(caught.value)


@pytest.mark.parametrize(
    "env", ["hunter2", ["hunter2=x"], ["hunter 2"], {"A": b"hunter2"}, {"A": ["hunter2"]}, {"A": "hunter2\0"}]
)
def test_an_error_about_variables_shows_no_value(env: Any) -> None:
    with pytest.raises(InventoryError, match="env") as caught:
        Host("a", env=env)
    assert "hunter" not in f"{caught.value!r}{caught.value}{vars(caught.value)}"


def test_variables_are_given_by_value_or_taken_from_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDOUT_TEST_TAKEN", "1")
    given: list[Any] = [["HANDOUT_TEST_TAKEN"], {"HANDOUT_TEST_TAKEN"}, {"HANDOUT_TEST_TAKEN": None}]
    for env in given:
        assert Host("a", env=env).environment() == {"HANDOUT_TEST_TAKEN": "1"}
    host = Host("a", env={"HANDOUT_TEST_TAKEN": None, "GIVEN": "2"})
    monkeypatch.setenv("HANDOUT_TEST_TAKEN", "3")
    assert host.environment() == {"HANDOUT_TEST_TAKEN": "3", "GIVEN": "2"}
    monkeypatch.delenv("HANDOUT_TEST_TAKEN")
    with pytest.raises(InventoryError, match=r"host 'a'.*HANDOUT_TEST_TAKEN.*no such variable"):
        host.environment()


def test_hosts_are_compared_by_what_they_say_and_travel() -> None:
    host = Host("a", port=2222, capabilities={"camera": {"flir"}}, ssh={"tunnel": "jump"})
    assert host == Host("a", port=2222, capabilities={"camera": {"flir"}}, ssh={"tunnel": "jump"})
    assert host != Host("a")
    one, other = (Host("a", env={"A": value}, workdir="~/w", setup="true") for value in "12")
    assert one != other
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)
    assert host != Host.local("a")
    assert pickle.loads(pickle.dumps(host)) == host == copy.deepcopy(host)
    assert len({host, Host("a", port=2222, capabilities={"camera": {"flir"}}, ssh={"tunnel": "jump"})}) == 1


def test_a_repr_shows_what_is_unusual_and_no_secret() -> None:
    assert repr(Host("a")) == "Host('a')"
    assert repr(Host.local()) == "Host.local('local')"
    text = repr(Host("a", port=2222, username="ann", ssh={"password": "hunter2"}))
    assert text == "Host('a', port=2222, ssh=<password>, username='ann')"
    text = repr(Host.local(env={"TOKEN": "hunter2", "MODE": None}, workdir="~/w", setup="module load x"))
    assert text == "Host.local('local', env=<MODE, TOKEN>, setup='module load x', workdir='~/w')"


def test_trust_is_one_of_two_words(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"'far': trust='some'.*'full' or 'data'"):
        Host("far", trust="some")  # type: ignore[arg-type]
    file = tmp_path / "hosts.toml"
    file.write_text('[defaults]\ntrust = "data"\n[hosts.a]\n[hosts.b]\ntrust = "full"\n')
    inventory = Inventory.load(file)
    assert [inventory["a"].trust, inventory["b"].trust] == ["data", "full"]
    assert repr(inventory["a"]) == "Host('a', trust='data')"
