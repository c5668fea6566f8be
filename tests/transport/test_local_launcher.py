"""The launcher for this machine forgets connections that have ended."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace

from handout.transport.bootstrap import Bootstrap
from handout.transport.connection import Connection
from handout.transport.local_launcher import LocalLauncher
from tests.transport.played import Agent
from tests.transport.rig import Heard


async def _until_it_ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_connections_that_have_ended_are_not_kept() -> None:
    launcher = LocalLauncher()
    with tempfile.TemporaryDirectory() as folder:
        started = replace(await Agent().start(Bootstrap("a", None, {})), socket=f"{folder}/s")
        server = await asyncio.start_unix_server(_until_it_ends, started.socket)
        for _ in range(3):
            connection = Connection(Heard())
            connection.transport = await launcher.connect(started, connection)
            connection.close()
        await asyncio.sleep(0.01)
        assert not launcher._transports
        connection = Connection(Heard())
        await launcher.connect(started, connection)
        assert len(launcher._transports) == 1
        await launcher.aclose()
        assert connection.closed.is_set()
        await asyncio.sleep(0.01)
        server.close()
