"""Recovery: from lost hosts, from lost objects, and from copies that do not arrive."""

from __future__ import annotations

import pytest

from handout.errors import HostLostError, OutcomeUnknownError, WorkerDiedError
from handout.scheduler import Outcome, State
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from tests.scheduler.rig import Scene, graph, profile

ON_H1, ON_H2 = profile(host="h1"), profile(host="h2")


def test_losing_the_only_replica_makes_it_again() -> None:
    """h1 has the only replica of the result of a when it is lost, and b waits for this result on h2."""
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b, c", profiles={"b": ON_H2, "c": profile({"cpu": 1}, idempotent=True)}))
    scene.finish("h1", "a", held=False)
    said = scene.lose("h1")
    assert ("start", "h2", "a") in said or ("ahead", "h2", "a") in said or scene.state("a") is State.READY
    assert scene.state("b") is State.HANDED
    assert ("recall", "h2", "b") in said


def test_a_task_on_a_lost_host_runs_again_elsewhere_without_using_up_retries() -> None:
    scene = Scene("h1", "h2")
    assert scene.submit(graph("a")) == [("start", "h1", "a")]
    assert scene.lose("h1") == [("start", "h2", "a")]
    assert scene.attempt(1, 0) == 2
    assert scene.finish("h2", "a") == [("done", "a"), ("over", "done")]


def test_lineage_is_followed_as_far_back_as_results_are_gone() -> None:
    """The results of a and b have been dropped. When h1 is lost with the result of c, all three are made again."""
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b -> c -> d; x", profiles={"x": ON_H2, "d": ON_H2, **dict.fromkeys("abc", profile())}))
    for name in "abc":
        scene.finish("h1", name, held=False, took_s=0.001)
    scene.finish("h2", "x")
    scene.tell(ev.HostExpected("h1"))
    assert scene.lose("h1") == [("recall", "h2", "d"), ("ahead", "h2", "a", "b", "c")]
    assert scene.recalled("h2", "d") == []
    assert [scene.attempt(1, t) for t in range(3)] == [2, 2, 2]
    for name in "abc":
        scene.finish("h2", name)
    assert scene.finish("h2", "d")[-1] == ("over", "done")
    assert set(scene.ended) == {(1, n) for n in "abcdx"}


def test_results_that_nobody_needs_any_more_are_not_made_again() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b; c", profiles={"c": ON_H2}))
    scene.finish("h1", "a", held=False)
    scene.finish("h1", "b")
    assert scene.lose("h1") == []


def test_what_may_have_run_and_is_not_safe_to_repeat_fails() -> None:
    scene = Scene("h1", "h2")
    scene.specs[1] = graph("a -> b", profiles={"a": profile(idempotent=False, retries=5)})
    scene.tell(ev.RunSubmitted(1, scene.specs[1]))
    ended, over = scene.tell(ev.HostLost("h1", "its lease ended"))
    assert isinstance(ended, cmd.AnnounceTasksEnded)
    assert ended.outcomes == [Outcome.FAILED, Outcome.SKIPPED]
    assert ended.causes == [-1, 0]
    (error, nothing) = ended.failures
    assert isinstance(error, OutcomeUnknownError)
    assert "'a' was lost on host 'h1' (its lease ended)" in str(error)
    assert nothing is None
    assert over == cmd.AnnounceRunEnded(1, Outcome.FAILED, None)


def test_a_copy_whose_source_is_lost_comes_from_another_replica() -> None:
    scene = Scene("h1", "h2", "h3")
    spec = graph("a -> b, c", profiles={"b": ON_H2, "c": profile(host="h3"), "a": ON_H1})
    scene.submit(spec)
    scene.finish("h1", "a", held=False)
    scene.store("h2", "a")
    assert scene.lose("h1") == [("copy", "a", "h2", "h3")]


def test_a_missing_source_makes_the_object_again() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b", profiles={"a": ON_H1, "b": ON_H2}))
    scene.finish("h1", "a", held=False)
    said = scene.said(scene.tell(ev.CopyFailed("h2", 1, 0, "h1")))
    assert said == [("recall", "h2", "b"), ("start", "h1", "a")]
    scene.recalled("h2", "b")
    said = scene.finish("h1", "a", held=False)
    assert said == [("start", "h2", "b"), ("copy", "a", "h1", "h2")]


