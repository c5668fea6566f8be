"""A host is drained while runs go on: the core empties and releases it, or refuses because a task needs the host."""

from __future__ import annotations

import pytest

from handout.errors import PlacementError
from handout.scheduler import State
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from tests.scheduler.rig import Said, Scene, graph, profile


def drain(scene: Scene, host: str) -> list[Said]:
    return scene.said(scene.tell(ev.HostDrained(host)))


def refusal(scene: Scene, host: str) -> str:
    (command,) = scene.tell(ev.HostDrained(host))
    assert isinstance(command, cmd.RefuseDrain)
    assert command.host == host
    assert isinstance(command.error, PlacementError)
    return str(command.error)


def test_an_idle_host_is_released_at_once_and_gets_nothing_after_that() -> None:
    scene = Scene("h1", "h2")
    assert drain(scene, "h1") == [("release", "h1")]
    assert drain(scene, "h1") == []
    assert scene.submit(graph("a; b"))[0] == ("start", "h2", "a")


def test_what_runs_there_may_finish() -> None:
    scene = Scene("h1")
    scene.submit(graph("a"))
    scene.tell(ev.TasksStarted("h1", 1, [0], [1]))
    scene.join("h2")
    assert drain(scene, "h1") == []
    assert scene.finish("h1", "a") == [("done", "a"), ("release", "h1"), ("over", "done")]


def test_the_last_host_that_a_task_can_run_on_stays_and_goes_on_getting_work() -> None:
    scene = Scene("h1 2", "h2")
    wide = profile({"cpu": 2})
    scene.submit(graph("a -> b", profiles={"a": wide, "b": wide}))
    assert "'h1' cannot be drained, because without it task 'a' cannot be placed" in refusal(scene, "h1")
    assert scene.finish("h1", "a")
    assert "task 'b'" in refusal(scene, "h1")
    assert scene.finish("h1", "b")[-1] == ("over", "done")
    assert drain(scene, "h1") == [("release", "h1")]


def test_a_task_that_is_pinned_to_it_keeps_it() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a", profiles={"a": profile(host="h1")}))
    said = refusal(scene, "h1")
    assert "host 'h1' cannot be drained, because task 'a' is pinned to it. Wait until that task has ended, or " in said
    assert "cancel the task. Then drain the host again." in said


def test_a_run_with_a_task_pinned_to_a_host_that_is_drained_ends_and_says_so() -> None:
    scene = Scene("h1")
    scene.submit(graph("a"))
    scene.tell(ev.TasksStarted("h1", 1, [0], [1]))
    scene.join("h2")
    drain(scene, "h1")
    scene.submit(graph("p", profiles={"p": profile(host="h1")}), run=2)
    said = str(scene.over[2].error)
    assert "task 'p' cannot be placed: it is pinned to host 'h1', which is being drained." in said
    assert "Wait until drain() of that host has returned, and add the host again with Cluster.add()" in said


def test_collocated_tasks_that_fit_nowhere_else_together_keep_it() -> None:
    scene = Scene()
    scene.join("h1", red=True, blue=True)
    scene.join("h2", red=True)
    scene.join("h3", blue=True)
    spec = graph("a; b", profiles={"a": profile({"red": True}), "b": profile({"blue": True})}, groups={"a": 0, "b": 0})
    scene.submit(spec)
    assert "collocated" in refusal(scene, "h1")


def test_hosts_that_are_only_expected_do_not_count_as_an_elsewhere() -> None:
    scene = Scene("h1")
    scene.tell(ev.HostExpected("h2"))
    scene.submit(graph("a"))
    refusal(scene, "h1")


def test_a_host_that_is_being_reached_is_let_go_at_once_and_gets_no_work_should_it_come() -> None:
    scene = Scene("h1")
    scene.tell(ev.HostExpected("h2"))
    assert drain(scene, "h2") == [("release", "h2")]
    scene.join("h2")
    scene.submit(graph("a; b"))
    assert scene.core.world.fleet.by_name["h2"].handed == 0
    scene.lose("h2")
    scene.tell(ev.HostExpected("h2"))
    scene.join("h2")
    assert scene.core.world.fleet.by_name["h2"].open


def test_a_host_that_somebody_waits_for_is_not_let_go() -> None:
    scene = Scene()
    scene.tell(ev.HostExpected("h1"))
    scene.submit(graph("a"))
    refusal(scene, "h1")
    assert scene.join("h1") == [("start", "h1", "a")]


def test_a_host_that_is_lost_while_it_is_drained_is_released() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a; b"))
    drain(scene, "h1")
    assert ("release", "h1") in scene.lose("h1")


@pytest.mark.parametrize("missing", [True, False])
def test_what_cannot_be_brought_away_is_made_again(missing: bool) -> None:
    """The task b runs on h2, and c waits for its result. h1 has the result of a."""
    scene = Scene("h2", "h1")
    busy = profile(host="h2")
    scene.submit(graph("b; a -> c; b -> c", profiles={"b": busy, "c": busy}))
    scene.finish("h1", "a", held=False, size=10**6)
    assert ("fetch", "a", "h1") in drain(scene, "h1")
    for _ in range(1 if missing else 3):
        scene.tell(ev.CopyFailed("", 1, scene.number(1, "a"), "h1", missing))
    assert scene.where("a") == ()
    assert scene.state("a") in (State.READY, State.HANDED)
    assert scene.core.world.fleet.by_name["h1"].released


def test_two_hosts_that_are_drained_at_one_time_do_not_count_on_each_other() -> None:
    """The only two replicas are on the drained hosts, so one goes to the controller before the hosts are released."""
    scene = Scene("h1", "h2", "h3")
    on_h2, on_h3 = profile(host="h2"), profile(host="h3")
    once = profile(host="h1", idempotent=False)
    scene.submit(graph("busy; a -> b, c; busy -> c", profiles={"a": once, "b": on_h2, "c": on_h3, "busy": on_h3}))
    scene.finish("h1", "a", held=False, size=10**6)
    scene.store("h2", "a", size=10**6)
    scene.finish("h2", "b")
    assert scene.where("a") == ("h1", "h2")
    assert {words[:2] for words in drain(scene, "h1") + drain(scene, "h2")} == {("release", "h1"), ("fetch", "a")}
    assert ("release", "h2") in scene.store("", "a", size=10**6)
