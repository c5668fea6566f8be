"""The command that starts an agent in a host's shell, and the answers to the command."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout.errors import BootstrapError, SetupError
from handout.host import boot
from handout.transport import start_command, start_output
from handout.transport.bootstrap import Bootstrap, StartedAgent, StartOptions, choose_hash_seed
from handout.transport.relay_command import relay_command
from handout.transport.start_command import candidates
from handout.transport.start_output import MarkedOutput
from tests.patience import HANG_S

HELLO = {
    "folder": "/run/h",
    "bundle": "/run/h/bundle.zip",
    "executable": "/usr/bin/python3",
    "python": [3, 12, 1],
    "probed": {"cpu": 4},
    "agent": "a1",
    "supervisor": 7,
}


def answered(line: bytes, noise: bytes = b"") -> Bootstrap:
    bootstrap = Bootstrap("far", None, {})
    assert bootstrap.output.feed(noise + b"\n" + bootstrap.marker.encode() + line + b"\n")
    return bootstrap


def shell(bootstrap: Bootstrap, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a start command in a shell, as a login does."""
    command, stdin = ["sh", "-c", bootstrap.command()], bootstrap.command_stdin()
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=HANG_S, **options)


def test_the_named_interpreter_is_the_only_candidate() -> None:
    assert candidates("/opt/py") == ["/opt/py"]


def test_the_controllers_version_comes_first_then_newer_before_older_then_plain() -> None:
    names = candidates(None)
    assert names[0] == f"python3.{sys.version_info.minor}"
    assert names[-1] == "python3"
    rest = [int(name.partition(".")[2]) for name in names[1:-1]]
    assert rest == sorted(rest, reverse=True)
    assert rest[-1] == 9
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["plain", "with space", "it's", 'say "hi"', "$HOME", "a`b`", "back\\slash", "~tilde"])
def test_any_path_of_an_interpreter_reaches_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    script = folder / "python"
    script.write_text('#!/bin/sh\necho "ran $0"\n')
    script.chmod(0o755)
    assert shell(Bootstrap("far", str(script), {})).stdout == b"ran %s\n" % bytes(script)


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho here\n")
    script.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    assert shell(Bootstrap("far", "~/python", {}), env=environment).stdout == b"here\n"


def test_the_interpreter_starts_with_the_seed_of_the_cluster(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "seed $PYTHONHASHSEED"\nexec cat\n')
    script.chmod(0o755)
    for seed in (0, (1 << 32) - 1):
        bootstrap = Bootstrap("far", str(script), {}, seed)
        assert f"{(1 << 32) - 1}" not in bootstrap.command()  # every user of the host can read it
        done = shell(bootstrap)
        assert done.stdout == b"seed %d\n" % seed + bootstrap.stdin()


def test_a_cluster_takes_the_seed_of_its_program_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "17")
    assert choose_hash_seed() == 17
    for value in ("random", ""):
        monkeypatch.setenv("PYTHONHASHSEED", value)
        assert len({choose_hash_seed() for _ in range(5)}) > 1


def test_without_a_python_the_shell_itself_answers() -> None:
    bootstrap = Bootstrap("far", "no-such-python", {})
    done = shell(bootstrap)
    assert bootstrap.output.feed(done.stdout)
    words = r"No Python 3\.9 or newer was found on host 'far'.*no-such-python, and did not find it.*python="
    with pytest.raises(BootstrapError, match=words):
        bootstrap.result(done.returncode)


def test_a_relay_gets_the_variables_that_its_python_may_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/it's $HOME/lib\nb")
    monkeypatch.setenv("TOKEN", "secret")
    _, log = boot.unpack(str(tmp_path), b"bundle")
    os.close(log)
    monkeypatch.delenv("LD_LIBRARY_PATH")
    started = StartedAgent(str(tmp_path), "/f/a.sock", "/f/b", sys.executable, (3, 12, 0), {}, True, "a")
    command = relay_command(started, "mark").replace(
        "import handout.host.relay as r;r.main(*", 'import os;print(os.environ[\\"LD_LIBRARY_PATH\\"],'
    )
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=HANG_S)
    assert done.stdout.startswith("/it's $HOME/lib\nb ")
    assert "secret" not in (tmp_path / "relay.sh").read_text()
    assert stat.S_IMODE((tmp_path / "relay.sh").stat().st_mode) == 0o600