def test_objects_that_vanish_from_a_host_are_made_again_if_no_other_host_has_them() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b", profiles={"a": ON_H1, "b": ON_H2}))
    scene.finish("h1", "a", held=False)
    said = scene.said(scene.tell(ev.ObjectsVanished("h1", 1, [scene.number(1, "a"), scene.number(1, "b")])))
    assert said == [("recall", "h2", "b"), ("start", "h1", "a")]
    assert scene.said(scene.tell(ev.ObjectsVanished("h3", 1, [0]), ev.ObjectsVanished("h1", 9, [0]))) == []


def test_a_replica_that_is_missing_is_brought_again_to_who_waits_for_it_there() -> None:
    scene = Scene("h1", "h2 2")
    scene.submit(graph("a -> b; a -> c; x", profiles={"a": ON_H1, "x": ON_H1, "b": ON_H2, "c": ON_H2}))
    scene.finish("h1", "a", held=False)
    scene.store("h2", "a")
    scene.tell(ev.OutputsWanted(1, [scene.number(1, "a")]))
    source = scene.core.world.runs[1].objects.copying[0, 0]
    name = scene.core.world.fleet.names[source]
    said = scene.said(scene.tell(ev.CopyFailed("", 1, 0, name)))
    other = {"h1": "h2", "h2": "h1"}[name]
    assert ("fetch", "a", other) in said
    assert (("copy", "a", other, name) in said) == (name == "h2")


def test_a_host_that_takes_no_copies_is_given_up_after_three_tries() -> None:
    scene = Scene("h1", "h2 2", "h3 2")
    scene.submit(graph("a -> b", profiles={"a": ON_H1, "b": profile({"cpu": 2})}))
    scene.finish("h1", "a", held=False)
    for _ in range(2):
        assert scene.said(scene.tell(ev.CopyFailed("h2", 1, 0, "h1", missing=False))) == [("copy", "a", "h1", "h2")]
    said = scene.said(scene.tell(ev.CopyFailed("h2", 1, 0, "h1", missing=False)))
    assert said == [("cancel", "h2", "b"), ("start", "h3", "b"), ("copy", "a", "h1", "h3")]


def test_a_replica_that_arrives_after_nobody_needs_it_is_dropped() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b; c", profiles={"a": ON_H1, "b": ON_H2, "c": ON_H1}, on_failure="continue"))
    scene.finish("h1", "a", held=False)
    scene.tell(ev.CancelRequested(1, [1]))
    scene.recalled("h2", "b")
    assert scene.store("h2", "a") == [("drop", "h2", "a")]


def test_a_copy_that_arrives_from_a_lost_host_is_left_where_the_object_is_being_made_again() -> None:
    """A drop that the core sent now could arrive after the object was made again, and would remove the new replica."""
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b", profiles={"b": ON_H2}))
    scene.finish("h1", "a", held=False)
    scene.lose("h1")
    scene.recalled("h2", "b")
    assert scene.core.world.runs[1].host[0] == scene.core.world.fleet.by_name["h2"].index
    assert not any(said[0] == "drop" for said in scene.store("h2", "a"))
    scene.finish("h2", "a", held=False)
    assert scene.finish("h2", "b")[-1] == ("over", "done")


def test_an_object_made_elsewhere_than_expected_is_brought_to_who_waits() -> None:
    """The task b was handed over to h1 together with a. Then a was recalled and ran on h2."""
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b"))
    scene.tell(ev.HostSuspected("h1"))
    assert scene.recalled("h1", "a") == [("recall", "h1", "b"), ("start", "h2", "a")]
    assert scene.finish("h2", "a")[0] == ("copy", "a", "", "h1")
    scene.store("h1", "a")
    assert scene.finish("h1", "b")[-1] == ("over", "done")


