"""The first code that runs on a host: it writes the bundle, starts the supervisor, prints the agent's hello and ends.

The controller sends this file as source, before the bundle is on the host. The code therefore imports nothing of
Handout until it has written the bundle. Standard input carries this source, then one JSON line (settings, marker,
token, size of the bundle), then the bundle. This code prints one line to standard output: the marker, then the hello or
an error as JSON. The login shell may have printed other lines before it.
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

#: The longest path of a Unix socket, in bytes. Linux allows 108 bytes, macOS 104.
MAX_SOCKET_PATH = 100
#: Seconds that the agent gets to send its hello, counted from the start of the supervisor.
HELLO_TIMEOUT_S = 30.0
_ANSWER_FD = 1


class BootError(Exception):
    """The agent cannot start on this host.

    Attributes:
        kind: ``input``, ``space`` or ``start``. The controller has a remedy for each kind.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_exactly(stream: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes.

    Raises:
        BootError: The stream ends too early.
    """
    parts = []
    left = size
    while left:
        part = stream.read(min(left, 1 << 20))
        if not part:
            raise BootError("input", f"the connection ended after {size - left} of {size} bytes of the bundle")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _current_folder() -> str:
    """Return the path of the current folder, or "" if the folder was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def make_folder(nbytes: int) -> str:
    """Make this run's private folder in the first usual place that has room for the bundle, and return its path.

    Args:
        nbytes: Size of the bundle.

    Raises:
        BootError: No place can hold the folder. The message gives the reason for each place.
    """
    tried = []
    chosen = (os.environ.get("HANDOUT_TMPDIR"), os.environ.get("TMPDIR"))
    for base in (*chosen, "/tmp", "/var/tmp", os.path.expanduser("~")):
        if not base:
            continue
        if len(os.fsencode(base)) > MAX_SOCKET_PATH - 40:
            tried.append(f"{base}: its path is too long for a Unix socket below it")
            continue
        try:
            free = shutil.disk_usage(base).free
            if free < nbytes * 2 + (1 << 20):
                tried.append(f"{base}: {free} bytes free")
                continue
            return tempfile.mkdtemp(prefix=f"handout-{os.getuid()}-", dir=base)
        except OSError as error:
            tried.append(f"{base}: {error.strerror or error}")
    raise BootError("space", f"no folder has room for a bundle of {nbytes} bytes ({'; '.join(tried)})")


def unpack(folder: str, bundle: bytes) -> str:
    """Write the bundle into a file in the folder, and return the file's path.

    Raises:
        BootError: The system refused to write the file.
    """
    path = os.path.join(folder, "bundle.zip")
    try:
        with open(path, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            file.write(bundle)
    except OSError as error:
        raise BootError(
            "space", f"cannot write the bundle of {len(bundle)} bytes to {folder}: {error.strerror}"
        ) from None
    return path


def daemonize(folder: str, bundle: str, settings: dict[str, Any], token: bytes, report_fd: int, log: int) -> NoReturn:
    """Turn this forked process into the supervisor. This call never returns.

    The supervisor runs in a new session. It closes the open files of the login, and puts the bundle first on
    ``sys.path``.

    Args:
        folder: The run's private folder.
        bundle: Path of the bundle.
        settings: See `supervisor.run`.
        token: See `supervisor.run`.
        report_fd: Descriptor to which the agent writes its hello.
        log: Descriptor of the log. It becomes the standard output and standard error of the supervisor.
    """
    _detach(report_fd, log)
    _hide_inherited_mark()
    os.environ["HANDOUT_RUN"] = folder
    sys.path[:] = [bundle] + [p for p in sys.path if p not in ("", _current_folder())]
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
        shutil.rmtree(folder, ignore_errors=True)  # the folder still exists only if the supervisor failed to start
        os._exit(status)


def _detach(report_fd: int, log: int) -> None:
    """Begin a new session, and close the open files of the login.

    Afterwards, descriptor 0 is /dev/null, descriptors 1 and 2 are the log, and 3 is ``report_fd``.
    """
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    if report_fd != 3:
        os.dup2(report_fd, 3)
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(4, limit if 0 < limit < 65536 else 65536)
    os.set_inheritable(3, False)


def _hide_inherited_mark() -> None:
    """Overwrite the variable ``HANDOUT_RUN`` of another run. It exists if a task of that run started this program.

    /proc/PID/environ shows the memory that held the environment when the program started. To delete the variable would
    not change that memory, so this function overwrites it.
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
            pass  # the mark stays, so this run may be killed together with orphans of the other run


def read_report(fd: int) -> dict[str, Any]:
    """Wait for the agent's hello, and return it.

    Args:
        fd: The pipe to which the supervisor and the agent write their reports.

    Raises:
        BootError: The agent reported an error, ended without a report, or reported nothing in time.
        SystemExit: The controller has closed its end of the connection.
    """
    data = b""
    deadline = time.monotonic() + HELLO_TIMEOUT_S
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    poller.register(_ANSWER_FD, 0)  # with an empty mask, poll still reports that the reader has closed its end
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
    # If the supervisor fails while the agent starts, both write a report. The first report names the cause.
    report = json.loads(data.partition(b"\n")[0])
    if "error" in report:
        raise BootError(report["error"], report.get("message", ""))
    return dict(report)


def end_supervisor(pid: int) -> None:
    """Wait up to 2 s until the supervisor has cleaned up and ended. If it has not, send SIGTERM, and 3 s later SIGKILL.

    If the supervisor is killed, the next start on this host removes the folders and processes of this run.
    """
    for number, wait_s in ((0, 2.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 1.0)):
        os.kill(pid, number)
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
            time.sleep(0.01)


def boot(preface: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Start the agent, and return its hello.

    This function adds four fields to the hello: the run's folder, the path of the bundle, the path of the Python, and
    the process number of the supervisor.

    Args:
        preface: The size of the bundle, the settings and the token, as the controller sent them.
        stream: The stream from which to read the bundle.

    Raises:
        BootError: The agent did not start.
    """
    bundle = read_exactly(stream, preface["size"])
    folder = make_folder(len(bundle))
    try:
        path = unpack(folder, bundle)
        # This process keeps the log open, because it may read the log after the supervisor has removed the folder.
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
    report = _await_report(pid, reading, folder, log)
    report.update(folder=folder, bundle=path, executable=sys.executable, supervisor=pid)
    return report


def _await_report(pid: int, reading: int, folder: str, log: int) -> dict[str, Any]:
    """Return the hello of the agent that a supervisor has started. On an error, end the supervisor and raise.

    Raises:
        BootError: See `read_report`. The message ends with the last lines of the log.
    """
    try:
        return read_report(reading)
    except BootError as error:
        end_supervisor(pid)
        if not os.path.exists(os.path.join(folder, ".lock")):
            # A later start finds orphaned folders by their lock file. This folder has none, so it is removed now.
            shutil.rmtree(folder, ignore_errors=True)
        tail = os.pread(log, os.fstat(log).st_size, 0)[-2000:].decode("utf-8", "replace").strip()
        more = f": {tail}" if tail and tail not in str(error) else ""
        raise BootError(error.kind, f"{error}{more}") from None
    except BaseException:
        os.kill(pid, signal.SIGTERM)  # otherwise an agent that has started would go on running
        raise


def main(stream: BinaryIO) -> None:
    """Start the agent with the settings from standard input, and print the answer.

    The controller's command line runs this function.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the exception makes `boot` clean up
    os.fstat(_ANSWER_FD)  # raises if standard output is closed, because no controller could read the answer
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
        # The controller has closed the connection, so it does not know of the agent and cannot end it.
        if "supervisor" in answer:
            os.kill(answer["supervisor"], signal.SIGTERM)


if __name__ == "__main__":
    main(sys.stdin.buffer)
