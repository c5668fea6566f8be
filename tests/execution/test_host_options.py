"""Options of a host: variables, a folder for tasks, and a setup line, on this machine and over a real sshd."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, Graph, Host
from handout.errors import BootstrapError, InventoryError, SetupError, WorkdirError
from handout.transport import local_launcher, ssh_launcher
from tests import work
from tests.execution.test_logins import SHELLS
from tests.patience import stretched
from tests.seen import agent_pid, gone, started, until
from tests.sshd import OpenSsh, start_login

ONE = {"cpu": 1}
#: A value that any quoting could spoil, and that no other text contains.
ODD = "s3cret $HOME `id` 'single' \"double\" \\ ! # \t é\nsecond line"
SECRET = "correct-horse-battery-staple"

Make = Callable[..., Host]


@pytest.fixture(params=["local", "ssh"])
def make(request: pytest.FixtureRequest) -> Make:
    """Return a function that makes a host with the given options, on this machine or behind sshd."""
    if request.param == "local":
        return lambda **options: Host.local("one", ONE, **options)
    server: OpenSsh = request.getfixturevalue("sshd")
    return lambda **options: server.host("one", ONE, **options)


def see(*names: str) -> tuple[dict[str, str | None], str]:
    """Return variables as a task sees them, and the folder of the task."""
    return {name: os.environ.get(name) for name in names}, os.getcwd()


def see_from_a_program(name: str) -> str:
    return work.run_elsewhere(f"import os; print(os.environ[{name!r}], os.getcwd())")


def executable() -> str:
    return sys.executable


def leave_the_folder() -> str:
    os.chdir("/")
    os.environ["KIND"] = "changed"
    return os.getcwd()


def announce_and_wait(begun: str, end: str) -> None:
    Path(begun).touch()
    work.wait_for_file(end)


async def run(host: Host, function: Callable[..., Any], *args: Any) -> Any:
    graph = Graph()
    out = graph.add(function, *args)
    return (await handout.execute(graph, inventory=[host]))[out]


# ---- variables


async def test_tasks_and_the_programs_that_they_start_have_the_variables(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKEN", ODD)
    host = make(env={"GIVEN": ODD, "EMPTY": "", "TAKEN": None})
    seen, _ = await run(host, see, "GIVEN", "EMPTY", "TAKEN")
    assert seen == {"GIVEN": ODD, "EMPTY": "", "TAKEN": ODD}
    assert (await run(make(env={"KIND": "fast"}), see_from_a_program, "KIND")).startswith("fast ")


async def test_of_the_callers_environment_only_what_is_named_travels(
    sshd: OpenSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKEN", "yes")
    monkeypatch.setenv("LEFT", "no")
    seen, _ = await run(sshd.host("one", ONE, env=["TAKEN"]), see, "TAKEN", "LEFT")
    assert seen == {"TAKEN": "yes", "LEFT": None}


async def test_a_variable_that_the_caller_lacks_is_named_and_no_agent_is_started(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_TOKEN", raising=False)
    with pytest.raises(InventoryError, match=r"host 'one'.*MY_TOKEN.*no such variable") as caught:
        await run(make(env=["MY_TOKEN"]), see)
    assert caught.value.key == "env.MY_TOKEN"


async def test_the_value_is_nowhere_but_in_the_environment(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The setup line and the task wait, so that the test sees the command lines of all programs meanwhile."""
    monkeypatch.setenv("TOKEN", SECRET)
    caplog.set_level(logging.DEBUG)
    waits = f"touch {tmp_path}/setting-up; until test -e {tmp_path}/go; do sleep 0.02; done"
    host = make(env={"TOKEN": None, "OTHER": f"{SECRET}2"}, setup=waits)
    graph = Graph()
    graph.add(announce_and_wait, str(tmp_path / "running"), str(tmp_path / "end"))
    running = asyncio.ensure_future(handout.execute(graph, inventory=[host], journal=tmp_path / "journal"))
    await until((tmp_path / "setting-up").exists)
    during_setup = command_lines()
    (tmp_path / "go").touch()
    await until((tmp_path / "running").exists)
    during_task = command_lines()
    (tmp_path / "end").touch()
    await running
    journal = [path.read_bytes() for path in tmp_path.glob("journal*")]
    assert len(b"".join(journal)) > 1000
    for text in (during_setup, during_task, caplog.text.encode(), repr(host).encode(), *journal):
        assert SECRET.encode() not in text
    assert repr(host).count("env=<OTHER, TOKEN>") == 1


