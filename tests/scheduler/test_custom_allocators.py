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


def expect(scene: Scene, name: str, patience_s: float = 18.0, **declared: Any) -> list[Any]:
    """Let the core expect a host of the inventory, for which the tasks of allocators wait 18 s once it is lost."""
    offer = compile_capabilities(declared, complete=False)
    return scene.said(scene.tell(ev.HostExpected(name, offer, 2.5, patience_s)))


def lose(scene: Scene, name: str, at: float | None = None) -> list[Any]:
    """Lose a host as the shell does: it expects the host again at once."""
    offer = compile_capabilities({}, complete=False)
    events = ev.HostLost(name, "it was silent"), ev.HostExpected(name, offer, 2.5, 18.0)
    return scene.said(scene.tell(*events, at=at))


def test_the_view_lists_every_host_with_its_state_and_declared_capabilities() -> None:
    scene = Scene()
    for name in ("starting", "ready", "suspected", "abandoned", "lost", "quarantined", "draining", "refused"):
        expect(scene, name, gpu=1)
        if name not in ("starting", "refused"):
            scene.join(name)
    scene.submit(graph("x", profiles={"x": profile(host="draining")}), run=2)
    scene.tell(ev.RunClosed(2), ev.HostDrained("draining"))  # the host waits for the end of the task
    scene.tell(ev.HostSuspected("suspected"), ev.HostAbandoned("abandoned"))
    scene.tell(ev.HostLost("refused", "the key was refused", final=True))
    lose(scene, "lost")
    lose(scene, "quarantined")
    scene.tell(ev.HostDelayed("quarantined", "in quarantine for 10 s"))
    hosts = asked(scene, "a").view.hosts
    assert list(scene.core.view.hosts) == list(hosts)
    assert {name: host.state for name, host in hosts.items()} == {
        "ready": "ready",
        "suspected": "suspected",
        "abandoned": "lost",
        "draining": "draining",
        "starting": "starting",
        "lost": "lost",
        "quarantined": "quarantined",
        "refused": "lost",
    }
    assert next(iter(hosts)) == "ready"
    assert [name for name, host in hosts.items() if host.given_up] == ["draining", "refused"]
    assert hosts["starting"].total.amounts == {"gpu": 1, "gpu_memory": 0}
    assert hosts["starting"].price_per_hour == 2.5


def test_a_host_that_is_removed_is_in_no_view() -> None:
    scene = Scene("h1", "h2")
    scene.tell(ev.HostLost("h2", "it was drained"), ev.HostRemoved("h2"))
    assert list(scene.core.view.hosts) == ["h1"]


def test_a_placement_on_a_host_that_has_not_joined_waits_and_is_asked_about_again_when_it_has() -> None:
    scene = Scene("h1")
    expect(scene, "gpu1")
    request = asked(scene, "a")
    assert answer(scene, request.request, {"a": "gpu1"}) == []
    assert scene.said(scene.tell(at=100.0)) == []  # a start may take long, and the shell limits it
    assert scene.join("gpu1") == [("ask", 2, "a")]
    assert answer(scene, 2, {"a": "gpu1"}) == [("start", "gpu1", "a")]


def test_a_host_that_has_not_joined_may_turn_out_to_lack_what_the_task_needs() -> None:
    scene = Scene("h1 2")
    expect(scene, "h2")
    request = asked(scene, "a", profiles={"a": profile({"cpu": 2})})
    assert answer(scene, request.request, {"a": "h2"}) == []
    assert scene.join("h2") == [("ask", 2, "a")]
    answer(scene, 2, {"a": "h2"})
    assert "can never run it: needs cpu=2, offers cpu=1" in str(allocator_error(scene))


def test_a_host_whose_first_start_fails_is_waited_for_and_then_given_up() -> None:
    scene = Scene("h1")
    expect(scene, "h2")
    request = asked(scene, "a")
    assert answer(scene, request.request, {"a": "h2"}) == []
    lost = ev.HostLost("h2", "the port is closed")
    assert scene.said(scene.tell(lost, at=5.0)) == [("ask", 2, "a")]
    assert answer(scene, 2, {"a": "h2"}) == []
    assert scene.wake() == [("ask", 3, "a")]
    assert scene.now == 5.0 + 18.0
    assert scene.core.view.hosts["h2"].given_up
    answer(scene, 3, {"a": "h2"})
    error = allocator_error(scene)
    assert "'a' on host 'h2', for which no task waits any longer: the host has not joined after 23 s: the port" in str(
        error
    )
    assert scene.now == 23.0


