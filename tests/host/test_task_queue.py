"""When an agent starts its tasks, and which tasks the controller can recall or cancel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from handout.protocol import messages
from handout.protocol.resource_ledger import PARTS
from tests.host.rig import Rig


def waiting() -> Callable[[str, str], str]:
    """Return a function that makes the file `mark` and waits until the file `go` exists.

    The function travels by value, because it is made in a function.
    """

    def wait(mark: str, go: str) -> str:
        Path(mark).touch()
        while not Path(go).exists():
            time.sleep(0.002)
        return mark

    return wait


def test_never_more_than_the_ledger_grants(rig: Rig, tmp_path: Path) -> None:
    def count(folder: str, x: int) -> int:
        path = Path(folder, str(x))
        path.touch()
        time.sleep(0.003)
        running = len(os.listdir(folder))
        path.unlink()
        return running

    rig.task_class(2, need={"cpu": PARTS, "memory": 10})
    rig.send(messages.Limits({"cpu": 4 * PARTS, "memory": 20}, []))
    rig.submit(range(1, 31), rig.function(count), [rig.call(str(tmp_path), x) for x in range(30)], cls=2)
    rig.wait_for(*range(1, 31))
    assert max(rig.result(x) for x in range(1, 31)) == 2


def test_what_does_not_fit_is_passed_and_runs_once_it_does(rig: Rig, tmp_path: Path) -> None:
    wait = rig.function(waiting())
    rig.task_class(2, need={"cpu": 2 * PARTS})
    go = tmp_path / "go"
    rig.submit([1], wait, rig.call(str(tmp_path / "a"), str(go)))
    rig.submit([2], rig.function(lambda: "large"), rig.call(), cls=2)
    rig.submit([3], rig.function(lambda: "small"), rig.call())
    rig.wait_for(3)
    assert 2 not in rig.ended
    go.touch()
    rig.wait_for(2)
    assert rig.result(2) == "large"


def test_small_tasks_do_not_starve_a_large_one(rig: Rig) -> None:
    """Thousands of short tasks keep both processors busy. The task that needs both processors came early."""
    fn = rig.function(lambda: None)
    rig.task_class(2, need={"cpu": 2 * PARTS})
    rig.submit(range(10, 2000), fn, rig.call())
    rig.submit([1], rig.function(lambda: "large"), rig.call(), cls=2)
    rig.submit(range(2000, 30_000), fn, rig.call())
    rig.wait_for(1)
    assert len(rig.ended) < 29_900


def test_more_room_starts_more(rig: Rig, tmp_path: Path) -> None:
    wait, go = rig.function(waiting()), tmp_path / "go"
    marks = [tmp_path / str(i) for i in range(4)]
    rig.submit(range(1, 5), wait, [rig.call(str(m), str(go)) for m in marks])
    rig.wait(lambda: sum(m.exists() for m in marks) == 2)
    rig.send(messages.Limits({"cpu": 4 * PARTS}, []))
    rig.wait(lambda: all(m.exists() for m in marks))
    go.touch()
    rig.wait_for(*range(1, 5))


def test_tasks_that_have_not_started_are_given_back(rig: Rig, tmp_path: Path) -> None:
    wait, go = rig.function(waiting()), tmp_path / "go"
    marks = [tmp_path / str(i) for i in range(6)]
    rig.submit(range(1, 7), wait, [rig.call(str(m), str(go)) for m in marks])
    rig.wait(lambda: marks[0].exists() and marks[1].exists())
    rig.send(messages.Recall([1, 3, 4, 99]))
    rig.wait_for(3, 4)
    assert [m["attempt_ids"] for m in rig.heard("recalled")] == [[3, 4]]
    go.touch()
    rig.wait_for(1, 2, 5, 6)
    assert not marks[2].exists()


def test_cancelled_tasks_end_wherever_they_are(rig: Rig, tmp_path: Path) -> None:
    """One task runs, one is ready, and one waits for an input that never comes."""
    wait, go = rig.function(waiting()), tmp_path / "go"
    rig.submit([1, 2, 3], wait, [rig.call(str(tmp_path / str(i)), str(go)) for i in range(3)])
    rig.submit([4], rig.function(lambda x: x), rig.call(inputs=1), inputs=[[777]])
    rig.wait(lambda: (tmp_path / "1").exists())
    rig.send(messages.Cancel([1, 3, 4], 0))
    rig.wait_for(1, 3, 4)
    assert [rig.ended[t].fields["kind"] for t in (1, 3, 4)] == ["cancelled"] * 3
    go.touch()
    rig.wait_for(2)
    assert rig.result(2) == str(tmp_path / "1")


def test_cancelling_one_of_a_batch_leaves_the_others(rig: Rig) -> None:
    fn = rig.function(lambda x: x)
    for first in range(1, 2000, 500):
        rig.submit(range(first, first + 500), fn, [rig.call(x) for x in range(500)])
        rig.send(messages.Cancel(list(range(first, first + 500, 7)), 1.0))
    rig.wait_for(*range(1, 2001))
    kinds = {m.fields.get("kind", "done") for m in rig.ended.values()}
    assert kinds <= {"done", "cancelled"}
    assert all(m.fields["attempt_id"] in range(1, 2001) for m in rig.ended.values() if m.fields["name"] == "failed")


def test_cancelling_and_taking_back_what_has_ended_is_nothing(rig: Rig) -> None:
    rig.run(lambda: 1)
    rig.send(messages.Cancel([1], 1.0))
    rig.send(messages.Recall([1]))
    rig.run(lambda: 2, attempt_id=2)
    assert rig.result(2) == 2


def test_what_is_queued_behind_a_task_that_takes_long_goes_elsewhere(rig: Rig, tmp_path: Path) -> None:
    """One call of a function takes long, after many short calls."""
    go = str(tmp_path / "go")

    def mostly_short(x: int) -> int:
        while x == 300 and not Path(go).exists():
            time.sleep(0.002)
        return x

    rig.submit(range(1, 601), rig.function(mostly_short), [rig.call(x) for x in range(1, 601)])
    rig.wait_for(*(x for x in range(1, 601) if x != 300))
    assert 300 not in rig.ended
    rig.wait(lambda: any(300 in m["attempt_ids"] for m in rig.heard("started")))
    Path(go).touch()
    rig.wait_for(300)


def test_solo_tasks_never_wait_behind_another(rig: Rig) -> None:
    rig.task_class(2, alone=True)
    rig.submit(range(1, 101), rig.function(lambda x: x), [rig.call(x) for x in range(1, 101)], cls=2)
    rig.wait_for(*range(1, 101))
    assert all(rig.result(x) == x for x in range(1, 101))


def test_threads_are_bounded_before_the_first_import(rig: Rig) -> None:
    rig.task_class(2, threads=3, need={"cpu": 2 * PARTS})
    fn = rig.function(lambda: (os.environ["OMP_NUM_THREADS"], os.environ["CUDA_VISIBLE_DEVICES"]))
    rig.submit([1], fn, rig.call(), cls=2)
    rig.submit([2], fn, rig.call())
    rig.wait_for(1, 2)
    assert (rig.result(1), rig.result(2)) == (("3", ""), ("1", ""))


def test_each_task_gets_devices_of_its_own_and_its_worker_ends_with_them(rig: Rig, tmp_path: Path) -> None:
    def devices(folder: str) -> tuple[str, int]:
        mine = os.environ["CUDA_VISIBLE_DEVICES"]
        path = Path(folder, mine)
        path.mkdir()
        time.sleep(0.005)
        path.rmdir()
        return mine, os.getpid()

    rig.task_class(2, need={"gpu": PARTS})
    rig.send(messages.Limits({"cpu": 2 * PARTS}, [10**12, 10**12]))
    rig.submit(range(1, 9), rig.function(devices), rig.call(str(tmp_path)), cls=2)
    rig.wait_for(*range(1, 9))
    seen = [rig.result(x) for x in range(1, 9)]
    assert {d for d, _ in seen} == {"0", "1"}
    rig.wait(lambda: not any(os.path.exists(f"/proc/{pid}") for _, pid in seen))


def test_a_command_runs_and_is_bounded(rig: Rig) -> None:
    rig.send(messages.RunProgram(1, ["echo", "hello"], 10))
    rig.send(messages.RunProgram(2, ["sh", "-c", "sleep 1000 & sleep 1000"], 0.1))
    rig.send(messages.RunProgram(3, ["no-such-program"], 10))
    rig.wait(lambda: len(rig.heard("program_ended")) == 3)
    answers = {m.fields["id"]: m for m in rig.messages if m.fields["name"] == "program_ended"}
    assert (answers[1].fields["status"], answers[1].payload) == (0, b"hello\n")
    assert answers[2].fields["status"] != 0
    assert answers[3].fields["status"] == 127


def test_what_is_held_before_a_task_whose_argument_takes_long_to_make_is_told(rig: Rig, tmp_path: Path) -> None:
    go = str(tmp_path / "go")

    def block() -> int:
        while not Path(go).exists():
            time.sleep(0.002)
        return 300

    class Slow:
        def __reduce__(self) -> tuple[Callable[[], int], tuple[()]]:
            return block, ()

    fn = rig.function(lambda x: x)
    rig.submit(range(1, 301), fn, [rig.call(Slow() if x == 300 else x) for x in range(1, 301)])
    rig.wait_for(*range(1, 300))
    assert 300 not in rig.ended
    Path(go).touch()
    rig.wait_for(300)
