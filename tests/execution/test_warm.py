"""Warm values: what a worker makes once and keeps between tasks, on local hosts and over a real sshd."""

from __future__ import annotations

import asyncio
import collections
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, Graph, GraphError, ResultError, TaskTimeoutError, Warm, later
from tests import work
from tests.execution.conftest import hosts
from tests.patience import HANG_S, stretched
from tests.seen import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Model:
    """A model, which counts its uses."""

    def __init__(self, weights: object) -> None:
        self.weights = weights
        self.uses = 0

    def use(self) -> tuple[int, int]:
        self.uses += 1
        return os.getpid(), self.uses


def load(log: Path, bits: int = 8) -> Model:
    """Make a model, and note in a file that this process has made it."""
    with log.open("a") as file:
        file.write(f"{os.getpid()} {bits}\n")
    return Model(bits)


def score(model: Model, x: int) -> tuple[int, int]:
    return model.use()


def weights_of(model: Model, *_: object) -> Any:
    return model.weights


#: Hosts import this module, too. There, handout is a stub.
OF_THIS_MODULE = Warm(load, Path("/dev/null"), 6)


@contextmanager
def opened(log: Path) -> Generator[Path]:
    with log.open("a") as file:
        file.write("entered\n")
    yield log
    with log.open("a") as file:
        file.write("left\n")


@asynccontextmanager
async def opened_in_loop(log: Path) -> AsyncGenerator[tuple[Path, asyncio.AbstractEventLoop, Any]]:
    await asyncio.sleep(0)
    with log.open("a") as file:
        file.write("entered\n")
    yield log, asyncio.get_running_loop(), asyncio.current_task()
    assert asyncio.current_task()
    with log.open("a") as file:
        file.write("left\n")


async def is_in_its_loop(held: tuple[Path, asyncio.AbstractEventLoop, Any], _: int) -> tuple[bool, int, int]:
    await asyncio.sleep(0)
    return held[1] is asyncio.get_running_loop(), os.getpid(), id(held)


async def connect(address: str) -> list[str]:
    await asyncio.sleep(0.01)
    return [address]


async def first_of(connection: list[str]) -> tuple[str, int]:
    return connection[0], id(connection)


def pairs(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()]


