"""Tasks that fail, in all ways in which user code can fail."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from handout.host.agent import worker_ends
from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_ender import TaskEnder
from handout.host.agent.task_exits import TaskExits
from handout.host.agent.task_queue import QUEUED, READY, QueuedTask, TaskClassQueue, TaskQueue
from handout.host.agent.worker_ends import WorkerEnds
from handout.host.agent.worker_handle import WorkerHandle
from handout.host.agent.worker_pool import WorkerPool
from handout.host.system import shared_page
from handout.host.system.oom_kills import OomKills
from handout.protocol import messages
from handout.protocol.resource_ledger import PARTS
from handout.serialization import exceptions
from tests.host.doubles import Nothing, new_page
from tests.host.rig import Rig
from tests.patience import stretched


def test_a_segfault_names_the_signal_and_where_it_was(rig: Rig) -> None:
    failed = rig.run(lambda: ctypes.string_at(0)).fields
    assert (failed["kind"], failed["signal"]) == ("died", signal.SIGSEGV)
    assert any("Segmentation fault" in line for line in failed["stderr"])
    assert failed["maxrss"] > 1 << 20
    rig.run(lambda: 5, attempt_id=2)
    assert rig.result(2) == 5


def test_os_exit_is_not_success(rig: Rig) -> None:
    failed = rig.run(lambda: os._exit(0)).fields
    assert (failed["kind"], failed["exit"]) == ("died", 0)


@pytest.mark.parametrize("code", [0, 3, None, "sorry"])
def test_sys_exit_is_a_failure_of_its_own_kind(rig: Rig, code: object) -> None:
    failed = rig.run(sys.exit, code).fields
    assert (failed["kind"], failed["exit"]) == ("exited", code)


@pytest.mark.parametrize("digits", [30, 5000])
def test_an_exit_status_that_no_process_has_is_told_as_text(rig: Rig, digits: int) -> None:
    """The number is too large for a message. If it were sent, the controller would give up the host."""
    failed = rig.run(lambda: sys.exit(10**digits)).fields
    assert (failed["kind"], type(failed["exit"])) == ("exited", str)


def test_a_keyboard_interrupt_is_a_failure(rig: Rig) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    failed = rig.run(interrupt).fields
    assert (failed["kind"], failed["type"]) == ("raised", "KeyboardInterrupt")


@pytest.mark.parametrize("shared_loop", [False, True])
def test_an_exception_that_ends_its_process_is_the_tasks_own_failure(rig: Rig, shared_loop: bool) -> None:
    class LethalError(Exception):
        def __reduce__(self) -> Any:
            return os._exit, (3,)

    async def fail() -> None:
        raise LethalError

    rig.task_class(2, shared_loop=shared_loop)
    failed = rig.run(fail, cls=2).fields
    assert failed["kind"] == "raised"
    assert failed["type"].endswith("LethalError")
    assert failed["message"] == "<no text: the worker exited with status 3, in a method of the exception>"


def test_a_result_that_cannot_travel_names_the_culprit(rig: Rig) -> None:
    failed = rig.run(lambda: {"model": [threading.Lock()]}).fields
    assert failed["kind"] == "unserializable"
    assert failed["path"] == "result['model'][0]"
    assert "lock" in failed["culprit"]


def test_an_exception_travels_with_its_cause(rig: Rig) -> None:
    def fail() -> None:
        try:
            {}["key"]
        except KeyError as error:
            raise ValueError("no such key") from error

    message = rig.run(fail)
    error = exceptions.load_exception(message.payload, lambda *words: RuntimeError(*words))
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, KeyError)


def test_the_last_lines_of_stderr_come_with_a_failure(rig: Rig) -> None:
    def fail() -> None:
        for i in range(50):
            print(f"line {i}", file=sys.stderr)
        os.write(2, b"raw\n")
        raise ValueError

    assert rig.run(fail).fields["stderr"] == [*(f"line {i}" for i in range(31, 50)), "raw"]


def test_tasks_queued_behind_one_that_dies_run_elsewhere(rig: Rig) -> None:
    fn = rig.function(lambda x: os._exit(9) if x == 500 else x)
    rig.submit(range(1, 1001), fn, [rig.call(i) for i in range(1, 1001)])
    rig.wait_for(*range(1, 1001))
    failed = rig.heard("failed")
    assert [(f["attempt_id"], f["kind"], f["exit"]) for f in failed] == [(500, "died", 9)]
    assert rig.result(1000) == 1000


def test_followers_of_a_failure_are_given_back(rig: Rig, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    def fail() -> None:
        while not os.path.exists(gate):
            time.sleep(0.005)
        raise ZeroDivisionError

    number, inc = rig.function(fail), rig.function(lambda x: x + 1)
    rig.submit([1], number, rig.call())
    rig.submit([2, 3], inc, rig.call(inputs=1), inputs=[[1], [2]])
    rig.run(lambda: None, attempt_id=4)  # the agent has the followers now: it reads messages in order
    Path(gate).touch()
    rig.wait_for(1, 2, 3)
    assert rig.ended[1].fields["kind"] == "raised"
    assert sorted(t for m in rig.heard("recalled") for t in m["attempt_ids"]) == [2, 3]


def test_followers_that_are_queued_on_the_worker_already_are_given_back(rig: Rig) -> None:
    """One worker gets a chain of short tasks, and a task in the middle fails."""
    inc = rig.function(lambda x: 1 // 0 if x == 150 else x + 1)
    rig.submit([1], rig.function(lambda: 0), rig.call())
    rig.wait_for(1)
    rig.submit(range(2, 301), inc, rig.call(inputs=1), inputs=[[k] for k in range(1, 300)])
    rig.wait_for(*range(2, 301))
    returned = {t for m in rig.heard("recalled") for t in m["attempt_ids"]}
    failed = [f["attempt_id"] for f in rig.heard("failed")]
    assert failed == [152]
    assert returned == set(range(153, 301))


def test_a_task_over_its_time_is_killed_with_a_sample_of_where_it_was(rig: Rig) -> None:
    def spin_for_ever() -> None:
        while True:
            pass

    rig.task_class(2, timeout_s=0.2)
    failed = rig.run(spin_for_ever, cls=2).fields
    assert failed["kind"] == "timeout"
    assert failed["limit_s"] == 0.2
    assert 0.2 <= failed["elapsed_s"] < stretched(5)
    assert "spin_for_ever" in failed["stack"][1]


def test_a_task_over_its_memory_is_killed(rig: Rig) -> None:
    def hoard() -> None:
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20)))
            time.sleep(0.001)

    rig.task_class(2, memory_limit=120 << 20)
    failed = rig.run(hoard, cls=2).fields
    assert failed["kind"] == "memory"
    assert failed["limit"] == 120 << 20
    assert failed["peak"] > 120 << 20


def test_a_task_that_writes_to_every_descriptor_harms_itself_only(rig: Rig) -> None:
    def scribble() -> str:
        for fd in range(3, 1024):
            try:
                os.write(fd, b"\xff" * 100)
            except OSError:
                pass
        return "done"

    rig.task_class(2, need={"cpu": PARTS})
    fn = rig.function(lambda: time.sleep(0.3) or "other")
    rig.submit([10], fn, rig.call())
    rig.run(scribble, cls=2)
    rig.wait_for(10)
    assert rig.result(10) == "other"


def test_a_function_that_cannot_be_loaded_is_an_input_failure(rig: Rig) -> None:
    blob = b"cno_such_module\nfn\n."
    rig.send(messages.Functions([77], [len(blob)]), [blob])
    rig.submit([1], 77, rig.call())
    failed = rig.wait_for(1).fields
    assert failed["kind"] == "input"
    assert "no_such_module" in failed["message"]


def test_a_task_that_forks_and_returns_twice_ends_once(rig: Rig) -> None:
    rig.run(lambda: os.fork() and "parent")
    assert rig.result(1) == "parent"


def test_an_exception_larger_than_a_message_leaves_its_class_and_text(rig: Rig) -> None:
    def fail() -> None:
        error = ValueError("too much")
        error.data = bytes(70 << 20)  # type: ignore[attr-defined]
        raise error

    ended = rig.run(fail)
    assert (ended.fields["kind"], ended.fields["type"]) == ("raised", "ValueError")
    assert exceptions.load_class(ended.payload) is ValueError
    assert "too much" in ended.fields["message"]


def test_cancelled_tasks_leave_no_descriptor_open_in_the_agent(rig: Rig) -> None:
    folder = f"/proc/{rig.agent_pid()}/fd"
    fn = rig.function(lambda: time.sleep(3600))
    counts = []
    for attempt_id in range(1, 52):
        rig.submit([attempt_id], fn, rig.call())
        rig.wait(lambda: any(attempt_id in m["attempt_ids"] for m in rig.heard("started")))  # noqa: B023
        rig.send(messages.Cancel([attempt_id], 0.0))
        rig.wait_for(attempt_id)
        counts.append(len(os.listdir(folder)))
    # A worker has four descriptors here, and for a moment eight; no more than two workers live at a time.
    assert counts[50] <= counts[0] + 16, counts


@pytest.fixture
def handle() -> WorkerHandle:
    return WorkerHandle(1, cast(socket.socket, Nothing()), new_page(), b"")


class Parts:
    """The parts of an agent that end the tasks of a queue, among parts that do nothing."""

    def __init__(self, queue: TaskQueue) -> None:
        self.dispatcher = Nothing()
        dispatcher = cast(Dispatcher, self.dispatcher)
        sender, store = cast(ResultSender, Nothing()), cast(ObjectStore, Nothing())
        self.pool = cast(WorkerPool, Nothing())
        self.exits = TaskExits(sender, queue, store, dispatcher)
        self.ender = TaskEnder(self.exits, sender, queue, dispatcher, self.pool, 5.0)
        self.ends = WorkerEnds(self.exits, store, dispatcher, self.pool, OomKills())


def test_what_was_recalled_stays_so_until_the_worker_has_passed_it(handle: WorkerHandle) -> None:
    """The worker runs task 4. The agent recalls tasks 8 to 10, and then task 12. Tasks 8 to 10 must stay recalled."""

    async def main() -> None:
        ender = Parts(TaskQueue(lambda key: False)).ender
        handle.page[shared_page.ANNOUNCED], handle.next_number = 4, 11
        ender.recall_from(handle, 8)
        ender._finish_recall(handle)
        handle.next_number = 13
        ender.recall_from(handle, 12)
        assert (handle.page[shared_page.RECALLED_FROM], handle.page[shared_page.RECALLED_TO]) == (8, 12)
        ender._finish_recall(handle)
        handle.page[shared_page.ANNOUNCED], handle.next_number = 12, 20
        ender.recall_from(handle, 15)
        assert handle.page[shared_page.RECALLED_FROM] == 15

    asyncio.run(main())


def test_what_was_queued_on_a_worker_that_cannot_be_killed_starts_elsewhere(handle: WorkerHandle) -> None:
    async def main() -> None:
        queue = TaskQueue(lambda key: False)
        task_class = TaskClassQueue(messages.NewTaskClass(1, {}))
        task = QueuedTask(1, 1, task_class, b"", [], [1], 1, "t", 1, 0)
        task.state, task.worker, handle.queued = QUEUED, handle, {1: task}
        parts = Parts(queue)
        parts.ender._give_up(handle)
        assert task.state == READY
        assert "schedule" in parts.dispatcher.calls

    asyncio.run(main())


def test_a_worker_that_the_supervisor_killed_for_the_lease_is_no_tasks_fault(handle: WorkerHandle) -> None:
    """The controller's hello came at the same moment, so for the agent the lease has not ended."""

    async def main() -> None:
        task = QueuedTask(1, 1, TaskClassQueue(messages.NewTaskClass(1, {})), b"", [], [1], 1, "t", 1, 0)
        task.state, task.worker, handle.queued = QUEUED, handle, {1: task}
        handle.page[shared_page.ANNOUNCED] = 1
        parts = Parts(TaskQueue(lambda key: False))
        failed: list[str] = []
        parts.exits.fail = lambda task, kind, payload=(), **fields: failed.append(kind)  # type: ignore[method-assign]
        parts.ends.on_worker_gone(handle, messages.WorkerGone(1, 9, 0, True))
        assert failed == ["host"]

    asyncio.run(main())


