"""Runs programs on this host that belong to no task. A tracker in the controller needs what these programs print."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import Any

from handout.host.agent.controller_link import ControllerLink
from handout.protocol import messages

#: The agent sends only the first bytes that a program prints, up to this many.
_MAX_OUTPUT = 1 << 20
_READ_SIZE = 64 << 10
#: The status that the agent reports if a program could not be started. A shell reports the same status for a command
#: that it cannot find.
_NOT_STARTED = 127
#: Seconds that the agent waits for a program to end after SIGKILL.
_KILL_S = 1.0
#: The asyncio tasks that run programs. This set keeps them alive, because the event loop has only weak references to
#: its tasks.
_running: set[Any] = set()


def start(request: messages.RunProgram, link: ControllerLink) -> None:
    """Start a program, and send `ProgramEnded` to the controller when the program has ended."""
    task = asyncio.get_running_loop().create_task(_run(request, link))
    _running.add(task)
    task.add_done_callback(_running.discard)


async def _run(request: messages.RunProgram, link: ControllerLink) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *request.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        status, output = _NOT_STARTED, str(error).encode("utf-8", "replace")
    else:
        output = await _read_output(process, request.timeout_s)
        status = process.returncode if process.returncode is not None else -signal.SIGKILL
    link.send(messages.ProgramEnded(request.id, status), [output])


async def _read_output(process: asyncio.subprocess.Process, timeout_s: float) -> bytes:
    """Read what a program prints, until the program has ended and its pipe is closed, or until the timeout is over.

    Then kill the program's process group.

    Returns:
        The first bytes that the program printed. If the program exceeded the timeout, a note after these bytes says so.
    """
    reader = process.stdout
    assert reader is not None
    output = bytearray()

    async def read_all() -> None:
        while data := await reader.read(_READ_SIZE):
            output.extend(data[: _MAX_OUTPUT - len(output)])
        await process.wait()

    try:
        await asyncio.wait_for(read_all(), timeout_s)
    except asyncio.TimeoutError:
        output.extend(b"\n(timed out)")
    finally:
        await _end(process)
    return bytes(output)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a program and all other processes of its process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    try:
        await asyncio.wait_for(process.wait(), _KILL_S)
    except asyncio.TimeoutError:
        pass
