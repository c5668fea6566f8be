"""Starts an agent on a host: writes the bundle to a file, starts the supervisor, prints the agent's hello and ends.

The bundle is a zip file with the code of the supervisor, the agent and the workers. The hello is a JSON object in which
the agent describes itself.

The controller sends this file as source, before it sends the bundle. So this code imports nothing of Handout until it
has written the bundle. Standard input carries this source, then one JSON line (settings, marker, token, size of the
bundle), then the bundle. This code prints one line to standard output: the marker, then the hello or an error as JSON.
By the marker, which is random, the controller finds this line among other lines that the login shell may have printed.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from typing import Any, BinaryIO, NoReturn

#: The longest path that the agent's Unix socket may get, in bytes. Linux allows 108 bytes, macOS 104.
MAX_SOCKET_PATH = 100
#: Seconds that the agent gets to send its hello, counted from the start of the supervisor.
HELLO_TIMEOUT_S = 30.0
#: The controller is told each time that so many bytes of the bundle have arrived.
PROGRESS = 64 << 10
#: The exit status if this code has begun to read its input and could not start the agent.
BEGUN = 94
_ANSWER_FD = 1
#: The limits of a process that may end a start, by the error of the system call: the resource, and how to name it.
_LIMITS: dict[int | None, tuple[int, str]] = {
    errno.EFBIG: (resource.RLIMIT_FSIZE, "the limit on the size of a file is {} bytes (ulimit -f)"),
    errno.EMFILE: (resource.RLIMIT_NOFILE, "the limit on open files is {} (ulimit -n)"),
    errno.ENOMEM: (resource.RLIMIT_AS, "the limit on address space is {} bytes (ulimit -v)"),
}
#: The variables that the Python of a relay may need to start.
_OF_RELAY = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
#: What the dynamic linker says if it lacks memory. Python turns its message into an `ImportError`.
_NO_MEMORY = ("annot allocate memory", "failed to map segment")


class BootError(Exception):
    """The agent cannot start on this host.

    Attributes:
        kind: ``input`` if the bundle did not arrive, ``space`` if no folder has room, ``limit`` if the processes of the
            login have reached one of their limits, ``folder`` if no folder can be written to, ``workdir`` if tasks
            cannot begin in the folder that the controller names, ``start`` in all other cases. By the kind, the
            controller chooses the remedy for its error message.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def reason(folder: str, error: OSError) -> str:
    """Return in words why the system refused to write to a folder. `why_refused` says more, but is in the bundle."""
    if error.errno == errno.ENOSPC:
        stat = os.statvfs(folder)
        if stat.f_files and not stat.f_favail:
            return f"the file system has no inodes left (it has {stat.f_files} in all)"
    return limit_reached(error) or error.strerror or str(error)


def limit_reached(error: BaseException) -> str:
    """Return in words which limit of a process has caused an error, with its number, or "" if no limit has."""
    number = getattr(error, "errno", None)
    # Python raises a SystemError if it has no memory for the error that it wanted to raise.
    if isinstance(error, (MemoryError, SystemError)) or (
        isinstance(error, ImportError) and any(s in str(error) for s in _NO_MEMORY)
    ):
        number = errno.ENOMEM
    if number not in _LIMITS:
        return ""
    which, name = _LIMITS[number]
    limit = resource.getrlimit(which)[0]
    if limit == resource.RLIM_INFINITY:
        return "the host has no memory left" if number == errno.ENOMEM and not isinstance(error, SystemError) else ""
    return name.format(limit)


def kind_of(error: OSError, otherwise: str) -> str:
    """Return the kind of a `BootError` for the error of a system call that could not write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "space"
    return "limit" if error.errno in _LIMITS else otherwise


def told(error: BaseException, doing: str) -> dict[str, str]:
    """Return the report of an error that has ended a start.

    Args:
        error: The error, which is being handled.
        doing: What could not be done.
    """
    limit = limit_reached(error)
    if limit:
        return {"error": "limit", "message": f"{doing}: {limit}"}
    import traceback

    return {"error": "start", "message": traceback.format_exc()[-2000:]}


def read_exactly(stream: BinaryIO, size: int, marker: str) -> bytes:
    """Read the bundle, which has ``size`` bytes.

    On a slow connection this takes long. So the function prints a line with the marker and a plus sign after each
    `PROGRESS` bytes, by which the controller knows that the start goes on.

    Raises:
        BootError: The stream ends too early.
    """
    parts = []
    left = size
    while left:
        part = stream.read(min(left, PROGRESS))
        if not part:
            raise BootError("input", f"the connection ended after {size - left} of {size} bytes of the bundle")
        parts.append(part)
        left -= len(part)
        if left:
            os.write(_ANSWER_FD, f"\n{marker}+\n".encode())
    return b"".join(parts)


def _current_folder() -> str:
    """Return the path of the current folder, or "" if the folder was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def give_back_python_path() -> list[str]:
    """Give the environment the ``PYTHONPATH`` of the login again, and return its folders.

    The start command has hidden the variable from this process, because a module in one of the folders could take the
    place of a module that the agent needs. The folders are for workers. The start folder is not among them.
    """
    if os.environ.get("PYTHONSAFEPATH") == "handout":
        del os.environ["PYTHONSAFEPATH"]
    value = os.environ.pop("HANDOUT_PYTHONPATH", "")
    if not value:
        return []
    os.environ["PYTHONPATH"] = value
    start = _current_folder()
    folders = [os.path.abspath(os.path.join(start, path)) for path in value.split(os.pathsep) if path]
    return [path for path in folders if path != start]


