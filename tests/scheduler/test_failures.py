"""Tasks that fail: the core retries them on another host first, or gives up and skips or cancels other tasks."""

from __future__ import annotations

import pytest

from handout.errors import OutcomeUnknownError
from handout.scheduler import Outcome, State
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from tests.scheduler.rig import Scene, graph, profile


def test_a_retry_goes_elsewhere_first() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a", profiles={"a": profile(retries=1)}))
    assert scene.fail("h1", "a") == [("start", "h2", "a")]
    assert scene.fail("h2", "a") == [("failed", "a"), ("over", "failed")]


def test_where_there_is_no_elsewhere_it_is_tried_on_the_same_host() -> None:
    scene = Scene("h1")
    scene.submit(graph("a", profiles={"a": profile(retries=1)}))
    assert scene.fail("h1", "a") == [("start", "h1", "a")]


def test_pauses_double_up_to_a_minute() -> None:
    scene = Scene("h1")
    scene.submit(graph("a", profiles={"a": profile(retries=9, backoff_s=10.0)}))
    pauses = []
    for _ in range(5):
        before = scene.now
        assert scene.fail("h1", "a") == []
        assert scene.state("a") is State.BACKOFF
        assert scene.wake() == [("start", "h1", "a")]
        pauses.append(scene.now - before)
        assert scene.core.counts(1)[State.HANDED] == 1
        scene.now = scene.core.world.now
    assert pauses == [10.0, 20.0, 40.0, 60.0, 60.0]


def test_a_failure_that_its_policy_does_not_retry_is_final() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a", profiles={"a": profile(retries=3)}))
    assert scene.fail("h1", "a", retryable=False) == [("failed", "a"), ("over", "failed")]


def test_three_deaths_are_final_and_use_up_no_retries() -> None:
    scene = Scene("h1", "h2", "h3")
    scene.submit(graph("a", profiles={"a": profile(retries=0)}))
    assert scene.fail("h1", "a", "died", retryable=False) == [("start", "h2", "a")]
    assert scene.fail("h2", "a", "died", retryable=False) == [("start", "h3", "a")]
    assert scene.fail("h3", "a", "died", retryable=False) == [("failed", "a"), ("over", "failed")]


@pytest.mark.parametrize("kind", ["input", "disk", "host"])
def test_trouble_that_is_not_the_functions_own_is_tried_elsewhere(kind: ev.FailureKind) -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a"))
    assert scene.fail("h1", "a", kind, retryable=False) == [("start", "h2", "a")]


def test_trouble_that_recurs_on_a_host_is_tried_once_on_each_host() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a"))
    assert scene.fail("h1", "a", "input", recurs=True) == [("start", "h2", "a")]
    assert scene.fail("h2", "a", "input", recurs=True) == [("failed", "a"), ("over", "failed")]


@pytest.mark.parametrize("kind", ["raised", "died"])
def test_a_host_that_failed_for_another_reason_is_used_again_after_trouble_that_recurs(kind: ev.FailureKind) -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a", profiles={"a": profile(retries=3)}))
    assert scene.fail("h1", "a", kind) == [("start", "h2", "a")]
    assert scene.fail("h2", "a", "input", recurs=True) == [("start", "h1", "a")]


def test_a_host_that_was_not_tried_comes_first_and_an_unfit_one_last() -> None:
    scene = Scene("h1", "h2", "h3")
    scene.submit(graph("a", profiles={"a": profile(retries=9)}))
    assert scene.fail("h1", "a") == [("start", "h2", "a")]
    assert scene.fail("h2", "a", "input", recurs=True) == [("start", "h3", "a")]
    host = "h3"
    for _ in range(5):
        [(_, host, _)] = scene.fail(host, "a")
        assert host in ("h1", "h3")


def test_trouble_that_recurs_on_the_host_of_a_group_is_not_tried_again() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a; b", groups={"a": 0, "b": 0}))
    scene.finish("h1", "b")
    assert scene.fail("h1", "a", "input", recurs=True) == [("failed", "a"), ("over", "failed")]


def test_a_death_of_what_must_not_run_twice_leaves_its_outcome_unknown() -> None:
    scene = Scene("h1", "h2")
    scene.specs[1] = graph("a", profiles={"a": profile(idempotent=False)})
    scene.tell(ev.RunSubmitted(1, scene.specs[1]))
    ended, _ = scene.tell(ev.TaskFailed("h1", 1, 0, 1, "died", False, None))
    assert isinstance(ended, cmd.AnnounceTasksEnded)
    assert isinstance(ended.failures[0], OutcomeUnknownError)


@pytest.mark.parametrize("kind", ["timeout", "memory"])
def test_what_was_killed_midway_and_must_not_run_twice_fails_at_once_as_itself(kind: ev.FailureKind) -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a", profiles={"a": profile(idempotent=False, retries=2)}))
    [ended, _] = scene.tell(ev.TaskFailed("h1", 1, 0, 1, kind, True, "its own"))
    assert isinstance(ended, cmd.AnnounceTasksEnded)
    assert ended.outcomes == [Outcome.FAILED]
    assert ended.failures == ["its own"]


