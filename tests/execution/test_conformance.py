"""Tests that every launcher must pass. Each test runs on local hosts, and on hosts that a real sshd serves."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, Graph, Output
from tests import work
from tests.seen import gone, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_one_function_gives_one_result(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(work.add, 1, 2)
    results = await cluster.execute(graph)
    assert results[out] == 3
    assert results.allocations[out] in ("plain", "gpu")


async def test_all_workers_hash_alike_on_all_hosts(cluster: Cluster) -> None:
    graph = Graph()
    outs = [graph.add(hash, "text", host=host) for host in ("plain", "gpu") * 4]
    order = graph.add(work.run_elsewhere, "print(hash('text'))")
    results = await cluster.execute(graph)
    assert len({*results[outs], int(results[order])}) == 1


async def test_an_empty_graph_has_no_results(cluster: Cluster) -> None:
    assert len(await cluster.execute(Graph())) == 0


async def test_a_chain_a_fan_out_and_a_fan_in(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(work.identity, 1)
    for _ in range(20):
        out = graph.add(work.add, out, 1)
    parts = graph.map(work.add, [out] * 30, range(30))
    total = graph.add(work.total, parts)
    results = await cluster.execute(graph)
    assert results[total] == 21 * 30 + sum(range(30))


async def test_outputs_are_found_in_lists_tuples_dicts_and_keywords(cluster: Cluster) -> None:
    graph = Graph()
    one, two = graph.add(work.identity, 1), graph.add(work.identity, 2)
    nested = graph.add(work.identity, {"a": [one, (two, {"b": one})], "c": 3})
    named = graph.add(work.greet, "you", greeting=graph.add(work.identity, "goodbye"))
    results = await cluster.execute(graph)
    assert results[nested] == {"a": [1, (2, {"b": 1})], "c": 3}
    assert results[named] == "goodbye you"


async def test_an_element_of_a_result_travels_alone(cluster: Cluster) -> None:
    graph = Graph()
    made = graph.add(work.model, host="plain")
    first = graph.add(work.identity, made["weights"][0], host="gpu")
    async with cluster.start(graph, outputs=[first, made["score"]]) as execution:
        results = await execution.results()
    assert results[first] == 1
    assert results[made["score"]] == 0.5


async def test_coroutine_functions_run(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(work.later_add, graph.add(work.later_add, 1, 2), 3)
    assert (await cluster.execute(graph))[out] == 6


async def test_coroutines_that_cost_no_cpu_share_one_worker(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    names = [f"c{i}" for i in range(12)]
    others = names[1:] + names[:1]
    outs = graph.map(
        work.wait_for_company, [str(tmp_path)] * 12, names, others, cost={"cpu_intensive": False}, host="plain"
    )
    assert (await cluster.execute(graph))[outs] == [True] * 12


async def test_lambdas_closures_and_local_classes_travel_by_value(cluster: Cluster) -> None:
    offset = 10

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    graph = Graph()
    made = graph.add(lambda x: Local(x + offset), 1)
    read = graph.add(lambda made: made.x, made)
    results = await cluster.execute(graph, outputs=[made, read])
    assert results[read] == 11
    assert isinstance(results[made], Local)


async def test_a_large_argument_reaches_every_task_and_is_sent_once_a_host(cluster: Cluster) -> None:
    data = os.urandom(1 << 20)
    graph = Graph()
    outs = [graph.add(work.length, data, host=("plain", "gpu")[i % 2]) for i in range(10)]
    results = await cluster.execute(graph)
    assert results[outs] == [1 << 20] * 10


async def test_arguments_are_snapshotted_when_the_run_starts(cluster: Cluster) -> None:
    numbers = [1, 2, 3]
    graph = Graph()
    out = graph.add(work.total, numbers)
    async with cluster.start(graph) as execution:
        numbers.append(100)
        assert (await execution.results())[out] == 6


async def test_a_folder_travels_to_a_host_and_back(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for name in (".hidden", "a.csv", "deep/b.csv"):
        (tmp_path / "data" / name).write_text(name)
    graph = Graph()
    folder = handout.File(tmp_path / "data")
    made = graph.add(work.with_one_more, folder, host="plain")
    moved = graph.add(work.names_below, made, host="gpu")
    results = await cluster.execute(graph, outputs=[made, moved])
    names, where = results[moved]
    assert names == [".hidden", "a.csv", "deep", "deep/b.csv", "more"]
    assert Path(results[made].path, "deep", "b.csv").read_text() == "deep/b.csv"
    assert Path(results[made].path, "more").read_text() == "'data'"
    assert not (tmp_path / "data" / "more").exists()
    await until(lambda: not os.path.exists(where))  # it was in the scratch folder of its task


async def test_a_file_of_the_controller_that_does_not_exist_is_refused_before_the_run(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(work.names_below, handout.File("no-such-file.csv"))
    with pytest.raises(
        handout.UnserializableError, match=r"no file or folder 'no-such-file\.csv' in the current folder"
    ):
        await cluster.execute(graph)


async def test_a_file_that_a_task_returns_and_has_not_written_is_told(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(work.file_that_is_not_there)
    with pytest.raises(handout.ResultError, match=r"no file or folder '/nowhere/x'.*Return the File of a file"):
        await cluster.execute(graph)


async def test_writing_to_an_argument_changes_nobody_elses(cluster: Cluster) -> None:
    numpy = pytest.importorskip("numpy")
    graph = Graph()
    array = graph.value(numpy.arange(100_000))
    outs = [graph.add(work.change_in_place, array) for _ in range(6)]
    first = graph.add(lambda a: int(a[0]), array)
    results = await cluster.execute(graph)
    assert results[outs] == [1] * 6
    assert results[first] == 0


async def test_data_moves_between_hosts(cluster: Cluster) -> None:
    graph = Graph()
    made = graph.add(work.blob, 3 << 20, host="plain")
    moved = graph.add(work.length, made, host="gpu")
    back = graph.add(work.length, graph.add(work.identity, made, host="gpu"), host="plain")
    results = await cluster.execute(graph)
    assert results[moved] == results[back] == 3 << 20
    assert results.allocations[made] == "plain"
    assert results.allocations[moved] == "gpu"


async def test_a_large_result_comes_back(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(work.blob, 20 << 20)
    assert (await cluster.execute(graph))[out] == bytes(20 << 20)


async def test_costs_decide_where_a_function_may_run(cluster: Cluster) -> None:
    graph = Graph()
    gpu = graph.add(work.where, cost={"gpu_memory": "1 GB", "has_cuda": True})
    big = graph.add(work.where, cost={"memory": "6 GB"})
    results = await cluster.execute(graph)
    assert results[gpu][0] == "gpu"
    assert results[big][0] == "plain"


async def test_a_cost_that_nobody_covers_is_refused_before_anything_runs(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.mark_and_return, str(tmp_path / "ran"), 1)
    graph.add(work.identity, 1, cost={"memory": "64 GB"}, id="huge")
    with pytest.raises(handout.PlacementError, match=r"huge.*memory") as caught:
        await cluster.execute(graph)
    assert "plain" in str(caught.value)
    assert "gpu" in str(caught.value)
    assert not (tmp_path / "ran").exists()


async def test_a_gpu_task_sees_its_own_devices_and_others_see_none(cluster: Cluster) -> None:
    graph = Graph()
    both = graph.add(work.environment, "CUDA_VISIBLE_DEVICES", cost={"gpu": 2})
    none = graph.add(work.environment, "CUDA_VISIBLE_DEVICES", host="gpu")
    results = await cluster.execute(graph)
    assert results[both] == "0,1"
    assert results[none] == ""


async def test_thread_variables_follow_the_cpu_cost(cluster: Cluster) -> None:
    graph = Graph()
    one = graph.add(work.environment, "OMP_NUM_THREADS")
    two = graph.add(work.environment, "OMP_NUM_THREADS", cost={"cpu": 2})
    results = await cluster.execute(graph)
    assert (results[one], results[two]) == ("1", "2")


async def test_collocated_functions_share_a_host(cluster: Cluster) -> None:
    graph = Graph()
    anchors = [graph.add(work.where, host=name) for name in ("plain", "gpu")]
    near = [graph.add(work.where, collocate_with=anchor) for anchor in anchors]
    results = await cluster.execute(graph, outputs=[*anchors, *near])
    assert [r[0] for r in results[near]] == ["plain", "gpu"]


async def test_an_inline_function_runs_inside_its_consumer(cluster: Cluster) -> None:
    graph = Graph()
    inside = graph.add(os.getpid, inline=True)
    outside = graph.add(lambda pid: (pid, os.getpid()), inside)
    pid, own = (await cluster.execute(graph))[outside]
    assert pid == own != os.getpid()


async def test_the_explicit_form_means_the_same(cluster: Cluster) -> None:
    graph = Graph(
        [
            handout.function("load", work.identity, extra_args=[[1, 2, 3]]),
            handout.function("first", work.add, args=[("load", 0)], extra_args=[10]),
            handout.function("sum", work.total, args=["load"], cost={"cpu": 1}),
        ]
    )
    results = await cluster.execute(graph)
    assert (results["first"], results["sum"]) == (11, 6)


async def test_what_would_be_mistaken_for_the_callers_own_comes_as_remote_error(cluster: Cluster) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    def stop() -> None:
        raise StopIteration

    for function in (cancelled, stop):
        graph = Graph()
        graph.add(function)
        with pytest.raises(handout.RemoteError):
            await cluster.execute(graph)


async def test_retries_go_on_until_it_works(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    out = graph.add(work.fail_then_succeed, str(tmp_path / "tries"), 2, retries=2)
    assert (await cluster.execute(graph))[out] == "try 3"


async def test_retry_on_says_what_is_worth_another_try(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.fail_then_succeed, str(tmp_path / "tries"), 2, retries=5, retry_on=KeyError)
    with pytest.raises(ValueError, match="try 1") as caught:
        await cluster.execute(graph)
    assert "Its retry_on= does not allow another attempt after this exception" in caught.value.__notes__[-1]


class ToolError(BaseException):
    """What some test tools raise to end a test."""


@pytest.mark.parametrize("error", [ToolError("no"), asyncio.CancelledError("no"), SystemExit(3)])
async def test_a_retry_on_that_raises_anything_is_a_no(cluster: Cluster, error: BaseException) -> None:
    def judge(_: BaseException) -> bool:
        raise error

    graph = Graph()
    graph.add(work.fail, "no", retries=5, retry_on=judge)
    with pytest.raises(work.Refused, match="no") as caught:
        await cluster.execute(graph)
    notes = "\n".join(caught.value.__notes__)
    assert f"retry_on=judge raised {type(error).__name__}: " in notes
    assert "so the task was not retried." in notes
    assert "Fix the function, and its retry_on=, which gave no answer" in notes


async def test_a_retry_on_that_raises_what_has_no_text_is_a_no(cluster: Cluster, tmp_path: Path) -> None:
    def judge(error: Exception) -> bool:
        raise MuteError

    graph = Graph()
    graph.add(work.fail_then_succeed, str(tmp_path / "tries"), 2, retries=5, retry_on=judge)
    with pytest.raises(ValueError, match="try 1") as caught:
        await cluster.execute(graph)
    assert any("raised MuteError: <no text: str() raised ValueError" in note for note in caught.value.__notes__)


async def test_continue_finishes_what_does_not_depend_on_a_failure(cluster: Cluster) -> None:
    graph = Graph()
    bad = graph.add(work.fail, "no", id="bad")
    after = graph.add(work.identity, bad, id="after")
    good = graph.add(work.identity, 5)
    results = await cluster.execute(graph, on_failure="continue")
    assert results[good] == 5
    assert set(results.failures) == {"bad", "after"}
    assert results.failures["after"].caused_by == "bad"
    assert results.failures["after"].exception.chain == ("after", "bad")
    assert results.failures["bad"].caused_by is None
    assert isinstance(results.failures["bad"].exception, work.Refused)
    with pytest.raises(handout.errors.DependencyError, match="bad"):
        results[after]
    with pytest.raises(work.Refused):
        results.raise_failures()


async def test_an_argument_that_cannot_travel_is_refused_before_anything_runs(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(work.identity, {"deep": [1, threading.Lock()]})
    with pytest.raises(handout.errors.UnserializableError, match=r"args\[0\]\['deep'\]\[1\]"):
        await cluster.execute(graph)


async def test_leaving_the_block_leaves_no_process_behind(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    paths = [tmp_path / f"pid{i}" for i in range(3)]
    for path in paths:
        graph.add(work.sleep_forever, str(path))
    async with cluster.start(graph):
        await until(lambda: all(p.exists() and p.read_text() for p in paths))
    assert all(gone(int(p.read_text())) for p in paths)


async def test_cancelling_the_caller_leaves_no_process_behind(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    path = tmp_path / "pid"
    graph.add(work.spin_ignoring_signals, str(path))
    running = asyncio.create_task(cluster.execute(graph))
    await until(lambda: path.exists() and bool(path.read_text()))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(int(path.read_text()))


async def test_cancelling_one_output_ends_it_and_what_needs_it(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    path = tmp_path / "pid"
    stuck = graph.add(work.sleep_forever_nicely, str(path))
    after = graph.add(work.identity, stuck)
    good = graph.add(work.identity, 1)
    async with cluster.start(graph, on_failure="continue", outputs=[good, after]) as execution:
        await until(lambda: path.exists() and bool(path.read_text()))
        await execution.cancel(stuck)
        results = await execution.results()
    assert results[good] == 1
    assert isinstance(results.failures[stuck.id].exception, handout.errors.TaskCancelledError)
    assert after.id in results.failures
    assert Path(f"{path}.cancelled").exists()


async def test_output_of_tasks_is_theirs_and_can_be_followed(cluster: Cluster) -> None:
    graph = Graph()
    outs = [graph.add(work.say, f"line {i}") for i in range(5)]
    async with cluster.start(graph) as execution:
        await execution.results()
        for i, out in enumerate(outs):
            lines = [line async for line in execution.logs(out)]
            assert sorted(lines) == [f"error: line {i}", f"line {i}"]


async def test_events_tell_the_story_in_order(cluster: Cluster) -> None:
    graph = Graph()
    a = graph.add(work.identity, 1, id="a")
    graph.add(work.identity, a, id="b")
    async with cluster.start(graph) as execution:
        story = [event async for event in execution.events()]
    ended = [e.id for e in story if isinstance(e, handout.events.TaskEnded)]
    assert ended == ["a", "b"]
    assert isinstance(story[-1], handout.events.RunEnded)
    assert story[-1].done == 2
    assert [e.at_s for e in story] == sorted(e.at_s for e in story)


async def test_results_can_be_taken_while_the_rest_runs(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    early = graph.add(work.identity, "early")
    late = graph.add(work.wait_for_file, str(tmp_path / "go"))
    async with cluster.start(graph) as execution:
        assert await execution.result(early) == "early"
        (tmp_path / "go").touch()
        assert await execution.result(late) == str(tmp_path / "go")


async def test_a_result_that_was_not_among_the_outputs_is_fetched_when_asked_for(
    cluster: Cluster, tmp_path: Path
) -> None:
    graph = Graph()
    made = graph.add(work.blob, 1 << 20)
    gate = graph.add(work.wait_for_file, str(tmp_path / "go"))
    end = graph.add(lambda data, _: len(data), made, gate)
    async with cluster.start(graph, outputs=[end]) as execution:
        assert await execution.result(made) == bytes(1 << 20)
        (tmp_path / "go").touch()
        assert await execution.result(end) == 1 << 20


async def test_a_result_that_is_gone_already_is_said_to_be(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    made = graph.add(work.blob, 1 << 20)
    length = graph.add(work.length, made)
    gate = graph.add(work.wait_for_file, str(tmp_path / "go"))
    async with cluster.start(graph, outputs=[length, gate]) as execution:
        assert await execution.result(length) == 1 << 20
        with pytest.raises(KeyError, match="outputs="):
            await execution.result(made)
        (tmp_path / "go").touch()
        await execution.results()


def element_is_used(tmp_path: Path) -> tuple[Graph, Output[Any], Output[Any]]:
    """Return a graph, a function of which another function takes one element, and the last function."""
    graph = Graph()
    gate = graph.add(work.wait_for_file, str(tmp_path / "gate.go"))
    made = graph.add(lambda path, _: {"used": work.wait_for_file(path), "unused": 2}, str(tmp_path / "made.go"), gate)
    late = graph.add(lambda _, path: work.wait_for_file(path), made["used"], str(tmp_path / "late.go"))
    return graph, made, late


async def test_an_element_that_no_function_takes_is_kept_if_it_is_asked_for_in_time(
    cluster: Cluster, tmp_path: Path
) -> None:
    graph, made, late = element_is_used(tmp_path)
    async with cluster.start(graph, outputs=[late], max_concurrency=1) as execution:
        asking = asyncio.ensure_future(execution.result(made["unused"]))
        await asyncio.sleep(0)
        for name in ("gate", "made"):
            (tmp_path / f"{name}.go").touch()
        assert await asking == 2
        (tmp_path / "late.go").touch()
        await execution.results()


async def test_an_element_that_was_not_kept_is_said_to_be_gone_while_the_run_goes_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    graph, made, late = element_is_used(tmp_path)
    async with cluster.start(graph, outputs=[late]) as execution:
        task, _ = execution._active.plan.locate(made)
        (tmp_path / "gate.go").touch()
        # The host is told with each task which objects to keep.
        runs, number = cluster._runtime.driver.core.world.runs, execution._active.number
        await until(lambda: number in runs and runs[number].attempt[task])
        asking = [asyncio.ensure_future(execution.result(output)) for output in (made, made["unused"])]
        await asyncio.sleep(0)
        (tmp_path / "made.go").touch()
        for each in asking:
            with pytest.raises(KeyError, match="outputs="):
                await each
        (tmp_path / "late.go").touch()
        await execution.results()


async def test_ended_gives_each_output_once_as_it_ends(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    slow = graph.add(work.wait_for_file, str(tmp_path / "go"))
    quick = graph.add(work.identity, "quick")
    bad = graph.add(work.fail, "no")
    order: list[Any] = []
    async with cluster.start(graph, on_failure="continue") as execution:
        async for each in execution.ended([slow, quick, bad]):
            order.append(each.failure.id if each.failure else await each.result())
            if len(order) == 2:
                (tmp_path / "go").touch()
    assert set(order[:2]) == {"quick", bad.id}
    assert order[2] == str(tmp_path / "go")


async def test_graphs_share_a_cluster_without_over_committing_it(cluster: Cluster, tmp_path: Path) -> None:
    def crowd(folder: str, me: str) -> int:
        """Return the largest number of calls that this call has seen running at the same time."""
        import time

        mine = os.path.join(folder, me)
        open(mine, "w").close()
        most = 0
        for _ in range(20):
            most = max(most, len(os.listdir(folder)))
            time.sleep(0.002)
        os.unlink(mine)
        return most

    async def one(number: int) -> list[int]:
        graph = Graph()
        outs = graph.map(crowd, [str(tmp_path)] * 8, [f"{number}-{i}" for i in range(8)], host="plain")
        return (await cluster.execute(graph))[outs]

    crowds = await asyncio.gather(*(one(i) for i in range(3)))
    assert max(max(c) for c in crowds) <= 2


class MuteError(Exception):
    """An exception that raises another one when it is turned into text."""

    def __str__(self) -> str:
        raise ValueError("no text")


async def test_a_custom_allocator_decides(cluster: Cluster) -> None:
    async def all_on_gpu(frontier: Any, view: handout.ClusterView) -> dict[str, str]:
        draft = view.draft()
        for task in frontier:
            if draft.fits(task, "gpu"):
                draft.place(task, "gpu")
        return dict(draft)

    graph = Graph()
    outs = [graph.add(work.where) for _ in range(6)]
    results = await cluster.execute(graph, allocator=all_on_gpu)
    assert {r[0] for r in results[outs]} == {"gpu"}


async def test_an_allocator_that_raises_proposes_nonsense_or_does_nothing_ends_the_run(cluster: Cluster) -> None:
    async def raises(frontier: Any, view: Any) -> dict[str, str]:
        raise RuntimeError("broken")

    async def mute(frontier: Any, view: Any) -> dict[str, str]:
        raise MuteError

    async def nonsense(frontier: Any, view: Any) -> dict[str, str]:
        return {frontier[0].id: "nowhere"}

    async def nothing(frontier: Any, view: Any) -> dict[str, str]:
        return {}

    async def leaves(frontier: Any, view: Any) -> dict[str, str]:
        raise BaseExceptionGroup("a group of its own", [GeneratorExit()])

    def at_once(frontier: Any, view: Any) -> dict[str, str]:
        return {}

    async def of_a_tool(frontier: Any, view: Any) -> dict[str, str]:
        raise ToolError("of a test tool")

    async def returns_none(frontier: Any, view: Any) -> Any:
        view.draft()

    async def tasks(frontier: Any, view: Any) -> Any:
        return dict.fromkeys(frontier, "plain")

    async def numbers(frontier: Any, view: Any) -> Any:
        return {0: "plain"}

    async def host_views(frontier: Any, view: Any) -> Any:
        draft = view.draft()
        draft.place(frontier[0], next(iter(view.hosts.values())))
        return draft

    async def never(frontier: Any, view: Any) -> Any:
        draft = view.draft()
        draft.ask_again(in_s=float("inf"))
        return draft

    for allocator, words in (
        (of_a_tool, "raised ToolError: of a test tool"),
        (returns_none, "^the allocator returned NoneType, which is no mapping"),
        (tasks, "^the allocator placed an object of type Task on 'plain', and one of these is no text"),
        (numbers, "^the allocator placed an object of type int on 'plain', and one of these is no text"),
        (host_views, "^the allocator passed an object of type HostView as a host to its draft"),
        (never, "^the allocator wants to be asked again in inf, which is no finite number of seconds. Give"),
        (leaves, "a group of its own"),
        (at_once, "async def"),
        (raises, "broken"),
        (mute, r"raised MuteError: <no text: str\(\) raised ValueError"),
        (nonsense, "nowhere"),
        (nothing, "idle"),
    ):
        graph = Graph()
        graph.add(work.identity, 1)
        with pytest.raises(handout.errors.AllocatorError, match=words):
            await cluster.execute(graph, allocator=allocator)


@pytest.mark.parametrize("allocator", ["first_available", "load_balanced", "locality"])
async def test_built_in_allocators_run_a_graph(cluster: Cluster, allocator: str) -> None:
    graph = Graph()
    parts = graph.map(work.identity, range(40))
    total = graph.add(work.total, parts)
    results = await cluster.execute(graph, allocator=getattr(handout, allocator))
    assert results[total] == sum(range(40))


async def test_a_run_over_its_time_is_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.sleep_forever, str(tmp_path / "pid"))
    with pytest.raises(handout.errors.RunTimeoutError):
        await cluster.execute(graph, timeout_s=0.5)


async def test_given_replaces_an_output(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    a = graph.add(work.mark_and_return, str(tmp_path / "ran"), 1)
    b = graph.add(work.add, a, 1)
    assert (await cluster.execute(graph, given={a: 10}))[b] == 11
    assert not (tmp_path / "ran").exists()


async def test_a_function_that_is_not_safe_to_repeat_runs_once(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    out = graph.add(work.mark_and_return, str(tmp_path / "ran"), 5, idempotent=False)
    assert (await cluster.execute(graph))[out] == 5
    assert (tmp_path / "ran").read_text() == "ran\n"


async def test_one_slow_task_does_not_hold_up_those_behind_it(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    graph.map(work.first_waits, [str(tmp_path / "go")] * 50, range(1, 51))  # now the core expects short tasks
    await cluster.execute(graph)
    graph = Graph()
    outs = graph.map(work.first_waits, [str(tmp_path / "go")] * 50, range(50))
    async with cluster.start(graph) as execution:
        async for done in execution.ended(outs[1:]):
            assert done.failure is None
        (tmp_path / "go").touch()
        assert (await execution.results())[outs] == list(range(50))
