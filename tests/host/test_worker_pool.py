"""Requests of the worker pool to its supervisor, while descriptors cannot be sent or the supervisor has ended."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from handout.host.agent.worker_pool import WorkerPool
from handout.host.system import shared_page
from handout.host.system.cgroups import ControlGroups
from handout.protocol import codec, frames, messages
from tests.host.doubles import Nothing
from tests.patience import HANG_S


@pytest.mark.parametrize("number", [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_descriptors_that_cannot_be_sent_now_are_sent_later(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, refused = socket.send_fds, [number] * 3

    def send_fds(sock: socket.socket, buffers: list[bytes], fds: list[int]) -> int:
        if refused:
            raise OSError(refused.pop(), "not now")
        return send(sock, buffers, fds)

    async def main() -> None:
        monkeypatch.setattr(socket, "send_fds", send_fds)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pool = WorkerPool(ours, cast(Any, Nothing()), {}, str(tmp_path), ControlGroups({}))
            pool.prepare(1)
            pool.kill(pool.workers[1], 0.0)
            async with asyncio.timeout(HANG_S):
                while refused:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.3)
            theirs.setblocking(False)
            said, fds, _, _ = socket.recv_fds(theirs, 65536, 64)
            for fd in fds:
                os.close(fd)
            said += theirs.recv(65536)
            assert [json.loads(line)["m"] for line in said.splitlines()] == ["spawn", "kill"]
            assert len(fds) == 4
            pool._end(pool.workers[1], messages.WorkerGone(1))

    asyncio.run(main())


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_a_message_that_cannot_be_sent_to_a_worker_now_is_sent_later(number: int, tmp_path: Path) -> None:
    """Otherwise the worker would never run the tasks of the message, and the agent would wait for them for ever."""

    class Short(socket.socket):
        refusals = 3

        def send(self, *args: Any) -> int:
            if self.refusals:
                self.refusals -= 1
                raise OSError(number, "not now")
            return super().send(*args)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pool = WorkerPool(ours, cast(Any, Nothing()), {}, str(tmp_path), ControlGroups({}))
            pool.prepare(1)
            handle = pool.workers[1]
            link, other_end = socket.socketpair()
            handle.link.close()
            handle.link = Short(fileno=link.detach())
            handle.link.setblocking(False)
            decoder, found = frames.Decoder(), []
            with other_end:
                other_end.setblocking(False)
                pool.send(handle, messages.ForgetFunctions([1]))
                pool.send(handle, messages.ForgetFunctions([2]))
                async with asyncio.timeout(HANG_S):
                    while len(found) < 2:
                        data = await asyncio.get_running_loop().sock_recv(other_end, 65536)
                        found += [
                            codec.decode(messages.TO_WORKER, cast(Any, each).fields) for each in decoder.feed(data)
                        ]
                assert [message.numbers for _, message in found] == [[1], [2]]
                pool._end(handle, messages.WorkerGone(1))

    asyncio.run(main())


def test_a_supervisor_that_is_gone_is_not_written_to_again(tmp_path: Path) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        listener = Nothing()
        with ours:
            theirs.close()
            pool = WorkerPool(ours, cast(Any, listener), {}, str(tmp_path), ControlGroups({}))
            pool.prepare(1)
            await asyncio.sleep(0.01)
            assert listener.calls == ["on_orphaned"]
            assert not pool._unsent
            pool._end(pool.workers[1], messages.WorkerGone(1))

    asyncio.run(main())


@pytest.mark.parametrize("fails", [0, 1])
def test_a_worker_that_cannot_get_its_pipes_leaves_no_descriptor_open(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, made = os.pipe, 0

    def refuse() -> tuple[int, int]:
        nonlocal made
        made += 1
        if made > fails:
            raise OSError(errno.EMFILE, "too many open files")
        return pipe()

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pool = WorkerPool(ours, cast(Any, Nothing()), {}, str(tmp_path), ControlGroups({}))
            before = os.listdir("/proc/self/fd")
            monkeypatch.setattr(os, "pipe", refuse)
            pool.prepare(1)
            assert os.listdir("/proc/self/fd") == before
            assert not pool.workers

    asyncio.run(main())


def test_a_worker_that_has_ended_holds_no_descriptor(tmp_path: Path) -> None:
    """Not even while a timer keeps the handle of the worker, as for some seconds after the worker was killed."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pool = WorkerPool(ours, cast(Any, Nothing()), {}, str(tmp_path), ControlGroups({}))
            before = os.listdir("/proc/self/fd")
            pool.prepare(1)
            handle = pool.workers[1]
            pool._end(handle, messages.WorkerGone(1))
            assert os.listdir("/proc/self/fd") == before
            assert handle.gone

    asyncio.run(main())


def test_a_page_that_cannot_be_mapped_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(OSError, match="full"):
        shared_page.create(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before
