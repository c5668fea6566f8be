"""The service of the page about services, behind a real server: clients that go away, limits, health, and its end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, read_page
from tests.docs.conftest import Reader
from tests.ledger import Ledger
from tests.patience import HANG_S
from tests.seen import gone, until

httpx = pytest.importorskip("httpx", reason="the service's libraries are not installed: pip install -e '.[dev]'")
pytest.importorskip("uvicorn", reason="the service's libraries are not installed: pip install -e '.[dev]'")

PAGE = ROOT / "docs" / "howto" / "service.md"

#: What the tests add to the page's module of functions: a text that makes the function wait, after it has told where.
WAITING = """
import os, threading
from pathlib import Path

_score = score


@handout.options(cost={"cpu": 1}, timeout_s=600)
def score(model: Model, text: str) -> float:
    if text.startswith("wait "):
        Path(f"{text.removeprefix('wait ')}.part").write_text(str(os.getpid()))
        Path(f"{text.removeprefix('wait ')}.part").rename(text.removeprefix("wait "))
        threading.Event().wait()
    return _score(model, text)
"""

INVENTORIES = {
    "local": "[hosts.one]\nlocal = true\ncapabilities = { cpu = 2 }\n",
    "small": "[hosts.one]\nlocal = true\ncapabilities = { cpu = 0.5 }\n",
    "ssh": "[hosts.one]\ncapabilities = { cpu = 2 }\n",
}


@dataclass
class Served:
    client: Any
    folder: Path
    process: asyncio.subprocess.Process

    async def ask(self, text: str) -> Any:
        return await self.client.post("/score", json={"text": text})

    async def wait(self, name: str) -> tuple[asyncio.Task[Any], int]:
        """Send a request of which the function waits for ever. Return the request, and the process of the function."""
        mark = self.folder / name
        asked = asyncio.ensure_future(self.ask(f"wait {mark}"))
        await until(mark.exists)
        return asked, int(mark.read_text())


def write_service(folder: Path, inventory: str, most_waiting: int) -> None:
    """Write the files of the page into a folder."""
    files: dict[str, str] = {}
    for block in read_page(PAGE).blocks:
        if block.title:
            files[block.title] = files.get(block.title, "") + block.code
    files["scoring.py"] += WAITING
    files["service.py"], count = re.subn(r"MOST_WAITING = \d+", f"MOST_WAITING = {most_waiting}", files["service.py"])
    assert count == 1
    for name, text in {**files, "hosts.toml": INVENTORIES[inventory]}.items():
        (folder / name).write_text(text)


@asynccontextmanager
async def serve(reader: Reader, folder: Path, inventory: str, most_waiting: int = 200) -> AsyncIterator[Served]:
    """Run the service with uvicorn, and end it with SIGTERM as a supervisor of services does."""
    write_service(folder, inventory, most_waiting)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning"),
        cwd=folder,
        env={**reader.environment, "PYTHONPATH": f"{ROOT}:{folder}"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    errors = asyncio.ensure_future(process.stderr.read())
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S) as client:
            await answering(client, process)
            yield Served(client, folder, process)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HANG_S):
            assert await process.wait() in (0, -signal.SIGTERM), (await errors).decode()
        assert (await errors).decode() == ""
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await errors


async def answering(client: Any, process: asyncio.subprocess.Process) -> None:
    """Wait until the server accepts connections."""
    async with asyncio.timeout(HANG_S):
        while process.returncode is None:
            try:
                return await client.get("/healthz")
            except httpx.ConnectError:
                await asyncio.sleep(0.02)
    raise AssertionError(f"the server has ended with status {process.returncode}")


@pytest.mark.ssh
@pytest.mark.slow
@pytest.mark.parametrize("inventory", ["local", "ssh"])
async def test_a_client_that_goes_away_ends_its_function(
    ledger: Ledger, reader: Reader, tmp_path: Path, inventory: str
) -> None:
    async with serve(reader, tmp_path, inventory) as served:
        assert (await served.ask("good good bad")).json() == {"score": 1.0}
        assert (await served.client.post("/best", json={"texts": ["bad", "good"]})).json() == {"best": 1.0}
        refused = await served.ask("")
        assert (refused.status_code, refused.json()) == (422, {"detail": "the text is empty"})
        health = (await served.client.get("/healthz")).json()
        assert health == {"hosts": {"one": "ready"}, "unavailable": {}, "unfinished": 0}

        asked, pid = await served.wait("began")
        assert (await served.client.get("/healthz")).json()["unfinished"] == 1
        asked.cancel()  # httpx closes the connection of a request that is cancelled
        await asyncio.wait({asked})
        await until(lambda: gone(pid))
        assert (await served.ask("good")).json() == {"score": 1.0}
        assert (await served.client.get("/healthz")).json()["unfinished"] == 0


@pytest.mark.ssh
@pytest.mark.slow
async def test_a_service_that_is_busy_refuses_and_one_that_ends_ends_its_functions(
    ledger: Ledger, reader: Reader, tmp_path: Path
) -> None:
    """The host has two processors, so two functions wait on it, and the third waits in the service."""
    async with serve(reader, tmp_path, "local", most_waiting=1) as served:
        running = [await served.wait(name) for name in ("first", "second")]
        third = asyncio.ensure_future(served.ask(f"wait {tmp_path / 'third'}"))
        refused = None
        async with asyncio.timeout(HANG_S):
            while refused is None or refused.status_code != 503:
                refused = await served.client.get("/healthz")
                if refused.json()["unfinished"] == 3:
                    refused = await served.ask("good")
        assert refused.headers["retry-after"] == "1"
        assert refused.json() == {"detail": "1 functions wait for a host"}
        requests = [asked for asked, _ in running] + [third]
        for asked in requests:
            asked.cancel()
        await asyncio.wait(requests)
        await until(lambda: all(gone(pid) for _, pid in running))
        assert not os.path.exists(tmp_path / "third")


@pytest.mark.ssh
@pytest.mark.slow
async def test_a_function_that_no_host_can_run_is_refused_with_the_reason(
    ledger: Ledger, reader: Reader, tmp_path: Path
) -> None:
    async with serve(reader, tmp_path, "small") as served:
        for refused in (await served.ask("good"), await served.client.post("/best", json={"texts": ["good"]})):
            assert refused.status_code == 503
            assert "needs cpu=1, offers cpu=0.5" in refused.json()["detail"]
