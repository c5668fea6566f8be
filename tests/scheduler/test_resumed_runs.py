"""A fresh core gets facts about an earlier run: which results were committed, and which attempts still go on."""

from __future__ import annotations

from handout.errors import OutcomeUnknownError
from handout.scheduler import Outcome, RunSpec, State
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from tests.scheduler.rig import Said, Scene, graph, profile

ONCE = profile(idempotent=False)
ON_H1, ON_H2 = profile(host="h1"), profile(host="h2")


def resume(scene: Scene, spec: RunSpec, done: str, there: str | None = None, unknown: str = "") -> list[Said]:
    """Submit a run with facts about an earlier run.

    Args:
        scene: The scene.
        spec: The run.
        done: The tasks that were committed.
        there: The committed tasks whose results the controller has. By default it has all of them.
        unknown: The tasks that had begun and whose end was not seen.
    """
    scene.specs[1] = spec
    tasks = [scene.number(1, name) for name in done.split()]
    objects = tasks if there is None else [scene.number(1, name) for name in there.split()]
    lost = [scene.number(1, name) for name in unknown.split()]
    return scene.said(
        scene.tell(
            ev.RunSubmitted(1, spec),
            ev.ResultsCommitted(1, tasks, objects, [8] * len(objects), [""] * len(objects)),
            ev.AttemptsUnknown(1, lost, ["h9"] * len(lost), [1] * len(lost)),
        )
    )


def test_what_is_committed_is_not_run_and_what_follows_is() -> None:
    scene = Scene("h1")
    said = resume(scene, graph("a -> b -> c"), "a b")
    assert ("done", "a", "b") in said
    assert ("start", "h1", "c") in said
    assert not any("a" in words[2:] for words in said if words[0] in ("start", "ahead"))
    assert scene.finish("h1", "c")[-2:] == [("done", "c"), ("over", "done")]


def test_a_run_that_is_committed_whole_needs_no_host() -> None:
    scene = Scene()
    assert resume(scene, graph("a -> b; c"), "a b c")[-1] == ("over", "done")
    assert scene.where("b") == ("",)


def test_a_result_that_was_not_copied_is_made_again_only_where_it_is_needed() -> None:
    scene = Scene("h1")
    said = resume(scene, graph("a -> b -> c; x -> y"), "a b x y", there="y")
    assert [words for words in said if words[0] in ("start", "ahead")] == [
        ("start", "h1", "a"),
        ("ahead", "h1", "b", "c"),
    ]
    for name in "abc":
        scene.finish("h1", name)
    assert scene.over[1].outcome is Outcome.DONE
    assert scene.state("x") is State.DONE


def test_a_committed_result_that_the_controller_cannot_read_is_made_again_for_all_that_want_it() -> None:
    """The result is also an output, so it returns to the controller."""
    scene = Scene("h1", "h2")
    spec = graph("a -> b; a -> c", profiles={"a": ON_H1, "b": ON_H1, "c": ON_H2}, outputs=["a", "b", "c"])
    resume(scene, spec, "a")
    said = scene.said(scene.tell(ev.CopyFailed("h1", 1, scene.number(1, "a"), "", missing=True)))
    assert said[-1][1:] == ("h1", "a")
    assert {words[:2] for words in said if words[0] == "recall"} == {("recall", "h1"), ("recall", "h2")}
    assert scene.said(scene.tell(ev.CopyFailed("h2", 1, scene.number(1, "a"), "", missing=True))) == []
    scene.recalled("h1", "b")
    scene.recalled("h2", "c")
    assert ("fetch", "a", "h1") in scene.finish("h1", "a", held=False)
    scene.store("", "a")
    scene.store("h2", "a")
    scene.finish("h1", "b")
    assert scene.finish("h2", "c")[-1] == ("over", "done")


def test_what_only_repeated_tasks_take_stays_until_they_have_taken_it() -> None:
    scene = Scene("h1")
    said = resume(scene, graph("a -> b -> c"), "a b", there="a")
    assert ("drop", "", "a") not in said
    scene.finish("h1", "b")
    assert scene.finish("h1", "c")[-1] == ("over", "done")


def test_a_start_whose_end_was_not_seen_is_not_repeated_where_that_is_forbidden() -> None:
    scene = Scene("h1")
    resume(scene, graph("a -> b; c", profiles={"a": ONCE}, on_failure="continue"), "", unknown="a")
    assert scene.ended[1, "a"] is Outcome.FAILED
    assert scene.ended[1, "b"] is Outcome.SKIPPED
    assert scene.state("c") is State.HANDED


def test_the_error_of_such_a_start_says_where_it_was() -> None:
    scene = Scene()
    spec = graph("a", profiles={"a": ONCE})
    scene.specs[1] = spec
    commands = scene.tell(ev.RunSubmitted(1, spec), ev.AttemptsUnknown(1, [0], ["h9"], [3]))
    (ended,) = [c for c in commands if isinstance(c, cmd.AnnounceTasksEnded)]
    (failure,) = ended.failures
    assert isinstance(failure, OutcomeUnknownError)
    assert "'h9' (an earlier run did not see it end) in attempt 3" in str(failure)


def test_attempts_that_hosts_go_on_with_are_not_handed_over_again() -> None:
    scene = Scene("h1", "h2")
    spec = graph("a -> b; c; d")
    scene.specs[1] = spec
    said = scene.said(
        scene.tell(
            ev.RunSubmitted(1, spec),
            ev.ResultsCommitted(1, [0], [0], [8], ["h1"]),
            ev.AttemptsFound("h1", 1, [scene.number(1, "b")], [3]),
        )
    )
    assert not any("b" in words[2:] for words in said if words[0] in ("start", "ahead"))
    assert scene.where("a") == ("h1",)
    assert scene.attempt(1, scene.number(1, "b")) == 3
    assert ("done", "b") in scene.finish("h1", "b")