def test_a_host_that_the_controller_does_not_try_again_is_given_up_at_once() -> None:
    scene = Scene("h1")
    expect(scene, "h2")
    request = asked(scene, "a")
    assert answer(scene, request.request, {"a": "h2"}) == []
    assert scene.said(scene.tell(ev.HostLost("h2", "the key was refused", final=True))) == [("ask", 2, "a")]
    answer(scene, 2, {"a": "h2"})
    assert "the key was refused" in str(allocator_error(scene))


def test_a_lost_host_is_waited_for_until_its_time_is_over() -> None:
    scene = Scene("h1")
    expect(scene, "h2")
    scene.join("h2")
    request = asked(scene, "a")
    assert lose(scene, "h2", at=1.0) == []
    assert answer(scene, request.request, {"a": "h2"}) == [("ask", 2, "a")]
    assert answer(scene, 2, {"a": "h2"}) == []
    assert scene.wake() == [("ask", 3, "a")]
    assert scene.now == 1.0 + 18.0
    answer(scene, 3, {"a": "h2"})
    assert "the host was lost 18 s ago: it was silent" in str(allocator_error(scene))


def test_the_time_for_which_a_lost_host_is_waited_for_begins_when_its_agent_is_given_up() -> None:
    scene = Scene("h1")
    expect(scene, "h2")
    scene.join("h2")
    request = asked(scene, "a")
    scene.tell(ev.HostAbandoned("h2"), at=1.0)
    assert answer(scene, request.request, {"a": "h2"}) == [("ask", 2, "a")]
    assert answer(scene, 2, {"a": "h2"}) == []
    assert lose(scene, "h2", at=4.0) == [("ask", 3, "a")]
    assert answer(scene, 3, {"a": "h2"}) == []
    assert scene.wake() == [("ask", 4, "a")]
    assert scene.now == 1.0 + 18.0
    answer(scene, 4, {"a": "h2"})
    assert "the host was lost 18 s ago" in str(allocator_error(scene))


def test_a_lost_host_that_comes_back_in_time_gets_the_task() -> None:
    scene = Scene("h1")
    expect(scene, "h2")
    scene.join("h2")
    request = asked(scene, "a")
    lose(scene, "h2")
    assert answer(scene, request.request, {"a": "h2"}) == [("ask", 2, "a")]
    answer(scene, 2, {"a": "h2"})
    back = ev.HostConnected("h2", compile_capabilities({"cpu": 1}), "3.11", 0.001, epoch=2)
    assert scene.said(scene.tell(back, at=17.0)) == [("ask", 3, "a")]
    assert answer(scene, 3, {"a": "h2"}) == [("start", "h2", "a")]


def test_an_answer_that_a_wait_has_overtaken_is_asked_for_once_more() -> None:
    """The host is given up while the allocator thinks, so the allocator could not know that."""
    scene = Scene("h1")
    expect(scene, "h2")
    scene.join("h2")
    lose(scene, "h2")
    request = asked(scene, "a")
    assert scene.said(scene.tell(at=20.0)) == []
    assert answer(scene, request.request, {"a": "h2"}) == [("ask", 2, "a")]
    assert answer(scene, 2, {"a": "h1"}) == [("start", "h1", "a")]


def test_a_host_in_quarantine_is_waited_for_until_its_time_after_the_quarantine_is_over() -> None:
    scene = Scene("h1")
    expect(scene, "h2")
    scene.join("h2")
    lose(scene, "h2")
    scene.tell(ev.HostDelayed("h2", "in quarantine for 100 s"))
    request = asked(scene, "a")
    assert answer(scene, request.request, {"a": "h2"}) == []
    scene.wake()
    assert answer(scene, 2, {"a": "h2"}) == []
    assert scene.said(scene.tell(ev.HostDelayed("h2", ""), at=100.0)) == [("ask", 3, "a")]
    assert answer(scene, 3, {"a": "h2"}) == []
    assert scene.wake() == [("ask", 4, "a")]
    assert scene.now == 118.0
    answer(scene, 4, {"a": "h2"})
    assert "was lost 118 s ago" in str(allocator_error(scene))


