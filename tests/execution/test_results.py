"""What results and events say about tasks that failed, were skipped or were cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

import handout
from handout import Cluster, Graph, Host
from handout.execution.results import Results
from tests import work

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster([Host.local("here", {"cpu": 1})]) as opened:
        yield opened


async def test_only_what_is_tried_again_is_told_as_retried(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.fail, "no", id="bad")
    graph.add(work.fail_then_succeed, str(tmp_path / "tries"), 1, retries=1, id="flaky")
    async with cluster.start(graph, on_failure="continue") as execution:
        story = [event async for event in execution.events()]
    retried = [event for event in story if isinstance(event, handout.events.TaskRetried)]
    assert [(event.id, event.attempt, event.host) for event in retried] == [("flaky", 1, "here")]


async def test_results_are_a_mapping_that_has_defaults(cluster: Cluster) -> None:
    graph = Graph()
    good = graph.add(work.identity, 1, id="good")
    bad = graph.add(work.fail, "no", id="bad")
    results = await cluster.execute(graph, on_failure="continue")
    assert [results.get(key) for key in (good, "good", bad, "bad", "none")] == [1, 1, None, None, None]
    assert dict(results) == {"good": 1}


async def test_allocations_hold_what_ran_and_nothing_else(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    stuck = graph.add(work.sleep_forever, str(tmp_path / "pid"), id="stuck")
    graph.add(work.identity, stuck, id="after")
    bad = graph.add(work.fail, "no", id="bad", priority=9)
    good = graph.add(work.identity, 1, id="good", priority=9)
    async with cluster.start(graph, on_failure="continue") as execution:
        async for _ in execution.ended([good, bad]):
            pass
        await execution.cancel(stuck)
        results = await execution.results()
    assert dict(results.allocations) == {"bad": "here", "good": "here"}
    assert len(results.allocations) == 2
    with pytest.raises(KeyError):
        results.allocations[stuck]
    assert results.failures["after"].caused_by == "stuck"
    assert handout.failure(results.failures["after"].exception) is results.failures["after"]


async def test_some_of_the_tasks_can_be_cancelled_and_the_others_kept(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    stuck = [graph.add(work.sleep_forever, str(tmp_path / "pid"), id=f"stuck-{n}") for n in range(2)]
    good = graph.add(work.identity, 1, id="good", priority=9)
    async with cluster.start(graph, on_failure="continue") as execution:
        await execution.cancel([])
        assert await execution.result(good) == 1
        await execution.cancel(stuck)
        results = await execution.results()
    assert results.get(good) == 1
    assert [out in results.failures for out in [*stuck, good]] == [True, True, False]
    assert "absent" not in results.failures
    assert results.failures.get(good) is None
    assert results.failures[stuck[1]] is results.failures["stuck-1"]
    assert dict(results.failures).keys() == {"stuck-0", "stuck-1"}
    with pytest.raises(handout.errors.TaskCancelledError, match="by the caller"):
        results[stuck[0]]


async def test_a_run_with_cancelled_tasks_says_how_to_get_the_other_results(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.identity, 1, id="good", priority=9)
    graph.add(work.sleep_forever, str(tmp_path / "pid"), id="stuck")
    async with cluster.start(graph) as execution:
        assert await execution.result("good") == 1
        await execution.cancel("stuck")
        with pytest.raises(handout.errors.TaskCancelledError) as caught:
            await execution.results()
    assert 'give the run on_failure="continue"' in "".join(caught.value.__notes__)


async def test_what_was_cancelled_because_of_a_failure_says_so(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    bad = graph.add(work.fail, "no", id="bad")
    other = graph.add(work.identity, graph.add(work.identity, bad), id="other")
    waiting = graph.add(work.sleep_forever, str(tmp_path / "pid"), id="waiting")
    async with cluster.start(graph, outputs=[other, waiting]) as execution:
        with pytest.raises(work.Refused):
            await execution.results()
        with pytest.raises(handout.errors.TaskCancelledError, match="because 'bad'"):
            await execution.result(waiting)
        with pytest.raises(handout.errors.DependencyError, match="bad") as caught:
            await execution.result(other)
    assert isinstance(caught.value.__cause__, work.Refused)


async def test_a_result_of_a_run_over_its_time_says_that(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    out = graph.add(work.sleep_forever_nicely, str(tmp_path / "pid"))
    async with cluster.start(graph, timeout_s=0.1) as execution:
        with pytest.raises(handout.errors.RunTimeoutError, match=r"0\.1 s"):
            await execution.result(out)


async def test_a_run_over_its_time_says_what_had_not_ended_and_where_it_was(tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.identity, 1, id="queued")
    stuck = graph.add(work.wait_for_file, str(tmp_path / "go"), id="stuck", priority=1)
    graph.map(work.identity, [stuck] * 3)
    async with Cluster([Host.local("here", {"cpu": 1})]) as here:
        async with here.start(graph, timeout_s=1.0) as execution:
            with pytest.raises(handout.errors.RunTimeoutError) as caught:
                await execution.results()
    said = str(caught.value)
    assert "0 of 5 tasks had ended. State of the unfinished tasks: 'stuck': runs on 'here'; " in said
    assert "; 'queued': is queued on 'here'; 'identity" in said
    assert "; and 2 more. Raise" in said
    assert (caught.value.tasks, caught.value.unfinished, caught.value.limit_s) == (5, 5, 1.0)


async def test_asking_for_one_result_many_times_and_giving_up_leaves_the_run_alone(
    cluster: Cluster, tmp_path: Path
) -> None:
    graph = Graph()
    out = graph.add(work.wait_for_file, str(tmp_path / "go"))
    async with cluster.start(graph) as execution:
        for _ in range(3):
            waiting = asyncio.ensure_future(execution.result(out))
            await asyncio.sleep(0)
            waiting.cancel()
        (tmp_path / "go").touch()
        assert await execution.result(out) == str(tmp_path / "go")


async def test_the_ids_of_results_are_read_one_after_another() -> None:
    read: list[int] = []
    plan = SimpleNamespace(outputs=[5, 3, 4, 3], name_of=lambda number: read.append(number) or f"t{number // 2}")
    results: Any = Results(SimpleNamespace(plan=plan, objects={3, 4, 5}))  # type: ignore[arg-type]
    ids = iter(results)
    assert (next(ids), read) == ("t2", [5])
    assert (list(ids), len(results)) == (["t1"], 2)


def raise_it(error: Any) -> Any:
    raise error


class Raising:
    """An object whose unpickling raises an error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return raise_it, (self.error,)

    def __getitem__(self, key: str) -> Any:
        raise self.error


