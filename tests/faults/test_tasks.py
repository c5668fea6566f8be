"""Harm that a task does to itself or to its host, as the caller sees it, on this machine and over a real sshd.

The rows are those of the table of faults in docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, Graph
from handout.host.system.cgroups import ControlGroups
from handout.transport.timings import Timings
from tests import work
from tests.faults import deeds
from tests.patience import HANG_S, stretched
from tests.seen import gone, until
from tests.sshd import OpenSsh

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def fails(cluster: Cluster, function: Callable[..., Any], *args: Any, **options: Any) -> Exception:
    """Run a task that fails, and return its exception.

    Check that the exception's notes say where the task ran, and that they end with what to do.
    """
    graph = Graph()
    graph.add(function, *args, id="bad", **options)
    with pytest.raises(Exception) as caught:
        await cluster.execute(graph)
    error = caught.value
    failure = handout.failure(error)
    assert failure is not None
    assert failure.host in ("plain", "gpu")
    assert error.__notes__[0].startswith(f"Task 'bad', attempt {failure.attempts} of {failure.most_attempts}, on host ")
    assert " after " in error.__notes__[0]
    assert error.__notes__[-1].startswith("What to do: ")
    if isinstance(error, handout.HandoutError):
        assert str(error).endswith(error.remedy)
        assert error.__notes__[-1].endswith(error.remedy)
    return error


def notes(error: Exception) -> str:
    return "\n".join(error.__notes__)


def can_limit_processes() -> bool:
    """Return True if agents on this machine can limit processes by control groups. Agents run as this user here."""
    made = ControlGroups.for_run(f"handout-test-{os.getpid()}-can")
    made.make()
    try:
        return made.limit_processes(64)
    finally:
        made.remove()


async def still_serves(cluster: Cluster) -> None:
    graph = Graph()
    outs = [graph.add(work.identity, host, host=host) for host in ("plain", "gpu")]
    assert (await cluster.execute(graph))[outs] == ["plain", "gpu"]


async def test_an_exception_comes_as_itself_with_all_that_is_known(cluster: Cluster) -> None:
    error = await fails(cluster, work.say_and_fail, "sorry", retries=1)
    assert isinstance(error, work.Refused)
    assert "attempt 2 of 2" in notes(error)
    assert "hosts tried: '" in notes(error)
    assert "in say_and_fail\n    raise Refused" in notes(error)
    assert "Last lines of the worker's standard error:\n  sorry" in notes(error)
    assert "raise retries=" in notes(error)


async def test_dependents_name_the_root_the_chain_and_the_reason(cluster: Cluster) -> None:
    graph = Graph()
    bad = graph.add(work.fail, "no", id="bad")
    graph.add(work.identity, graph.add(work.identity, bad, id="after"), id="last")
    results = await cluster.execute(graph, on_failure="continue")
    with pytest.raises(handout.errors.DependencyError, match=r"'bad', which failed: last <- after <- bad.*Refused.*no"):
        results["last"]


async def test_row_02_a_crash_in_native_code_costs_its_own_task_only(cluster: Cluster) -> None:
    graph = Graph()
    bad = graph.add(work.crash, id="bad")
    good = [graph.add(work.identity, i) for i in range(10)]
    results = await cluster.execute(graph, on_failure="continue")
    assert results[good] == list(range(10))
    error = results.failures[bad.id].exception
    assert isinstance(error, handout.WorkerDiedError)
    assert (error.signal, error.exit_code, error.out_of_memory) == (signal.SIGSEGV, None, False)
    assert "signal 11 (SIGSEGV), peak memory" in str(error)
    assert "while they ran this task: 3" in str(error)
    assert set(error.hosts) == {"plain", "gpu"}
    assert "Fatal Python error: Segmentation fault" in error.stderr_tail
    assert "in string_at" in notes(error)
    assert "in crash" in notes(error)


async def test_row_03_a_plain_sigkill_is_not_taken_for_lack_of_memory(cluster: Cluster) -> None:
    error = await fails(cluster, deeds.die_of, int(signal.SIGKILL))
    assert isinstance(error, handout.WorkerDiedError)
    assert (error.signal, error.out_of_memory) == (signal.SIGKILL, False)
    assert "signal 9 (SIGKILL)" in str(error)
    assert "The kernel did not kill it for lack of memory" in error.remedy
    assert error.stderr_tail == ("last words",)


@pytest.mark.parametrize("deed", [deeds.close_everything, deeds.become_another_program])
async def test_a_task_that_takes_its_workers_link_away_is_told_so(cluster: Cluster, deed: Callable[[], None]) -> None:
    error = await fails(cluster, deed)
    assert isinstance(error, handout.WorkerDiedError)
    assert error.signal is None
    assert "closed descriptors that are not its own, or replaced its process" in str(error)
    assert "subprocess" in error.remedy


@pytest.mark.parametrize(
    ("function", "words"),
    [(work.generator, "generator"), (deeds.return_a_lock, r"result\['model'\]\[1\] \(_thread.lock\)")],
)
async def test_row_16_a_result_that_cannot_be_pickled_names_the_culprit(
    cluster: Cluster, function: Callable[..., Any], words: str
) -> None:
    with pytest.raises(handout.errors.ResultError, match=words) as caught:
        raise await fails(cluster, function, retries=2)
    assert caught.value.type in words.replace("\\", "")
    assert caught.value.attempt == 1  # no retry, because it would fail in the same way
    assert "Traceback" not in notes(caught.value)


async def test_row_17_a_result_over_its_bound_is_refused_with_its_size(cluster: Cluster) -> None:
    error = await fails(cluster, work.blob, 3 << 20, max_result_bytes=2 << 20, retries=2)
    assert isinstance(error, handout.ResultTooLargeError)
    assert error.size > 3 << 20
    assert error.limit == 2 << 20
    assert error.attempt == 1
    graph = Graph()
    large = graph.add(work.blob, 3 << 20, max_result_bytes=4 << 20)
    other = graph.add(work.blob, 3 << 20)
    coroutine = graph.add(deeds.make_later, 3 << 20, cost={"cpu_intensive": False})
    results = await cluster.execute(graph, max_result_bytes=1000, on_failure="continue")
    assert len(results[large]) == 3 << 20
    for output in (other, coroutine):
        assert isinstance(results.failures[output.id].exception, handout.ResultTooLargeError)


async def test_row_17_a_result_larger_than_the_callers_memory_passes_through_it(sshd: OpenSsh, tmp_path: Path) -> None:
    """200 MB go from one host to another through a caller whose memory can grow by only 128 MB."""
    inventory = sshd.inventory_file({"from": "{ cpu = 1 }", "to": "{ cpu = 1 }"})
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.far_too_large", str(inventory), cwd=ROOT, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(HANG_S):
        out, err = await done.communicate()
    assert (done.returncode, out.decode().split()) == (0, ["200000000", "refused"]), err.decode()


async def test_row_19_the_death_of_what_must_not_run_twice_is_told_with_all_that_is_known(cluster: Cluster) -> None:
    error = await fails(cluster, deeds.exit_hard, 3, idempotent=False)
    assert isinstance(error, handout.OutcomeUnknownError)
    assert "attempt 1 of 1" in notes(error)
    assert "standard error:\n  leaving" in notes(error)


async def test_row_18_an_exception_that_cannot_be_made_again_comes_as_text(cluster: Cluster) -> None:
    error = await fails(cluster, deeds.raise_stubborn)
    assert isinstance(error, handout.RemoteError)
    assert (error.type_name, error.message) == ("tests.faults.deeds.Stubborn", "no way back")
    assert 'raise Stubborn("no way back")' in error.traceback
    assert "cannot be pickled and rebuilt" in str(error)


@pytest.mark.parametrize("code", [0, 3])
async def test_row_19_ending_the_process_is_a_death_whatever_its_status(cluster: Cluster, code: int) -> None:
    error = await fails(cluster, deeds.exit_hard, code)
    assert isinstance(error, handout.WorkerDiedError)
    assert (error.signal, error.exit_code) == (None, code)
    assert f"exit status {code}" in str(error)
    assert error.stderr_tail == ("leaving",)


@pytest.mark.parametrize("code", [0, 4])
async def test_row_19_sys_exit_is_a_failure(cluster: Cluster, code: int) -> None:
    error = await fails(cluster, work.leave, code)
    assert isinstance(error, handout.errors.TaskExitedError)
    assert error.code == code
    assert "attempt 1 of 1" in notes(error)


async def test_row_19_a_keyboard_interrupt_there_is_not_one_here(cluster: Cluster) -> None:
    error = await fails(cluster, deeds.interrupt)
    assert isinstance(error, handout.RemoteError)
    assert "raised KeyboardInterrupt." in str(error)
    assert "Traceback" in notes(error)


async def test_row_20_a_loop_that_never_ends_is_ended_and_tells_where_it_was(cluster: Cluster, tmp_path: Path) -> None:
    limit_s = stretched(1.0)  # in this time, a new worker must also import the module of the function
    error = await fails(cluster, work.sleep_forever, str(tmp_path / "pid"), timeout_s=limit_s)
    assert isinstance(error, handout.TaskTimeoutError)
    assert error.limit_s == limit_s <= error.elapsed_s < limit_s + stretched(5.0)
    assert "in sleep_forever" in error.stack[1]
    assert "in sleep_forever" in notes(error)
    assert gone(int((tmp_path / "pid").read_text()))
    await still_serves(cluster)


async def test_row_20_a_call_in_c_that_holds_the_interpreters_lock_is_ended(cluster: Cluster) -> None:
    error = await fails(cluster, deeds.hold_the_lock, timeout_s=stretched(1.0))
    assert isinstance(error, handout.TaskTimeoutError)
    assert "in hold_the_lock" in error.stack[1]


async def test_row_20_a_task_that_ignores_sigterm_is_gone_after_the_grace(sshd: OpenSsh, tmp_path: Path) -> None:
    graph = Graph()
    limit_s = stretched(1.0)
    graph.add(work.spin_ignoring_signals, str(tmp_path / "pid"), timeout_s=limit_s)
    timings = Timings(kill_after_s=0.5)
    async with Cluster([sshd.host("one", {"cpu": 1})], timings=timings) as cluster:
        began = time.monotonic()
        with pytest.raises(handout.TaskTimeoutError) as caught:
            await cluster.execute(graph)
        assert limit_s + 0.5 <= time.monotonic() - began < limit_s + stretched(5.0)
        assert "in spin_ignoring_signals" in caught.value.stack[1]
        assert gone(int((tmp_path / "pid").read_text()))


async def test_row_21_a_task_that_forks_and_forks_leaves_nothing_behind(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    path = tmp_path / "pids"
    out = graph.add(deeds.fork_many, str(path), 200, host="plain")
    slow = graph.add(work.sleep, 0.5, host="plain")
    results = await cluster.execute(graph)
    assert results[slow] == "slept"
    assert results[out] == 200
    pids = [int(pid) for pid in path.read_text().split()]
    await until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    await still_serves(cluster)


async def test_row_21_a_task_of_the_superuser_that_starts_and_starts_meets_a_limit(cluster: Cluster) -> None:
    if os.getuid() != 0:
        pytest.skip("the system limits the processes of every other user: see tests/faults/test_processes.py")
    if not can_limit_processes():
        pytest.skip("no control group can be made here")
    graph = Graph()
    out = graph.add(deeds.start_threads, 100_000, host="plain")
    slow = graph.add(work.sleep, 0.5, host="plain")
    results = await cluster.execute(graph)
    assert results[slow] == "slept"
    assert 2000 < results[out] < 1024 * max(4, os.cpu_count() or 1)
    await still_serves(cluster)


async def test_row_22_a_flood_of_output_harms_nobody_and_its_end_is_kept(cluster: Cluster) -> None:
    graph = Graph()
    loud = graph.add(work.print_much, 100)
    quiet = [graph.add(work.identity, i) for i in range(100)]
    async with cluster.start(graph) as execution:
        results = await execution.results()
        lines = [line async for line in execution.logs(loud)]
    assert results[loud] == "printed"
    assert results[quiet] == list(range(100))
    assert lines[-1] == "the last line"
    assert any("lines dropped]" in line for line in lines)


async def test_row_22_writing_to_any_descriptor_harms_nobody(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(work.write_to_descriptors)
    quiet = [graph.add(work.identity, i) for i in range(100)]
    results = await cluster.execute(graph, on_failure="continue", retries=2)
    assert results[quiet] == list(range(100))


async def test_a_task_that_closes_its_standard_descriptors_harms_no_other_task(
    cluster: Cluster, tmp_path: Path
) -> None:
    for turn in range(2):
        graph = Graph()
        for _ in range(4):
            graph.add(deeds.close_standard_descriptors)
        await cluster.execute(graph)
        graph = Graph()
        outs = [graph.add(deeds.write_and_print, str(tmp_path / f"{turn}-{i}")) for i in range(8)]
        assert (await cluster.execute(graph))[outs] == [["data\n"] * 3] * 8


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can change its user")
async def test_a_task_that_changes_its_user_is_never_blamed_for_what_handout_cannot_do_then(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(deeds.change_the_user_and_return, 3)
    length = graph.add(len, out)
    results = await cluster.execute(graph, outputs=[out, length])
    assert (results[out], results[length]) == (bytes(3 << 20), 3 << 20)
    error = await fails(cluster, deeds.change_the_user_and_return, 20)
    assert isinstance(error, handout.errors.TaskError)
    assert "Its function did not fail" in str(error)
    assert "user and group" in str(error)
    await still_serves(cluster)


async def test_row_23_standard_input_is_empty(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(work.ask)
    assert (await cluster.execute(graph))[out] == "nobody there"


async def test_row_24_a_daemon_that_left_its_session_and_its_parents_does_not_either(
    cluster: Cluster, tmp_path: Path
) -> None:
    graph = Graph()
    path = tmp_path / "pid"
    out = graph.add(deeds.become_a_daemon, str(path))
    assert (await cluster.execute(graph))[out] == "left"
    assert gone(int(path.read_text()))


async def test_row_24_a_grandchild_does_not_outlive_its_task(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    path = tmp_path / "pid"
    out = graph.add(work.leave_a_grandchild, str(path))
    assert (await cluster.execute(graph))[out] == "left"
    assert gone(int(path.read_text()))
