"""The command that starts an agent in a host's shell, and the answers to the command."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout.errors import BootstrapError
from handout.host import boot
from handout.transport import bootstrap as bootstrap_module
from handout.transport import start_output
from handout.transport.bootstrap import Bootstrap, StartedAgent, candidates, choose_hash_seed, relay_command
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
    command = Bootstrap("far", str(script), {}).command()
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=HANG_S)
    assert done.stdout == f"ran {script}\n"


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho here\n")
    script.chmod(0o755)
    command = Bootstrap("far", "~/python", {}).command()
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "here\n"


def test_the_interpreter_starts_with_the_seed_of_the_cluster(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "seed $PYTHONHASHSEED"\nexec cat\n')
    script.chmod(0o755)
    for seed in (0, (1 << 32) - 1):
        bootstrap = Bootstrap("far", str(script), {}, seed)
        given_input = bootstrap.command_stdin()
        command = ["sh", "-c", bootstrap.command()]
        assert f"{(1 << 32) - 1}" not in command[2]  # every user of the host can read it
        done = subprocess.run(command, input=given_input, capture_output=True, check=False, timeout=HANG_S)
        assert done.stdout == b"seed %d\n" % seed + bootstrap.stdin()


def test_a_cluster_takes_the_seed_of_its_program_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "17")
    assert choose_hash_seed() == 17
    for value in ("random", ""):
        monkeypatch.setenv("PYTHONHASHSEED", value)
        assert len({choose_hash_seed() for _ in range(5)}) > 1


def test_without_a_python_the_shell_itself_answers() -> None:
    bootstrap = Bootstrap("far", "no-such-python", {})
    done = subprocess.run(["sh", "-c", bootstrap.command()], capture_output=True, check=False, timeout=HANG_S)
    assert bootstrap.output.feed(done.stdout)
    words = r"No Python 3\.9 or newer was found on host 'far'.*no-such-python, and did not find it.*python="
    with pytest.raises(BootstrapError, match=words):
        bootstrap.result(done.returncode)


def test_the_relay_command_survives_a_shell() -> None:
    started = StartedAgent("/f", "/f/a.sock", "/a b/$x", sys.executable, (3, 12, 0), {}, True, "a")
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


def test_the_token_travels_on_standard_input_only() -> None:
    bootstrap = Bootstrap("far", None, {})
    assert bootstrap.token not in bootstrap.command()
    assert bootstrap.token.encode() in bootstrap.stdin()


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
    assert (bootstrap_module.BEGUN, start_output.PROGRESS) == (boot.BEGUN, boot.PROGRESS)