def test_a_suspected_host_is_waited_for_until_it_is_heard_again() -> None:
    scene = Scene("h1", "h2")
    request = asked(scene, "a")
    scene.tell(ev.HostSuspected("h2"))
    assert answer(scene, request.request, {"a": "h2"}) == [("ask", 2, "a")]
    assert answer(scene, 2, {"a": "h2"}) == []
    assert scene.said(scene.tell(ev.HostRecovered("h2"))) == [("ask", 3, "a")]
    assert answer(scene, 3, {"a": "h2"}) == [("start", "h2", "a")]


def test_a_host_whose_agent_is_given_up_gets_no_work_although_it_may_be_heard_once_more() -> None:
    scene = Scene("h1", "h2")
    scene.tell(ev.HostAbandoned("h2"), ev.HostRecovered("h2"))
    assert scene.core.view.hosts["h2"].state == "lost"
    assert scene.submit(graph("a; b", profiles={"a": LONG, "b": LONG})) == [("start", "h1", "a")]


def test_a_host_that_is_drained_while_the_allocator_thinks_is_asked_about_again() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("x", profiles={"x": profile(host="h2", idempotent=False)}), run=2)
    scene.tell(ev.TasksStarted("h2", 2, [0], [1]))
    scene.join("h3")
    request = asked(scene, "a")
    scene.tell(ev.RunClosed(2), ev.HostDrained("h2"))  # the host waits for the end of the run's task
    assert scene.core.view.hosts["h2"].state == "draining"
    assert answer(scene, request.request, {"a": "h2"}) == [("ask", 2, "a")]
    answer(scene, 2, {"a": "h2"})
    assert "for which no task waits any longer: the host is being drained" in str(allocator_error(scene))


def test_a_host_that_is_removed_while_the_allocator_thinks_is_asked_about_again() -> None:
    scene = Scene("h1", "node2")
    request = asked(scene, "a")
    scene.tell(ev.HostLost("node2", "it was drained"), ev.HostRemoved("node2"))
    assert answer(scene, request.request, {"a": "node2"}) == [("ask", 2, "a")]
    answer(scene, 2, {"a": "node2"})
    assert "'node2', which is not a host of the inventory" in str(allocator_error(scene))


def test_a_host_that_is_added_while_the_allocator_thinks_may_be_named() -> None:
    scene = Scene("h1")
    request = asked(scene, "a")
    expect(scene, "h2")
    assert answer(scene, request.request, {"a": "h2"}) == []
    assert scene.join("h2") == [("ask", 2, "a")]
    assert answer(scene, 2, {"a": "h2"}) == [("start", "h2", "a")]


def test_placing_nothing_is_no_error_while_a_lost_host_is_waited_for() -> None:
    scene = Scene("h1")
    expect(scene, "h2")
    scene.tell(ev.HostLost("h2", "the port is closed"))
    request = asked(scene, "a")
    assert answer(scene, request.request, {}) == []
    assert scene.wake() == [("ask", 2, "a")]
    answer(scene, 2, {})
    assert "though all hosts are idle" in str(allocator_error(scene))


def test_other_tasks_go_on_while_one_waits_for_its_host() -> None:
    scene = Scene("h1")
    expect(scene, "h2")
    request = asked(scene, "a; b; c")
    assert answer(scene, request.request, {"a": "h2", "b": "h1"}) == [("start", "h1", "b")]
    assert scene.finish("h1", "b")[-1] == ("ask", 2, "a", "c")
    assert answer(scene, 2, {"a": "h2", "c": "h1"}) == [("start", "h1", "c")]
    assert scene.join("h2") == [("ask", 3, "a")]
    assert answer(scene, 3, {"a": "h2"}) == [("start", "h2", "a")]
