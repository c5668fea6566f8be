"""Fault row 27: the user presses Ctrl-C once, twice, or more often."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from handout.execution.interrupt import run_until_interrupted
from tests.patience import HANG_S, stretched
from tests.seen import gone, until
from tests.sshd import OpenSsh

ROOT = Path(__file__).parent.parent.parent
#: The lease in the program's timings, and the seconds that the test adds to it.
LEASE_S, SLACK_S = 3.0, 2.0


def _heed_interrupts() -> None:
    """Let SIGINT interrupt this process, as in a terminal.

    A shell makes a background process ignore SIGINT, and the processes that it starts inherit this.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("times", "pause_s"), [(1, 0.05), (2, 0.05), (7, 0.0)])
async def test_row_27_ctrl_c_ends_the_program_and_its_code_on_the_hosts(
    sshd: OpenSsh, tmp_path: Path, times: int, pause_s: float
) -> None:
    """After one Ctrl-C, the code on the host ends before the program does.

    After several, the program ends at once, and the lease ends the code.
    """
    path = tmp_path / "pid"
    command = [
        sys.executable,
        "-m",
        "tests.faults.interrupted",
        str(sshd.inventory_file({"a": "{ cpu = 1 }"})),
        str(path),
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts) as program:
        try:
            await until(lambda: path.exists() and path.read_text())
            began = time.monotonic()
            for _ in range(times):
                program.send_signal(signal.SIGINT)
                time.sleep(pause_s)  # two pending signals of one kind count as one
            program.wait(HANG_S)
            seconds = time.monotonic() - began
            said = program.stderr.read() if program.stderr is not None else ""
        finally:
            program.kill()
    assert program.returncode
    if pause_s:  # without a pause, the interpreter may print something else
        assert program.returncode == -signal.SIGINT, said  # a shell reports this as status 130
        assert "KeyboardInterrupt" in said
        if times == 1:  # a second signal may come while the interpreter exits, which then prints more
            assert said.strip().endswith("KeyboardInterrupt")
        assert "Interrupted: <Execution of 1 tasks: 1 handed over>" in said
        assert "The results of this run are lost, because it has no journal. A second Ctrl-C" in said
    assert seconds < stretched(5.0)
    if times == 1:
        assert gone(int(path.read_text()))
    await until(lambda: gone(int(path.read_text())), stretched(LEASE_S + SLACK_S))


@pytest.mark.parametrize("times", [1, 2])
async def test_sigterm_ends_the_program_and_its_code_on_the_hosts(sshd: OpenSsh, tmp_path: Path, times: int) -> None:
    """After one SIGTERM, nothing is left on the host when the program ends, also no supervisor, which would linger."""
    path = tmp_path / "pid"
    inventory = str(sshd.inventory_file({"a": "{ cpu = 1 }"}))
    command = [sys.executable, "-m", "tests.faults.interrupted", inventory, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as program:
        try:
            await until(lambda: path.exists() and path.read_text())
            supervisor = _parent(int(path.read_text()))
            began = time.monotonic()
            for _ in range(times):
                program.send_signal(signal.SIGTERM)
                time.sleep(0.05)  # two pending signals of one kind count as one
            program.wait(HANG_S)
            seconds = time.monotonic() - began
            said = program.stderr.read() if program.stderr is not None else ""
        finally:
            program.kill()
    # A second signal may come while the interpreter exits, when SIGTERM has its default action again.
    assert program.returncode in ((128 + signal.SIGTERM,) if times == 1 else (128 + signal.SIGTERM, -signal.SIGTERM))
    assert "Interrupted: <Execution of 1 tasks: 1 handed over>" in said
    assert times > 1 or "the program's own clean-up" in said
    assert "Traceback" not in said
    assert seconds < stretched(5.0)
    if times == 1:
        assert gone(int(path.read_text()))
        await until(lambda: gone(supervisor), stretched(2.0))
    await until(lambda: gone(int(path.read_text())), stretched(LEASE_S + SLACK_S))


def _parent(pid: int) -> int:
    """Return the parent of a process. The parent of a worker is its supervisor."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def _restores(number: signal.Signals, handler: object) -> None:
    """Check that a run leaves the handler of a signal as it was."""
    before = signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        assert run_until_interrupted(_handlers)[number] == (handler not in _OURS)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


async def _handlers() -> dict[signal.Signals, bool]:
    """Return for each signal if a run leaves it to the program."""
    return {each: signal.getsignal(each) in (signal.SIG_IGN, _own) for each in (signal.SIGINT, signal.SIGTERM)}


def _own(*_: object) -> None:
    """A handler of the program."""


_OURS = (signal.SIG_DFL, signal.default_int_handler)


@pytest.mark.parametrize(
    ("number", "handler"),
    [
        (signal.SIGTERM, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_IGN), (signal.SIGTERM, _own),
        (signal.SIGINT, signal.default_int_handler), (signal.SIGINT, signal.SIG_IGN), (signal.SIGINT, _own),
    ],
)  # fmt: skip
def test_a_run_takes_only_signals_that_the_program_does_not_handle(number: signal.Signals, handler: object) -> None:
    _restores(number, handler)


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_in_the_last_turn_of_a_run_ends_the_program_too(
    number: signal.Signals, end: type[BaseException]
) -> None:
    async def ends() -> None:
        signal.raise_signal(number)

    before = signal.signal(number, _OURS[number == signal.SIGINT])
    try:
        with pytest.raises(end):
            run_until_interrupted(ends)
        assert signal.getsignal(number) is _OURS[number == signal.SIGINT]
    finally:
        signal.signal(number, before)


def test_in_another_thread_no_signal_is_taken() -> None:
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: run_until_interrupted(_handlers))
    thread.start()
    thread.join(HANG_S)
    assert signal.getsignal(signal.SIGTERM) is before
