"""A resumed run goes on with attempts that an earlier controller left on hosts when it died."""

from __future__ import annotations

import gc
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handout import Graph, Output
from handout.execution.recording.resume_matching import PriorRuns, latest_attempts
from handout.journal import Journal
from handout.journal.identity import TaskIdentities
from handout.journal.records import ClassName, OpenStart
from handout.protocol import numbering
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from handout.scheduler.task_states import Outcome
from handout.serialization import tokens
from handout.slices import at_once
from handout.submission.arguments import encode_plan
from tests.scheduler.rig import Scene, graph, profile


def test_an_attempt_whose_end_was_not_confirmed_says_nothing_of_the_one_after_it() -> None:
    held = {"h2": ([0, 1], [2, 2])}
    assert latest_attempts(held, {0: 3}) == ({"h2": ([1], [2])}, {"h2": ([0], [2])})
    held["h3"] = ([0], [3])
    assert latest_attempts(held, {0: 3}) == ({"h2": ([1], [2]), "h3": ([0], [3])}, {"h2": ([0], [2])})
    assert latest_attempts({}, {0: 3}) == ({}, {})


def test_a_run_with_other_objects_does_not_get_the_number_of_the_last_run(tmp_path: Path) -> None:
    """Agents name objects by the numbers of the run and of the object, so an object number must mean the same."""
    graph = Graph()
    pair = graph.add(divmod, 7, 2)
    text = "x" * 100_000
    graph.add(len, text, id="one")
    graph.add(len, text, id="two")

    def number_of(graph: Graph, outputs: list[Output[Any]]) -> int:
        plan = graph.compile(outputs=[*outputs, "one", "two"])  # type: ignore[list-item]
        identities = at_once(TaskIdentities.of(plan))
        journal = Journal(tmp_path / "run.db")
        prior = PriorRuns(journal, identities, ())
        number = at_once(prior.number_after(1, at_once(encode_plan(plan))))
        journal.begin_run(plan.ids, [*identities.tasks, prior.objects], 0, number, [])
        journal.close()
        return number

    assert [number_of(graph, [pair[0]]) for _ in range(2)] == [1, 1]
    assert [number_of(graph, [pair[1]]) for _ in range(2)] == [2, 2]
    apart = Graph()
    pair = apart.add(divmod, 7, 2)
    apart.add(len, "x" * 100_000, id="one")
    apart.add(len, "".join(["x"] * 100_000), id="two")  # an object of its own, unlike above
    assert number_of(apart, [pair[1]]) == 3


class Lazy(types.ModuleType):
    """A module that loads itself when an attribute is looked up, and fails."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)


def test_a_class_of_an_earlier_process_is_found_without_running_user_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "handout_test_exits.py").write_text("raise SystemExit", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    lazy = Lazy("handout_test_lazy")
    object.__getattribute__(lazy, "__dict__")["Kept"] = kept = type("Kept", (), {})
    monkeypatch.setitem(sys.modules, "handout_test_lazy", lazy)
    names = [
        ClassName("earlier", 1, "handout_test_exits", "C"),
        ClassName("earlier", 2, "handout_test_lazy", "Absent.C"),
        ClassName("earlier", 3, "handout_test_lazy", "f.<locals>.C"),
        ClassName("earlier", 4, "handout_test_lazy", "Kept"),
    ]
    journal: Any = SimpleNamespace(classes=lambda: names, damaged_rows={"classes": 0}, path="journal")
    identities: Any = SimpleNamespace(tasks=[])
    PriorRuns(journal, identities, ()).adopt_classes()
    assert [tokens.known(("earlier", number)) for number in (1, 2, 3, 4)] == [None, None, None, kept]
    assert "handout_test_exits" not in sys.modules


def test_an_adopted_class_is_pickled_under_the_token_of_the_earlier_process() -> None:
    cls, copy = type("Kept", (), {}), type("Kept", (), {})
    own = tokens.token_of(cls)
    tokens.track(copy, ("earlier", 9), 1)
    tokens.adopt(("earlier", 9), cls)
    del copy
    gc.collect()
    assert tokens.token_of(cls) == ("earlier", 9)
    assert tokens.known(own) is tokens.known(("earlier", 9)) is cls
    assert (("earlier", 9), cls.__module__, "Kept") in tokens.own_classes()
    del cls
    gc.collect()
    assert tokens.known(own) is tokens.known(("earlier", 9)) is None


class PlayedJournal:
    """Plays a journal, and records which starts the run clears."""

    def __init__(self) -> None:
        self.cleared: list[bytes] = []

    def clear_starts(self, identities: list[bytes]) -> None:
        self.cleared += identities


def left(journal: Any, once: bool, **held: int) -> list[ev.Event]:
    """Return the events for the core about one task. Its attempt 2 began on host b, and may or may not have ended.

    Args:
        journal: The journal in which the run clears starts.
        once: True if the task must not run twice.
        held: The attempt of the task that each host reports.
    """
    identities: Any = SimpleNamespace(tasks=[b"t"])
    earlier = PriorRuns(journal, identities, {0} if once else ())
    earlier._lost = {b"t": OpenStart("b", 2, 1)}
    spec = SimpleNamespace(producer=[0])
    run: Any = SimpleNamespace(number=1, spec=spec, task_objects=[(0,)], wanted=[True], hosts=[""])
    found: Any = {
        host: SimpleNamespace(attempt_ids=[numbering.attempt_id(1, 0, attempt)], objects=(), shown={})
        for host, attempt in held.items()
    }
    return earlier.facts(run, found)


@pytest.mark.parametrize("held", [{"a": 1}, {"b": 2}, {"a": 1, "b": 2}, {"b": 2, "a": 1}])
@pytest.mark.parametrize("once", [True, False])
def test_no_number_of_an_attempt_that_a_host_has_is_given_out_again(held: dict[str, int], once: bool) -> None:
    scene = Scene("a", "b")
    spec = graph("t", profiles={"t": profile(idempotent=not once, retries=9)})
    scene.specs[1] = spec
    commands = scene.tell(ev.RunSubmitted(1, spec), *left(PlayedJournal(), once, **held))
    latest = max(held.values())
    if once and latest < 2:
        assert scene.ended[1, "t"] is Outcome.FAILED
    else:
        assert scene.attempt(1, 0) == latest
        (host,) = (host for host, attempt in held.items() if attempt == latest)
        commands += scene.tell(ev.TaskFailed(host, 1, 0, latest, "raised", True, "failed"))
    for host, attempt in held.items():
        if attempt < 2 and (once or len(held) > 1):
            assert any(isinstance(c, cmd.CancelTasks) and (c.host, c.attempts) == (host, [attempt]) for c in commands)
            # The core ignores a late report about the old attempt.
            assert scene.said(scene.tell(ev.TaskFailed(host, 1, 0, attempt, "raised", False, "old"))) == []
    started = [attempt for c in commands if isinstance(c, cmd.StartTasks) for attempt in c.attempts]
    assert not started or min(started) > latest


def test_what_may_run_twice_by_now_goes_on_where_it_is_and_else_begins_anew() -> None:
    journal = PlayedJournal()
    assert left(journal, False) == []
    assert journal.cleared == [b"t"]
    (event,) = left(PlayedJournal(), False, a=1)
    assert isinstance(event, ev.AttemptsFound)
    assert (event.host, event.tasks, event.attempts) == ("a", [0], [1])