class Holding(Raising):
    """An object that raises an error when an element is looked up."""

    def __reduce__(self) -> Any:
        return Holding, (self.error,)


@pytest.mark.parametrize("kind", [Raising, Holding])
@pytest.mark.parametrize("error", [SystemExit, StopIteration, asyncio.CancelledError])
async def test_a_value_that_would_end_the_program_when_it_is_loaded_is_a_result_error(
    cluster: Cluster, kind: type[Raising], error: type[BaseException]
) -> None:
    graph = Graph()
    made = graph.add(kind, error("no"), id="made")
    results = await cluster.execute(graph)
    with pytest.raises(handout.ResultError, match=f"'made' from host 'here'.* {error.__name__}: no") as caught:
        results[made["element"]] if kind is Holding else results[made]
    assert (caught.value.id, caught.value.host) == ("made", "here")


async def test_a_value_that_cannot_be_loaded_names_its_task_and_host_once(cluster: Cluster) -> None:
    graph = Graph()
    made = graph.add(Holding, ValueError("no"), id="made")
    results = await cluster.execute(graph)
    for _ in range(2):
        with pytest.raises(ValueError, match="no") as caught:
            results[made["element"]]
    element, made_by = caught.value.__notes__
    assert element.startswith("It was raised while the element value['element'] was taken from")
    assert "'made' from host 'here'" in made_by


async def test_ctrl_c_while_a_value_is_loaded_ends_the_program(cluster: Cluster) -> None:
    graph = Graph()
    made = graph.add(Raising, KeyboardInterrupt())
    results = await cluster.execute(graph)
    with pytest.raises(KeyboardInterrupt):
        results[made]


async def test_what_results_tell_of_functions_are_mappings_that_have_defaults(cluster: Cluster) -> None:
    graph = Graph()
    good = graph.add(work.identity, 1, id="good")
    bad = graph.add(work.fail, "no", id="bad")
    first = await cluster.execute(graph, on_failure="continue")
    results = await cluster.execute(graph, on_failure="continue", given=first)
    for facts, present, absent in (
        (results.reused, good, bad),
        (results.failures, bad, good),
        (first.allocations, bad, Graph().add(work.identity, 1)),
    ):
        assert present in facts
        assert present.id in facts
        assert facts[present] is facts[present.id] is facts.get(present)
        for key in (absent, "none", 3):
            assert key not in facts
            assert facts.get(key, 7) == 7
        assert len(facts) == len(list(facts)) == len(dict(facts))
    assert dict(first.allocations) == {"good": "here", "bad": "here"}
    assert dict(results.reused) == {"good": "the result of 'good' in given="}
    assert [*results.failures] == ["bad"]
