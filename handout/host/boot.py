"""The first thing that runs on a host: unpack the bundle, start the supervisor, say hello, end.

It is sent as source and executed before the bundle is there, so it imports nothing of the house until it has
written the bundle down. Standard input carries: this source, then one JSON line (settings, marker, token,
bundle size), then the bundle. Standard output carries one line: the marker, then the hello or an error as JSON.
A login shell may have printed anything before it.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from typing import Any, BinaryIO, NoReturn

#: A Unix socket's path must fit into 108 bytes, on macOS 104.
MAX_SOCKET_PATH = 100
HELLO_TIMEOUT_S = 30.0
_ANSWER_FD = 1


class BootError(Exception):
    """The agent cannot start here; ``kind`` is what the controller names it by."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_exactly(stream: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes, or raise where the stream ends before."""
    parts = []
    while size:
        part = stream.read(min(size, 1 << 20))
        if not part:
            raise BootError("input", "the controller went away while it sent the bundle")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _here() -> str:
    """The current folder; "" where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def make_folder(nbytes: int) -> str:
    """A private folder for this run, on the first of the usual places that has room for the bundle."""
    tried = []
    wanted = (os.environ.get("HANDOUT_TMPDIR"), os.environ.get("TMPDIR"))
    for base in (*wanted, "/tmp", "/var/tmp", os.path.expanduser("~")):
        if not base:
            continue
        if len(os.fsencode(base)) > MAX_SOCKET_PATH - 40:
            tried.append(f"{base}: too long a name for a socket below it")
            continue
        try:
            free = shutil.disk_usage(base).free
            if free < nbytes * 2 + (1 << 20):
                tried.append(f"{base}: {free} bytes free")
                continue
            return tempfile.mkdtemp(prefix=f"handout-{os.getuid()}-", dir=base)
        except OSError as error:
            tried.append(f"{base}: {error.strerror or error}")
    raise BootError("space", f"no folder for {nbytes} bytes ({'; '.join(tried)})")


def unpack(folder: str, bundle: bytes) -> str:
    """Write the bundle into the folder, and return its path."""
    path = os.path.join(folder, "bundle.zip")
    try:
        with open(path, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            file.write(bundle)
    except OSError as error:
        raise BootError("space", f"cannot write {len(bundle)} bytes to {folder}: {error.strerror}") from None
    return path


def daemonize(folder: str, bundle: str, settings: dict[str, Any], token: bytes, report_fd: int, log: int) -> NoReturn:
    """Become the supervisor: a session of its own, nothing of the login's files, the bundle first on the path."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    if report_fd != 3:
        os.dup2(report_fd, 3)
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(4, limit if 0 < limit < 65536 else 65536)
    os.set_inheritable(3, False)
    _take_off_mark()
    os.environ["HANDOUT_RUN"] = folder
    sys.path[:] = [bundle] + [p for p in sys.path if p not in ("", _here())]
    status = 1
    try:
        from handout.host import supervisor

        supervisor.run(folder, settings, token, 3)
        status = 0
    except BaseException:
        import traceback

        text = traceback.format_exc()
        os.write(2, text.encode("utf-8", "replace"))
        try:
            os.write(3, json.dumps({"error": "start", "message": text[-2000:]}).encode() + b"\n")
        except OSError:
            pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # where it has not come so far as to do that itself
        os._exit(status)


def _take_off_mark() -> None:
    """Be known as a process of this run alone, also where a task of another one started it.

    The system shows the environment that a program was started with, in the memory where it lies.
    """
    value = os.environb.get(b"HANDOUT_RUN")
    if value:
        try:
            import ctypes

            getenv = ctypes.CDLL(None).getenv
            getenv.restype = ctypes.c_void_p
            address = getenv(b"HANDOUT_RUN")
            if address:
                ctypes.memset(address, ord("-"), len(value))
        except (ImportError, OSError, AttributeError):
            pass  # then what ends that other run's leftovers may end this one


def read_report(fd: int) -> dict[str, Any]:
    """The agent's hello, or what kept it from saying one.

    Raises:
        BootError: It did not report, or what went wrong.
        SystemExit: Nobody waits for the agent any more.
    """
    data = b""
    deadline = time.monotonic() + HELLO_TIMEOUT_S
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    poller.register(_ANSWER_FD, 0)  # that nobody reads there any more is said without being asked for
    while b"\n" not in data:
        ready = dict(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if _ANSWER_FD in ready and fd not in ready:
            raise SystemExit(1)
        if not ready:
            raise BootError("start", f"the agent did not report within {HELLO_TIMEOUT_S:.0f} s")
        part = os.read(fd, 65536)
        if not part:
            raise BootError("start", "the agent ended before it reported")
        data += part
    # Where the supervisor ends while the agent begins, each says something: the first to speak knows why.
    report = json.loads(data.partition(b"\n")[0])
    if "error" in report:
        raise BootError(report["error"], report.get("message", ""))
    return dict(report)


def end(pid: int) -> None:
    """Wait until a supervisor has cleaned up and ended. What one that must be killed leaves, the next start removes."""
    for number, wait_s in ((0, 2.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 1.0)):
        os.kill(pid, number)
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
            time.sleep(0.01)


def boot(preface: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Start the agent that the preface describes, and return its hello."""
    bundle = read_exactly(stream, preface["size"])
    folder = make_folder(len(bundle))
    try:
        path = unpack(folder, bundle)
        # Opened here: what went wrong is to be read also where the supervisor has removed its folder.
        log = os.open(os.path.join(folder, "supervisor.log"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            daemonize(folder, path, preface["settings"], bytes.fromhex(preface["token"]), writing, log)
        os.close(writing)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        report = read_report(reading)
    except BootError as error:
        end(pid)
        if not os.path.exists(os.path.join(folder, ".lock")):
            shutil.rmtree(folder, ignore_errors=True)  # it was killed before anybody could tell whose this is
        tail = os.pread(log, os.fstat(log).st_size, 0)[-2000:].decode("utf-8", "replace").strip()
        more = f": {tail}" if tail and tail not in str(error) else ""
        raise BootError(error.kind, f"{error}{more}") from None
    except BaseException:
        os.kill(pid, signal.SIGTERM)  # the agent may have reported already, and find nothing amiss
        raise
    report.update(folder=folder, bundle=path, executable=sys.executable, supervisor=pid)
    return report


def main(stream: BinaryIO) -> None:
    """Run on the host, from the command line that the controller sent."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was begun is taken back
    os.fstat(_ANSWER_FD)  # whoever has closed it wants no answer, and no agent
    line = stream.readline(1 << 20)
    preface = json.loads(line)
    answer: dict[str, Any]
    try:
        answer = boot(preface, stream)
    except BootError as error:
        answer = {"error": error.kind, "message": str(error)}
    except OSError as error:
        answer = {"error": "start", "message": f"{type(error).__name__}: {error}"}
    answer["python"] = list(sys.version_info[:3])
    try:
        os.write(_ANSWER_FD, f"\n{preface['marker']}{json.dumps(answer)}\n".encode())
    except OSError:
        # Nobody waits for the agent any more, and nobody else knows of it.
        if "supervisor" in answer:
            os.kill(answer["supervisor"], signal.SIGTERM)


if __name__ == "__main__":
    main(sys.stdin.buffer)