@pytest.mark.parametrize(("hard", "told"), [(30, 30.0), (resource.RLIM_INFINITY, None)])
def test_the_cause_of_death_has_the_logins_limit_of_processor_time(
    handle: WorkerHandle, monkeypatch: pytest.MonkeyPatch, hard: int, told: float | None
) -> None:
    async def main() -> None:
        ends = Parts(TaskQueue(lambda key: False)).ends
        monkeypatch.setattr(ends, "_was_killed_for_memory", lambda _: None)
        for number in (signal.SIGKILL, signal.SIGXCPU):
            assert ends._cause_of_death(handle, messages.WorkerGone(1, number))["limit_s"] == told
        assert "limit_s" not in ends._cause_of_death(handle, messages.WorkerGone(1, signal.SIGSEGV))

    monkeypatch.setattr(worker_ends.resource, "getrlimit", lambda _: (20, hard))
    asyncio.run(main())


def test_a_host_that_cannot_start_a_worker_says_why(handle: WorkerHandle) -> None:
    async def main() -> None:
        task = QueuedTask(1, 1, TaskClassQueue(messages.NewTaskClass(1, {})), b"", [], [1], 1, "t", 1, 0)
        parts = Parts(TaskQueue(lambda key: False))
        parts.pool.workers = {}
        failed: list[tuple[str, str]] = []
        parts.exits.fail = lambda task, kind, payload=(), **fields: failed.append((kind, fields["message"]))  # type: ignore[method-assign]
        for _ in range(worker_ends.MAX_SPAWN_FAILURES + 1):
            assert failed == []
            task.state, task.worker, handle.queued = QUEUED, handle, {1: task}
            parts.ends.on_worker_gone(handle, messages.WorkerGone(1, error="fork: no more processes"))
        assert failed == [("host", "the host cannot start a worker: fork: no more processes")]
        given_back = QueuedTask(2, 1, task.task_class, b"", [], [2], 1, "t", 1, 0)
        given_back.state, given_back.worker, handle.queued = QUEUED, handle, {2: given_back}
        given_back.end_reason = "recalled"
        parts.ends.on_worker_gone(handle, messages.WorkerGone(1, error="fork: no more processes"))
        assert len(failed) == 1

    asyncio.run(main())


def test_the_ready_tasks_of_a_class_without_room_for_its_bundle_fail(handle: WorkerHandle) -> None:
    async def main() -> None:
        queue = TaskQueue(lambda key: False)
        task_class = TaskClassQueue(messages.NewTaskClass(1, {}))
        ready, running = (QueuedTask(n, 1, task_class, b"", [], [n], 1, "t", 1, 0) for n in (1, 2))
        queue.add(ready)
        queue.add(running)
        running.state, running.worker = QUEUED, handle
        parts = Parts(queue)
        failed: list[tuple[int, str, int, bool]] = []
        parts.exits.fail = lambda task, kind, payload=(), **fields: failed.append(  # type: ignore[method-assign]
            (task.attempt_id, kind, fields["need"], fields["argument"])
        )
        parts.dispatcher.on_no_room(task_class, StoreFullError("/full", 100, 0, "0 bytes are free"))
        assert failed == [(1, "disk", 100, True)]

    asyncio.run(main())
