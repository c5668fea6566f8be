"""Programs that the controller runs on this host outside all tasks, for trackers that ask a host what it offers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import Any

from handout.host.agent.controller_link import ControllerLink
from handout.protocol import messages

_MAX_OUTPUT = 1 << 20
_KILL_S = 1.0
#: Keeps a reference to the tasks while they run: the loop holds weak ones only.
_running: set[Any] = set()


def start(request: messages.RunProgram, link: ControllerLink) -> None:
    """Start a program; `ProgramEnded` is sent when it has ended."""
    task = asyncio.get_running_loop().create_task(_run(request, link))
    _running.add(task)
    task.add_done_callback(_running.discard)


async def _run(request: messages.RunProgram, link: ControllerLink) -> None:
    status, output = 127, b""
    try:
        process = await asyncio.create_subprocess_exec(
            *request.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        output = str(error).encode("utf-8", "replace")
    else:
        assert process.stdout is not None
        reader = process.stdout
        parts: list[bytes] = []

        async def collect() -> None:
            kept = 0
            while True:
                data = await reader.read(65536)
                if not data:
                    break
                if kept < _MAX_OUTPUT:
                    parts.append(data[: _MAX_OUTPUT - kept])
                    kept += len(parts[-1])
            await process.wait()

        try:
            await asyncio.wait_for(collect(), request.timeout_s)
        except asyncio.TimeoutError:
            parts.append(b"\n(timed out)")
        finally:
            await _end(process)
        status = process.returncode if process.returncode is not None else -signal.SIGKILL
        output = b"".join(parts)
    link.send(messages.ProgramEnded(request.id, status), [output])


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
