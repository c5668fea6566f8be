"""What tasks look up in vain: the advice says how variables and files of the caller travel."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Graph, Host
from tests.sshd import OpenSsh

ONE = {"cpu": 1}


@pytest.fixture(params=["local", "ssh"])
def make(request: pytest.FixtureRequest) -> Callable[..., Host]:
    """Return a function that makes a host with the given options, on this machine or behind sshd."""
    if request.param == "local":
        return lambda **options: Host.local("one", ONE, **options)
    server: OpenSsh = request.getfixturevalue("sshd")
    return lambda **options: server.host("one", ONE, **options)


async def advice(host: Host, function: Callable[..., Any], *args: Any) -> str:
    """Run a function that raises, and return the advice for its exception."""
    graph = Graph()
    graph.add(function, *args)
    with pytest.raises((KeyError, RuntimeError, FileNotFoundError)) as caught:
        await handout.execute(graph, inventory=[host])
    (found,) = [note for note in caught.value.__notes__ if note.startswith("What to do:")]
    return str(found)


def look_up(name: str) -> str:
    return os.environ[name]


def look_up_with_a_cause(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError as error:
        raise RuntimeError("no credentials") from error


def look_up_and_go_on(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        return str({}["other"])


def look_into_a_mapping(name: str) -> str:
    raise KeyError(name)


def read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def raise_file_not_found() -> None:
    raise FileNotFoundError("no model in the registry")


def start_a_program(name: str) -> None:
    subprocess.run([name], check=True)


def start_a_program_by_its_path(name: str) -> None:
    subprocess.run([Path(name)], check=True)


def spawn_a_program(path: str) -> None:
    """Start a program in the way that Python takes if the program may inherit all descriptors."""
    subprocess.run([path], check=True, close_fds=False)


async def start_a_program_beside_others(name: str) -> None:
    await asyncio.create_subprocess_exec(name)


def start_a_program_in(folder: str | Path) -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True, cwd=folder)


async def look_up_beside_others(name: str) -> str:
    return os.environ[name]


@pytest.mark.parametrize("function", [look_up, look_up_with_a_cause, look_up_beside_others])
async def test_a_variable_that_a_task_lacks_is_told_with_how_it_travels(
    make: Callable[..., Host], function: Callable[..., Any]
) -> None:
    found = await advice(make(), function, "NO_SUCH_TOKEN")
    assert "'NO_SUCH_TOKEN' is not set on host 'one'" in found
    assert "environment of the caller does not travel" in found
    assert "Host('one', env=['NO_SUCH_TOKEN'])" in found


async def test_the_advice_about_a_variable_can_be_followed(
    make: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUCH_TOKEN", "yes")
    graph = Graph()
    out = graph.add(look_up, "SUCH_TOKEN")
    assert (await handout.execute(graph, inventory=[make(env=["SUCH_TOKEN"])]))[out] == "yes"


@pytest.mark.parametrize("function", [look_up_and_go_on, look_into_a_mapping])
async def test_other_key_errors_get_the_usual_advice(function: Callable[..., Any]) -> None:
    assert "Fix the function" in await advice(Host.local("one", ONE), function, "NO_SUCH_TOKEN")


async def test_a_file_that_a_task_does_not_find_is_told_with_the_folder_and_how_it_travels(
    make: Callable[..., Host], tmp_path: Path
) -> None:
    found = await advice(make(workdir=str(tmp_path)), read, "m.py")
    assert f"looked for 'm.py' in the folder '{tmp_path}' of host 'one'" in found
    assert "handout.File('m.py')" in found
    assert "workdir=" in found


async def test_a_file_with_a_whole_path_is_told_without_a_folder() -> None:
    found = await advice(Host.local("one", ONE), read, "/no/such/file.csv")
    assert "looked for '/no/such/file.csv' on host 'one'" in found
    assert "workdir=" not in found


@pytest.mark.parametrize("function", [start_a_program, start_a_program_by_its_path, start_a_program_beside_others])
async def test_a_program_that_a_task_does_not_find_is_told_with_how_the_host_gets_it(
    make: Callable[..., Host], function: Callable[..., Any]
) -> None:
    found = await advice(make(), function, "no-such-program")
    assert "Host 'one' has no program 'no-such-program'." in found
    assert "setup=" in found


async def test_a_program_by_its_whole_path_may_lack_its_interpreter() -> None:
    found = await advice(Host.local("one", ONE), spawn_a_program, "/no/such/program")
    assert "Host 'one' has no program '/no/such/program', or not the interpreter" in found


@pytest.mark.parametrize("folder", ["/no/such/folder", Path("/no/such/folder")])
async def test_a_folder_in_which_a_program_cannot_begin_is_no_missing_program(folder: str | Path) -> None:
    found = await advice(Host.local("one", ONE), start_a_program_in, folder)
    assert "looked for '/no/such/folder' on host 'one'" in found


async def test_another_error_of_this_type_is_no_missing_file() -> None:
    assert "Fix the function" in await advice(Host.local("one", ONE), raise_file_not_found)
