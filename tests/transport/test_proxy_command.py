"""The program that carries the bytes of an SSH connection: how it ends, and what it prints."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from handout.transport.proxy_command import ProxyCommand
from tests.patience import HANG_S


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("exit 3", "ended with exit status 3"),
        ("exit 0", "ended with exit status 0"),
        ("exec no-such-program", "ended with exit status 127"),
        ("kill -TERM $$", "was ended by signal 15"),
    ],
)
async def test_the_end_of_the_program_is_told_with_its_status_or_its_signal(command: str, end: str) -> None:
    proxy = await ProxyCommand.start(["/bin/sh", "-c", command])
    try:
        async with asyncio.timeout(HANG_S):
            await proxy._ended.wait()
        assert proxy.end == end
    finally:
        await proxy.aclose()


async def test_a_program_that_still_runs_has_closed_the_connection() -> None:
    proxy = await ProxyCommand.start(["/bin/sh", "-c", "exec >&- <&-; exec sleep 600"])
    try:
        assert proxy.end == "closed the connection"
    finally:
        await proxy.aclose()


async def test_what_the_program_has_started_is_killed_with_it(tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    command = f'trap "" HUP; exec 9>{held}; echo held >&9; sleep 600 & wait'
    proxy = await ProxyCommand.start(["/bin/sh", "-c", command])
    with await asyncio.to_thread(held.open) as end:
        assert await asyncio.to_thread(end.readline) == "held\n"
        await proxy.aclose()
        async with asyncio.timeout(HANG_S):
            assert await asyncio.to_thread(end.read) == ""  # no process holds the pipe any more