def test_a_result_that_cannot_be_made_again_ends_the_run_with_its_own_error() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b", profiles={"a": profile(), "b": ON_H2}))
    scene.finish("h1", "a", held=False)
    scene.lose("h1")
    scene.recalled("h2", "b")
    scene.fail("h2", "a", retryable=False)
    assert scene.over[1].outcome is Outcome.FAILED
    assert isinstance(scene.over[1].error, HostLostError)
    assert ". If the host failed, find out what is wrong there." in str(scene.over[1].error)
    assert scene.ended == {(1, "a"): Outcome.DONE, (1, "b"): Outcome.SKIPPED}


def test_a_suspected_host_gets_nothing_new_until_it_is_heard() -> None:
    scene = Scene("h1")
    scene.tell(ev.HostSuspected("h1"))
    assert scene.submit(graph("a")) == []
    assert scene.said(scene.tell(ev.HostRecovered("h1"))) == [("start", "h1", "a")]


def test_a_drained_host_is_released_when_what_only_it_has_is_safe() -> None:
    scene = Scene("h1 2", "h2")
    scene.submit(graph("a, b -> c", allocator="first_available"))
    scene.finish("h1", "a", held=False)
    assert scene.said(scene.tell(ev.HostDrained("h1"))) == [("recall", "h1", "b", "c")]
    assert scene.recalled("h1", "c") == []
    assert scene.finish("h1", "b") == [
        ("start", "h2", "c"),
        ("copy", "a", "h1", "h2"),
        ("copy", "b", "", "h2"),
        ("fetch", "a", "h1"),
        ("done", "b"),
    ]
    assert scene.store("", "a") == [("release", "h1")]


def test_a_shrunk_host_gives_back_what_it_cannot_start_any_more() -> None:
    scene = Scene()
    scene.join("h1 4", memory="8 GB")
    scene.join("h2 4", memory="8 GB")
    big = profile({"memory": "6 GB"})
    scene.submit(graph("a; b; c", profiles=dict.fromkeys("abc", big)))
    ahead = next(n for n in "abc" if scene.core.world.runs[1].claims["abc".index(n)] is None)
    host = scene.core.world.fleet.names[scene.core.world.runs[1].host["abc".index(ahead)]]
    from handout.resources import compile_capabilities

    offer = compile_capabilities({"cpu": 4, "memory": "2 GB"})
    said = scene.said(scene.tell(ev.CapabilitiesChanged(host, offer)))
    assert any(words[:2] == ("recall", host) and ahead in words for words in said)


def test_a_task_that_takes_its_hosts_down_is_stopped_after_five() -> None:
    scene = Scene("h0", "h1", "h2", "h3", "h4", "h5")
    ((_, host, _),) = scene.submit(graph("a"))
    for _ in range(4):
        ((_, host, _),) = scene.lose(host)
    (ended, _) = scene.tell(ev.HostLost(host, "it is gone"))
    assert isinstance(ended, cmd.AnnounceTasksEnded)
    assert ended.outcomes == [Outcome.FAILED]
    assert isinstance(ended.failures[0], WorkerDiedError)


@pytest.mark.parametrize(
    ("pinned", "said"),
    [
        ("h2", "on host 'h2'; the task was tried 3 times."),
        (None, "the task was tried 3 times, on hosts 'h2', 'h3', 'h4'."),
    ],
)
def test_who_never_gets_its_input_is_told_where_it_was_tried(pinned: str | None, said: str) -> None:
    scene = Scene("h1", "h2", "h3", "h4")
    alone = profile({"cpu": 1}, host=pinned, idempotent=False)
    scene.submit(graph("a -> b; hold", profiles={"a": ON_H1, "b": alone, "hold": ON_H1}))
    scene.finish("h1", "a", held=False, size=10**8)
    ended: list[cmd.AnnounceTasksEnded] = []
    for _ in range(9):
        [(o, index)] = scene.core.world.runs[1].objects.copying
        to = scene.core.world.fleet.names[index]
        commands = scene.tell(ev.CopyFailed(to, 1, o, "h1", missing=False))
        ended += [command for command in commands if isinstance(command, cmd.AnnounceTasksEnded)]
    error = ended[0].failures[0]
    assert isinstance(error, HostLostError)
    assert said in str(error)
    assert "`ulimit -n`" in error.remedy  # copies of the controller's own files fail in this way too
