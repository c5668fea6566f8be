"""Objects that a run keeps after its end, and that tasks of other runs take."""

from __future__ import annotations

import pytest

from handout.errors import HostLostError
from handout.scheduler import Outcome, RunSpec
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from tests.scheduler.rig import Scene, graph, profile


def taker(object_: int = 0, home: int = 1, **fields: object) -> RunSpec:
    """Return a run with one task, which takes an object that another run keeps."""
    return RunSpec(
        1, [profile()], [0], [0], [(1,)], [0, -1], [-1, 8], outputs=[0], ids=["t"], borrowed={1: (home, object_)},
        **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def kept(*hosts: str) -> Scene:
    """Return a scene in which run 1 has ended, and keeps the result of its only task ``a`` on the first host."""
    scene = Scene(*hosts)
    scene.submit(graph("a", outputs=[], keep=["a"]))
    scene.finish("h1", "a", held=False)
    assert scene.over[1].outcome is Outcome.DONE
    assert scene.where("a") == ("h1",)
    return scene


def test_a_task_of_another_run_takes_the_object_where_it_is() -> None:
    scene = kept("h1", "h2")
    assert scene.submit(taker(), run=2) == [("start", "h1", "t")]
    assert scene.finish("h1", "t", run=2) == [("done", "t"), ("over", "done")]
    scene.tell(ev.RunClosed(2))
    assert scene.where("a") == ("h1",)
    assert scene.said(scene.tell(ev.RunClosed(1))) == [("drop", "h1", "a")]


def test_a_copy_that_a_task_of_another_run_needs_is_a_replica_of_the_object_at_home() -> None:
    scene = kept("h1", "h2")
    commands = scene.tell(ev.RunSubmitted(2, pinned("h2")))
    copies = [c for c in commands if isinstance(c, cmd.FetchObjects | cmd.CopyObjects)]
    assert [(c.run, c.objects) for c in copies] == [(1, [0])]
    scene.tell(ev.ObjectsStored("h2", 1, [0], [8]))
    assert set(scene.where("a")) == {"h1", "h2"}


def pinned(host: str) -> RunSpec:
    spec = taker()
    return RunSpec(
        1, [profile(host=host)], [0], [0], spec.inputs, spec.producer, spec.nbytes, outputs=[0], ids=["t"],
        borrowed=spec.borrowed,
    )  # fmt: skip


def test_a_kept_object_is_made_again_after_the_end_of_its_run_and_tasks_wait_for_it() -> None:
    scene = kept("h1", "h2")
    scene.submit(pinned("h2"), run=2)
    assert scene.lose("h1") == [("recall", "h2", "t")]
    assert scene.recalled("h2", "t", run=2) == [("start", "h2", "a")]
    assert scene.state("t", run=2).name == "WAITING"
    assert scene.finish("h2", "a", held=False) == [("start", "h2", "t")]
    scene.finish("h2", "t", run=2)
    assert scene.ended[2, "t"] is Outcome.DONE
    assert len(scene.over) == 2


def test_if_the_object_cannot_be_made_again_the_tasks_that_wait_for_it_fail() -> None:
    scene = kept("h1", "h2")
    scene.submit(pinned("h2"), run=2)
    scene.lose("h1")
    scene.recalled("h2", "t", run=2)
    scene.fail("h2", "a", retryable=False)
    assert scene.ended[2, "t"] is Outcome.FAILED
    failures = [c for c in scene.over.values() if c.run == 2]
    assert failures[0].outcome is Outcome.FAILED
    # A run that comes later fails at once.
    scene.submit(taker(), run=3)
    assert scene.ended[3, "t"] is Outcome.FAILED


def test_a_run_that_borrows_of_a_closed_run_fails() -> None:
    scene = kept("h1")
    scene.tell(ev.RunClosed(1))
    found: list[object] = []
    scene.specs[2] = taker()
    for command in scene.tell(ev.RunSubmitted(2, taker())):
        if isinstance(command, cmd.AnnounceTasksEnded):
            found += command.failures
    assert [type(each) for each in found] == [HostLostError]


def test_closing_the_home_fails_the_tasks_that_wait_for_its_objects() -> None:
    scene = kept("h1", "h2")
    scene.submit(pinned("h2"), run=2)
    scene.lose("h1")
    scene.tell(ev.RunClosed(1))
    assert scene.over[2].outcome is Outcome.FAILED


def test_what_is_released_is_dropped_and_what_is_borrowed_stays() -> None:
    scene = kept("h1")
    scene.submit(taker(), run=2)
    assert scene.said(scene.tell(ev.ObjectsReleased(1, [0]))) == []
    scene.finish("h1", "t", run=2)
    scene.tell(ev.RunClosed(2))
    assert scene.said(scene.tell(ev.ObjectsReleased(1, [0]))) == [("drop", "h1", "a")]


def test_a_value_that_was_put_is_sent_to_each_host_that_needs_it() -> None:
    scene = Scene("h1")
    scene.submit(RunSpec(0, [], [], [], [], [-1], [8], keep=[0], ids=[]))
    assert scene.over[1].outcome is Outcome.DONE
    commands = scene.tell(ev.RunSubmitted(2, taker()))
    copies = [c for c in commands if isinstance(c, cmd.CopyObjects)]
    assert [(c.host, c.run, c.objects, c.sources) for c in copies] == [("h1", 1, [0], [""])]


def test_a_task_of_an_open_run_waits_for_a_lost_object() -> None:
    scene = kept("h1", "h2")
    scene.submit(RunSpec.open(4, on_failure="continue"), run=2)
    scene.lose("h1")
    scene.tell(ev.TasksAdded(2, [profile()], [0], [0], [(4,)], [8], ["c"], [{}], {4: (1, 0)}))
    assert scene.state("c", run=2).name == "WAITING"
    scene.finish("h2", "a", held=False)
    scene.finish("h2", "c", run=2)
    assert scene.ended[2, "c"] is Outcome.DONE


@pytest.mark.parametrize("how", ["here", "later", "failed", "cancelled"])
def test_a_task_of_an_open_run_gives_back_what_it_took_when_its_end_is_announced(how: str) -> None:
    """The run itself goes on for up to a thousand further tasks."""
    scene = kept("h1", "h2")
    scene.submit(RunSpec.open(4, on_failure="continue"), run=2)
    scene.tell(ev.TasksAdded(2, [profile()], [0], [0], [(4,)], [8], ["c"], [{}], {4: (1, 0)}))
    home = scene.core.world.runs[1]
    assert home.borrowers
    if how == "failed":
        scene.fail("h1", "c", retryable=False, run=2)
    elif how == "cancelled":
        scene.tell(ev.CancelRequested(2, [0]))
        scene.recalled("h1", "c", run=2)
    else:
        scene.finish("h1", "c", held=how == "here", run=2)
        if how == "later":
            assert home.borrowers  # the result may be lost, and the task may have to run again
            scene.tell(ev.ObjectsStored("", 2, [0], [8]))
    assert (2, "c") in scene.ended
    assert not home.borrowers
    assert scene.said(scene.tell(ev.ObjectsReleased(1, [0]))) == [("drop", "h1", "a")]


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_a_task_whose_result_is_lost_fails_if_the_object_that_it_takes_is_gone_for_good(
    is_open: bool, before: bool
) -> None:
    """The object is lost before the result, or both are on one host that is lost."""
    scene = Scene("h1", "h2")
    scene.submit(graph("a", outputs=[], keep=["a"], profiles={"a": profile(idempotent=False)}))
    scene.finish("h1", "a", held=False)
    if is_open:
        scene.submit(RunSpec.open(4, on_failure="continue"), run=2)
        scene.tell(ev.TasksAdded(2, [profile()], [0], [0], [(4,)], [8], ["t"], [{}], {4: (1, 0)}))
    else:
        scene.submit(taker(), run=2)
    scene.finish("h1", "t", run=2, held=False)
    if before:
        scene.tell(ev.ObjectsVanished("h1", 1, [0]))
    scene.lose("h1")
    assert scene.state("t", run=2).name == "FAILED"