async def test_a_value_is_made_once_in_each_worker_for_several_runs(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    uses: dict[int, int] = {}
    for _ in range(3):
        graph = Graph()
        scores = graph.map(score, Warm(load, log), range(6), host="plain")
        for pid, use in (await cluster.execute(graph))[scores]:
            uses[pid] = max(uses.get(pid, 0), use)
    assert sum(uses.values()) == 18
    assert {int(pid) for pid, _ in pairs(log)} == uses.keys()
    assert len(pairs(log)) == len(uses) <= 2


async def test_calls_and_executors_take_it(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    call = handout.options(host="plain")(score)
    pool = cluster.executor(host="plain")
    found = [await cluster.call(call, Warm(load, log, 4), i) for i in range(4)]
    found += await asyncio.gather(*(asyncio.wrap_future(pool.submit(score, Warm(load, log, 4), i)) for i in range(4)))
    assert len(pairs(log)) == len({pid for pid, _ in found}) <= 2
    assert max(use for _, use in found) > 2


async def test_a_value_of_a_module_that_hosts_import(cluster: Cluster) -> None:
    assert await cluster.call(weights_of, OF_THIS_MODULE, 0) == 6


async def test_other_arguments_make_another_value(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = [await cluster.call(weights_of, Warm(load, log, bits), 0) for bits in (1, 2, 1)]
    assert one == [1, 2, 1]
    assert await cluster.call(weights_of, Warm(functools.partial(load, bits=3), log), 0) == 3


async def test_functions_and_classes_of_the_script_are_made_once_for_several_runs(cluster: Cluster) -> None:
    def make() -> list[int]:
        return []

    def grow(grown: list[int]) -> int:
        grown.append(1)
        return len(grown)

    class Maker:
        def __call__(self) -> list[int]:
            return []

    for maker in (make, Maker()):
        found = []
        for _ in range(6):
            graph = Graph()
            out = graph.add(grow, Warm(maker), host="plain")
            found.append((await cluster.execute(graph))[out])
        assert max(found) >= 3, "six runs on at most two workers"


async def test_it_stands_in_containers_partials_keywords_and_conversions(cluster: Cluster) -> None:
    graph = Graph()
    model = Warm(Model, 5)
    outs = [
        graph.add(lambda box: box["m"][1].weights, {"m": [1, later(model)]}),
        graph.add(functools.partial(weights_of, model), 1),
        graph.add(lambda x, m: m.weights + x, 1, m=later(model)),
        graph.add(work.identity, handout.Arg(model, load=lambda m: m.weights)),
        graph.add(work.identity, graph.add(weights_of, model, inline=True)),
        *graph.map(weights_of, model, [1, 2]),
    ]
    assert (await cluster.execute(graph))[outs] == [5, 5, 6, 5, 5, 5, 5]
    assert await cluster.call(lambda box: box[0].weights, [later(model)]) == 5


async def test_its_arguments_may_be_outputs_stored_objects_and_warm_values(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    weights = graph.add(work.identity, {"a": list(range(20_000)), "b": 2})
    model = Warm(Model, later(weights["a"]))
    outer = Warm(Model, later(model))
    lengths = [graph.add(lambda m: len(m.weights), model, host=host) for host in ("plain", "gpu")]
    nested = graph.add(lambda m: m.weights.weights[3], outer)
    both = graph.add(lambda a, b: a.weights is b, outer, model)
    found = await cluster.execute(graph)
    assert found[[*lengths, nested, both]] == [20_000, 20_000, 3, True]
    stored = await cluster.put([7, 8])
    other = await cluster.put(9)
    assert await cluster.call(weights_of, Warm(Model, later(stored)), later(other)) == [7, 8]
    assert await cluster.call(
        lambda n, m: (n, m.weights.weights), other, Warm(Model, Warm(Model, later(stored[1])))
    ) == (
        9,
        8,
    )


async def test_outputs_in_its_arguments_tell_values_apart(cluster: Cluster) -> None:
    graph = Graph()
    first, second = graph.add(work.identity, 1), graph.add(work.identity, 2)
    converted = handout.Arg(first, load=lambda x: x + 10)
    makers = [Warm(Model, later(each)) for each in (first, second, converted)]
    outs = [graph.add(weights_of, maker, host="plain") for maker in makers]
    assert (await cluster.execute(graph))[outs] == [1, 2, 11]
    other = Graph()
    out = other.add(weights_of, Warm(Model, later(other.add(work.identity, 3))), host="plain")
    assert (await cluster.execute(other))[out] == 3


async def test_a_large_argument_travels(cluster: Cluster) -> None:
    table = os.urandom(300_000)
    assert await cluster.call(lambda m: len(m.weights), Warm(Model, table)) == 300_000
    graph = Graph()
    outs = graph.map(lambda m, x: len(m.weights) + x, Warm(Model, table), range(2))
    assert (await cluster.execute(graph))[outs] == [300_000, 300_001]


async def test_a_context_manager_is_entered_and_left(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for launcher in ("local", "ssh"):
        log, log_in_loop = tmp_path / launcher, tmp_path / f"{launcher}-loop"
        async with Cluster(hosts(request, launcher)[:1]) as own:
            graph = Graph()
            taken = graph.add(lambda path: path.exists(), Warm(opened, log))
            held = graph.map(is_in_its_loop, Warm(opened_in_loop, log_in_loop), range(5), cost={"cpu": 0})
            found = await own.execute(graph)
            assert found[taken]
            assert len({pid for _, pid, _ in found[held]}) == len({number for _, _, number in found[held]}) == 1
            assert all(is_same for is_same, _, _ in found[held])
            assert log.read_text() == log_in_loop.read_text() == "entered\n"
        await until(lambda log=log: "left" in log.read_text())  # type: ignore[misc]
        await until(lambda log=log_in_loop: "left" in log.read_text())  # type: ignore[misc]


async def test_coroutines_in_workers_of_their_own_keep_one_loop(cluster: Cluster, tmp_path: Path) -> None:
    call = handout.options(host="plain", cost={"cpu": 1})(is_in_its_loop)
    found = [await cluster.call(call, Warm(opened_in_loop, tmp_path / "log"), i) for i in range(4)]
    assert all(is_same for is_same, _, _ in found)
    assert len({number for _, _, number in found}) == len({pid for _, pid, _ in found})


async def test_an_asynchronous_maker_serves_coroutines_that_begin_together(cluster: Cluster) -> None:
    graph = Graph()
    outs = graph.map(first_of, [Warm(connect, "db")] * 5, cost={"cpu": 0}, host="plain")
    found = (await cluster.execute(graph))[outs]
    assert {address for address, _ in found} == {"db"}
    assert len({number for _, number in found}) == 1


async def test_what_a_maker_changes_and_starts_stays(cluster: Cluster) -> None:
    def make() -> tuple[threading.Thread, subprocess.Popen[bytes], int]:
        os.environ["MADE"] = "yes"
        thread = threading.Thread(target=threading.Event().wait, daemon=True)
        thread.start()
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        return thread, process, os.open("/dev/null", os.O_RDONLY)

    def state(made: tuple[threading.Thread, subprocess.Popen[bytes], int]) -> tuple[int, bool, bool, str]:
        thread, process, descriptor = made
        os.fstat(descriptor)
        return os.getpid(), thread.is_alive(), process.poll() is None, os.environ["MADE"]

    pool = cluster.executor(host="gpu", cost={"cpu": 2})  # one worker at a time
    found = [await asyncio.wrap_future(pool.submit(state, Warm(make))) for _ in range(3)]
    assert found == [(found[0][0], True, True, "yes")] * 3


async def test_a_warm_value_is_no_result(cluster: Cluster) -> None:
    for fn in (work.identity, lambda m: {"inside": [m]}):
        with pytest.raises(ResultError, match=r"warm value, which stays in the worker"):
            await cluster.call(fn, Warm(Model, 1))
    with pytest.raises(ResultError, match=r"result \(dict\).*warm value"):
        await cluster.call(work.identity, Warm(dict, a=1))
    with pytest.raises(
        ResultError, match=r"result\['inside'\]\[0\] \(dict\).*made it\. Return what the.*with it\.(\n|$)"
    ):
        await cluster.call(lambda m: {"inside": [m]}, Warm(dict, a=1))
    with pytest.raises(ResultError, match=r"result \(collections.deque\).*warm value"):  # what it holds is not to blame
        await cluster.call(work.identity, Warm(lambda: collections.deque([threading.Lock()])))
    assert await cluster.call(work.identity, Warm(int, "5")) == 5


async def test_what_the_maker_raises_fails_the_task(cluster: Cluster, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("no model here")

    async def fail_in_loop() -> None:
        raise OSError("no model here")

    async def take(value: object) -> None: ...

    for warm, fn in ((Warm(fail), weights_of), (Warm(fail_in_loop), take), (Warm(str, Warm(fail)), weights_of)):
        with pytest.raises(OSError, match="no model here") as caught:
            await cluster.call(fn, warm)
        notes = "\n".join(caught.value.__notes__)
        assert "was made, which the task takes" in notes
        assert 'File "handout/' not in notes


def raised_by(results: handout.Results, out: Any) -> handout.TaskError:
    with pytest.raises(handout.TaskError) as caught:
        results[out]
    return caught.value


async def test_a_host_whose_workers_die_while_they_make_a_value_is_not_tried_by_each_task(
    cluster: Cluster, tmp_path: Path
) -> None:
    def die(log: Path) -> None:
        with log.open("a") as file:
            file.write("x")
        os._exit(3)

    def take(value: object, _: int) -> None: ...

    log, graph = tmp_path / "log", Graph()
    # A task that is not idempotent is not handed over before the one before it has ended.
    outs = graph.map(take, Warm(die, log), range(20), host="plain", cost={"cpu": 2}, idempotent=False)
    results = await cluster.execute(graph, on_failure="continue")
    assert len(log.read_text()) == 3
    errors = [raised_by(results, out) for out in outs]
    died = [str(error) for error in errors if isinstance(error, handout.WorkerDiedError)]
    assert died
    assert all("died while it made a warm value for the task" in error for error in died)
    assert all("could not be made on any host" in str(e) for e in errors if not isinstance(e, handout.WorkerDiedError))


async def test_a_plain_function_cannot_take_what_a_loop_makes(cluster: Cluster) -> None:
    for warm in (Warm(connect, "db"), Warm(opened_in_loop, Path("x")), Warm(Model, Warm(connect, "db"))):
        with pytest.raises(GraphError, match=r"'weights_of' takes Warm\(\w+\), which is made in an event loop"):
            await cluster.call(weights_of, warm)


async def test_a_worker_stays_with_its_gpu_until_another_task_wants_it(cluster: Cluster, tmp_path: Path) -> None:
    def use(held: Any, x: int) -> tuple[int, str]:
        return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]

    call = handout.options(cost={"gpu": 1, "cpu": 1, "gpu_memory": "1 GB"})(use)
    logs = [tmp_path / name for name in ("one", "two", "three")]
    one, two, three = (Warm(opened, log) for log in logs)
    first = await cluster.call(call, one, 1)
    second = await cluster.call(call, two, 1)
    assert first[1] != second[1]
    for _ in range(3):
        assert await cluster.call(call, one, 1) == first
    third = await cluster.call(call, three, 1)
    assert third[1] == second[1], "the value that was used least recently goes"
    await until(lambda: "left" in logs[1].read_text())
    assert await cluster.call(call, one, 1) == first
    assert [log.read_text() for log in logs] == ["entered\n", "entered\nleft\n", "entered\n"]
    whole = handout.options(cost={"gpu": 2, "cpu": 1})(os.getpid)
    assert await cluster.call(whole) not in (first[0], third[0])
    await until(lambda: all("left" in log.read_text() for log in logs))


async def test_memory_that_idle_values_hold_goes_to_other_tasks(cluster: Cluster, tmp_path: Path) -> None:
    call = handout.options(cost={"memory": "3 GB", "cpu": 1}, host="gpu")(is_there)
    log = tmp_path / "log"
    assert await cluster.call(call, Warm(opened, log), 0)
    small = handout.options(cost={"memory": "1 GB", "cpu": 2}, host="gpu")(os.getpid)
    await cluster.call(small)
    assert log.read_text() == "entered\n", "3 + 1 GB fit, and the idle process needs no processor"
    large = handout.options(cost={"memory": "2 GB"}, host="gpu")(os.getpid)
    await cluster.call(large)
    await until(lambda: "left" in log.read_text())


def is_there(path: Path, _: int) -> bool:
    return path.exists()


async def test_making_a_value_counts_for_its_own_timeout(cluster: Cluster) -> None:
    def slow(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    async def slow_in_loop(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    limit_s = stretched(0.5)
    longer_s = limit_s + 0.5

    @handout.options(timeout_s=limit_s, host="plain")
    def quick(made: float) -> float:
        return made

    @handout.options(timeout_s=limit_s, host="plain", cost={"cpu": 0})
    async def in_loop(made: float, more: int) -> float:
        return made + more

    assert await cluster.call(quick, Warm(slow, longer_s)) == longer_s
    with pytest.raises(TaskTimeoutError, match=r"making a warm value for it took over its limit of 0\.2 s"):
        await cluster.call(work.identity, Warm(handout.options(timeout_s=0.2)(slow), 60.0))
    assert await cluster.call(in_loop, Warm(slow_in_loop, longer_s), 1) == longer_s + 1
    with pytest.raises(TaskTimeoutError, match=r"making a warm value for it took over its limit of 0\.2 s"):
        await cluster.call(in_loop, Warm(handout.options(timeout_s=0.2)(slow_in_loop), 60.0), 1)


class SlowToRead:
    """Takes longer to be unpickled than the agent waits between two looks at a task."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (0.15,)


async def test_arguments_that_are_read_after_a_value_was_made_have_all_of_the_timeout(cluster: Cluster) -> None:
    limit_s = stretched(1.0)

    @handout.options(timeout_s=limit_s, host="plain")
    def quick(made: object, _: object) -> str:
        return "done"

    assert await cluster.call(quick, Warm(time.sleep, 1.2 * limit_s), SlowToRead()) == "done"


async def test_values_of_a_run_go_with_its_objects_and_others_stay(cluster: Cluster, tmp_path: Path) -> None:
    @contextmanager
    def opened_with(log: Path, weights: int) -> Generator[Path]:
        yield log
        with log.open("a") as file:
            file.write(f"left {weights}\n")

    def is_there(path: Path, lasting: Path, _: int) -> tuple[bool, int]:
        return path.exists(), os.getpid()

    log, lasting = tmp_path / "log", tmp_path / "lasting"
    for cost in ({"cpu": 2}, {"cpu": 0}):
        log.write_text("")
        lasting.write_text("")
        pids = set()
        for number in range(3):
            graph = Graph()
            made = Warm(opened_with, log, later(graph.add(work.identity, number)))
            out = graph.add(is_there, made, Warm(opened, lasting), 0, host="plain", cost=cost)
            pids.add((await cluster.execute(graph))[out])
        await until(lambda: log.read_text().splitlines() == ["left 0", "left 1", "left 2"])
        assert len(pids) == 1
        assert lasting.read_text() == "entered\n"


async def test_a_task_does_not_wait_for_a_context_manager_that_is_never_left(request: pytest.FixtureRequest) -> None:
    @contextmanager
    def stuck(_: int) -> Generator[int]:
        yield os.getpid()
        threading.Event().wait()

    async with Cluster(hosts(request, "local")[:1]) as own:
        lasting = Warm(os.getpid)
        graph = Graph()
        out = graph.add(lambda made, pid: (made, pid), Warm(stuck, later(graph.add(work.identity, 1))), lasting)
        made, pid = (await own.execute(graph))[out]
        assert made == pid
        async with asyncio.timeout(HANG_S):
            assert await own.call(work.identity, lasting) != pid


async def test_a_warm_value_of_a_warm_value_outlives_its_run(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for _ in range(3):
        graph = Graph()
        out = graph.add(inner_weights, Warm(Model, later(Warm(load, log, 5))), host="plain", cost={"cpu": 2})
        assert (await cluster.execute(graph))[out] == 5
    assert len(pairs(log)) == 1


def inner_weights(outer: Model) -> Any:
    return weights_of(weights_of(outer))


async def test_a_value_stays_when_a_task_fails(cluster: Cluster, tmp_path: Path) -> None:
    def read(model: Model, path: Path) -> str:
        return path.read_text()

    log = tmp_path / "log"
    call = handout.options(host="plain", cost={"cpu": 2})(read)
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            await cluster.call(call, Warm(load, log), tmp_path / "missing")
    assert len(pairs(log)) == 1


async def test_after_three_failures_the_value_is_made_on_another_host(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def only_on(host: str) -> str:
        with log.open("a") as file:
            file.write(f"{handout.current().host}\n")
        if handout.current().host != host:
            raise OSError(f"no model on {handout.current().host}")
        return host

    graph = Graph()
    outs = graph.map(work.identity, [Warm(only_on, "gpu")] * 12, retries=3, cost={"cpu": 1})
    assert (await cluster.execute(graph))[outs] == ["gpu"] * 12
    log.unlink()
    nowhere = Graph()
    outs = nowhere.map(work.identity, [Warm(only_on, "nowhere")] * 12, cost={"cpu": 1})
    results = await cluster.execute(nowhere, on_failure="continue", max_concurrency=1)
    assert len(results.failures) == 12
    said = [str(failure.exception) for failure in results.failures.values()]
    assert log.read_text().split().count("plain") == log.read_text().split().count("gpu") == 3
    assert sum("could not be made on any host that can run the task" in each for each in said) == 6
    assert any("no model on" in each for each in said)


async def test_a_call_that_is_cancelled_or_whose_worker_dies_while_its_value_is_made(
    cluster: Cluster, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    def begun() -> list[int]:
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    def slow(hangs: int, turn: int) -> int:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(log.read_text().split()) <= hangs:
            threading.Event().wait()
        return hangs

    async def slow_in_loop(hangs: int, turn: int) -> int:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(log.read_text().split()) <= hangs:
            await asyncio.sleep(1000)
        return hangs

    async def same(value: int) -> int:
        return value

    in_loop = handout.options(cost={"cpu": 0})(same)
    for turn, (call, make) in enumerate(((same, slow), (in_loop, slow), (in_loop, slow_in_loop))):
        log.unlink(missing_ok=True)
        maker = functools.partial(make, turn=turn)  # not a value of an earlier turn
        warm = Warm(maker, 1)
        first = asyncio.ensure_future(cluster.call(call, warm))
        await until(begun)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await cluster.call(call, warm) == 1
        assert len(begun()) == 2
        log.unlink()
        dying = asyncio.ensure_future(cluster.call(call, Warm(maker, 2)))
        for count in (1, 2):
            await until(lambda count=count: len(begun()) == count)  # type: ignore[misc]
            os.kill(begun()[-1], signal.SIGKILL)
        assert await dying == 2


async def test_a_journal_knows_tasks_by_what_makes_their_values(cluster: Cluster, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def use(model: Model, x: int) -> Any:
        with ran.open("a") as file:
            file.write(f"{x}\n")
        return model.weights

    def graph_with(weights: int) -> tuple[Graph, list[handout.Output[Any]]]:
        graph = Graph()
        made = graph.add(work.identity, weights)
        return graph, [graph.add(use, Warm(Model, 1), 0), graph.add(use, Warm(Model, later(made)), 1)]

    for weights, runs in ((1, "0\n1\n"), (1, ""), (2, "1\n")):
        ran.write_text("")
        graph, outs = graph_with(weights)
        assert (await cluster.execute(graph, journal=tmp_path / "run.db"))[outs] == [1, weights]
        assert "".join(sorted(ran.read_text().splitlines(keepends=True))) == runs
    ran.write_text("")
    graph, outs = graph_with(3)
    results = await cluster.execute(graph)
    again, outs = graph_with(4)
    assert (await cluster.execute(again, given=results))[outs] == [1, 4]
    assert sorted(ran.read_text().split()) == ["0", "1", "1"]


async def test_a_value_that_cannot_be_a_key_is_an_error_of_the_caller(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(work.identity, {graph.add(work.identity, [1]): 2}, retries=0)
    for told in (cluster.call(work.identity, {Warm(dict)}), cluster.execute(graph)):
        with pytest.raises(TypeError, match=r"unhashable type: .*Pass it in a list") as caught:
            await told
        assert "attempt 1 of 1" in "".join(caught.value.__notes__)
