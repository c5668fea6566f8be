"""Second attempts of tasks that are far slower than their peers."""

from __future__ import annotations

import pytest

from handout.scheduler import RunSpec, State
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from handout.scheduler.run_spec import Speculation
from handout.scheduler.state.durations import Durations
from handout.slices import at_once
from tests.scheduler.rig import Said, Scene, graph, profile

RULE = Speculation(peers=2, factor=3.0, least_s=0.25)
LONG = profile()


def began(scene: Scene, host: str, *names: str) -> list[Said]:
    tasks = [scene.number(1, name) for name in names]
    return scene.said(scene.tell(ev.TasksStarted(host, 1, tasks, [scene.attempt(1, t) for t in tasks])))


def slow(text: str = "p1; p2; slow", *, hosts: tuple[str, ...] = ("h1 3", "h2 3"), **fields: object) -> Scene:
    """Return a scene in which two peers took 1 s each on h1, and ``slow`` has run there since 0.0."""
    scene = Scene(*hosts)
    fields.setdefault("allocator", "first_available")
    scene.submit(graph(text, speculation=RULE, **fields))
    began(scene, "h1", "slow")
    scene.finish("h1", "p1", "p2", took_s=1.0)
    return scene


def twice(**fields: object) -> Scene:
    """Return a scene as `slow` does, after the core has started a second attempt of the slow task on h2."""
    scene = slow(**fields)
    assert ("start", "h2", "slow") in scene.wake()
    return scene


def of(scene: Scene, event: type[ev.TaskFailed], host: str, attempt: int, kind: ev.FailureKind) -> list[Said]:
    t = scene.number(1, "slow")
    return scene.said(scene.tell(event(host, 1, t, attempt, kind, False, f"{kind} on {host}")))


def finished(scene: Scene, host: str, attempt: int, *, held: bool = True) -> list[Said]:
    t = scene.number(1, "slow")
    return scene.said(scene.tell(ev.TasksFinished(host, 1, [t], [attempt], [9.0], [[8]], [held])))


def test_it_is_off_by_default() -> None:
    scene = Scene("h1 3", "h2 3")
    scene.submit(graph("p1; p2; slow", allocator="first_available"))
    began(scene, "h1", "slow")
    scene.finish("h1", "p1", "p2", took_s=1.0)
    assert scene.core.next_deadline is None


def test_a_second_attempt_is_started_at_three_times_the_peers_95th_percentile_by_a_timer() -> None:
    scene = slow()
    assert scene.core.next_deadline == 3.0
    assert scene.said(scene.tell(at=2.9)) == []
    commands = scene.tell(at=3.0)
    assert scene.said([c for c in commands if isinstance(c, cmd.StartTasks)]) == [("start", "h2", "slow")]
    (told,) = [c for c in commands if isinstance(c, cmd.AnnounceSecondAttempt)]
    assert told == cmd.AnnounceSecondAttempt(1, 2, "h2", 2, "h1", running_s=3.0, limit_s=3.0)
    assert scene.state("slow") is State.HANDED
    reason = scene.core.explain(1, 2).reason
    assert "has run on 'h1' for far longer than similar tasks, and runs a second time on 'h2'" in reason


def test_peers_that_end_later_make_a_task_slow_as_soon_as_there_are_enough() -> None:
    scene = Scene("h1 3", "h2")
    scene.submit(graph("p1; p2; slow", speculation=RULE, allocator="first_available"))
    began(scene, "h1", "slow")
    scene.now = 50.0
    scene.finish("h1", "p1", took_s=1.0)
    assert scene.core.world.runs[1].second_attempts == {}
    assert ("start", "h2", "slow") in scene.finish("h1", "p2", took_s=1.0)


