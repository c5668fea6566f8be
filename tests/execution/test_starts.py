"""Agents start whatever lies in the start folder, and the error of a start that fails says what the host printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import handout
from handout import Graph, Host
from handout.errors import BootstrapError
from tests.sshd import OpenSsh, start_login

ONE = {"cpu": 1}
#: Modules that the start, the agent, a worker, or Python itself imports.
SHADOWED = ("asyncio", "json", "linecache", "random", "select", "signal", "socket", "struct", "tempfile", "tokenize")


def see_path() -> tuple[list[str], str, str]:
    import random

    return sys.path, os.environ.get("PYTHONPATH", ""), str(random.__file__)


def import_there() -> tuple[str, str]:
    import random

    import there_only  # type: ignore[import-not-found]

    return there_only.VALUE, str(random.__file__)


def shadow(folder: Path) -> Path:
    """Write modules that end whatever program imports them, and return the folder."""
    for name in SHADOWED:
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    return folder


@contextmanager
def login(folder: Path, *lines: str, settings: Sequence[str] = ()) -> Iterator[OpenSsh]:
    """Run a server whose login runs these lines of ``sh`` before each command, and in their last line the command."""
    with start_login(folder, lines, settings) as server:
        yield server


RUN = 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'


@pytest.mark.parametrize("settings", [(), ("DisableForwarding yes",)], ids=["forwarded", "relayed"])
@pytest.mark.parametrize("path", ["", ":/nowhere", "."])
async def test_modules_in_the_home_folder_are_not_imported(tmp_path: Path, settings: Sequence[str], path: str) -> None:
    home = shadow(tmp_path)
    with login(
        tmp_path, f"export HOME={home}; cd {home}", f"export PYTHONPATH={path}", RUN, settings=settings
    ) as server:
        graph = Graph()
        out = graph.add(see_path)
        folders, environment, _ = (await handout.execute(graph, inventory=[server.host("shadowed", ONE)]))[out]
    project, _, rest = environment.partition(os.pathsep)
    assert project.endswith("/project")  # where the worker finds the modules of this test
    assert rest == path
    assert str(home) not in folders
    assert all(map(os.path.isabs, folders))


async def test_modules_in_the_folder_of_a_local_start_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shadow(tmp_path))
    graph = Graph()
    out = graph.add(see_path)
    results = await handout.execute(graph, inventory=[Host.local("here", ONE)])
    assert str(tmp_path) not in results[out][0]


async def test_user_code_imports_from_the_pythonpath_of_the_login_but_not_instead_of_the_standard_library(
    tmp_path: Path,
) -> None:
    (tmp_path / "own").mkdir()
    own = shadow(tmp_path / "own")
    (own / "there_only.py").write_text("VALUE = 'from PYTHONPATH'\n")
    with login(tmp_path, f"export PYTHONPATH={own}", RUN) as server:
        graph = Graph()
        outs = [graph.add(import_there), graph.add(see_path)]
        results = await handout.execute(graph, inventory=[server.host("own", ONE)])
    assert results[outs[0]][0] == "from PYTHONPATH"
    assert not results[outs[0]][1].startswith(str(own))
    assert results[outs[1]][1].split(os.pathsep)[1:] == [str(own)]


async def test_the_standard_error_of_a_start_that_fails_is_told_once_with_control_characters_escaped(
    tmp_path: Path,
) -> None:
    lines = ("echo motd", 'printf "\\033[31mQuota \\007exceeded\\n" >&2', "exit 3")
    with login(tmp_path, *lines) as server:
        with pytest.raises(BootstrapError, match=r"exit status 3.*x1b.*Quota .*exceeded") as caught:
            await handout.execute(one(), inventory=[server.host("full", ONE)])
    told = str(caught.value)
    assert told.count("Quota") == 1
    assert told.isprintable()
    assert "motd" in told


async def test_much_noise_is_quoted_by_its_end(tmp_path: Path) -> None:
    with login(tmp_path, "seq 1 100000", "echo the last line >&2", "exit 1") as server:
        with pytest.raises(BootstrapError, match="the last line") as caught:
            await handout.execute(one(), inventory=[server.host("chatty", ONE)])
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("line", ["read first", "head -c 100 >/dev/null", "cat >/dev/null"])
async def test_a_program_of_the_login_that_reads_the_input_of_the_start_is_told(tmp_path: Path, line: str) -> None:
    with login(tmp_path, line, RUN) as server:
        with pytest.raises(BootstrapError, match="another program of the login has read the input") as caught:
            await handout.execute(one(), inventory=[server.host("read", ONE)])
    assert "</dev/null" in caught.value.remedy


def starts_under(limit: str) -> bool:
    """Return True if Python starts under a limit that a shell sets with ``ulimit``."""
    limited = f"ulimit {limit}; exec {sys.executable} -c 'import json, tempfile'"
    return not subprocess.run(["/bin/sh", "-c", limited], check=False, capture_output=True).returncode


async def error_under(tmp_path: Path, limit: str) -> str:
    """Return the text of the error of a run on a host whose login has a limit."""
    with login(tmp_path, f"ulimit {limit}", RUN) as server:
        with pytest.raises(BootstrapError) as caught:
            await handout.execute(one(), inventory=[server.host("short", ONE)])
    return str(caught.value)


async def test_a_limit_of_memory_that_ends_the_start_is_told_with_its_number(tmp_path: Path) -> None:
    """Under the limit, Python starts, but the agent does not. There are 4 to 14 MB between the two."""
    least = next((kib for kib in range(10_000, 60_000, 1000) if starts_under(f"-v {kib}")), None)
    if least is None:
        pytest.skip("this Python takes more address space than expected")
    said = await error_under(tmp_path, f"-v {least + 8000}")
    assert f"start: the limit on address space is {(least + 8000) << 10} bytes (ulimit -v)" in said
    assert "Traceback" not in said


async def test_a_limit_of_the_size_of_files_that_ends_the_start_is_told_with_its_number(tmp_path: Path) -> None:
    said = await error_under(tmp_path, "-f 1")
    assert re.search(r": the limit on the size of a file is (512|1024) bytes \(ulimit -f\)", said)
    assert "Traceback" not in said


async def test_a_pythonhome_that_is_wrong_is_told_as_python_tells_it(tmp_path: Path) -> None:
    with login(tmp_path, "export PYTHONHOME=/nowhere", RUN) as server:
        with pytest.raises(BootstrapError, match=r"failed with exit status 1.*encodings"):
            await handout.execute(one(), inventory=[server.host("moved", ONE)])


async def test_a_python_that_is_there_and_fails_is_not_called_missing(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'libssl.so.3: cannot open shared object file' >&2\nexit 127\n")
    broken.chmod(0o755)
    with login(tmp_path, RUN) as server:
        with pytest.raises(
            BootstrapError, match=r"works on host.*failed with exit status 127.*libssl\.so\.3"
        ) as caught:
            await handout.execute(one(), inventory=[server.host("broken", ONE, python=str(broken))])
    assert "login shell" not in str(caught.value)


@pytest.mark.parametrize("line", ["exec yes", "exec yes >&2"], ids=["standard output", "standard error"])
async def test_endless_noise_ends_the_start_at_once(tmp_path: Path, line: str) -> None:
    with login(tmp_path, line) as server:
        begun = time.monotonic()
        with pytest.raises(BootstrapError, match="printed more than 2 MiB"):
            await handout.execute(one(), inventory=[server.host("endless", ONE)])
        assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    "line",
    [
        "exec cat",
        "exec cat >&2",
        "exec sed -u 's/$/\\r/'",  # as a terminal ends lines
        "read seed; exec cat",
    ],
)
async def test_a_shell_that_sends_its_input_back_ends_the_start_at_once_and_its_secret_is_not_told(
    tmp_path: Path, line: str
) -> None:
    with login(tmp_path, "echo Welcome", line) as server:
        with pytest.raises(BootstrapError, match="sends its input back") as caught:
            await handout.execute(one(), inventory=[server.host("echo", ONE)])
    assert caught.value.output in ("Welcome", "")


async def test_a_program_that_the_login_leaves_in_the_background_does_not_hold_up_the_start(tmp_path: Path) -> None:
    with login(tmp_path, f"(until test -e {tmp_path}/over; do sleep 0.1; done) &", RUN) as server:
        results = await handout.execute(one(), inventory=[server.host("busy", ONE)])
        assert results["one"] == 1
        (tmp_path / "over").touch()


@pytest.mark.parametrize(
    ("end", "status"), [("exit 7", "7"), ("exit 0", "0"), ("kill -KILL $$", "-1")], ids=["failed", "done", "killed"]
)
@pytest.mark.parametrize("chatter", [":", "echo tick"], ids=["quiet", "printing"])
async def test_a_program_that_the_login_leaves_in_the_background_does_not_hide_its_end(
    tmp_path: Path, end: str, status: str, chatter: str
) -> None:
    line = f"(until test -e {tmp_path}/over; do {chatter}; sleep 0.1; done) & echo 'account expired'; {end}"
    with login(tmp_path, line) as server:
        with pytest.raises(BootstrapError, match=rf"exit status {status}.*account expired"):
            await handout.execute(one(), inventory=[server.host("expired", ONE)])
        (tmp_path / "over").touch()


async def test_an_endless_wrapper_on_this_machine_ends_the_start_too(tmp_path: Path) -> None:
    wrapper = tmp_path / "python"
    wrapper.write_text("#!/bin/sh\nexec yes\n")
    wrapper.chmod(0o755)
    host = Host.local("here", ONE)
    host.python = str(wrapper)
    with pytest.raises(BootstrapError, match="printed more than 2 MiB"):
        await handout.execute(one(), inventory=[host])


def one() -> Graph:
    graph = Graph()
    graph.add(int, 1, id="one")
    return graph