def test_an_attempt_that_nobody_wants_any_more_is_ended_and_its_number_not_used_again() -> None:
    scene = Scene("h1")
    spec = graph("a; b")
    scene.specs[1] = spec
    said = scene.said(
        scene.tell(
            ev.RunSubmitted(1, spec),
            ev.ResultsCommitted(1, [0], [0], [8], [""]),
            ev.AttemptsFound("h1", 1, [0, 1], [2, 5]),
        )
    )
    assert ("cancel", "h1", "a") in said
    assert scene.state("b") is State.HANDED
    assert scene.fail("h1", "b", "died") == [("start", "h1", "b")]
    assert scene.attempt(1, 1) == 6


def found(scene: Scene, spec: RunSpec, *said: ev.Event) -> list[Said]:
    """Submit a run together with events about results and attempts of an earlier run."""
    scene.specs[1] = spec
    return scene.said(scene.tell(ev.RunSubmitted(1, spec), *said))


def test_an_attempt_for_which_its_host_has_no_room_waits_there() -> None:
    """The attempt may have begun. If the core handed the task to another host, the task could run twice."""
    scene = Scene("h1", "h2")
    said = found(scene, graph("a; b", profiles={"b": ONCE}), ev.AttemptsFound("h1", 1, [0, 1], [1, 1]))
    assert said == []
    scene.finish("h1", "a")
    assert ("done", "b") in scene.finish("h1", "b")


def test_an_attempt_that_shared_amounts_do_not_cover_any_more_is_ended_and_not_repeated_where_that_is_forbidden() -> (
    None
):
    scene = Scene("h1 2", seat=1)
    once = profile({"seat": 1}, idempotent=False)
    spec = graph("a; b", profiles={"a": once, "b": once}, on_failure="continue")
    said = found(scene, spec, ev.AttemptsFound("h1", 1, [0, 1], [1, 1]))
    assert ("cancel", "h1", "b") in said
    assert scene.ended[1, "b"] is Outcome.FAILED
    assert ("done", "a") in scene.finish("h1", "a")


def test_what_was_on_its_way_to_an_attempt_is_brought_again() -> None:
    scene = Scene("h1")
    committed = ev.ResultsCommitted(1, [0], [0], [8], [""])
    said = found(scene, graph("a -> b"), committed, ev.AttemptsFound("h1", 1, [1], [1]))
    assert ("copy", "a", "", "h1") in said


def test_an_attempt_that_waits_for_what_must_be_made_again_is_asked_back() -> None:
    scene = Scene("h1", "h2")
    spec = graph("a -> b", max_concurrency=1)
    said = found(scene, spec, ev.AttemptsFound("h1", 1, [1], [1]))
    assert ("recall", "h1", "b") in said
    assert ("start", "h1", "a") in scene.recalled("h1", "b")


def test_of_two_attempts_that_are_found_the_later_one_goes_on() -> None:
    scene = Scene("h1", "h2")
    spec = graph("a", profiles={"a": ONCE})
    said = found(scene, spec, ev.AttemptsFound("h1", 1, [0], [1]), ev.AttemptsFound("h2", 1, [0], [2]))
    assert said == [("cancel", "h1", "a")]
    scene.tell(ev.TasksRecalled("h1", 1, [0], [1]))  # as h1 had told the earlier controller
    assert ("done", "a") in scene.finish("h2", "a")


def test_attempts_that_are_found_may_be_more_than_may_run_at_once() -> None:
    """The earlier controller handed b over after a had ended. The report of this end now comes a second time."""
    scene = Scene("h1", "h2")
    spec = graph("a; b; c", max_concurrency=1)
    assert found(scene, spec, ev.AttemptsFound("h1", 1, [0], [1]), ev.AttemptsFound("h2", 1, [1], [1])) == []
    assert ("done", "a") in scene.finish("h1", "a")
    assert ("start", "h1", "c") in scene.finish("h2", "b")


def test_a_result_that_is_told_again_is_not_believed_to_be_on_its_host() -> None:
    """The earlier controller may have told the host to drop the result."""
    scene = Scene("h1")
    found(scene, graph("a -> b"), ev.AttemptsFound("h1", 1, [0], [1]))
    said = scene.finish("h1", "a")
    assert scene.where("a") == ("",)
    assert ("copy", "a", "", "h1") in said


def test_a_result_that_is_told_again_and_that_nobody_takes_is_dropped() -> None:
    scene = Scene("h1")
    found(scene, graph("a -> b; c", outputs=["c"], on_failure="continue"), ev.AttemptsFound("h1", 1, [0], [1]))
    scene.tell(ev.CancelRequested(1, [1]))
    assert ("drop", "", "a") in scene.finish("h1", "a")
    assert scene.where("a") == ()


def test_what_an_unwanted_attempt_makes_after_the_run_is_closed_is_dropped() -> None:
    scene = Scene("h1")
    found(scene, graph("a"), ev.ResultsCommitted(1, [0], [0], [8], [""]), ev.AttemptsFound("h1", 1, [0], [2]))
    late = ev.TasksFinished("h1", 1, [0], [2], [1.0], [[8]], [False])
    scene.tell(ev.RunClosed(1))
    assert ("drop", "h1", "a") in scene.said(scene.tell(late))


def test_facts_of_a_run_that_is_closed_are_stale() -> None:
    scene = Scene()
    scene.tell(ev.ResultsCommitted(7, [0], [0], [1], [""]), ev.AttemptsUnknown(7, [0], ["h1"], [1]))
    assert scene.core.stale == 2