@pytest.mark.parametrize(
    ("winner", "attempt", "loser", "other"), [("h2", 2, "h1", 1), ("h1", 1, "h2", 2)], ids=["second", "first"]
)
def test_the_first_to_finish_counts_and_the_other_is_ended(winner: str, attempt: int, loser: str, other: int) -> None:
    scene = twice()
    assert finished(scene, winner, attempt) == [("cancel", loser, "slow"), ("done", "slow"), ("over", "done")]
    assert scene.core.world.fleet.by_name[winner].ledger.used == {}
    # The loser keeps its claim until its agent has confirmed that the attempt ended.
    assert scene.core.world.fleet.by_name[loser].ledger.used == {"cpu": 10_000}
    of(scene, ev.TaskFailed, loser, other, "cancelled")
    assert scene.core.world.fleet.by_name[loser].ledger.used == {}


def test_a_loser_that_finishes_all_the_same_leaves_nothing() -> None:
    scene = twice()
    finished(scene, "h2", 2)
    assert finished(scene, "h1", 1) == [("drop", "h1", "slow")]


@pytest.mark.parametrize("kind", ["raised", "died", "disk"])
@pytest.mark.parametrize(("host", "attempt", "left", "other"), [("h2", 2, "h1", 1), ("h1", 1, "h2", 2)])
def test_one_that_fails_leaves_the_other_alone(
    host: str, attempt: int, left: str, other: int, kind: ev.FailureKind
) -> None:
    scene = twice()
    assert of(scene, ev.TaskFailed, host, attempt, kind) == []
    assert finished(scene, left, other) == [("done", "slow"), ("over", "done")]


def test_when_both_fail_the_task_has_failed_once() -> None:
    scene = twice()
    of(scene, ev.TaskFailed, "h2", 2, "raised")
    assert of(scene, ev.TaskFailed, "h1", 1, "raised") == [("failed", "slow"), ("over", "failed")]


def test_an_attempt_after_that_has_a_number_of_its_own() -> None:
    scene = twice(text="p1; p2; slow", profiles=dict.fromkeys(["p1", "p2", "slow"], profile(retries=1)))
    of(scene, ev.TaskFailed, "h2", 2, "raised")
    t = scene.number(1, "slow")
    scene.tell(ev.TaskFailed("h1", 1, t, 1, "raised", True, None))
    assert scene.attempt(1, t) == 3


@pytest.mark.parametrize(("host", "left", "other"), [("h2", "h1", 1), ("h1", "h2", 2)])
def test_a_lost_host_leaves_the_other_alone(host: str, left: str, other: int) -> None:
    scene = twice()
    assert scene.lose(host) == []
    assert finished(scene, left, other) == [("done", "slow"), ("over", "done")]


def test_a_cancelled_task_has_ended_when_both_attempts_have() -> None:
    scene = twice()
    assert scene.said(scene.tell(ev.CancelRequested(1, [2]))) == [("cancel", "h2", "slow"), ("cancel", "h1", "slow")]
    assert of(scene, ev.TaskFailed, "h1", 1, "cancelled") == []
    assert of(scene, ev.TaskFailed, "h2", 2, "cancelled") == [("cancelled", "slow"), ("over", "cancelled")]


def test_closing_the_run_ends_both() -> None:
    scene = twice()
    said = scene.said(scene.tell(ev.RunClosed(1)))
    assert {("cancel", "h2", "slow"), ("cancel", "h1", "slow")} <= set(said)


def test_there_is_one_extra_attempt_a_task_and_no_more() -> None:
    scene = twice(hosts=("h1 3", "h2 3", "h3 3"))
    began(scene, "h2", "slow")
    scene.tell(at=1000.0)
    of(scene, ev.TaskFailed, "h2", 2, "died")
    assert scene.said(scene.tell(at=5000.0)) == []


def test_nothing_is_attempted_twice_while_others_wait_for_room() -> None:
    """One task takes all of h2, and another task waits for all of h2."""
    wide = profile({"cpu": 3}, idempotent=False)
    scene = slow("p1; p2; slow; w1; w2", profiles={"w1": wide, "w2": wide})
    assert scene.wake() == []
    assert scene.finish("h2", "w1")[0] == ("start", "h2", "w2")
    assert ("start", "h2", "slow") in scene.finish("h2", "w2")