def enter(path: str) -> None:
    """Change to the folder in which tasks run. The supervisor and the workers inherit it.

    Args:
        path: Path of the folder. A leading ``~`` stands for the home folder.

    Raises:
        BootError: This is not possible.
    """
    try:
        os.chdir(os.path.expanduser(path))
    except OSError as error:
        raise BootError("workdir", error.strerror or str(error)) from None


def make_folder(nbytes: int) -> str:
    """Make a private folder for this run, and return the path of the folder.

    The function tries ``$HANDOUT_TMPDIR``, ``$TMPDIR``, ``/tmp``, ``/var/tmp`` and the home folder, in this order. It
    makes the private folder in the first of them that has room for the bundle.

    Args:
        nbytes: Size of the bundle.

    Raises:
        BootError: The private folder cannot be made in any of these folders. The message gives the reason for each.
    """
    tried, kind = [], "folder"
    chosen = (os.environ.get("HANDOUT_TMPDIR"), os.environ.get("TMPDIR"))
    for base in (*chosen, "/tmp", "/var/tmp", os.path.expanduser("~")):
        if not base:
            continue
        if len(os.fsencode(base)) > MAX_SOCKET_PATH - 40:
            tried.append(f"{base}: the path is too long for a Unix socket in this folder")
            continue
        try:
            free = shutil.disk_usage(base).free
            if free < nbytes * 2 + (1 << 20):
                tried.append(f"{base}: {free} bytes free")
                kind = "space"
                continue
            made = tempfile.mkdtemp(prefix=f"handout-{os.getuid()}-", dir=base)
            os.chmod(made, 0o700)  # the umask may forbid its user to list the folder, and so to remove it
            return made
        except OSError as error:
            tried.append(f"{base}: {reason(base, error)}")
            kind = kind_of(error, kind)
    raise BootError(kind, f"no folder can hold the bundle of {nbytes} bytes ({'; '.join(tried)})")


