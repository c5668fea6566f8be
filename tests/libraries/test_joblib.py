"""`handout.joblib.Backend` on local hosts and over a real sshd. `test_joblib_referee` has joblib's own tests."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from multiprocessing import TimeoutError as JoblibTimeoutError
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, GraphError, HandoutError, Host, HostError, UnserializableError
from handout.execution.membership.agent_proxy import AgentProxy
from handout.protocol import numbering
from tests import work
from tests.patience import HANG_S
from tests.seen import agent_pid, started

joblib = pytest.importorskip("joblib", reason="joblib is not installed: pip install -e '.[libraries]'")
from joblib import Parallel, delayed  # noqa: E402

from handout.joblib import Backend  # noqa: E402


@pytest.fixture
def backend(opened: Cluster) -> Iterator[Backend]:
    """Let joblib use the hosts, and check that its calls leave no thread and no task."""
    made, threads = Backend(opened), threading.active_count()
    with joblib.parallel_config(backend=made):
        yield made
    wait_until(lambda: not opened.runs and threading.active_count() <= threads)


def wait_until(condition: Any) -> None:
    for _ in range(int(HANG_S / 0.005)):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("this has not come true")


def where() -> str:
    return handout.current().host


def wait_for(path: str, began: str = "") -> bool:
    if began:
        Path(began, handout.current().id).touch()
    wait_until(Path(path).exists)
    return True


def hang(began: str = "") -> None:
    """Run until the worker is ended."""
    if began:
        Path(began, str(os.getpid())).touch()
    time.sleep(HANG_S)


def test_results_are_in_the_order_of_the_calls_and_all_hosts_take_part(backend: Backend) -> None:
    assert Parallel()(delayed(pow)(2, n) for n in range(300)) == [2**n for n in range(300)]
    assert Parallel()(delayed(work.greet)("you", greeting=text) for text in ("hello", "bye")) == [
        "hello you",
        "bye you",
    ]
    factor = 3
    assert Parallel(n_jobs=2)(delayed(lambda n: n * factor)(n) for n in range(5)) == [0, 3, 6, 9, 12]
    assert Parallel()([]) == []


def test_each_host_runs_calls_and_a_batch_is_one_task(backend: Backend, tmp_path: Path) -> None:
    """Each call waits until the batches of both hosts have begun, so both hosts must run some."""
    ids = Parallel(batch_size=3, pre_dispatch="all")(delayed(work.meet_on_both_hosts)(str(tmp_path)) for _ in range(12))
    assert {host for host, _ in ids} == {"plain", "gpu"}
    assert set(Counter(id for _, id in ids).values()) == {3}
    assert all(id.startswith("meet_on_both_hosts[") for _, id in ids)


def test_all_slots_that_fit_the_cost_are_jobs(opened: Cluster) -> None:
    assert [Backend(opened).effective_n_jobs(n) for n in (-1, None, -2, -99, 1, 3, 64)] == [4, 4, 3, 2, 1, 3, 64]
    assert Backend(opened, cost={"cpu": 2}).effective_n_jobs(-1) == 2
    assert Backend(opened, cost={"cpu": 0, "gpu": 1}).effective_n_jobs(-1) == 2
    # joblib would call the functions in this program if it were told of one job.
    assert Backend(opened, cost={"cpu": 99}).effective_n_jobs(-1) == 2
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Backend(opened).effective_n_jobs(0)


def test_hosts_get_no_more_batches_at_one_time_than_jobs_were_asked_for(
    backend: Backend, opened: Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    calls = [delayed(wait_for)(str(go), str(tmp_path)) for _ in range(12)]
    found = Parallel(n_jobs=2, batch_size=1, pre_dispatch="all", return_as="generator")(calls)
    wait_until(lambda: len(os.listdir(tmp_path)) == 2)
    assert [run.unfinished for run in opened.runs] == [2]
    go.touch()
    assert list(found) == [True] * 12


def test_one_job_runs_in_this_program_as_joblib_says(backend: Backend) -> None:
    assert Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2
    assert os.getpid() not in Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(2))


def test_options_are_those_of_the_backend_and_a_function_may_have_its_own(opened: Cluster) -> None:
    with joblib.parallel_config(backend=Backend(opened, host="gpu")):
        assert Parallel()(delayed(where)() for _ in range(4)) == ["gpu"] * 4
        own = handout.options(host="plain")(lambda: where())
        assert Parallel()(delayed(own)() for _ in range(4)) == ["plain"] * 4
        with pytest.raises(GraphError, match="different options"):
            Parallel(batch_size=2)(delayed(each)() for each in [where, own] * 4)
    with pytest.raises(GraphError, match="retires"):
        Backend(opened, retires=2)  # type: ignore[call-arg]
    with pytest.raises(GraphError, match="for graphs"):
        Backend(opened, inline=True)
    with pytest.raises(HandoutError, match=r"open Cluster, and got a list\. Write `with Cluster"):
        Backend(["node1"])  # type: ignore[arg-type]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the large objects that each host gets."""
    counted: Counter[str] = Counter()
    put = AgentProxy.put

    def counting(self: AgentProxy, key: int, *args: Any) -> Any:
        counted[self.name] += key >= numbering.base(1)  # the keys of bundles are lower
        return put(self, key, *args)

    monkeypatch.setattr(AgentProxy, "put", counting)
    return counted


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_large_argument_travels_once_to_each_host(backend: Backend, copies: Counter[str], batch_size: int) -> None:
    """Between two batches there are moments at which no batch takes the argument."""
    rows = list(range(50_000))
    found = Parallel(n_jobs=2, batch_size=batch_size)(delayed(pick)(rows, place=n) for n in range(60))
    assert found == list(range(60))
    assert set(copies) <= {"plain", "gpu"}
    assert max(copies.values()) == 1


