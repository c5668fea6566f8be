"""The program that carries the bytes of an SSH connection: how it ends, and what it prints."""

from __future__ import annotations

import asyncio

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