def test_the_relay_command_survives_a_shell(tmp_path: Path) -> None:
    (tmp_path / "relay.sh").touch()
    started = StartedAgent(str(tmp_path), "/f/a.sock", "/a b/$x", sys.executable, (3, 12, 0), {}, True, "a")
    command = relay_command(started, "mark").replace("import handout.host.relay as r;r.main(*", "print(sys.argv,*")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=HANG_S)
    assert "'/a b/$x', '/f/a.sock', 'mark'" in done.stdout


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 400))
def test_noise_split_anywhere_hides_no_answer(noise: bytes, first: int, second: int) -> None:
    answer = MarkedOutput("handout-12ab:")
    data = noise + b'\nhandout-12ab:{"a": 1}\n'
    cuts = sorted({0, min(first, len(data)), min(second, len(data)), len(data)})
    done = [answer.feed(data[a:b]) for a, b in pairwise(cuts)]
    assert done[-1]
    assert answer.line == b'{"a": 1}'
    assert answer.noise == noise


def test_much_noise_is_not_kept_and_hides_no_answer() -> None:
    answer = MarkedOutput("handout-12ab:")
    for _ in range(1000):
        assert not answer.feed(b"blah " * 100)
    assert len(answer.noise) < 20_000
    assert not answer.feed(b"\nhandout-1")
    assert answer.feed(b"2ab:x\n")
    assert answer.line == b"x"


SETUP_OPTIONS = StartOptions({"TOKEN": "a secret of many words"}, None, "module load x")


def in_setup(*parts: bytes) -> Bootstrap:
    """Return a start whose setup line has printed some parts."""
    bootstrap = Bootstrap("far", None, {}, None, SETUP_OPTIONS)
    bootstrap.output.feed(b"noise of the login\n%ssetup\n" % bootstrap.marker.encode().join([b"\n", b""]))
    for part in parts:
        assert not bootstrap.output.feed(part.replace(b"MARK", bootstrap.marker.encode()))
    return bootstrap


def test_what_a_setup_line_printed_is_told_from_its_beginning() -> None:
    bootstrap = in_setup(b"one\n\nMARKwaiting\n", b"two and \nMARKwait", b"ing\nthree")
    with pytest.raises(SetupError, match=r"exit status 7: 'module load x'\. It printed: 'one\\ntwo and three'"):
        bootstrap.result(7)


def test_a_setup_line_that_has_ended_is_not_blamed_for_a_later_error() -> None:
    bootstrap = in_setup(b"warned\n\nMARKready\n")
    with pytest.raises(BootstrapError, match=r"exit status 7.*The command printed: 'warned'") as caught:
        bootstrap.result(7)
    assert type(caught.value) is BootstrapError


def test_each_stage_of_a_setup_line_is_told_once() -> None:
    progress: list[str] = []
    bootstrap = Bootstrap("far", None, {}, None, SETUP_OPTIONS)
    bootstrap.output.on_progress = lambda: progress.append(bootstrap.output.stage)
    mark = b"\n" + bootstrap.marker.encode()
    assert not bootstrap.output.feed(mark + b"setup\n" + mark + b"waiting\n" + mark + b"ready\n")
    assert progress == ["setup", "ready"]  # the time limit begins anew
    assert bootstrap.output.feed(mark + b"setup\n")
    with pytest.raises(BootstrapError, match="answered, but not as an agent does"):
        bootstrap.result(0)


@pytest.mark.parametrize("size", [4090, 4096, 4100, 8192, 9000])
def test_a_secret_is_not_told_where_the_output_is_cut(size: int) -> None:
    secret = "a secret of many words"
    for feed in ("feed", "feed_errors"):
        for shift in range(len(secret)):
            bootstrap = Bootstrap("far", None, {}, None, SETUP_OPTIONS)
            data = f"{secret} {'x' * (size - shift)}".encode()
            for at in range(0, len(data), 1000):
                getattr(bootstrap.output, feed)(data[at : at + 1000])
            assert not any(piece in bootstrap.output.printed() for piece in ("secret", "words", "ords"))