def unpack(folder: str, bundle: bytes) -> tuple[str, int]:
    """Write the bundle and the variables of relays into the folder, and open the log.

    Return the path of the bundle, and the descriptor of the log.

    Raises:
        BootError: The system refused to write a file.
    """
    path = os.path.join(folder, "bundle.zip")
    try:
        with open(path, "wb", opener=_open_private) as file:
            file.write(bundle)
        with open(os.path.join(folder, "relay.sh"), "wb", opener=_open_private) as file:
            file.write(_relay_variables())
        log = os.open(os.path.join(folder, "supervisor.log"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        problem = f"cannot write the bundle of {len(bundle)} bytes and a log to {folder}: {reason(folder, error)}"
        raise BootError(kind_of(error, "folder"), problem) from None
    return path, log


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _relay_variables() -> bytes:
    """Return shell code that sets the variables that a relay may need.

    The setup line of a host may set where the libraries of its Python are, and does not run for a relay.
    """
    return b"".join(
        b"export %s='%s'\n" % (name.encode(), os.environb[name.encode()].replace(b"'", b"'\\''"))
        for name in _OF_RELAY
        if name in os.environ
    )


def daemonize(folder: str, bundle: str, settings: dict[str, Any], token: bytes, report_fd: int, log: int) -> NoReturn:
    """Turn this forked process into the supervisor. This call never returns.

    The process begins a new session (see setsid(2)), closes the files that the login has opened, puts the bundle first
    on ``sys.path``, and runs the supervisor.

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
    sys.path.insert(0, bundle)
    status = 1
    try:
        from handout.host import supervisor

        supervisor.run(folder, settings, token, 3, told)
        status = 0
    except BaseException as error:
        report = told(error, "the agent cannot start")
        try:
            os.write(3, json.dumps(report).encode() + b"\n")
            os.write(2, f"{report['message']}\n".encode("utf-8", "replace"))
        except OSError:
            pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the folder still exists only if the supervisor failed to start
        os._exit(status)


def _detach(report_fd: int, log: int) -> None:
    """Begin a new session, and close the files that the login has opened.

    Afterwards, descriptor 0 is /dev/null, descriptors 1 and 2 are the log, and descriptor 3 is a copy of ``report_fd``.
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
    """Overwrite the variable ``HANDOUT_RUN``, which marks the processes of a run, if it holds the mark of another run.

    This is so if a task of the other run started this program. To delete the variable would not remove the mark from
    /proc/PID/environ, because this file shows the memory that held the environment when the program started. So this
    function overwrites that memory.
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
            pass  # the mark stays, so a later search for orphans of the other run may kill this run too


def read_report(fd: int) -> dict[str, Any]:
    """Wait for the agent's hello, and return it.

    Args:
        fd: The reading end of a pipe. The agent writes its hello to the pipe. If the agent or the supervisor fails, it
            writes an error instead.

    Raises:
        BootError: An error came, the pipe ended before anything came, or nothing came in time.
        SystemExit: The controller has closed its end of the connection.
    """
    data = b""
    deadline = time.monotonic() + HELLO_TIMEOUT_S
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    poller.register(_ANSWER_FD, 0)  # with an empty mask, poll only reports that the controller has closed its end
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
    # If the supervisor fails while the agent starts, both may write to the pipe. Only the first line is used, because
    # it names the cause.
    report = json.loads(data.partition(b"\n")[0])
    if "error" in report:
        raise BootError(report["error"], report.get("message", ""))
    return dict(report)


def end_supervisor(pid: int) -> None:
    """Wait up to 2 s until the supervisor has cleaned up and ended. If it has not, send SIGTERM, and 3 s later SIGKILL.

    If the supervisor is killed, the next start of an agent on this host removes the folders and processes of this run.
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

    This function adds four fields to the hello: the path of the run's folder, the path of the bundle, the path of the
    Python interpreter, and the process number of the supervisor.

    Args:
        preface: The size of the bundle, the settings and the token, as the controller sent them.
        stream: The stream from which to read the bundle.

    Raises:
        BootError: The agent did not start.
    """
    bundle = read_exactly(stream, preface["size"], preface["marker"])
    settings = preface["settings"]
    # Before the folder changes, because PYTHONPATH may have relative paths.
    settings["python_path"] = give_back_python_path()
    sys.path[:] = [path for path in sys.path if path not in ("", _current_folder())]
    if "workdir" in settings:
        enter(settings["workdir"])
    folder = make_folder(len(bundle))
    try:
        # This process keeps the log open, because it may read the log after the supervisor has removed the folder.
        path, log = unpack(folder, bundle)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            daemonize(folder, path, settings, bytes.fromhex(preface["token"]), writing, log)
        os.close(writing)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    report = _await_report(pid, reading, folder, log)
    report.update(folder=folder, bundle=path, executable=sys.executable, supervisor=pid)
    return report


def _await_report(pid: int, reading: int, folder: str, log: int) -> dict[str, Any]:
    """Return the hello of the agent that the supervisor has started. If no hello comes, end the supervisor.

    Raises:
        BootError: See `read_report`. The message ends with the last lines of the log.
    """
    try:
        return read_report(reading)
    except BootError as error:
        end_supervisor(pid)
        if not os.path.exists(os.path.join(folder, ".lock")):
            # The next start of an agent would not remove this folder, because the folder has no lock file.
            shutil.rmtree(folder, ignore_errors=True)
        tail = os.pread(log, os.fstat(log).st_size, 0)[-2000:].decode("utf-8", "replace").strip()
        # The supervisor may have failed as well, for the same reason.
        more = f": {tail}" if any(line not in str(error) for line in tail.splitlines()) else ""
        raise BootError(error.kind, f"{error}{more}") from None
    except BaseException:
        os.kill(pid, signal.SIGTERM)  # otherwise an agent that has started would go on running
        raise


def main(stream: BinaryIO) -> None:
    """Start the agent with the settings from standard input, and print the hello or an error.

    The command that the controller runs on the host calls this function.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the exception makes `boot` clean up
    os.fstat(_ANSWER_FD)  # raises if standard output is closed, because then no controller could read the answer
    line = stream.readline(1 << 20)
    preface = json.loads(line)
    answer: dict[str, Any]
    try:
        answer = boot(preface, stream)
    except BootError as error:
        answer = {"error": error.kind, "message": str(error)}
    except (OSError, MemoryError) as error:
        answer = dict(told(error, "the start command cannot go on"))
    answer["python"] = list(sys.version_info[:3])
    try:
        os.write(_ANSWER_FD, f"\n{preface['marker']}{json.dumps(answer)}\n".encode())
    except OSError:
        # The controller has closed the connection, so it does not know that an agent has started, and cannot end the
        # agent.
        if "supervisor" in answer:
            os.kill(answer["supervisor"], signal.SIGTERM)


if __name__ == "__main__":
    try:
        main(sys.stdin.buffer)
    except SystemExit:
        sys.exit(BEGUN)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.exit(BEGUN)
