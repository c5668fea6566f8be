"""Custom allocators: what the core shows them, when it asks them, and how it treats good, late and bad answers."""

from __future__ import annotations

from typing import Any

import pytest

from handout.errors import AllocatorError, PlacementError
from handout.resources import compile_capabilities
from handout.scheduler import Outcome, State
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from handout.scheduler.handlers.membership import SHORTAGE_S
from tests.scheduler.rig import Scene, graph, profile

LONG = profile({"cpu": 1}, idempotent=False, fn_name="long")


def asked(scene: Scene, text: str, **fields: Any) -> cmd.AskAllocator:
    """Submit a run with a custom allocator, and return the first request to the allocator."""
    fields.setdefault("profiles", {name.strip(): LONG for name in text.replace("->", ";").replace(",", ";").split(";")})
    scene.specs[1] = graph(text, allocator=None, **fields)
    commands = scene.tell(ev.RunSubmitted(1, scene.specs[1]))
    (request,) = [c for c in commands if isinstance(c, cmd.AskAllocator)]
    return request


def answer(scene: Scene, request: int, placements: dict[Any, str], ask_again_s: float | None = None) -> list[Any]:
    return scene.said(scene.tell(ev.PlacementsProposed(1, request, placements, ask_again_s)))


def allocator_error(scene: Scene) -> AllocatorError:
    assert scene.over[1].outcome is Outcome.FAILED
    error = scene.over[1].error
    assert isinstance(error, AllocatorError)
    return error


def test_it_is_shown_ready_tasks_and_the_cluster_and_placed_as_it_says() -> None:
    scene = Scene("h1 2", "h2 2")
    request = asked(scene, "a; b -> c", labels=[{"deadline_s": 5}, {}, {}])
    assert [task.id for task in request.frontier] == ["b", "a"]
    assert [task.rank for task in request.frontier] == [1, 0]
    assert request.frontier[1].labels == {"deadline_s": 5}
    assert request.frontier[0].cost[0] is LONG.requirements[0].cost
    assert list(request.view.hosts) == ["h1", "h2"]
    assert request.view.hosts["h1"].free.amounts["cpu"] == 2
    assert answer(scene, request.request, {"a": "h2", "b": "h2"}) == [("start", "h2", "a", "b")]


def test_inputs_are_shown_with_size_and_place() -> None:
    scene = Scene("h1", "h2")
    request = asked(scene, "a -> b")
    answer(scene, request.request, {"a": "h2"})
    commands = scene.tell(scene.finished("h2", "a", size=1000, held=True))
    (again,) = [c for c in commands if isinstance(c, cmd.AskAllocator)]
    (one,) = again.frontier[0].inputs
    assert (one.id, one.nbytes, list(one.hosts)) == ("a", 1000, ["h2"])
    assert again.view.missing_bytes(again.frontier[0], "h1") == 1000
    assert again.frontier[0].expected_s == 60.0


def test_one_request_is_out_at_a_time_and_the_next_comes_only_when_something_has_happened() -> None:
    scene = Scene("h1")
    request = asked(scene, "a; b; c")
    assert scene.join("h2") == []
    assert answer(scene, request.request, {"a": "h1"}) == [("start", "h1", "a"), ("ask", 2, "b", "c")]
    assert answer(scene, 2, {}) == []
    assert scene.finish("h1", "a")[-1] == ("ask", 3, "b", "c")


def test_more_than_fits_waits_and_is_asked_about_again() -> None:
    scene = Scene("h1")
    request = asked(scene, "a; b")
    assert answer(scene, request.request, {"a": "h1", "b": "h1"}) == [("start", "h1", "a")]
    assert scene.finish("h1", "a")[-1] == ("ask", 2, "b")


def test_short_tasks_may_be_placed_beyond_what_is_free() -> None:
    scene = Scene("h1")
    request = asked(scene, "a; b", profiles={})
    assert answer(scene, request.request, {"a": "h1", "b": "h1"}) == [("start", "h1", "a"), ("ahead", "h1", "b")]


def test_a_placement_that_the_world_has_overtaken_goes_back_to_the_frontier() -> None:
    scene = Scene("h1", "h2")
    request = asked(scene, "a")
    scene.lose("h2")
    assert answer(scene, request.request, {"a": "h2"}) == [("ask", 2, "a")]
    assert answer(scene, 2, {"a": "h1"}) == [("start", "h1", "a")]


def test_an_answer_to_an_older_question_counts_for_nothing() -> None:
    scene = Scene("h1")
    asked(scene, "a")
    assert answer(scene, 99, {"a": "h1"}) == []
    assert scene.core.stale == 1


