"""Warm values: tasks go to the hosts that have them, and leave the hosts that cannot make them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from handout.errors import TaskError
from handout.scheduler import RunSpec, State
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from tests.scheduler.rig import Said, Scene, graph, profile


def warm_graph(names: str, *, takes: str = "", **fields: Any) -> RunSpec:
    """Return a graph of independent tasks. Those in ``takes``, by default all, take the value ``v``."""
    spec = graph(names, **fields)
    ids = spec.ids or ()
    return replace(
        spec,
        inputs=[(spec.count,) if name in (takes or names) else () for name in ids],
        producer=[*spec.producer, -1],
        nbytes=[*spec.nbytes, 100],
        warm={spec.count: "v"},
    )


def cannot_make(scene: Scene, host: str, name: str) -> list[Said]:
    spec, t = scene.specs[1], scene.number(1, name)
    attempt = scene.attempt(1, t)
    event = ev.TaskFailed(host, 1, t, attempt, "raised", True, f"{name} failed", recipe=spec.count)
    return scene.said(scene.tell(event))


def test_tasks_go_where_the_value_is() -> None:
    scene = Scene("h1 4", "h2 4")
    scene.tell(ev.ValueWarmed("h2", "v", 30.0))
    scene.submit(warm_graph("a; b; c; d"))
    assert {scene.core.world.runs[1].host[t] for t in range(4)} == {2}
    scene.submit(graph("x"), run=2)
    assert scene.core.world.runs[2].host[0] == 1, "other tasks still go where there is most room"


def test_a_task_goes_elsewhere_where_it_can_begin_sooner() -> None:
    scene = Scene("h1 1", "h2 1")
    scene.tell(ev.ValueWarmed("h2", "v", 0.000001))
    scene.submit(warm_graph("a; b"))
    assert sorted(scene.core.world.runs[1].host) == [1, 2], "to make the value takes less time than to wait"


@pytest.mark.parametrize("used", [0, 1, 2])
def test_a_new_value_goes_to_the_host_whose_values_were_used_least_recently(used: int) -> None:
    scene = Scene("h1 1", "h2 1")
    scene.tell(ev.ValueWarmed("h1", "w1", 1.0), at=1.0)
    scene.tell(ev.ValueWarmed("h2", "w2", 1.0), at=2.0)
    if used:
        scene.submit(replace(warm_graph("u"), warm={1: f"w{used}"}), run=2)
        assert scene.core.world.runs[2].host[0] == used
        scene.now = 3.0
        scene.finish("u", run=2)
    scene.submit(warm_graph("a"))
    assert scene.core.world.runs[1].host[0] == (2 if used == 1 else 1)


@pytest.mark.parametrize("takes", ["a", ""])
def test_a_host_without_values_is_preferred(takes: str) -> None:
    scene = Scene("h1 1", "h2 1")
    scene.tell(ev.ValueWarmed("h1", "w", 1.0))
    scene.submit(warm_graph("a") if takes else graph("a"))
    assert scene.core.world.runs[1].host[0] == 2


@pytest.mark.parametrize("cause", ["cooled", "lost"])
def test_a_host_without_the_value_is_like_any_other(cause: str) -> None:
    scene = Scene("h1 2", "h2 2")
    scene.tell(ev.ValueWarmed("h2", "v", 30.0), ev.ValueWarmed("h2", "w", 1.0))
    if cause == "cooled":
        scene.tell(ev.ValueCooled("h2", "v"))
    else:
        scene.lose("h2")
        scene.tell(ev.ValueCooled("h2", "v"), ev.ValueWarmed("h2", "v", 3.0))
        scene.join("h2 2")
    scene.submit(warm_graph("a"))
    assert scene.core.world.runs[1].host[0] == 1
    assert scene.core.world.warm.seconds("v") == 0.0


def test_allocators_see_the_value_as_an_input() -> None:
    scene = Scene("h1", "h2")
    scene.tell(ev.ValueWarmed("h2", "v", 30.0))
    spec = warm_graph("a", allocator=None)
    scene.specs[1] = spec
    (ask,) = [each for each in scene.tell(ev.RunSubmitted(1, spec)) if isinstance(each, cmd.AskAllocator)]
    (view,) = ask.frontier[0].inputs
    assert (view.id, view.hosts, view.warming_s) == ("value-1", {"h2"}, 30.0)


def test_after_three_failures_the_tasks_leave_the_host() -> None:
    spec = warm_graph(
        "a; b; c; d; x", takes="abcd", profiles={n: profile(retries=2) for n in "abcd"}, max_concurrency=2
    )
    scene = Scene("h1 4")
    scene.submit(spec)
    assert cannot_make(scene, "h1", "a") == [("start", "h1", "a")]
    assert cannot_make(scene, "h1", "b") == [("start", "h1", "b")]
    said = cannot_make(scene, "h1", "a")
    assert ("recall", "h1", "b") in said, "it may not have begun to make the value"
    assert scene.state("a") is State.FAILED, "there is no other host"
    assert {scene.state(name) for name in "cd"} <= {State.FAILED, State.CANCELLED}


def test_tasks_that_take_the_value_go_to_other_hosts() -> None:
    names = [f"t{i}" for i in range(6)]
    profiles = {name: profile(retries=1) for name in names}
    spec = warm_graph(";".join([*names, "x"]), takes=str(names), profiles=profiles, max_concurrency=3)
    scene = Scene("h1 8")
    scene.submit(replace(spec, on_failure="continue"))
    scene.join("h2 8")
    for name in names[:3]:
        cannot_make(scene, "h1", name)
    run = scene.core.world.runs[1]
    assert [run.host[t] for t in range(6) if run.state[t] == State.HANDED] == [2, 2, 2]
    assert all(run.unfit.get(t) == (1,) for t in range(6) if t != 0 and not run.ended(t))
    assert run.unmade == {(7, 1): 3}


def test_where_no_host_can_make_it_the_tasks_end_with_an_error() -> None:
    names = [f"t{i}" for i in range(5)]
    spec = warm_graph(";".join(names), on_failure="continue", max_concurrency=1)
    scene = Scene("h1")
    scene.submit(spec)
    told: list[cmd.Command] = []
    for name in names[:3]:
        t = scene.number(1, name)
        event = ev.TaskFailed("h1", 1, t, scene.attempt(1, t), "raised", True, "no model", recipe=5)
        told = scene.tell(event)
    (ended,) = [each for each in told if isinstance(each, cmd.AnnounceTasksEnded)]
    assert sorted(ended.tasks) == [2, 3, 4]
    errors = [failure for failure in ended.failures if isinstance(failure, TaskError)]
    assert len(errors) == 2
    assert "could not be made on any host that can run the task: 'h1'" in str(errors[0])
    assert "the last time with: no model" in str(errors[0])
    assert scene.over[1].outcome.value == "failed"
