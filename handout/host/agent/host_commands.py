"""Commands that the controller runs on this host: how trackers ask it things."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import Any

from handout.host.agent.link import ControllerLink

_MAX_OUTPUT = 1 << 20
_KILL_S = 1.0
#: Keeps tasks referred to while they run.
_running: set[Any] = set()


def start(number: Any, argv: list[str], timeout_s: float, link: ControllerLink) -> None:
    """Run a command, and answer with ``ran``."""
    task = asyncio.get_running_loop().create_task(_run(number, argv, timeout_s, link))
    _running.add(task)
    task.add_done_callback(_running.discard)


async def _run(number: Any, argv: list[str], timeout_s: float, link: ControllerLink) -> None:
    status, output = 127, b""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
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
            await asyncio.wait_for(collect(), timeout_s)
        except asyncio.TimeoutError:
            parts.append(b"\n(timed out)")
        finally:
            await _end(process)
        status = process.returncode if process.returncode is not None else -signal.SIGKILL
        output = b"".join(parts)
    link.send({"m": "ran", "id": number, "rc": status, "len": len(output)}, [output])


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of a command, also what it left behind in its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    try:
        await asyncio.wait_for(process.wait(), _KILL_S)
    except asyncio.TimeoutError:
        pass
