"""A run uses the results of an earlier run only for functions that are the same. Each test also runs over a real sshd."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import handout
from handout import Cluster, File, Graph, Host, Output, Results
from handout.events import RunEnded, RunEvent, TaskEnded, TaskNotReused
from tests import work

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Study:
    """A graph of three functions that note their calls in a file."""

    def __init__(self, notes: Path, lr: float = 0.1) -> None:
        self.graph = Graph()
        self.data = self.graph.add(load, str(notes))
        self.model = self.graph.add(train, str(notes), self.data, lr)
        self.report = self.graph.add(report, str(notes), self.model["w"])

    @property
    def all(self) -> list[Output[Any]]:
        return [self.data, self.model, self.report]


def note(notes: str, text: str) -> None:
    with open(notes, "a", encoding="utf-8") as file:
        file.write(f"{text} ")


def load(notes: str) -> list[int]:
    note(notes, "load")
    return [1, 2, 3]


def train(notes: str, data: list[int], lr: float) -> dict[str, float]:
    note(notes, "train")
    return {"w": sum(data) * lr, "n": len(data)}


def report(notes: str, w: float) -> str:
    note(notes, "report")
    return f"w={w:.1f}"


def calls(notes: Path) -> list[str]:
    """Return the functions that were called since the last call, in alphabetical order."""
    found = notes.read_text(encoding="utf-8").split() if notes.exists() else []
    notes.unlink(missing_ok=True)
    return sorted(found)


async def test_a_changed_argument_is_never_answered_by_an_earlier_result(cluster: Cluster, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    before = Study(notes, 0.1)
    first = await cluster.execute(before.graph, outputs=before.all)
    assert (first[before.report], calls(notes)) == ("w=0.6", ["load", "report", "train"])
    after = Study(notes, 0.5)
    second = await cluster.execute(after.graph, outputs=after.all, given=first)
    assert (second[after.report], calls(notes)) == ("w=3.0", ["report", "train"])
    assert dict(second.reused) == {"load": "the result of 'load' in given="}
    assert dict(second.reused.anew) == {
        "train": "an argument has changed",
        "report": "the result of 'train', which it takes, is not the same",
    }
    assert second.allocations[after.data] == first.allocations[before.data]


async def test_results_are_found_under_any_id_and_ids_find_none(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(work.identity, 20, id="made")
    first = await cluster.execute(graph)
    other = Graph()
    same_id = other.add(work.add, 1, 2, id="made")
    same = other.add(work.identity, 20, id="another")
    second = await cluster.execute(other, given=first)
    assert (second[same_id], second[same]) == (3, 20)
    assert (same in second.reused, same_id in second.reused) == (True, False)
    assert second.reused[same] == second.reused["another"] == "the result of 'made' in given="
    assert second.reused.anew["made"] == "the function, or a module of yours that it uses, has changed"


async def test_a_use_with_other_options_is_the_same_function(cluster: Cluster) -> None:
    graph, again = Graph(), Graph()
    graph.add(work.identity, 1)
    first = await cluster.execute(graph)
    again.add(handout.options(retries=2)(work.identity), 1)
    assert set((await cluster.execute(again, given=first)).reused) == {"identity"}


async def test_what_only_reused_functions_need_does_not_run(cluster: Cluster, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    first = await cluster.execute(Study(notes).graph)
    assert calls(notes) == ["load", "report", "train"]
    after = Study(notes)
    second = await cluster.execute(after.graph, given=first)
    assert (dict(second), calls(notes)) == ({"report": "w=0.6"}, [])
    third = await cluster.execute(Study(notes).graph, given=second)  # the results of a run that ran nothing
    assert (dict(third), calls(notes)) == ({"report": "w=0.6"}, [])


async def test_an_element_comes_from_the_whole_result_but_not_the_other_way_round(
    cluster: Cluster, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    before = Study(notes)
    whole = await cluster.execute(before.graph, outputs=[before.model])
    part = await cluster.execute(before.graph, outputs=[before.model["w"]], given=whole)
    calls(notes)
    after = Study(notes)
    n = after.graph.add(work.identity, after.model["n"])
    results = await cluster.execute(after.graph, outputs=[after.report, n], given=whole)
    assert (results[after.report], results[n], calls(notes)) == ("w=0.6", 3, ["report"])
    results = await cluster.execute(Study(notes).graph, given=part)  # takes the element that `part` has
    assert calls(notes) == ["report"]
    results = await cluster.execute(after.graph, outputs=[n], given=part)
    assert (results[n], calls(notes)) == (3, ["load", "train"])
    assert results.reused.anew["train"] == "the earlier run did not bring its result back, see outputs="


async def test_what_the_caller_changes_in_an_earlier_result_is_not_used(cluster: Cluster) -> None:
    graph = Graph()
    made = graph.add(work.identity, [1, 2])
    first = await cluster.execute(graph, outputs=[made])
    first[made].append(97)
    out = graph.add(work.total, made)
    element = graph.add(work.identity, made[0])
    second = await cluster.execute(graph, outputs=[made, out, element], given=first)
    assert (second[made], second[out], second[element]) == ([1, 2], 3, 1)
    assert set(second.reused) == {"identity"}


class Scaled:
    """An argument whose class travels by value, because it is in no module of the bundle on its own."""

    factor = 1

    def __init__(self, x: int) -> None:
        self.x = x

    def value(self) -> int:
        return self.x * self.factor


def value_of(scaled: Any) -> Any:
    return scaled.value()


def content(file: File) -> str:
    return file.read_text()[:3]


CHANGES: dict[str, Callable[[Path], tuple[Callable[[Graph], Output[Any]], Callable[[], Any], Any]]] = {}


def change(
    case: Callable[[Path], tuple[Callable[[Graph], Output[Any]], Callable[[], Any], Any]],
) -> Callable[[Path], Any]:
    """Add a case: how to add a function to a graph, what then changes, and the result after the change."""
    CHANGES[case.__name__] = case
    return case


@change
def a_list(_: Path) -> Any:
    numbers = [1, 2]
    return lambda graph: graph.add(work.total, numbers), lambda: numbers.append(3), 6


@change
def a_large_array(_: Path) -> Any:
    array = numpy.ones(50_000)
    return lambda graph: graph.add(numpy.sum, array), lambda: array.__setitem__(0, 2), 50_001


@change
def the_memory_of_a_read_only_array(_: Path) -> Any:
    base = numpy.ones(50_000)
    view = base.view()
    view.flags.writeable = False
    return lambda graph: graph.add(numpy.sum, view), lambda: base.__setitem__(0, 2), 50_001


@change
def a_small_file(folder: Path) -> Any:
    path = folder / "small.txt"
    path.write_text("old")
    return lambda graph: graph.add(content, File(path)), lambda: path.write_text("new"), "new"


@change
def a_large_file(folder: Path) -> Any:
    path = folder / "large.txt"
    path.write_text("old" * 50_000)
    return lambda graph: graph.add(content, File(path)), lambda: path.write_text("new" * 50_000), "new"


@change
def a_large_file_that_was_not_changed_for_long(folder: Path) -> Any:
    path = folder / "large.txt"
    path.write_text("old" * 50_000)

    def rewrite() -> None:
        path.write_text("new" * 50_000)

    os.utime(path, (1, 1))
    return lambda graph: graph.add(content, File(path)), rewrite, "new"


@change
def a_global_of_a_function(_: Path) -> Any:
    space: dict[str, Any] = {"__name__": "__main__", "rate": 1}
    exec("def scaled(x): return x * rate", space)
    return lambda graph: graph.add(space["scaled"], 5), lambda: space.update(rate=2), 10


@change
def a_variable_of_a_closure(_: Path) -> Any:
    rate = [1]

    def scaled(x: int) -> int:
        return x * rate[0]

    return lambda graph: graph.add(scaled, 5), lambda: rate.__setitem__(0, 2), 10


@change
def an_attribute_of_a_class(_: Path) -> Any:
    kind: Any = type("Local", (Scaled,), {"factor": 1})
    return lambda graph: graph.add(value_of, kind(5)), lambda: setattr(kind, "factor", 2), 10


@change
def the_load_of_an_arg(_: Path) -> Any:
    rate = [1]
    return (
        lambda graph: graph.add(work.identity, handout.Arg(graph.add(work.identity, 5), load=lambda x: x * rate[0])),
        lambda: rate.__setitem__(0, 2),
        10,
    )


@change
def an_inline_function(_: Path) -> Any:
    rate = [1]
    return (
        lambda graph: graph.add(work.identity, graph.add(work.identity, rate[0], inline=True)),
        lambda: rate.__setitem__(0, 2),
        2,
    )


@change
def a_value_of_the_graph(_: Path) -> Any:
    value = {"a": 1}
    return lambda graph: graph.add(work.identity, graph.value(value)["a"]), lambda: value.update(a=2), 2


@change
def the_producer(_: Path) -> Any:
    taken = [0]

    def build(graph: Graph) -> Output[Any]:
        made = [graph.add(work.identity, 1), graph.add(work.add, 1, 1)]
        return graph.add(work.identity, made[taken[0]], id="taker")

    return build, lambda: taken.__setitem__(0, 1), 2


@change
def the_element(_: Path) -> Any:
    taken = [0]
    return (
        lambda graph: graph.add(work.identity, graph.add(work.identity, [1, 2], id="pair")[taken[0]], id="taker"),
        lambda: taken.__setitem__(0, 1),
        2,
    )


@change
def true_instead_of_one(_: Path) -> Any:
    value: list[Any] = [1]
    return lambda graph: graph.add(repr, value[0]), lambda: value.__setitem__(0, True), "True"


@change
def indices_of_elements(_: Path) -> Any:
    indices = numpy.array([0, 1])
    return (
        lambda graph: graph.add(numpy.sum, graph.add(numpy.arange, 10)[indices]),
        lambda: indices.__setitem__(0, 5),
        6,
    )


@pytest.mark.parametrize("name", CHANGES)
async def test_whatever_a_function_is_given_counts(cluster: Cluster, tmp_path: Path, name: str) -> None:
    build, alter, expected = CHANGES[name](tmp_path)

    async def run(given: Results | None) -> tuple[Any, Any]:
        graph = Graph()
        out = build(graph)
        results = await cluster.execute(graph, **({} if given is None else {"given": given}))
        return results, out

    first, _ = await run(None)
    untouched, _ = await run(None)
    again, out = await run(first)
    assert out in again.reused
    alter()
    for given in (first, untouched):  # the identities of the second are computed only now
        changed, out = await run(given)
        assert changed[out] == expected
        assert out not in changed.reused


async def test_a_module_that_was_loaded_anew_counts(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("given_one", "given_two"):
        (tmp_path / f"{name}.py").write_text("def f(x):\n    return x\n")
    one, two = map(importlib.import_module, ("given_one", "given_two"))

    async def run(given: Any) -> tuple[Any, Any, Any]:
        graph = Graph()
        out, other = graph.add(one.f, 1), graph.add(two.f, 1)
        return await cluster.execute(graph, given=given), out, other

    first, *_ = await run({})
    (tmp_path / "given_one.py").write_text("def f(x):\n    return x + 99\n")
    importlib.reload(one)
    second, out, other = await run(first)
    assert (second[out], second[other]) == (100, 1)
    assert set(second.reused) == {other.id}
    for name in ("given_one", "given_two"):
        del sys.modules[name]


async def test_a_function_that_was_defined_again_is_the_same(cluster: Cluster) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    source = "def f(x):\n    return [y for y in range(x)]\n"
    results = None
    for number, lines in enumerate(["", "# a comment\n\n\n"]):
        exec(compile(lines + source, f"cell {number}", "exec"), space)
        graph = Graph()
        out = graph.add(space["f"], 3)
        results = await cluster.execute(graph, **({} if results is None else {"given": results}))
        assert results[out] == [0, 1, 2]
        assert len(results.reused) == number


async def test_given_values_are_literal_and_what_follows_from_them_is_not_used_elsewhere(
    cluster: Cluster, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    study = Study(notes)
    for key in (study.model, "train", study.model["w"]):
        value = 5.0 if key == study.model["w"] else {"w": 5.0}
        results = await cluster.execute(study.graph, given={key: value})
        assert results[study.report] == "w=5.0"
    calls(notes)
    again = await cluster.execute(study.graph, given={study.model["w"]: 5.0})
    assert (again[study.report], calls(notes)) == ("w=5.0", ["report"])
    real = await cluster.execute(study.graph, given=again)
    assert (real[study.report], calls(notes)) == ("w=0.6", ["load", "report", "train"])
    assert real.reused.anew["train"] == "the earlier run has no such function"


async def test_equal_functions_are_used_once_each(cluster: Cluster) -> None:
    graph = Graph()
    few = graph.map(os.urandom, [8] * 2)
    first = await cluster.execute(graph)
    more = Graph()
    outs = more.map(os.urandom, [8] * 3)
    second = await cluster.execute(more, given=first)
    assert second[outs][:2] == first[few]
    assert second[outs[2]] not in first[few]
    assert second.reused.anew == {outs[2].id: "the earlier run has no such function"}


async def test_failed_functions_run_anew(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    good = graph.add(work.mark_and_return, str(tmp_path / "ran"), 1)
    bad = graph.add(work.fail_then_succeed, str(tmp_path / "tries"), 1, id="bad")
    after = graph.add(work.identity, bad, id="after")
    first = await cluster.execute(graph, on_failure="continue")
    assert set(first.failures) == {"bad", "after"}
    second = await cluster.execute(graph, given=first, on_failure="continue")
    assert (second[good], second[after]) == (1, "try 2")
    assert (tmp_path / "ran").read_text() == "ran\n"
    assert dict(second.reused.anew) == {
        "bad": "it failed in the earlier run",
        "after": "it was skipped in the earlier run",
    }


async def test_events_and_the_log_say_what_is_reused_and_what_is_not(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = Study(tmp_path / "notes")
    first = await cluster.execute(before.graph, outputs=[before.data, before.report])
    after = Study(tmp_path / "notes", 0.5)
    with caplog.at_level(logging.INFO, logger="handout"):
        async with cluster.start(after.graph, outputs=[after.data, after.report], given=first) as execution:
            events: list[RunEvent] = [event async for event in execution.events()]
            late = [event async for event in execution.events()]
    not_reused = [(event.id, event.reason) for event in events if isinstance(event, TaskNotReused)]
    assert [id for id, _ in not_reused] == ["train", "report"]
    assert not_reused[0] == ("train", "an argument has changed")
    ended = {event.id: (event.outcome, event.reason) for event in events if isinstance(event, TaskEnded)}
    assert ended["load"] == ("reused", "the result of 'load' in given=")
    assert ended["report"] == ("done", "")
    assert [(event.done, event.reused) for event in events if isinstance(event, RunEnded)] == [(3, 1)]
    assert [type(event) for event in late] == [TaskNotReused, TaskNotReused, TaskEnded]
    said = "Results in given= are used for 1 of 3 functions. Functions that run: 2; 'train': an argument has changed"
    assert said in caplog.text


async def test_a_reused_function_needs_no_host(cluster: Cluster) -> None:
    async with Cluster([Host.local("big", {"cpu": 1, "tpu": 1})]) as big:
        graph = Graph()
        made = graph.add(work.identity, 1, cost={"tpu": 1})
        first = await big.execute(graph, outputs=[made])
    out = graph.add(work.add, made, 1)
    results = await cluster.execute(graph, given=first)
    assert results[out] == 2
    with pytest.raises(handout.PlacementError):
        await cluster.execute(graph)


async def test_a_journal_records_what_was_reused(tmp_path: Path) -> None:
    notes, journal = tmp_path / "notes", tmp_path / "run.db"
    async with Cluster([Host.local("here", {"cpu": 1})]) as here:
        before = Study(notes)
        first = await here.execute(before.graph, outputs=[before.model])
        calls(notes)
        after = Study(notes)
        await here.execute(after.graph, given=first, journal=journal)
        assert calls(notes) == ["report"]
        again = Study(notes)
        results = await here.execute(again.graph, outputs=[again.model["w"], again.report], journal=journal)
    assert (results[again.report], round(results[again.model["w"]], 1)) == ("w=0.6", 0.6)
    assert not {"train", "report"}.intersection(calls(notes))
    assert results.reused["train"] == f"a result in the journal {str(journal)!r}"
    assert [run.reused for run in handout.journal.read(journal).runs] == [2, 3]


async def test_the_journal_comes_before_given_results(tmp_path: Path) -> None:
    async with Cluster([Host.local("here", {"cpu": 1})]) as here:
        graph = Graph()
        drawn = graph.add(os.urandom, 8)
        first = await here.execute(graph)
        recorded = await here.execute(graph, journal=tmp_path / "run.db")
        both = await here.execute(graph, journal=tmp_path / "run.db", given=first)
    assert first[drawn] != recorded[drawn] == both[drawn]


async def test_evaluate_uses_the_results_of_a_run_too(cluster: Cluster, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    before = Study(notes)
    first = await cluster.execute(before.graph, outputs=[before.model])
    calls(notes)
    same, changed = Study(notes), Study(notes, 0.5)
    results = handout.evaluate(same.graph, given=first)
    assert (results[same.report], calls(notes)) == ("w=0.6", ["report"])
    assert results.reused["train"] == "the result of 'train' in given="
    results = handout.evaluate(changed.graph, given=first)
    assert (results[changed.report], calls(notes)) == ("w=3.0", ["load", "report", "train"])


async def test_results_of_evaluate_are_not_recognized(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = tmp_path / "notes"
    first = handout.evaluate(Study(notes).graph)
    calls(notes)
    both = await cluster.execute(Study(notes).graph, given=first), handout.evaluate(Study(notes).graph, given=first)
    for results in both:
        assert not results.reused
        assert set(results.reused.anew) == {"load", "train", "report"}
    assert calls(notes) == ["load", "load", "report", "report", "train", "train"]
    assert "come from handout.evaluate" in caplog.text


async def test_an_element_that_cannot_be_read_is_made_again(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    graph = Graph()
    made = graph.add(work.identity, {"a": 1})
    first = await cluster.execute(graph, outputs=[made])
    out = graph.add(work.identity, made["b"])
    with pytest.raises(KeyError):
        await cluster.execute(graph, outputs=[out], given=first)
    assert "in given= is not used, because it cannot be read: KeyError: 'b'" in caplog.text


async def test_an_earlier_result_that_is_damaged_is_made_again(cluster: Cluster) -> None:
    graph = Graph()
    made = graph.add(work.blob, 300_000)
    first = await cluster.execute(graph, outputs=[made], max_memory=0)
    file = first._run.objects.file(0)
    assert file is not None
    file.path.write_bytes(b"damaged")
    out = graph.add(work.length, made)
    second = await cluster.execute(graph, given=first)
    assert second[out] == 300_000
    assert (dict(second.reused), second.reused.anew["blob"]) == ({}, "its earlier result was lost")


async def test_what_came_from_a_host_that_only_data_is_taken_from_stays_distrusted(cluster: Cluster) -> None:
    graph = Graph()
    made = graph.add(work.identity, {"a": 1})
    first = await cluster.execute(graph, outputs=[made])
    first._run.suspects[0] = "liar"
    whole, part = graph.add(work.identity, made), graph.add(work.identity, made["a"])
    second = await cluster.execute(graph, outputs=[made, whole, part], given=first)
    assert (second[whole], second[part]) == ({"a": 1}, 1)
    distrusted = {second._run.plan.name_of(number) for number in second._run.suspects}
    assert distrusted == {"identity", "identity['a']"}


async def test_results_cannot_be_compiled(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(work.identity, 1)
    first: Any = await cluster.execute(graph)
    with pytest.raises(handout.GraphError, match="only a run compares them"):
        graph.compile(given=first)