def test_pinned_and_collocated_tasks_are_placed_whatever_it_says() -> None:
    scene = Scene("h1 3", "h2 3")
    pinned = profile(host="h2", idempotent=False)
    profiles = {"p": pinned, "a": LONG, "b": LONG}
    request = asked(scene, "p; a; b", profiles=profiles, groups={"a": 1, "b": 1})
    assert scene.state("p") is State.HANDED
    assert [task.id for task in request.frontier] == ["a", "b"]
    answer(scene, request.request, {"a": "h1", "b": "h2"})
    assert scene.core.explain(1, scene.number(1, "a")).host == "h1"
    assert scene.core.explain(1, scene.number(1, "b")).host == "h1"


def test_a_host_that_is_not_there_ends_the_run_with_an_error_that_names_it() -> None:
    scene = Scene("node1")
    request = asked(scene, "a")
    answer(scene, request.request, {"a": "nod1"})
    assert "'a' on 'nod1', which is not a host of the inventory" in str(allocator_error(scene))
    assert "Did you mean 'node1'?" in str(allocator_error(scene))


def test_a_task_that_was_not_in_the_frontier_ends_the_run() -> None:
    scene = Scene("h1")
    request = asked(scene, "a -> b")
    answer(scene, request.request, {"b": "h1"})
    assert "'b', which was not in its frontier" in str(allocator_error(scene))


def test_a_host_that_can_never_run_the_task_ends_the_run() -> None:
    scene = Scene("h1")
    scene.join("gpu1", gpu=1)
    request = asked(scene, "a", profiles={"a": profile({"gpu": 1})})
    answer(scene, request.request, {"a": "h1"})
    assert "can never run it: needs gpu=1" in str(allocator_error(scene))


def test_leaving_out_everything_while_all_is_idle_ends_the_run() -> None:
    scene = Scene("h1")
    request = asked(scene, "a; b")
    answer(scene, request.request, {})
    assert "placed none of 2 tasks ('a', 'b') though all hosts are idle" in str(allocator_error(scene))


def test_a_host_that_was_let_go_is_nothing_to_wait_for() -> None:
    scene = Scene("h1")
    scene.tell(ev.HostExpected("h2"), ev.HostDrained("h2"))
    scene.join("h2")
    answer(scene, asked(scene, "a").request, {})
    assert "though all hosts are idle" in str(allocator_error(scene))


def test_leaving_out_everything_is_fine_when_it_wants_to_be_asked_again() -> None:
    scene = Scene("h1")
    request = asked(scene, "a")
    assert answer(scene, request.request, {}, 2.0) == []
    scene.now = 2.0
    commands = scene.tell()
    (again,) = [c for c in commands if isinstance(c, cmd.AskAllocator)]
    assert again.frontier[0].waiting_s == 2.0
    answer(scene, again.request, {})
    assert "placed none of 1 tasks" in str(allocator_error(scene))


def test_an_allocator_that_raises_ends_the_run_with_its_own_error() -> None:
    scene = Scene("h1")
    request = asked(scene, "a")
    error = AllocatorError("the allocator raised ZeroDivisionError: by zero.")
    scene.tell(ev.AllocatorFailed(1, request.request, error))
    assert allocator_error(scene) is error


def test_an_allocator_that_never_answers_ends_the_run_when_its_time_is_over() -> None:
    scene = Scene("h1")
    asked(scene, "a", allocator_timeout_s=12.0)
    scene.wake()
    assert scene.now == 12.0 or scene.core.world.now == 12.0
    assert "did not answer within 12 s" in str(allocator_error(scene))


def test_the_frontier_that_it_sees_is_bounded() -> None:
    scene = Scene("h1 2")
    request = asked(scene, "; ".join(f"t{i}" for i in range(400)), profiles={})
    assert len(request.frontier) == 256


def test_a_task_that_failed_somewhere_says_so() -> None:
    scene = Scene("h1", "h2")
    request = asked(scene, "a", profiles={"a": profile(retries=1)})
    answer(scene, request.request, {"a": "h1"})
    commands = scene.tell(ev.TaskFailed("h1", 1, 0, 1, "raised", True, None))
    (again,) = [c for c in commands if isinstance(c, cmd.AskAllocator)]
    assert again.frontier[0].not_on == {"h1"}
    assert answer(scene, again.request, {"a": "h1"}) == [("start", "h1", "a")]


def test_leaving_out_everything_while_a_task_waits_for_its_next_attempt_is_no_error() -> None:
    scene = Scene("h1")
    again = profile(retries=1, backoff_s=5.0)
    request = asked(scene, "a; b", profiles={"a": again, "b": again})
    answer(scene, request.request, {"a": "h1"})
    scene.fail("h1", "a")
    assert answer(scene, 2, {}) == []
    assert ("ask", 3, "a", "b") in scene.wake()
    answer(scene, 3, {})
    assert "though all hosts are idle" in str(allocator_error(scene))


