"""The lease: which processes of a host end when the controller is silent, a process dies, or a connection drops."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handout.protocol import frames, messages
from tests.host.rig import Rig, alive
from tests.patience import HANG_S

SHORT = {"host_timeout_s": 0.6, "heartbeat_s": 0.1, "linger_s": 0.6}


def sleeping(mark: Path) -> Callable[[], None]:
    path = str(mark)

    def sleep() -> None:
        Path(path + ".new").write_text(str(os.getpid()))
        os.rename(path + ".new", path)
        time.sleep(1000)

    return sleep


def pid_in(rig: Rig, mark: Path) -> int:
    rig.wait(mark.exists)
    return int(mark.read_text())


def gone(*pids: int) -> Callable[[], bool]:
    return lambda: not any(alive(pid) for pid in pids)


def wait_silently(condition: Callable[[], bool], timeout_s: float = 10.0) -> float:
    """Wait without sending anything, as if the controller were dead. Return the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s
        time.sleep(0.01)
    return time.monotonic() - started


def test_a_silent_controller_ends_running_code_then_everything(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make_rig(**SHORT)
    rig.submit([1], rig.function(sleeping(tmp_path / "pid")), rig.call())
    pid = pid_in(rig, tmp_path / "pid")
    took = wait_silently(gone(pid))
    assert took > 0.3
    assert rig.process.poll() is None
    wait_silently(lambda: rig.process.poll() is not None)
    assert not os.path.exists(rig.folder)
    rig.disconnect()


def test_after_a_lapse_finished_results_are_there_and_running_tasks_are_reported(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(**{**SHORT, "linger_s": 20.0})
    rig.run(lambda: bytearray(1 << 20), attempt_id=5)
    rig.submit([1], rig.function(sleeping(tmp_path / "pid")), rig.call())
    rig.submit([2], rig.function(lambda x: x), rig.call(inputs=1), inputs=[[777]])
    wait_silently(gone(pid_in(rig, tmp_path / "pid")))
    rig.connect()
    rig.wait_for(1, 2)
    assert rig.ended[1].fields["kind"] == "host"
    assert rig.heard("recalled")[0]["attempt_ids"] == [2]
    assert len(rig.fetch(5)) > 1 << 20
    rig.run(lambda: "again", attempt_id=6)
    assert rig.result(6) == "again"


def test_a_cut_within_the_lease_loses_and_repeats_nothing(rig: Rig, tmp_path: Path) -> None:
    mark, path = str(tmp_path / "runs"), str(tmp_path / "go")

    def once() -> str:
        with open(mark, "a") as file:
            file.write("x")
        while not os.path.exists(path):
            time.sleep(0.002)
        return "kept"

    rig.submit([1], rig.function(once), rig.call())
    rig.wait(lambda: os.path.exists(mark))
    rig.disconnect()
    Path(path).touch()
    rig.connect()
    rig.wait_for(1)
    assert rig.result(1) == "kept"
    assert Path(mark).read_text() == "x"


def test_user_code_dies_with_the_lease_although_the_agent_is_stopped(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(**SHORT)
    agent = rig.agent_pid()
    rig.submit([1], rig.function(sleeping(tmp_path / "pid")), rig.call())
    pid = pid_in(rig, tmp_path / "pid")
    os.kill(agent, signal.SIGSTOP)
    wait_silently(gone(pid))
    wait_silently(gone(agent))
    wait_silently(lambda: rig.process.poll() is not None)
    rig.disconnect()


def test_a_grace_period_ends_with_the_lease_although_the_agent_is_stopped(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    def ignore(note: str) -> None:
        signal.signal(signal.SIGTERM, lambda *_: Path(note + ".asked").touch())
        Path(note + ".new").write_text(str(os.getpid()))
        os.rename(note + ".new", note)
        while True:
            time.sleep(1)

    rig = make_rig(**SHORT)
    agent, note = rig.agent_pid(), tmp_path / "pid"
    rig.submit([1], rig.function(ignore), rig.call(str(note)))
    pid = pid_in(rig, note)
    rig.send(messages.Cancel([1], 60.0))
    rig.wait((tmp_path / "pid.asked").exists)
    os.kill(agent, signal.SIGSTOP)
    wait_silently(gone(pid), 2.0)
    wait_silently(lambda: rig.process.poll() is not None)
    rig.disconnect()


def test_a_stopped_agent_that_comes_back_within_the_lease_goes_on(rig: Rig) -> None:
    agent = rig.agent_pid()
    os.kill(agent, signal.SIGSTOP)
    rig.submit([1], rig.function(lambda: 1), rig.call())
    os.kill(agent, signal.SIGCONT)
    rig.wait_for(1)


def test_nothing_outlives_a_killed_agent(rig: Rig, tmp_path: Path) -> None:
    rig.submit([1], rig.function(sleeping(tmp_path / "pid")), rig.call())
    pid = pid_in(rig, tmp_path / "pid")
    os.kill(rig.agent_pid(), signal.SIGKILL)
    wait_silently(gone(pid), 2.0)
    wait_silently(lambda: rig.process.poll() is not None)
    rig.disconnect()


def test_nothing_outlives_a_killed_supervisor(rig: Rig, tmp_path: Path) -> None:
    rig.submit([1], rig.function(sleeping(tmp_path / "pid")), rig.call())
    pid, agent = pid_in(rig, tmp_path / "pid"), rig.agent_pid()
    os.kill(rig.pid, signal.SIGKILL)
    wait_silently(gone(pid, agent), 2.0)
    assert not os.path.exists(rig.folder)
    rig.process.wait()
    rig.disconnect()


def leave_processes(note: Path) -> Callable[[], None]:
    """Return a function that starts a program and forks a process, each in a session of its own, and then waits."""
    path = str(note)

    def start() -> None:
        pids = [subprocess.Popen(["sleep", "1000"], start_new_session=True).pid]
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            pid = os.fork()
            if pid == 0:
                os.closerange(0, 4096)
                time.sleep(1000)
            os.write(writing, str(pid).encode())
            os._exit(0)
        pids.append(int(os.read(reading, 100)))
        os.wait()
        Path(path + ".new").write_text(" ".join(map(str, pids)))
        os.rename(path + ".new", path)
        time.sleep(1000)

    return start


def pids_left(rig: Rig, note: Path) -> list[int]:
    rig.submit([1], rig.function(leave_processes(note)), rig.call())
    rig.wait(note.exists)
    pids = [int(word) for word in note.read_text().split()]
    assert all(alive(pid) for pid in pids)
    return pids


def test_what_tasks_started_does_not_outlive_a_killed_supervisor(rig: Rig, tmp_path: Path) -> None:
    pids, agent = pids_left(rig, tmp_path / "pids"), rig.agent_pid()
    os.kill(rig.pid, signal.SIGKILL)
    wait_silently(gone(*pids, agent), 2.0)
    rig.process.wait()
    rig.disconnect()


def groups_of(rig: Rig) -> list[Path]:
    """Return the folders of a run's control groups."""
    return list(Path("/sys/fs/cgroup").rglob(Path(rig.folder).name))


def test_what_tasks_started_outlives_a_killed_supervisor_and_agent_until_the_next_start_only(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    prefix = f"handout-{os.getuid()}-"
    killed, other = make_rig(prefix=prefix), make_rig(prefix=prefix)
    pids, others = pids_left(killed, tmp_path / "pids"), pids_left(other, tmp_path / "others")
    agent = killed.agent_pid()
    before = groups_of(killed), groups_of(other)
    try:
        os.kill(killed.pid, signal.SIGSTOP)  # a running supervisor would clean up when it sees the agent die
        os.kill(agent, signal.SIGKILL)
        os.kill(killed.pid, signal.SIGKILL)
        killed.process.wait()
        killed.disconnect()
        make_rig()
        wait_silently(lambda: not os.path.exists(killed.folder))
        assert gone(*pids)()
        assert all(alive(pid) for pid in others)
        assert (groups_of(killed), groups_of(other)) == ([], before[1])
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


def test_the_folders_of_a_run_whose_processes_were_killed_at_once_are_removed_by_the_next_agent(
    make_rig: Callable[..., Rig],
) -> None:
    killed = make_rig(prefix=f"handout-{os.getuid()}-")
    killed.run(lambda: bytearray(1 << 20))
    held = [path.readlink() for path in Path(f"/proc/{killed.pid}/fd").iterdir()]
    (store,) = [path.parent for path in held if path.parts[:3] == ("/", "dev", "shm") and path.name == ".lock"]
    killed.disconnect()
    pids = killed.processes()
    for number in (signal.SIGSTOP, signal.SIGKILL):  # all are stopped first, because a running one would clean up
        for pid in pids:
            os.kill(pid, number)
    killed.process.wait()
    wait_silently(gone(*pids))
    assert os.path.exists(killed.folder)
    make_rig()
    wait_silently(lambda: not os.path.exists(killed.folder) and not store.exists())


def test_a_program_that_a_task_left_behind_may_start_runs_of_its_own() -> None:
    program = (
        "from handout import Graph, Host, run\n"
        "def square(n): return n * n\n"
        "graph = Graph()\n"
        "outs = graph.map(square, range(40))\n"
        "print(sum(run(graph, inventory=[Host.local('a'), Host.local('b')], require='all')[outs]))\n"
    )
    # The run has a folder of its own, because agents of other tests kill the processes of orphans in the usual folders.
    with tempfile.TemporaryDirectory() as base:
        killed = f"{base}/handout-{os.getuid()}-killed"
        os.mkdir(killed)
        lock = f"from handout.host.system import orphans; orphans.lock({killed!r})"
        subprocess.run([sys.executable, "-c", lock], check=True)
        marked = {**os.environ, "HANDOUT_RUN": killed, "HANDOUT_TMPDIR": base}
        told = subprocess.run(
            [sys.executable, "-c", program], env=marked, capture_output=True, text=True, timeout=HANG_S
        )
        assert told.stdout == f"{sum(n * n for n in range(40))}\n", told.stderr
        wait_silently(lambda: not os.listdir(base))


def test_stopping_while_tasks_run_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    rig.submit([1], rig.function(sleeping(tmp_path / "pid")), rig.call())
    pid = pid_in(rig, tmp_path / "pid")
    rig.send(messages.Stop())
    rig.wait(lambda: rig.socket is None)
    assert not alive(pid)


@pytest.mark.parametrize(
    "sent",
    [
        frames.encode_hello({"token": "00" * 16}),
        frames.encode_hello({}),
        frames.encode_hello({"token": 5}),
        frames.encode_hello({"token": "\ud800"}),
        b"GET / HTTP/1.1\r\n\r\n" * 10,
        b"".join(bytes(s) for s in frames.encode_message(1, {"m": "stop"})),
    ],
    ids=["wrong", "none", "number", "no text", "http", "message"],
)
def test_a_connection_without_the_token_is_refused(rig: Rig, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(HANG_S)
        stranger.connect(rig.hello["socket"])
        stranger.sendall(sent)
        assert stranger.recv(100) == b""
    rig.run(lambda: 1)


def test_a_later_connection_replaces_an_earlier_one_and_never_the_other_way(rig: Rig) -> None:
    first = rig.socket
    rig.socket = None
    rig.session.detach()
    rig.connect()
    assert first is not None
    first.settimeout(HANG_S)
    while first.recv(65536):
        pass
    first.close()
    rig.run(lambda: 1)
    with socket.socket(socket.AF_UNIX) as late:
        late.settimeout(HANG_S)
        late.connect(rig.hello["socket"])
        late.sendall(
            frames.encode_hello(
                {
                    "token": rig.token.hex(),
                    "agent": rig.hello["agent"],
                    "conversation": rig.conversation,
                    "connection": 1,
                }
            )
        )
        frame = next(frames.Decoder().feed(late.recv(1000)))
        assert isinstance(frame, frames.Hello)
        assert "error" in frame.fields
    rig.run(lambda: 2, attempt_id=2)


def test_an_agent_without_descriptors_waits_for_one_and_does_not_spin(rig: Rig) -> None:
    agent = rig.agent_pid()
    limits = resource.prlimit(agent, resource.RLIMIT_NOFILE)

    def cpu_s() -> float:
        fields = Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    highest = max(int(name) for name in os.listdir(f"/proc/{agent}/fd"))
    resource.prlimit(agent, resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    with socket.socket(socket.AF_UNIX) as filler, socket.socket(socket.AF_UNIX) as late:
        holes = highest + 1 - len(os.listdir(f"/proc/{agent}/fd"))
        fillers = [filler, *(socket.socket(socket.AF_UNIX) for _ in range(holes))]
        for each in [*fillers, late]:
            each.connect(rig.hello["socket"])
        late.sendall(frames.encode_hello({"token": "00" * 16}))
        before = cpu_s()
        time.sleep(0.5)  # the agent's CPU time is measured over these seconds
        assert cpu_s() - before < 0.25
        resource.prlimit(agent, resource.RLIMIT_NOFILE, limits)
        late.settimeout(HANG_S)
        assert late.recv(100) == b""  # the agent has read the hello and closed the connection
        for each in fillers:
            each.close()
    rig.run(lambda: "well")


def test_a_message_that_makes_no_sense_ends_the_agent(rig: Rig) -> None:
    """The message is not sent again, so the controller must learn that the host is lost."""
    rig.session.send({"m": "tasks", "attempt_ids": [1]})
    rig.wait(lambda: rig.socket is None)
    rig.process.wait(10)


def test_bytes_that_make_no_sense_drop_the_connection_and_nothing_else(rig: Rig) -> None:
    assert rig.socket is not None
    rig.socket.sendall(b"nonsense" * 100)
    rig.wait(lambda: rig.socket is None)
    rig.connect()
    rig.run(lambda: "still here")
    assert rig.result(1) == "still here"


def test_all_of_a_hello_that_comes_in_pieces_is_acknowledged(rig: Rig) -> None:
    """If the agent left bytes unacknowledged, the controller would lose that part of its credit on this connection."""
    rig.connect(padding="x" * 20_000)
    rig.run(lambda: 1)
    rig.wait(lambda: rig.session.credit.sent - rig.session.credit.acknowledged < 4096)