def command_lines() -> bytes:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    assert found
    return b"\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        'echo "$TOKEN"',
        'env -i TOKEN="$TOKEN" env',  # with no other variable, because a message quotes only the end of the output
        'set -x; : "$TOKEN"',
        "export -p | grep -A1 TOKEN",
        'seq 1 3000; echo "$TOKEN" >&2',
    ],
)
async def test_what_a_setup_line_prints_is_told_without_the_values(make: Make, line: str) -> None:
    with pytest.raises(SetupError, match=r"TOKEN\]") as caught:
        await run(make(env={"TOKEN": f"{SECRET} 'and'\n{SECRET}"}, setup=f"{line}; false"), see)
    assert SECRET not in str(caught.value)
    assert SECRET not in caught.value.output


async def test_a_login_that_sends_a_part_of_the_input_back_does_not_show_the_values(tmp_path: Path) -> None:
    for skipped in (0, 60, 100):
        (tmp_path / f"{skipped}").mkdir()
        with start_login(tmp_path / f"{skipped}", [f"head -c {skipped} >/dev/null; exec cat"]) as server:
            with pytest.raises(BootstrapError, match="sends its input back") as caught:
                await run(server.host("one", ONE, env={"TOKEN": SECRET}), see)
        assert SECRET[-12:] not in f"{caught.value}{caught.value.output}"


