"""Work of the core that is spread over several calls."""

from __future__ import annotations

from handout.scheduler import RunSpec, invariants
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from handout.scheduler.core import Core
from handout.scheduler.state.jobs import STEPS, Jobs
from handout.scheduler.task_states import Outcome
from handout.slices import Slices
from tests.scheduler.rig import Scene, graph, profile

WIDTH = 2 * STEPS + 1


def noting(notes: list[str], name: str, steps: int) -> Slices[None]:
    for step in range(steps):
        notes.append(f"{name}{step}")
        yield


def test_a_call_takes_a_limited_number_of_steps_and_runs_take_turns() -> None:
    jobs, notes = Jobs(3), list[str]()
    jobs.begin(1, noting(notes, "a", 2))
    jobs.begin(1, noting(notes, "b", 2))
    jobs.begin(1, noting(notes, "c", 1))
    jobs.begin(2, noting(notes, "d", 1))
    assert notes == ["a0", "a1", "b0"]
    assert (1 in jobs, 2 in jobs, 3 in jobs) == (True, True, False)
    jobs.go_on()
    assert notes == ["a0", "a1", "b0", "b1", "d0", "c0"]
    jobs.go_on()
    assert not jobs


def test_finishing_does_all_work_of_one_run() -> None:
    jobs, notes = Jobs(1), list[str]()
    for run in (1, 2):
        jobs.begin(run, noting(notes, str(run), 5))
    jobs.finish(1)
    jobs.forget(2)
    assert notes == ["10", "11", "12", "13", "14"]
    assert not jobs


def wide(**fields: object) -> RunSpec:
    """Return a graph of a first task, and many tasks that take its result."""
    return graph("first; " + "; ".join(f"first -> t{t}" for t in range(WIDTH)), **fields)


def endings(core: Core, commands: list[cmd.Command]) -> list[int]:
    """Let the core go on until it has no work. Return how many tasks each call says have ended."""
    counts = []
    while True:
        ended = [command for command in commands if isinstance(command, cmd.AnnounceTasksEnded)]
        counts.append(sum(len(command.tasks) for command in ended))
        invariants.check(core.world)
        if not core.world.jobs:
            return counts
        assert core.next_deadline == core.world.now
        commands = core.handle([], core.world.now)


def test_the_tasks_of_a_cancelled_run_end_in_several_calls_and_the_run_ends_after_them() -> None:
    scene = Scene("h1")
    scene.submit(wide())
    counts = endings(scene.core, scene.tell(ev.CancelRequested(1)))
    assert max(counts) <= STEPS + 1
    run = scene.core.world.runs[1]
    handed = run.handed_tasks()
    assert sum(counts) == WIDTH + 1 - len(handed)
    for t in handed:
        assert not run.over
        scene.tell(ev.TaskFailed("h1", 1, t, 1, "cancelled", False, "cancelled"))
    assert run.over


def test_the_tasks_that_depend_on_a_failed_one_are_skipped_in_several_calls() -> None:
    scene = Scene("h1")
    scene.submit(wide(on_failure="continue"))
    counts = endings(scene.core, scene.tell(ev.TaskFailed("h1", 1, 0, 1, "raised", False, "broken")))
    assert max(counts) <= STEPS + 1
    assert sum(counts) == WIDTH + 1
    assert scene.core.world.runs[1].over


def test_no_task_is_placed_while_the_core_notes_what_an_earlier_run_has_left() -> None:
    """The last task must not run twice and its end is not known, so it must not be placed before that is noted."""
    scene = Scene("h1")
    names = [f"t{t}" for t in range(WIDTH)]
    spec = graph("; ".join([*names, "once"]), profiles={"once": profile(idempotent=False)})
    done = list(range(WIDTH))
    commands = scene.core.handle(
        [
            ev.RunSubmitted(1, spec),
            ev.ResultsCommitted(1, done, done, [1] * WIDTH, [""] * WIDTH),
            ev.AttemptsUnknown(1, [WIDTH], ["h9"], [1]),
        ],
        scene.core.world.now,
    )
    seen = list(commands)
    while scene.core.world.jobs:
        seen += scene.core.handle([], scene.core.world.now)
    assert not [command for command in seen if isinstance(command, cmd.StartTasks)]
    ended = {
        t: o for c in seen if isinstance(c, cmd.AnnounceTasksEnded) for t, o in zip(c.tasks, c.outcomes, strict=True)
    }
    assert ended == {**dict.fromkeys(done, Outcome.DONE), WIDTH: Outcome.FAILED}


def test_a_host_that_is_lost_meanwhile_has_no_replicas_left() -> None:
    scene = Scene("h1", "h2")
    spec = graph("; ".join(f"t{t}" for t in range(WIDTH)))
    done = list(range(WIDTH))
    hosts = ["h1"] * WIDTH
    scene.core.handle(
        [ev.RunSubmitted(1, spec), ev.ResultsCommitted(1, done, done, [1] * WIDTH, hosts)], scene.core.world.now
    )
    assert scene.core.world.jobs
    scene.core.handle([ev.HostLost("h1", "cut")], scene.core.world.now)
    invariants.check(scene.core.world)
    run = scene.core.world.runs[1]
    assert not any(run.objects.replicas)
    assert run.unended == WIDTH