def test_a_hello_says_where_the_agent_is() -> None:
    started = answered(json.dumps(HELLO).encode()).result()
    assert (started.socket, started.python, started.supervisor) == ("/run/h/agent.sock", (3, 12, 1), 7)


@pytest.mark.parametrize("line", [b"", b"nonsense", b"7", b"[1]", b"{}", json.dumps({**HELLO, "python": 3}).encode()])
def test_an_answer_that_no_agent_gives_is_an_error_by_name(line: bytes) -> None:
    with pytest.raises(BootstrapError, match="'far' answered") as caught:
        answered(line).result()
    assert caught.value.host == "far"
    assert caught.value.remedy


def test_what_kept_the_agent_from_starting_is_told_with_a_remedy() -> None:
    bootstrap = answered(b'{"error": "space", "message": "cannot write 9 bytes to /tmp."}', b"Welcome")
    with pytest.raises(
        BootstrapError, match=r"on host 'far': cannot write 9 bytes to /tmp\. Free some space"
    ) as caught:
        bootstrap.result()
    assert caught.value.output == "Welcome"


def test_no_answer_shows_what_was_printed() -> None:
    bootstrap = Bootstrap("far", None, {})
    bootstrap.output.feed(b"This account is closed.")
    with pytest.raises(BootstrapError, match=r"exit status 1.*This account is closed"):
        bootstrap.result(1)


def test_the_token_the_variables_and_the_setup_line_travel_on_standard_input_only() -> None:
    bootstrap = Bootstrap("far", None, {}, None, SETUP_OPTIONS)
    stdin = bootstrap.command_stdin()
    for text in (bootstrap.token, "a secret of many words", "module load x"):
        assert text not in f"{bootstrap.command()}{bootstrap.local_argv()}"
        assert text.encode() in stdin
    assert b"a secret" not in bootstrap.stdin()
    assert "a secret" not in repr(SETUP_OPTIONS)
    assert not set("!\\\n") & set(bootstrap.command())  # login shells change them


def test_no_room_anywhere_is_an_error_that_names_the_places() -> None:
    """No file system has an exabyte, so `make_folder` tries every usual place and finds none."""
    with pytest.raises(boot.BootError, match=r"/tmp: \d+ bytes free") as caught:
        boot.make_folder(1 << 60)
    assert caught.value.kind == "space"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "Free some space"), (errno.EFBIG, "Raise this limit"), (errno.EACCES, "umask on the host")],
)
def test_what_to_do_about_a_bundle_that_cannot_be_written_fits_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(boot.os, "open", refuse)
    with pytest.raises(boot.BootError) as caught:
        boot.unpack(str(tmp_path), b"bundle")
    monkeypatch.undo()
    bootstrap = answered(json.dumps({"error": caught.value.kind, "message": str(caught.value)}).encode(), b"")
    with pytest.raises(BootstrapError, match=remedy):
        bootstrap.result()


def test_a_folder_is_private_whatever_the_umask_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDOUT_TMPDIR", str(tmp_path))
    monkeypatch.setattr(boot, "MAX_SOCKET_PATH", 1000)
    before = os.umask(0o777)
    try:
        folder = Path(boot.make_folder(0))
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_both_ends_of_a_start_have_the_same_numbers() -> None:
    assert (start_command.BEGUN, start_output.PROGRESS) == (boot.BEGUN, boot.PROGRESS)


def test_a_start_leaves_no_pattern_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python keeps up to 512 compiled patterns, and each start has a marker of its own."""

    def refuse(pattern: object, flags: int = 0) -> None:
        raise AssertionError(pattern)

    Bootstrap("first", None, {}).stdin()  # the bundle that all starts share is made once, with patterns of its own
    monkeypatch.setattr(re, "compile", refuse)
    bootstrap = Bootstrap("far", None, {}, options=StartOptions(env={"TOKEN": "a secret"}))
    assert bootstrap.command_stdin()
    with pytest.raises(start_output.HopelessOutput):
        bootstrap.output.feed(bootstrap.stdin())
