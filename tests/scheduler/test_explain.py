"""`Core.explain` tells why a task does not run."""

from __future__ import annotations

import pytest

from handout.errors import InternalError
from handout.scheduler import State
from handout.scheduler import events as ev
from tests.scheduler.rig import Scene, graph, profile

ALONE = profile(idempotent=False)


def test_a_waiting_task_names_what_it_waits_for() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a, b -> c", profiles=dict.fromkeys("abc", ALONE)))
    told = scene.core.explain(1, scene.number(1, "c"))
    assert (told.state, told.waits_for) == (State.WAITING, ("a", "b"))


def test_a_ready_task_says_for_each_host_why_it_is_not_there() -> None:
    scene = Scene("h1", "h2", "h3")
    scene.join("h4", memory="4 GB")
    big = profile({"memory": "2 GB"}, idempotent=False)
    scene.submit(graph("a; b; c", profiles={"a": big, "b": big, "c": big}))
    scene.tell(ev.HostSuspected("h3"))
    told = scene.core.explain(1, 1)
    assert told.state is State.READY
    assert "needs memory=2 GB" in told.hosts["h1"]
    assert told.hosts["h4"] == "needs cpu=1, but 0 is free of 1; held by 'a' (1)"
    assert told.reason == "no host has room for it (too little is free: cpu)"


def test_a_busy_host_says_which_amount_lacks_how_much_and_which_tasks_hold_it() -> None:
    scene = Scene()
    scene.join("gpu1 8", gpu=2, gpu_memory="4 GB", memory="8 GB")
    heavy = profile({"cpu": 0, "gpu_memory": "3 GB"}, idempotent=False, fn_name="heavy")
    scene.submit(graph("a; b; c", profiles=dict.fromkeys("abc", heavy)))
    scene.tell(ev.TasksStarted("gpu1", 1, [0, 1], [1, 1]))
    told = scene.core.explain(1, 2)
    assert told.reason == "no host has room for it (too little is free: gpu_memory)"
    assert told.hosts["gpu1"] == (
        "needs gpu_memory=3 GB, but at most 1 GB is free on a GPU, of 4 GB; held by 'a' (gpu_memory=3 GB), "
        "'b' (gpu_memory=3 GB)"
    )
    scene.submit(graph("d", profiles={"d": profile({"gpu": 2}, idempotent=False)}), run=2)
    assert scene.core.explain(2, 0).hosts["gpu1"] == (
        "needs gpu=2, but 0 of 2 GPUs is wholly free; held by 'a' of another run (gpu_memory=3 GB), "
        "'b' of another run (gpu_memory=3 GB)"
    )


def test_a_holder_says_for_how_long_it_is_expected_to_go_on() -> None:
    scene = Scene("h1")
    long = profile(idempotent=False, fn_name="long")
    scene.submit(graph("a; b; c", profiles=dict.fromkeys("abc", long)))
    scene.finish("h1", "a", took_s=60.0)
    scene.tell(ev.TasksStarted("h1", 1, [1], [1]), at=100.0)
    scene.now = 120.0
    scene.tell()
    assert scene.core.explain(1, 2).hosts["h1"].endswith("; held by 'b' (1, about 40 s more)")
    scene.tell(at=200.0)
    assert scene.core.explain(1, 2).hosts["h1"].endswith("; held by 'b' (1)")


def test_a_host_is_busy_for_another_run_or_with_an_attempt_that_is_being_ended() -> None:
    scene = Scene("h1")
    scene.submit(graph("x", profiles={"x": ALONE}))
    scene.submit(graph("y", profiles={"y": ALONE}), run=2)
    assert scene.core.explain(2, 0).hosts["h1"].endswith("held by 'x' of another run (1)")
    scene.tell(ev.RunClosed(1))
    assert scene.core.explain(2, 0).hosts["h1"].endswith("held by an attempt that is being ended (1)")


def test_a_shared_amount_that_lacks_is_told_with_the_tasks_that_hold_it() -> None:
    scene = Scene("h1 4", "h2 4", seat=1)
    seated = profile({"cpu": 1, "seat": 1}, idempotent=False)
    scene.submit(graph("a; b", profiles=dict.fromkeys("ab", seated)))
    told = scene.core.explain(1, 1)
    assert told.hosts["h2"] == "needs seat=1, but 0 is free of 1 that all hosts share; held by 'a' (1)"


def test_pins_failures_and_silence_are_told() -> None:
    scene = Scene("h1", "h2")
    profiles = {"p": profile(host="h1", idempotent=False), "f": profile(retries=1)}
    scene.submit(graph("p; f", profiles=profiles))
    assert scene.core.explain(1, 0).reason == "is with 'h1'"
    scene.tell(ev.HostSuspected("h1"))
    scene.fail("h2", "f")
    assert scene.core.explain(1, 1).state in (State.READY, State.HANDED)