@pytest.mark.parametrize(
    "fields",
    [
        {"profiles": dict.fromkeys(["p1", "p2", "slow"], profile(idempotent=False))},
        {"profiles": dict.fromkeys(["p1", "p2", "slow"], profile(host="h1"))},
        {"groups": {"p1": 0, "slow": 0}},
        {"max_concurrency": 1, "hosts": ("h1 3",)},
        {"hosts": ("h1 3",)},
    ],
    ids=["unsafe", "pinned", "collocated", "limited", "alone"],
)
def test_what_must_not_or_cannot_run_twice_does_not(fields: dict[str, object]) -> None:
    if "max_concurrency" in fields:
        scene = Scene("h1 3", "h2 3")
        text = graph("p1; p2; slow", speculation=RULE, max_concurrency=1, priorities={"p1": 2.0, "p2": 1.0})
        scene.submit(text)
        scene.finish("h1", "p1", took_s=1.0)
        scene.finish("h1", "p2", took_s=1.0)
        began(scene, "h1", "slow")
    else:
        scene = slow(**fields)  # type: ignore[arg-type]
    assert scene.said(scene.tell(at=1000.0)) == []


def test_a_second_attempt_claims_what_the_inventory_shares_anew() -> None:
    seat = profile({"seat": 1})
    scene = Scene("h1 3", "h2 3", seat=3)
    scene.submit(
        graph(
            "p1; p2; slow",
            speculation=RULE,
            allocator="first_available",
            profiles=dict.fromkeys(["p1", "p2", "slow"], seat),
        )
    )
    began(scene, "h1", "slow")
    scene.finish("h1", "p1", "p2", took_s=1.0)
    assert ("start", "h2", "slow") in scene.wake()
    assert scene.core.world.fleet.shared.used == {"seat": 20_000}
    scene.lose("h1")
    assert scene.core.world.fleet.shared.used == {"seat": 10_000}


def test_a_copy_of_the_winners_result_is_not_hit_by_the_end_of_the_loser() -> None:
    """The consumer is placed on the loser's host. Its input is on the way there when the loser finishes as well."""
    scene = twice(text="p1; p2; slow -> next", profiles={"next": profile(host="h1", idempotent=False)})
    assert ("copy", "slow", "h2", "h1") in finished(scene, "h2", 2, held=False)
    assert finished(scene, "h1", 1, held=False) == []
    scene.store("h1", "slow")
    assert scene.where("slow") == ("h1", "h2")


def test_a_limit_follows_the_latest_durations() -> None:
    durations = at_once(Durations.of(graph("a", speculation=Speculation())))
    for _ in range(9):
        durations.learn(0, 2.0)
    assert durations.limit_s(0) == float("inf")
    durations.learn(0, 2.0)
    assert durations.limit_s(0) == 6.0
    for _ in range(300):
        durations.learn(0, 0.001)
    assert durations.limit_s(0) == 0.25


def test_a_wide_run_costs_one_timer() -> None:
    spec = RunSpec(
        count=20,
        profiles=[LONG],
        profile=[0] * 20,
        fn=[0] * 20,
        inputs=[()] * 20,
        producer=list(range(20)),
        nbytes=[-1] * 20,
        outputs=list(range(20)),
        ids=[str(t) for t in range(20)],
        speculation=RULE,
    )
    scene = Scene("h1 20", "h2")
    scene.specs[1] = spec
    scene.tell(ev.RunSubmitted(1, spec))
    run = scene.core.world.runs[1]
    host = scene.core.world.fleet.names[run.host[0]]
    there = [t for t in range(20) if scene.core.world.fleet.names[run.host[t]] == host]
    scene.finish(host, *(str(t) for t in there[:2]), took_s=1.0)
    for t in there[2:]:
        began(scene, host, str(t))
    assert len(scene.core.world.timers._heap) == 1