@pytest.mark.parametrize("kind", ["timeout", "memory"])
def test_what_was_killed_midway_and_may_run_twice_uses_its_retries(kind: ev.FailureKind) -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a", profiles={"a": profile(retries=1)}))
    assert scene.fail("h1", "a", kind) == [("start", "h2", "a")]
    assert scene.fail("h2", "a", kind) == [("failed", "a"), ("over", "failed")]


def test_what_must_not_run_twice_and_raised_is_retried_as_asked() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a", profiles={"a": profile(idempotent=False, retries=1)}))
    assert scene.fail("h1", "a") == [("start", "h2", "a")]
    assert scene.fail("h2", "a") == [("failed", "a"), ("over", "failed")]


def test_fail_fast_cancels_the_rest_and_waits_for_the_agents() -> None:
    """The task a fails while b runs. The task c waits for a, and d waits for b."""
    scene = Scene("h1 2")
    scene.submit(graph("a -> c; b -> d", profiles=dict.fromkeys("cd", profile(idempotent=False))))
    assert scene.fail("h1", "a") == [
        ("cancel", "h1", "b"),
        ("failed", "a"),
        ("skipped", "c"),
        ("cancelled", "d"),
    ]
    assert scene.fail("h1", "b", "cancelled") == [("cancelled", "b"), ("over", "failed")]


def test_an_agent_that_does_not_confirm_is_waited_for_five_seconds() -> None:
    scene = Scene("h1 2")
    scene.submit(graph("a; b"))
    scene.fail("h1", "a")
    assert scene.wake() == [("cancelled", "b"), ("over", "failed")]
    assert scene.now == 5.0


def test_what_a_given_up_attempt_had_claimed_stays_claimed_until_its_end_is_confirmed() -> None:
    scene = Scene("h1")
    alone = profile(idempotent=False)
    scene.submit(graph("a", profiles={"a": alone}), run=1)
    scene.tell(ev.CancelRequested(1))
    assert scene.wake() == [("cancelled", "a"), ("over", "cancelled")]
    assert scene.submit(graph("b", profiles={"b": alone}), run=2) == []
    assert scene.said(scene.tell(ev.TaskFailed("h1", 1, 0, 1, "cancelled", False, None))) == [("start", "h1", "b")]


def test_continue_skips_only_what_depends_on_the_failure() -> None:
    scene = Scene("h1 2")
    scene.specs[1] = graph("a -> c -> e; b -> d", on_failure="continue", outputs=["e", "d"])
    scene.tell(ev.RunSubmitted(1, scene.specs[1]))
    commands = scene.tell(ev.TaskFailed("h1", 1, 0, 1, "raised", False, "boom"))
    (ended,) = [c for c in commands if isinstance(c, cmd.AnnounceTasksEnded)]
    assert ended.tasks == [0, 1, 2]
    assert ended.outcomes == [Outcome.FAILED, Outcome.SKIPPED, Outcome.SKIPPED]
    assert (ended.failures, ended.causes) == (["boom", None, None], [-1, 0, 0])
    scene.finish("h1", "b")
    assert scene.finish("h1", "d")[-1] == ("over", "failed")


def test_cancelling_a_task_cancels_what_depends_on_it_and_no_more() -> None:
    scene = Scene("h1 2")
    scene.submit(graph("a -> c; b"))
    assert scene.said(scene.tell(ev.CancelRequested(1, [0]))) == [("cancel", "h1", "a", "c"), ("cancelled", "c")]
    assert scene.fail("h1", "a", "cancelled") == [("cancelled", "a")]
    assert scene.finish("h1", "b") == [("done", "b"), ("over", "cancelled")]


def test_a_result_that_comes_after_the_cancel_is_thrown_away() -> None:
    scene = Scene("h1")
    scene.submit(graph("a"))
    scene.tell(ev.CancelRequested(1, [0]))
    assert scene.finish("h1", "a", held=False) == [("drop", "h1", "a"), ("cancelled", "a"), ("over", "cancelled")]


def test_followers_of_a_failed_task_come_back_and_follow_it_again() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b -> c", profiles={"a": profile(retries=1)}))
    assert [scene.state(n) for n in "abc"] == [State.HANDED] * 3
    assert scene.fail("h1", "a") == [("recall", "h1", "b"), ("start", "h2", "a")]
    assert scene.recalled("h1", "b") == [("recall", "h1", "c"), ("ahead", "h2", "b")]
    scene.recalled("h1", "c")
    assert [scene.core.explain(1, t).host for t in range(3)] == ["h2"] * 3


def test_closing_a_run_that_goes_on_ends_all_of_it() -> None:
    scene = Scene("h1")
    scene.submit(graph("a -> b"))
    assert scene.said(scene.tell(ev.RunClosed(1))) == [("cancel", "h1", "a", "b")]
    assert scene.core.world.fleet.by_name["h1"].ledger.used == {"cpu": 10_000}
    scene.tell(ev.TasksRecalled("h1", 1, [1], [1]), ev.TaskFailed("h1", 1, 0, 1, "cancelled", False, None))
    assert scene.core.world.fleet.by_name["h1"].ledger.used == {}
