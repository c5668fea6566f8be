"""A controller may leave an agent that is still being started. Then the agent soon ends by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handout.errors import BootstrapError, HostError
from handout.host.system import processes
from handout.transport.agent_link import AgentLink
from handout.transport.bootstrap import Bootstrap
from handout.transport.launcher import Launcher
from handout.transport.local_launcher import LocalLauncher
from handout.transport.ssh_launcher import SshLauncher
from handout.transport.start_command import BEGUN
from handout.transport.timings import Timings
from tests.ledger import Ledger, Place
from tests.patience import HANG_S, stretched
from tests.seen import until
from tests.sshd import OpenSsh

_HOUR_S = 3600.0


async def test_an_agent_here_that_comes_too_late_to_be_ended_ends_by_itself(
    ledger: Ledger, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await _leave(LocalLauncher(), place)
    assert "was still being started" in caplog.text


async def test_an_agent_behind_ssh_that_comes_too_late_to_be_ended_ends_by_itself(
    sshd: OpenSsh, ledger: Ledger, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await _leave(SshLauncher(sshd.host("far")), place)
    assert "was still being started" in caplog.text


async def test_a_start_that_hangs_in_a_wrapper_of_the_interpreter_is_left_at_once(
    ledger: Ledger, tmp_path: Path
) -> None:
    wrapper = tmp_path / "python"
    wrapper.write_text(f"#!/bin/sh\necho > {tmp_path}/begun\nsleep 600\n")
    wrapper.chmod(0o755)
    link = AgentLink("far", str(wrapper), LocalLauncher(), Timings(), _ignore, _ignore)
    opening = asyncio.ensure_future(link.open())
    await until((tmp_path / "begun").exists)
    begun = time.monotonic()
    await link.stop(0.0)
    assert time.monotonic() - begun < stretched(2.0)
    with pytest.raises(HostError, match="is being released"):
        await opening


async def test_an_agent_that_cannot_begin_leaves_nothing(ledger: Ledger) -> None:
    bootstrap = Bootstrap("far", None, {"host_timeout_s": _HOUR_S, "heartbeat_s": "two"})
    with pytest.raises(BootstrapError, match="not supported between instances"):
        await LocalLauncher().start(bootstrap)


async def test_an_agent_that_was_started_and_never_spoken_to_ends_with_its_lease(ledger: Ledger) -> None:
    bootstrap = Bootstrap("far", None, {"host_timeout_s": 0.2, "linger_s": _HOUR_S})
    await LocalLauncher().start(bootstrap)


def test_an_agent_whose_answer_is_lost_ends_by_itself(ledger: Ledger) -> None:
    bootstrap = Bootstrap("far", None, {"host_timeout_s": _HOUR_S})
    with open("/dev/full", "wb") as full:
        told = subprocess.run(bootstrap.local_argv(), input=bootstrap.stdin(), stdout=full, check=False, timeout=HANG_S)
    assert told.returncode == 0


def test_an_agent_whose_answer_has_no_reader_ends_by_itself(ledger: Ledger) -> None:
    bootstrap = Bootstrap("far", None, {"host_timeout_s": _HOUR_S})
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as unread:
        subprocess.run(bootstrap.local_argv(), input=bootstrap.stdin(), stdout=unread, check=False, timeout=HANG_S)


async def test_an_agent_that_has_reported_ends_with_a_bootstrap_that_is_ended_before_it_answers(ledger: Ledger) -> None:
    bootstrap = Bootstrap("far", None, {"host_timeout_s": _HOUR_S})
    with _begun(bootstrap) as begun:
        (supervisor,) = await _children(begun.pid, 1)
        begun.send_signal(signal.SIGSTOP)
        await _children(supervisor, 2)  # the agent and a worker; the agent reports before it asks for one
        begun.send_signal(signal.SIGTERM)
        begun.send_signal(signal.SIGCONT)
        assert begun.wait(HANG_S) == BEGUN


async def test_a_supervisor_that_is_killed_as_it_begins_leaves_nothing(ledger: Ledger) -> None:
    bootstrap = Bootstrap("far", None, {"host_timeout_s": _HOUR_S})
    with _begun(bootstrap) as begun:
        (supervisor,) = await _children(begun.pid, 1)
        os.kill(supervisor, signal.SIGKILL)
        assert begun.stdout is not None
        assert b"the agent ended before it reported" in begun.stdout.read()
        assert begun.wait(HANG_S) == 0


def test_where_no_answer_can_be_given_no_agent_is_started(ledger: Ledger) -> None:
    bootstrap = Bootstrap("far", None, {"host_timeout_s": _HOUR_S})
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *bootstrap.local_argv()]
    told = subprocess.run(command, input=bootstrap.stdin(), stderr=subprocess.PIPE, check=False, timeout=HANG_S)
    assert told.returncode == BEGUN
    assert b"Bad file descriptor" in told.stderr


@contextmanager
def _begun(bootstrap: Bootstrap) -> Iterator[subprocess.Popen[bytes]]:
    """Start a bootstrap, and write all of its input to its standard input."""
    pipe = subprocess.PIPE
    with subprocess.Popen(bootstrap.local_argv(), stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        process.stdin.write(bootstrap.stdin())
        process.stdin.close()
        yield process


async def _children(pid: int, count: int) -> list[int]:
    await until(lambda: len(processes.children(pid)) >= count)
    return processes.children(pid)


async def _leave(launcher: Launcher, place: Place) -> None:
    """Stop a link as soon as its agent's folder exists, without waiting for the agent."""
    link = AgentLink("far", None, launcher, Timings(host_timeout_s=_HOUR_S), _ignore, _ignore)
    before = set(place.folders())
    opening = asyncio.ensure_future(link.open())
    await until(lambda: set(place.folders()) - before)
    await link.stop(0.0)
    with pytest.raises(HostError, match="is being released"):
        await opening


def _ignore(*_: object) -> None:
    return