def pick(rows: Any, place: int) -> int:
    return int(rows[place])


def test_a_large_argument_leaves_the_hosts_with_the_call(backend: Backend, opened: Cluster) -> None:
    rows = list(range(50_000))
    Parallel()(delayed(pick)(rows, n) for n in range(60))
    world = opened._runtime.driver.core.world
    wait_until(lambda: not any(len(r) > 1 for run in world.runs.values() for r in run.objects.replicas))
    assert not any(run.objects for run in opened._runtime.driver.runs.values())


def test_an_argument_that_changes_between_two_calls_has_its_present_content(backend: Backend) -> None:
    """A backend that goes by the identity of an argument alone would give the first content to all calls.

    joblib takes as many calls at a time as it has jobs, and only then gives them to the backend.
    """
    buffer = bytearray(100_000)

    def refilled() -> Iterator[Any]:
        for n in range(20):
            buffer[:] = bytes([n // 2]) * len(buffer)
            yield delayed(pick)(buffer, n)

    assert Parallel(n_jobs=2, batch_size=1)(refilled()) == [n // 2 for n in range(20)]


def test_large_arguments_that_only_one_call_takes_do_not_pile_up(backend: Backend) -> None:
    def rows() -> Iterator[Any]:
        for n in range(30):
            yield delayed(len)(Rows([n] * 50_000))

    class Rows(list[int]):
        alive = 0

        def __init__(self, numbers: list[int]) -> None:
            super().__init__(numbers)
            Rows.alive += 1
            peak.append(Rows.alive)

        def __del__(self) -> None:
            Rows.alive -= 1

        def __reduce__(self) -> Any:
            return list, (), None, iter(self)

    peak: list[int] = []
    assert Parallel(n_jobs=2, batch_size=1)(rows()) == [50_000] * 30
    assert max(peak) < 12


def test_an_exception_ends_the_call_and_the_tasks_that_run(backend: Backend, opened: Cluster, tmp_path: Path) -> None:
    calls = [delayed(hang)(str(tmp_path)), delayed(divide_after)(str(tmp_path)), delayed(hang)(), delayed(hang)()]
    with pytest.raises(ZeroDivisionError) as caught:
        Parallel(batch_size=1)(calls)
    assert any("on host" in note for note in caught.value.__notes__)
    assert Parallel()(delayed(abs)(-n) for n in range(9)) == list(range(9))


def divide_after(folder: str) -> float:
    wait_until(lambda: os.listdir(folder))
    return 1 / 0


def test_a_managed_parallel_goes_on_after_an_exception(backend: Backend) -> None:
    with Parallel(n_jobs=2) as parallel:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                parallel(delayed(divmod)(1, n) for n in (1, 0, 1, 1))
            assert parallel(delayed(abs)(-n) for n in range(9)) == list(range(9))


def test_what_cannot_be_sent_is_told_by_its_path(backend: Backend) -> None:
    for lock in ([threading.Lock()], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, threading.Lock()]):
        with pytest.raises(UnserializableError, match=r"'identity'.* because args\[0\] \(_thread\.lock\)"):
            Parallel(n_jobs=2, batch_size=1)(delayed(work.identity)(each) for each in lock)
    with pytest.raises(UnserializableError, match=r"'identity'.* because args\[0\]\['a'\] \(_thread\.lock\)"):
        Parallel(n_jobs=2, batch_size=3)(delayed(work.identity)(each) for each in (1, 2, {"a": threading.Lock()}))


def test_a_timeout_ends_the_call(backend: Backend) -> None:
    with pytest.raises(JoblibTimeoutError):
        Parallel(timeout=0.05)(delayed(hang)() for _ in range(3))
    with pytest.raises(JoblibTimeoutError):
        list(Parallel(timeout=0.05, return_as="generator_unordered")(delayed(hang)() for _ in range(3)))


def test_results_come_one_after_another(backend: Backend, tmp_path: Path) -> None:
    go = tmp_path / "go"
    calls = [delayed(wait_for)(str(go)), delayed(abs)(-1), delayed(abs)(-2)]
    found = Parallel(batch_size=1, return_as="generator_unordered")(calls)
    assert {next(found), next(found)} == {1, 2}
    go.touch()
    assert list(found) == [True]
    assert list(Parallel(return_as="generator")(delayed(abs)(-n) for n in range(50))) == list(range(50))


def test_results_that_are_not_wanted_any_more_end_the_tasks(backend: Backend) -> None:
    found = Parallel(batch_size=1, return_as="generator")(delayed(each)() for each in (where, hang, hang, hang))
    assert next(found) in ("plain", "gpu")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del found
        gc.collect()
    assert any("cancelled" in str(each.message) for each in told)


def test_two_calls_can_use_one_backend_at_the_same_time(backend: Backend) -> None:
    first = Parallel(return_as="generator")(delayed(abs)(-n) for n in range(50))
    second = Parallel(return_as="generator")(delayed(pow)(n, 2) for n in range(50))
    assert list(zip(second, first, strict=True)) == [(n * n, n) for n in range(50)]


def test_functions_that_use_joblib_themselves_call_one_after_another(backend: Backend) -> None:
    for pid, inner, kind in Parallel()(delayed(nested)() for _ in range(4)):
        assert kind == "SequentialBackend"
        assert inner == [pid] * 3


def nested() -> tuple[int, list[int], str]:
    parallel = Parallel(n_jobs=2)
    return os.getpid(), parallel(delayed(os.getpid)() for _ in range(3)), type(parallel._backend).__name__


def test_the_iterable_may_use_the_cluster_and_the_event_loop_goes_on(backend: Backend, opened: Cluster) -> None:
    """joblib asks for further calls in a callback. In the event loop of the cluster, this callback would wait for ever."""

    def calls() -> Iterator[Any]:
        pool = opened.executor()
        for n in range(30):
            yield delayed(abs)(pool.submit(abs, -n).result(HANG_S))

    assert Parallel()(calls()) == list(range(30))


@pytest.mark.parametrize("error", [KeyError, SystemExit])
def test_what_the_iterable_raises_ends_the_call(backend: Backend, error: type[BaseException]) -> None:
    def calls(count: int) -> Iterator[Any]:
        for n in range(count):
            yield delayed(abs)(n)
        raise error("no more")

    for count in (0, 30):
        with pytest.raises(error, match="no more"):
            Parallel()(calls(count))


def test_settings_for_processes_of_this_machine_are_refused(backend: Backend) -> None:
    with pytest.raises(HandoutError, match="initializer"):
        Parallel(n_jobs=2, initializer=print)(delayed(abs)(n) for n in range(3))
    assert Parallel(n_jobs=2, max_nbytes=None, temp_folder="no/such")(delayed(abs)(n) for n in range(3)) == [0, 1, 2]


def test_a_closed_cluster_ends_the_call() -> None:
    with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        backend = Backend(cluster)
        found = Parallel(backend=backend, batch_size=1, return_as="generator")(
            delayed(each)() for each in (where, hang)
        )
        assert next(found) == "here"
    with pytest.raises(BrokenExecutor, match="closed"):
        next(found)
    with pytest.raises(HostError, match="not open"):
        Parallel(backend=backend)(delayed(abs)(n) for n in range(3))
    with pytest.raises(HostError, match="not open"):
        Backend(cluster)


async def test_a_cluster_of_async_code_is_used_from_another_thread() -> None:
    def powers() -> Any:
        return Parallel(backend=backend)(delayed(pow)(2, n) for n in range(20))

    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        backend = Backend(cluster)
        with pytest.raises(HandoutError, match=r"asyncio\.to_thread"):
            powers()
        assert await asyncio.to_thread(powers) == [2**n for n in range(20)]


def test_a_lost_host_costs_no_call(tmp_path: Path) -> None:
    """The other host gets the large argument, if it does not have it."""
    go, rows = tmp_path / "go", list(range(50_000))
    with Cluster([Host.local(name, {"cpu": 1}) for name in ("one", "two")], require="all") as cluster:
        calls = [delayed(pick_after)(str(go), str(tmp_path), rows, n) for n in range(8)]
        found = Parallel(backend=Backend(cluster), batch_size=1, return_as="generator")(calls)
        wait_until(lambda: len(os.listdir(tmp_path)) == 2)
        os.kill(agent_pid(started(cluster, "two")), signal.SIGKILL)
        go.touch()
        assert list(found) == list(range(8))


def pick_after(path: str, began: str, rows: Any, place: int) -> int:
    wait_for(path, began)
    return pick(rows, place)


def test_without_joblib_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['joblib'] = None\ntry: import handout.joblib\nexcept ImportError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("Install it: pip install joblib")


SCRIPT = """
import handout, handout.joblib, joblib

class Point:
    def __init__(self, x): self.x = x

def shifted(point, by=1): return Point(point.x + by)

if __name__ == "__main__":
    with handout.Cluster([handout.Host.local("here", {"cpu": 2})]) as cluster:
        with joblib.parallel_config(backend=handout.joblib.Backend(cluster)):
            points = joblib.Parallel()(joblib.delayed(shifted)(Point(n), by=2) for n in range(5))
            assert all(type(each) is Point for each in points)
            print([each.x for each in points])
            many = [Point(n) for n in range(20_000)]
            print(joblib.Parallel(batch_size=1)(joblib.delayed(lambda all, n: all[n].x)(many, n) for n in range(5)))
"""


def test_functions_and_classes_of_a_script_work(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[2, 3, 4, 5, 6]", "[0, 1, 2, 3, 4]"]