@pytest.mark.parametrize("reason", ["backoff", "pause"])
def test_a_timer_without_a_reason_any_more_leaves_no_run_without_an_end(reason: str) -> None:
    scene = Scene("h1", "h2")
    again = profile(retries=1, backoff_s=5.0)
    request = asked(scene, "a; b", profiles={"a": again, "b": again}, on_failure="continue")
    answer(scene, request.request, {"a": "h2"})
    match reason:
        case "backoff":
            scene.fail("h2", "a")
            scene.tell(ev.CancelRequested(1, [scene.number(1, "a")]))
        case "pause":
            scene.fail("h2", "a", "disk", need=10**9)
            scene.lose("h2")
    woken = 0
    while 1 not in scene.over:
        number = scene.core.world.runs[1].requests.number
        if number >= 0:
            answer(scene, number, {})
        else:
            scene.wake()
            woken += 1
    assert woken
    assert "though all hosts are idle" in str(allocator_error(scene))


def test_leaving_out_a_task_whose_host_lacks_something_for_a_while_is_no_error() -> None:
    scene = Scene("h1", "h2 2")
    request = asked(scene, "a", profiles={"a": profile({"cpu": 2})})
    scene.tell(ev.CapabilitiesChanged("h2", compile_capabilities({"cpu": 1})))
    assert answer(scene, request.request, {}) == [("ask", 2, "a")]
    assert answer(scene, 2, {}) == []
    assert ("ask", 3, "a") in scene.said(
        scene.tell(ev.CapabilitiesChanged("h2", compile_capabilities({"cpu": 2})), at=9.0)
    )
    assert answer(scene, 3, {"a": "h2"}) == [("start", "h2", "a")]


def test_a_shortage_that_does_not_end_ends_the_run() -> None:
    scene = Scene("h1", "h2 2")
    request = asked(scene, "a", profiles={"a": profile({"cpu": 2})})
    for at in (1.0, 2.0):
        scene.tell(ev.CapabilitiesChanged("h2", compile_capabilities({"cpu": 1})), at=at)
    answer(scene, request.request, {})
    answer(scene, 2, {})
    while 1 not in scene.over:
        scene.wake()
    assert scene.now == 2.0 + SHORTAGE_S
    assert isinstance(scene.over[1].error, PlacementError)


def test_capabilities_that_change_all_the_time_are_no_reason_to_place_nothing() -> None:
    scene = Scene("h1", "h2")
    request = asked(scene, "a")
    scene.tell(ev.CapabilitiesChanged("h2", compile_capabilities({"cpu": 3})))
    answer(scene, request.request, {})
    answer(scene, 2, {})
    assert "though all hosts are idle" in str(allocator_error(scene))


def test_it_is_asked_again_when_another_run_makes_room() -> None:
    """The allocator found no room and set no time to be asked again, and its own run has nothing under way."""
    scene = Scene("h1")
    scene.submit(graph("x", profiles={"x": LONG}), run=2)
    request = asked(scene, "a")
    assert answer(scene, request.request, {}) == []
    assert ("ask", 2, "a") in scene.finish("h1", "x", run=2)
    assert answer(scene, 2, {"a": "h1"}) == [("start", "h1", "a")]


def test_leaving_out_everything_while_an_end_is_still_awaited_is_no_error() -> None:
    """A host is not idle until the tasks that were cancelled on it have ended."""
    scene = Scene("h1")
    scene.submit(graph("x", profiles={"x": LONG}), run=2)
    request = asked(scene, "a")
    scene.tell(ev.RunClosed(2))
    assert answer(scene, request.request, {}) == [("ask", 2, "a")]
    assert answer(scene, 2, {}) == []
    event = ev.TaskFailed("h1", 2, 0, 1, "cancelled", True, "it was cancelled")
    assert scene.said(scene.tell(event))[-1] == ("ask", 3, "a")


def test_it_is_asked_again_when_an_expected_host_will_not_come() -> None:
    """An allocator is allowed to place nothing while the core expects a host.

    When the host is lost, the core asks the allocator again. If it still places nothing, the run ends.
    """
    scene = Scene("h1")
    scene.tell(ev.HostExpected("h2"))
    request = asked(scene, "a")
    assert answer(scene, request.request, {}) == []
    assert scene.lose("h2") == [("ask", 2, "a")]
    answer(scene, 2, {})
    assert "all hosts are idle" in str(allocator_error(scene))
