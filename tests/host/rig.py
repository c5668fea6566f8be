"""A controller for tests, which starts a real supervisor, agent and workers here, and talks to the agent."""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from handout.host.system.clock import now
from handout.protocol import codec, messages
from handout.protocol.frames import Hello, Message, Piece
from handout.protocol.messages import AnyMessage
from handout.protocol.resource_ledger import PARTS
from handout.protocol.session import Session, Source
from handout.serialization import calls as calls_
from handout.serialization import pickling
from handout.transport.bundle import agent_bundle
from tests.patience import HANG_S

_START = """
import sys
sys.path[:] = [sys.argv[1], *[p for p in sys.path if p not in ("", sys.argv[5])]]
import json, os
os.environ["HANDOUT_RUN"] = sys.argv[2]
from handout.host import boot, supervisor
supervisor.run(sys.argv[2], json.loads(sys.argv[3]), bytes.fromhex(sys.argv[4]), 3, boot.told)
"""


class Bytes(Source):
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> memoryview:
        return memoryview(self.data)[offset : offset + size]

    def close(self) -> None:
        pass


class Rig:
    """The processes of one host, and the controller's end of the link to the agent."""

    def __init__(
        self,
        *,
        python: str = sys.executable,
        cpu: int = 2,
        base: str | None = None,
        prefix: str = "handout-test-",
        **settings: Any,
    ) -> None:
        self.folder = tempfile.mkdtemp(prefix=prefix, dir=base)
        self.token = secrets.token_bytes(16)
        bundle = Path(self.folder) / "bundle.zip"
        bundle.write_bytes(agent_bundle().data)
        reading, writing = os.pipe()
        defaults = {"host": "h1", "host_timeout_s": 15.0, "heartbeat_s": 2.0, "linger_s": 5.0}
        root = str(Path(__file__).parents[2])
        self.process = subprocess.Popen(
            [
                python,
                "-c",
                _START,
                str(bundle),
                self.folder,
                json.dumps({**defaults, **settings}),
                self.token.hex(),
                root,
            ],
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: os.dup2(writing, 3),
            pass_fds=(3, writing),
            start_new_session=True,
            cwd="/",
        )
        os.close(writing)
        with os.fdopen(reading) as report:
            line = report.readline()
        self.hello: dict[str, Any] = json.loads(line) if line else {}
        assert "error" not in self.hello, self.hello["message"]
        self.pid = self.process.pid
        self.messages: list[Message] = []
        self.streams: dict[int, bytearray] = {}
        self.finished: set[int] = set()
        self.ended: dict[int, Message] = {}
        self.results: dict[int, bytes] = {}
        self.session = Session(heartbeat_s={**defaults, **settings}["heartbeat_s"], now=now())
        self.socket: socket.socket | None = None
        self.connections = 0
        self.conversation = secrets.token_hex(8)
        self._fn = 0
        self._outs: dict[int, list[int]] = {}
        self._stream = 100
        self.connect()
        self.send(messages.Limits({"cpu": cpu * PARTS, "memory": 10**15}, []))

    # ---- the link ------------------------------------------------------------------------------------------

    def connect(self, **hello: Any) -> None:
        self.disconnect()
        self.connections += 1
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(self.hello["socket"])
        self.session.open(now())
        greeting = messages.Greeting(self.token.hex(), self.hello["agent"], self.conversation, self.connections)
        self.socket.sendall(self.session.hello({**codec.encode_hello(greeting), **hello}, now()))
        self.socket.setblocking(False)
        self.wait(lambda: self.session.attached or self.socket is None)

    def take_over(self) -> dict[str, Any]:
        """Take the agent over, as another controller does. Return the fields of its message `Holdings`."""
        self.disconnect()
        self.session = Session(heartbeat_s=self.session.heartbeat_s, now=now())
        self.conversation, self.connections = secrets.token_hex(8), 0
        self.messages.clear()
        self.ended.clear()
        self.connect(takeover=True)
        return dict(self.wait(lambda: self.heard("holdings"))[0])

    def disconnect(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None
            self.session.detach()

    def send(self, message: AnyMessage, payload: Sequence[Any] = ()) -> None:
        self.session.send(codec.encode(message), payload)
        self.pump(0)

    def pump(self, timeout_s: float = 0.05) -> None:
        """Send and receive the bytes that are ready. Wait up to `timeout_s` for bytes from the agent."""
        if self.socket is None:
            time.sleep(timeout_s)
            return
        data = b"".join(bytes(s) for s in self.session.take(now()))
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                select.select([], [self.socket], [], 1.0)
            except OSError:
                self.disconnect()
                return
        if not select.select([self.socket], [], [], timeout_s)[0]:
            return
        try:
            got = self.socket.recv(1 << 20)
        except OSError:
            got = b""
        if not got:
            self.disconnect()
            return
        for frame in self.session.receive(got, now()):
            self._hear(frame)

    def _hear(self, frame: Hello | Message | Piece) -> None:
        if isinstance(frame, Hello):
            if "error" in frame.fields:
                self.disconnect()
            else:
                self.session.attach(frame.fields["state"], now())
        elif isinstance(frame, Piece):
            self.streams.setdefault(frame.stream, bytearray()).extend(frame.data)
            if frame.last:
                self.finished.add(frame.stream)
        else:
            name, message = codec.decode(messages.TO_CONTROLLER, frame.fields)
            fields = {"name": name, **dict(zip(message._fields, message, strict=True))}  # type: ignore[attr-defined]
            frame = frame._replace(fields=fields, payload=bytes(frame.payload))
            self.messages.append(frame)
            self._note(frame)

    def _note(self, message: Message) -> None:
        fields = message.fields
        if fields["name"] == "finished":
            position = 0
            for attempt_id, inline in zip(fields["attempt_ids"], fields["inline_sizes"], strict=True):
                assert attempt_id not in self.ended, "a task ended twice"
                self.ended[attempt_id] = message
                for key, size in zip(self._outs[attempt_id], inline, strict=True):
                    if size >= 0:
                        self.results[key] = message.payload[position : position + size]
                        position += size
        elif fields["name"] == "failed":
            assert fields["attempt_id"] not in self.ended, "a task ended twice"
            self.ended[fields["attempt_id"]] = message
        elif fields["name"] == "recalled":
            for attempt_id in fields["attempt_ids"]:
                assert attempt_id not in self.ended, "a task ended twice"
                self.ended[attempt_id] = message

    def wait(self, condition: Callable[[], Any], timeout_s: float = HANG_S) -> Any:
        """Call `pump` until the condition holds, and return its value."""
        until = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < until, f"timed out; last messages: {[m.fields for m in self.messages[-5:]]}"
            self.pump()
        return value

    def heard(self, name: str) -> list[dict[str, Any]]:
        return [m.fields for m in self.messages if m.fields["name"] == name]

    # ---- tasks ---------------------------------------------------------------------------------------------

    def function(self, fn: Callable[..., Any]) -> int:
        self._fn += 1
        blob = b"".join(bytes(s) for s in pickling.dumps(fn))
        self.send(messages.Functions([self._fn], [len(blob)]), [blob])
        return self._fn

    def task_class(self, number: int = 1, **fields: Any) -> int:
        options = messages.WorkerOptions(**{k: fields.pop(k) for k in messages.WorkerOptions._fields if k in fields})
        self.send(messages.NewTaskClass(**{"number": number, "need": {"cpu": PARTS}, "options": options, **fields}))
        return number

    def call(self, *args: Any, inputs: int = 0) -> bytes:
        """Return the bytes of a call. Its first arguments are the task's inputs, the others are `args`.

        Args:
            args: The arguments that follow the inputs.
            inputs: Number of the task's inputs.
        """
        slots = [calls_.Slot(i) for i in range(inputs)]
        segments = calls_.dumps_call((*slots, *args), {}, (), lambda obj: obj if isinstance(obj, calls_.Slot) else None)
        return b"".join(bytes(s) for s in segments)

    def submit(
        self,
        attempt_ids: Sequence[int],
        fn: int,
        calls: Sequence[bytes] | bytes,
        *,
        cls: int = 1,
        inputs: Sequence[Sequence[int]] | None = None,
        out: Sequence[Sequence[int]] | None = None,
    ) -> None:
        count = len(attempt_ids)
        blobs = [calls] * count if isinstance(calls, bytes) else list(calls)
        outs = [list(o) for o in out] if out is not None else [[t] for t in attempt_ids]
        self._outs.update(zip(attempt_ids, outs, strict=True))
        message = messages.Tasks(
            list(attempt_ids),
            [fn] * count,
            [cls] * count,
            [len(b) for b in blobs],
            [list(i) for i in inputs] if inputs else [[]] * count,
            outs,
            [1] * count,
            [f"t{t}" for t in attempt_ids],
            [1] * count,
            [0] * count,
        )
        self.send(message, blobs)

    def run(self, fn: Callable[..., Any], *args: Any, attempt_id: int = 1, **options: Any) -> Message:
        """Send a function, run one task with it, and return the message that reports the task's end."""
        self.submit([attempt_id], self.function(fn), self.call(*args), **options)
        return self.wait_for(attempt_id)

    def wait_for(self, *attempt_ids: int, timeout_s: float = HANG_S) -> Message:
        self.wait(lambda: all(t in self.ended for t in attempt_ids), timeout_s)
        return self.ended[attempt_ids[-1]]

    def result(self, key: int) -> Any:
        return pickling.loads(self.results[key])

    def send_stream(self, key: int, data: bytes) -> None:
        self._stream += 1
        self.send(messages.StreamObject(self._stream, key, len(data)))
        self.session.send_stream(self._stream, Bytes(data))

    def send_object(self, key: int, data: bytes) -> None:
        self.send_stream(key, data)
        self.wait(lambda: any(key in m["keys"] for m in self.heard("arrived")))

    def fetch(self, key: int) -> bytes:
        known = len(self.heard("stream_object"))
        self.send(messages.Fetch(key))
        announced = self.wait(lambda: self.heard("stream_object")[known:])[0]
        assert announced["key"] == key
        self.wait(lambda: announced["stream"] in self.finished)
        data = bytes(self.streams[announced["stream"]])
        assert len(data) == announced["size"]
        return data

    # ---- processes -----------------------------------------------------------------------------------------

    def agent_pid(self) -> int:
        """Return the process id of the agent, which is the supervisor's first child."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])

    def processes(self) -> list[int]:
        """Return the ids of the rig's living processes.

        These are the supervisor and its descendants, and all processes with the run's mark in their environment.
        """
        marker = f"HANDOUT_RUN={self.folder}".encode()
        found = []
        parents: dict[int, int] = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                stat = Path(f"/proc/{name}/stat").read_bytes()
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            state, parent = stat[stat.rfind(b")") + 2 :].split()[:2]
            parents[int(name)] = int(parent)
            if state != b"Z" and marker in environment.split(b"\0"):
                found.append(int(name))
        for pid in parents:
            above = pid
            while above in parents and above != self.pid:
                above = parents[above]
            if above == self.pid and pid not in found and alive(pid):
                found.append(pid)
        return found

    def close(self) -> None:
        """Stop the agent, and check that nothing is left."""
        try:
            if self.process.poll() is None and self.socket is not None:
                self.send(messages.Stop())
                self.wait(lambda: self.socket is None, 10)
            self.disconnect()
            self.process.wait(HANG_S)
            left = [pid for pid in self.processes() if pid != self.pid]
            assert not left, f"left behind: {left}"
            assert not os.path.exists(self.folder)
        finally:
            self.kill()

    def kill(self) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, 9)
            except OSError:
                pass
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return not stat[stat.rfind(b")") + 2 :].startswith(b"Z")