async def test_a_restarted_host_gets_the_variables_again_with_the_values_of_that_time(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKEN", "first")
    host = make(env=["TAKEN"], workdir=str(tmp_path), setup="export MADE=$TAKEN")
    graph = Graph()
    out = graph.add(see, "TAKEN", "MADE")
    async with Cluster([host]) as cluster:
        before = (await cluster.execute(graph))[out]
        monkeypatch.setenv("TAKEN", "second")
        folder = started(cluster, "one").folder
        os.kill(agent_pid(started(cluster, "one")), signal.SIGKILL)
        await until(lambda: "one" in cluster._runtime.driver.agents and started(cluster, "one").folder != folder)
        after = (await cluster.execute(graph))[out]
    assert before == ({"TAKEN": "first", "MADE": "first"}, str(tmp_path))
    assert after == ({"TAKEN": "second", "MADE": "second"}, str(tmp_path))


# ---- the folder of tasks


async def test_each_task_and_its_programs_begin_in_the_folder_of_the_host(make: Make, tmp_path: Path) -> None:
    first, second = Graph(), Graph()
    outs = [first.add(see, "KIND"), first.add(leave_the_folder), first.add(see_from_a_program, "KIND")]
    later = second.add(see, "KIND")
    async with Cluster([make(workdir=str(tmp_path), env={"KIND": "x"})]) as cluster:
        results = [(await cluster.execute(first))[out] for out in outs]
        assert results == [({"KIND": "x"}, str(tmp_path)), "/", f"x {tmp_path}\n"]
        assert (await cluster.execute(second))[later] == ({"KIND": "x"}, str(tmp_path))


async def test_a_tilde_is_the_home_folder_of_the_login(make: Make) -> None:
    host = make(workdir="~")
    # A login over ssh does not get the variable HOME of the caller.
    home = Path.home() if host.is_local else Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert (await run(host, see))[1] == os.path.realpath(home)


@pytest.mark.parametrize(
    ("path", "why"), [("~/no such folder", "No such file or directory"), ("/etc/passwd", "Not a directory")]
)
async def test_a_folder_that_cannot_be_used_is_told_with_host_path_and_reason(make: Make, path: str, why: str) -> None:
    with pytest.raises(WorkdirError, match=rf"'{path}' on host 'one': {why}\..*workdir=") as caught:
        await run(make(workdir=path), see)
    assert (caught.value.host, caught.value.path) == ("one", path)


async def test_the_setup_line_may_make_the_folder(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    assert (await run(make(setup=f"mkdir {folder}", workdir=str(folder)), see))[1] == str(folder)


# ---- the setup line


async def test_what_a_setup_line_exports_holds_for_the_choice_of_python_for_the_agent_and_for_tasks(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python-of-setup").symlink_to(sys.executable)
    (tmp_path / "place").mkdir()
    setup = f"export PATH={tmp_path}/bin:$PATH MADE=$GIVEN$GIVEN GIVEN=changed PYTHONPATH={tmp_path}/own; cd {tmp_path}"
    host = make(python="python-of-setup", env={"GIVEN": "x"}, setup=setup)
    graph = Graph()
    outs = [graph.add(see, "MADE", "GIVEN", "PATH"), graph.add(see, "PYTHONPATH", "PYTHONSAFEPATH")]
    results = await handout.execute(graph, inventory=[host])
    variables, folder = results[outs[0]]
    assert (variables["MADE"], variables["GIVEN"], folder) == ("xx", "changed", str(tmp_path))
    assert variables["PATH"].startswith(f"{tmp_path}/bin:")
    assert results[outs[1]][0]["PYTHONPATH"].endswith(f"{tmp_path}/own")
    assert results[outs[1]][0]["PYTHONSAFEPATH"] == os.environ.get("PYTHONSAFEPATH")


@pytest.mark.parametrize(
    ("line", "status", "printed"),
    [
        ("no_such_command load cuda", 127, "no_such_command.*not found"),
        ("echo a; echo broken >&2; (exit 9)", 9, r"a\\nbroken"),
        ("exit 3", 3, "nothing"),
        ("kill -KILL $$", -9, "nothing"),
        ("exit 0", 0, "nothing"),
        ("set -e; false; echo not here", 1, "nothing"),
        ("set -u; echo $nothing_here; true", 127, "nothing_here"),
        ("exec sh -c 'exit 4'", 4, "nothing"),
        ("exec cat", 0, "nothing"),
        ("if (", 2, "syntax error"),
        ("echo 'unclosed", 2, "unexpected EOF"),
        ("printf '\\033[31mred\\a'; false", 1, r"\\x1b\[31mred\\x07"),
        ("trap 'echo bye' EXIT; false", 1, "bye"),
        ("sleep 600 & exit 3", 3, "nothing"),
    ],
)
async def test_a_setup_line_that_fails_is_told_with_its_status_and_what_it_printed(
    line: str, status: int, printed: str, tmp_path: Path
) -> None:
    background = f"(until test -e {tmp_path}/over; do sleep 0.05; done) &"
    line = line.replace("sleep 600 &", background)
    with pytest.raises(SetupError, match=rf"(?s)setup line of host 'one'.*It printed: '?.*{printed}") as caught:
        await run(Host.local("one", ONE, setup=line), see)
    (tmp_path / "over").touch()
    error = caught.value
    assert (error.host, error.setup, error.status) == ("one", line, status)
    assert f"exit status {status}" in str(error)
    assert line.partition("'")[0] in str(error)
    assert str(error).isprintable()


@pytest.mark.parametrize(
    "line",
    [
        "read x; cat; head -c 10",
        "seq 1 100000; seq 1 1000 >&2; printf 'no line feed'",
        "exec >/dev/null 2>&1",
        "exec 7>&- 8>&- 9>&-",
        "set -eu; set -o noclobber; shopt -s failglob; IFS=x; PS4=y",
        "alias echo=false; echo() { false; }; exec() { false; }; unset -f exec; true",
        "handout_status=1; handout_code=2; handout_lf=3",
        "cat <<END\nhere\nEND\nexport MADE='a\nb' # comment",
        "trap '' TERM HUP PIPE; trap 'exit 9' EXIT",
        "ulimit -c 0; umask 077; cd /",
    ],
)
async def test_what_a_setup_line_does_to_its_shell_and_its_output_disturbs_no_start(line: str) -> None:
    assert await run(Host.local("one", ONE, setup=line), work.add, 1, 2) == 3


@pytest.mark.parametrize(
    "line", ["echo it; (exit 9)", "echo it; (until test -e FOLDER/over; do sleep 0.05; done) & exit 9"]
)
async def test_a_setup_line_that_fails_behind_ssh_is_told(sshd: OpenSsh, tmp_path: Path, line: str) -> None:
    with pytest.raises(SetupError, match=r"failed with exit status 9.*It printed: 'it'") as caught:
        await run(sshd.host("one", ONE, setup=line.replace("FOLDER", str(tmp_path))), see)
    assert caught.value.status == 9
    (tmp_path / "over").touch()


async def test_a_program_that_a_setup_line_leaves_in_the_background_does_not_hold_up_the_start(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"(until test -e {tmp_path}/over; do sleep 0.05; done) & echo $! >{tmp_path}/pid"
    monkeypatch.setattr(local_launcher, "_START_TIMEOUT_S", 1000.0)
    assert await run(make(setup=line), work.add, 1, 2) == 3
    assert not gone(int((tmp_path / "pid").read_text()))
    (tmp_path / "over").touch()


async def test_a_setup_line_that_does_not_end_is_told_and_its_programs_are_killed(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit_s = stretched(2.0)
    monkeypatch.setattr(ssh_launcher, "_START_TIMEOUT_S", limit_s)
    monkeypatch.setattr(ssh_launcher, "_SLOW_S", limit_s / 2)
    monkeypatch.setattr(local_launcher, "_START_TIMEOUT_S", limit_s)
    host = make(setup=f"echo begun; echo $$ >{tmp_path}/pid; sleep 600 && echo")
    with pytest.raises(SetupError, match=r"did not end within \d+ s.*sleep 600.*It printed: 'begun'") as caught:
        await run(host, see)
    assert caught.value.status is None
    await until(lambda: gone(int((tmp_path / "pid").read_text())))
    assert host.is_local or "The setup line of host one has not ended after" in caplog.text


async def test_a_cluster_that_is_closed_does_not_wait_for_a_setup_line(make: Make, tmp_path: Path) -> None:
    host = make(setup=f"echo $$ >{tmp_path}/pid; sleep 600 && echo")
    opening = asyncio.ensure_future(Cluster([host]).open())
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    begun = time.monotonic()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert time.monotonic() - begun < stretched(6.0)
    await until(lambda: gone(int((tmp_path / "pid").read_text())))


async def test_a_setup_line_that_prints_without_end_ends_the_start(make: Make) -> None:
    with pytest.raises(SetupError, match=r"printed more than 2 MiB: 'yes'.*print less"):
        await run(make(setup="yes"), see)


@pytest.mark.parametrize("shell", SHELLS)
async def test_variables_and_setup_lines_work_with_any_login_shell(tmp_path: Path, shell: str) -> None:
    """The function that the setup line needs comes from the files of a login bash, which also print, read and fail."""
    argv, startup = SHELLS[shell]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"no {argv[0]} on this machine: install the package {argv[0]}")
    file = tmp_path / startup
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("echo noise of a startup file\n")
    (tmp_path / ".bash_profile").write_text("module() { export LOADED=$2; }; echo noise; read x; cat; false\n")
    lines = [f"export HOME={tmp_path}", f'exec {" ".join(argv)} "$SSH_ORIGINAL_COMMAND"']
    with start_login(tmp_path, lines) as server:
        host = server.host(shell, ONE, env={"GIVEN": ODD}, setup="module load 'cu da' && export MADE=\"it's\"")
        seen, _ = await run(host, see, "GIVEN", "LOADED", "MADE")
    assert seen == {"GIVEN": ODD, "LOADED": "cu da", "MADE": "it's"}


@pytest.mark.parametrize("sh", [["dash"], ["busybox", "sh"], ["ksh"]], ids=lambda words: str(words[0]))
async def test_a_host_without_bash_runs_the_line_in_a_login_sh(tmp_path: Path, sh: Sequence[str]) -> None:
    program = shutil.which(sh[0])
    if program is None:
        pytest.skip(f"no {sh[0]} on this machine: install the package {sh[0]}")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").write_text(f'#!/bin/sh\nexec {program} {" ".join(sh[1:])} "$@"\n')
    (folder / "sh").chmod(0o755)
    (tmp_path / ".profile").write_text(f"PATH={folder}; module() {{ export LOADED=$2; }}\n")
    lines = [f"export HOME={tmp_path} PATH={folder}", f'exec {folder}/sh -c "$SSH_ORIGINAL_COMMAND"']
    with start_login(tmp_path, lines) as server:
        host = server.host("plain", ONE, env={"GIVEN": ODD}, setup="module load cuda")
        seen, _ = await run(host, see, "GIVEN", "LOADED")
        with pytest.raises(SetupError, match="not found") as caught:
            await run(server.host("plain", ONE, setup="no_such_command"), see)
    assert seen == {"GIVEN": ODD, "LOADED": "cuda"}
    assert caught.value.status == 127


async def test_a_login_whose_files_end_it_is_told(tmp_path: Path) -> None:
    (tmp_path / ".bash_profile").write_text("echo 'account expired'; exit 6\n")
    lines = [f"export HOME={tmp_path}", 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"']
    with start_login(tmp_path, lines) as server:
        with pytest.raises(SetupError, match=r"exit status 6.*account expired") as caught:
            await run(server.host("one", ONE, setup="true"), see)
    assert caught.value.status == 6


async def test_a_setup_line_holds_where_the_server_forbids_forwarding(tmp_path: Path) -> None:
    """The relay does not run the setup line, but its Python gets the variables that it may need to start."""
    lines = ['exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"']
    with start_login(tmp_path, lines, ["DisableForwarding yes"]) as server:
        host = server.host("one", ONE, env={"GIVEN": "x"}, setup='export LD_LIBRARY_PATH="/it\'s/a path"')
        seen, _ = await run(host, see, "GIVEN", "LD_LIBRARY_PATH")
    assert seen == {"GIVEN": "x", "LD_LIBRARY_PATH": "/it's/a path"}


async def test_without_a_python_of_its_own_a_local_host_runs_the_python_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "python3").chmod(0o755)
    setup = f"export PATH={tmp_path}:$PATH"
    assert await run(Host.local("one", ONE, setup=setup), executable) == sys.executable
    with pytest.raises(BootstrapError, match="python3 failed with exit status 9"):
        await run(Host.local("one", ONE, setup=setup, python="python3"), executable)