def test_a_closed_run_drops_its_objects_in_several_calls() -> None:
    scene = Scene("h1 4")
    spec = graph("; ".join(f"t{t}" for t in range(WIDTH)))
    done = list(range(WIDTH))
    scene.core.handle(
        [ev.RunSubmitted(1, spec), ev.ResultsCommitted(1, done, done, [1] * WIDTH, ["h1"] * WIDTH)],
        scene.core.world.now,
    )
    while scene.core.world.jobs:
        scene.core.handle([], scene.core.world.now)
    commands = scene.core.handle([ev.RunClosed(1)], scene.core.world.now)
    dropped = [0]
    while True:
        dropped.append(sum(len(c.objects) for c in commands if isinstance(c, cmd.DropObjects) and c.host == "h1"))
        if not scene.core.world.jobs:
            break
        commands = scene.core.handle([], scene.core.world.now)
    assert max(dropped) <= STEPS
    assert sum(dropped) == WIDTH


# ---- what happens between two steps ------------------------------------------------------------------------


def stepwise(*hosts: str, steps: int = 1) -> Scene:
    """Return a scene whose core takes few steps in a call."""
    scene = Scene()
    scene.core = Core(steps)
    for text in hosts:
        scene.join(text)
    return scene


def settle(scene: Scene) -> list[cmd.Command]:
    """Let the core go on until it has no work. Return its commands."""
    commands: list[cmd.Command] = []
    while scene.core.world.jobs:
        commands += scene.tell()
    return commands


def test_a_committed_task_that_no_host_can_run_does_not_end_the_run() -> None:
    scene = stepwise("h1")
    spec = graph("; ".join([*(f"t{t}" for t in range(9)), "gpu"]), profiles={"gpu": profile({"gpu": 1})})
    scene.specs[1] = spec
    done = list(range(10))
    scene.tell(ev.RunSubmitted(1, spec), ev.ResultsCommitted(1, done, done, [1] * 10, [""] * 10))
    settle(scene)
    assert scene.over[1].outcome is Outcome.DONE


#: A task that fails, and many tasks that take its result.
ROOT = "root; " + "; ".join(f"root -> t{t}" for t in range(9))
#: The tasks that run on one host only, so that each test knows where they are.
PLACES = {"root": profile(host="h1"), "gpu": profile({"gpu": 1}), "first": profile(host="h2", idempotent=False)}


def skipping(text: str, **fields: object) -> Scene:
    """Return a scene in which the tasks that depend on ``root`` are about to be skipped."""
    scene = stepwise("h1 2")
    scene.join("h2 2", gpu=1)
    scene.submit(graph(f"{ROOT}; {text}", on_failure="continue", profiles=PLACES, **fields))
    scene.fail("h1", "root")
    assert scene.core.world.jobs
    return scene


def test_a_task_that_is_about_to_be_skipped_does_not_end_the_run() -> None:
    scene = skipping("root -> gpu; other")
    scene.lose("h2")
    settle(scene)
    assert not scene.core.world.runs[1].aborting


def test_a_task_that_is_about_to_be_skipped_keeps_no_host() -> None:
    scene = skipping("root -> gpu; other")
    assert ("refuse", "h2") not in scene.said([*scene.tell(ev.HostDrained("h2")), *settle(scene)])


def test_a_result_that_only_a_skipped_task_would_take_is_not_missed() -> None:
    scene = stepwise("h1 2", "h2 2")
    scene.submit(graph(f"{ROOT}; first; root, first -> last; other", on_failure="continue", profiles=PLACES))
    scene.finish("h2", "first", size=1 << 20, held=False)
    scene.fail("h1", "root")
    assert scene.core.world.jobs
    scene.lose("h2")
    settle(scene)
    assert scene.core.world.runs[1].error is None


def test_an_output_that_the_caller_asks_for_is_fetched_before_it_is_dropped() -> None:
    scene = stepwise("h1 2", "h2 2")
    scene.submit(graph(f"{ROOT}; first -> last; other", on_failure="continue", profiles=PLACES))
    scene.finish("h2", "first", size=1 << 20, held=False)
    scene.fail("h1", "root")
    asked = scene.said(scene.tell(ev.OutputsWanted(1, [scene.number(1, "first")])))
    assert ("fetch", "first", "h2") in asked


def test_the_work_of_one_run_does_not_keep_another_one_waiting() -> None:
    scene = stepwise("h1 4", steps=4)
    scene.submit(graph("; ".join(f"t{t}" for t in range(200))))
    scene.submit(graph("a"), run=2)
    scene.tell(ev.CancelRequested(1))
    assert scene.core.world.jobs
    scene.tell(ev.CancelRequested(2, [0]))
    told = scene.said([command for _ in range(2) for command in scene.tell()])
    assert ("cancel", "h1", "a") in told or ("cancelled", "a") in told
    assert 1 in scene.core.world.jobs


def test_no_task_of_a_list_starts_after_the_list_was_cancelled() -> None:
    scene = stepwise("h1")
    spec = graph("; ".join(f"t{t}" for t in range(30)))
    scene.submit(spec)
    handed = set(scene.core.world.runs[1].handed_tasks())
    told = scene.tell(ev.CancelRequested(1, list(range(30))), scene.finished("h1", "t0"))
    told += settle(scene)
    started = {t for command in told if isinstance(command, cmd.StartTasks) for t in command.tasks}
    assert not started - handed
