"""Fault row 27: the user presses Ctrl-C once, twice, or more often."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    assert seconds < stretched(5.0)
    if times == 1:
        assert gone(int(path.read_text()))
    await until(lambda: gone(int(path.read_text())), stretched(LEASE_S + SLACK_S))