def test_a_handed_task_says_what_it_waits_for_there() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b -> c", profiles={"a": profile(host="h1"), "b": profile(host="h2")}))
    scene.finish("h1", "a", held=False, size=10**8)
    assert "1 of its inputs are being copied" in scene.core.explain(1, 1).reason
    assert "where its inputs are being made" in scene.core.explain(1, 2).reason
    scene.tell(ev.TasksStarted("h2", 1, [1], [1]))
    assert scene.core.explain(1, 1).reason == "runs on 'h2'"


def test_backoff_ended_and_max_concurrency_are_told() -> None:
    scene = Scene("h1 4")
    scene.submit(graph("a; b", profiles={"a": profile(retries=1, backoff_s=5.0)}, max_concurrency=1))
    assert "max_concurrency=1" in scene.core.explain(1, 1).reason
    scene.fail("h1", "a")
    assert "tried again" in scene.core.explain(1, 0).reason
    scene.finish("h1", "b")
    assert scene.core.explain(1, 1).reason == "has succeeded on 'h1', in attempt 1"


def test_how_a_task_ended_is_told() -> None:
    scene = Scene("h1")
    scene.submit(graph("a -> b; c -> d", profiles={"d": ALONE}, on_failure="continue"))
    scene.fail("h1", "a")
    scene.tell(ev.CancelRequested(1, [scene.number(1, "d")]))
    told = {name: str(scene.core.explain(1, scene.number(1, name))) for name in "abd"}
    assert told == {
        "a": "task 'a' is failed: has failed for good on 'h1', in attempt 1",
        "b": "task 'b' is skipped: does not run, because a task that it depends on failed",
        "d": "task 'd' is cancelled: was cancelled",
    }


def test_a_drain_is_named_as_the_reason() -> None:
    scene = Scene("h1")
    scene.submit(graph("a"))
    scene.tell(ev.TasksStarted("h1", 1, [0], [1]))
    scene.join("h2")
    scene.tell(ev.HostExpected("h3"), ev.HostDrained("h1"))
    scene.submit(graph("p", profiles={"p": profile(host="h1")}), run=2)
    told = scene.core.explain(2, 0)
    assert told.reason == "the only hosts that can run it are being drained: h1; expected: h3"
    assert told.hosts["h1"].startswith("is being drained, and gets no new tasks; to use it again, add it after drain()")


def test_a_task_with_two_inputs_of_one_function_names_it_once() -> None:
    scene = Scene("h1")
    scene.submit(graph("a -> b; a -> b", profiles=dict.fromkeys("ab", ALONE)))
    assert scene.core.explain(1, 1).reason == "waits for the result of 'a'"


def test_an_allocator_is_told_of() -> None:
    scene = Scene("h1")
    scene.submit(graph("a", allocator=None))
    assert "allocator is being asked" in scene.core.explain(1, 0).reason


def test_a_task_that_its_allocator_has_placed_on_a_host_that_is_not_ready_says_so() -> None:
    scene = Scene("h1")
    scene.tell(ev.HostExpected("h2"))
    scene.submit(graph("a", allocator=None))
    scene.tell(ev.PlacementsProposed(1, 1, {"a": "h2"}), at=3.0)
    told = scene.core.explain(1, 0)
    assert told.reason == "its allocator has placed it on 'h2', and it waits until this host is ready"
    assert told.hosts["h2"] == "has been starting for 3 s; the controller is connecting to this host"
    scene.tell(ev.HostLost("h2", "the port is closed."))
    assert scene.core.explain(1, 0).hosts["h2"] == "has not joined after 3 s: the port is closed"


def test_expected_hosts_are_told() -> None:
    scene = Scene()
    scene.tell(ev.HostExpected("h1"))
    scene.submit(graph("a"))
    assert "expected: h1" in scene.core.explain(1, 0).reason


def test_a_host_that_is_left_alone_is_told_with_why_until_it_is_tried_again() -> None:
    scene = Scene("h1")
    scene.tell(ev.HostDelayed("h2", "in quarantine"))
    assert "h2" not in scene.core.world.fleet.expected
    scene.tell(ev.HostExpected("h2"), ev.HostDelayed("h2", "in quarantine for 10 s"))
    assert scene.submit(graph("a", profiles={"a": profile(host="h2")})) == []
    told = scene.core.explain(1, 0)
    assert told.reason == "no connected host can run it; expected: h2 (in quarantine for 10 s)"
    assert told.hosts["h2"] == "is in quarantine for 10 s"
    scene.tell(ev.HostDelayed("h2", ""))
    assert scene.core.explain(1, 0).hosts["h2"].endswith("; the controller is connecting to this host")
    assert scene.join("h2") == [("start", "h2", "a")]


def test_a_task_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InternalError):
        Scene("h1").core.explain(1, 0)
