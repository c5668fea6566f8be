"""Coroutine functions that run alone in a worker, or many at a time in one worker."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from handout.protocol import messages
from handout.protocol.resource_ledger import PARTS
from tests.host.rig import Rig
from tests.patience import stretched


@pytest.fixture
def loop_class(rig: Rig) -> int:
    return rig.task_class(2, need={}, shared_loop=True)


def test_a_coroutine_function_runs(rig: Rig) -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    rig.run(double, 21)
    assert rig.result(1) == 42


def test_many_wait_at_once_in_one_worker(rig: Rig, loop_class: int, tmp_path: Path) -> None:
    """Each coroutine waits until all the others have started."""

    async def meet(folder: str, x: int) -> int:
        Path(folder, str(x)).touch()
        while len(os.listdir(folder)) < 200:
            await asyncio.sleep(0.001)
        return os.getpid()

    rig.submit(range(1, 201), rig.function(meet), [rig.call(str(tmp_path), x) for x in range(200)], cls=loop_class)
    rig.wait_for(*range(1, 201))
    assert len({rig.result(x) for x in range(1, 201)}) == 1


def test_they_still_hold_what_they_need(rig: Rig, tmp_path: Path) -> None:
    async def count(folder: str, x: int) -> int:
        path = Path(folder, str(x))
        path.touch()
        await asyncio.sleep(0.01)
        running = len(os.listdir(folder))
        path.unlink()
        return running

    rig.task_class(3, need={"seat": PARTS}, shared_loop=True)
    rig.send(messages.Limits({"cpu": PARTS, "seat": 3 * PARTS}, []))
    rig.submit(range(1, 21), rig.function(count), [rig.call(str(tmp_path), x) for x in range(20)], cls=3)
    rig.wait_for(*range(1, 21))
    assert max(rig.result(x) for x in range(1, 21)) <= 3


def test_a_cancelled_one_ends_and_its_siblings_go_on(rig: Rig, loop_class: int, tmp_path: Path) -> None:
    async def wait_for(path: str, mark: str) -> str:
        Path(mark).touch()
        try:
            while not Path(path).exists():
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            Path(mark + ".cancelled").touch()
            raise
        return "ended"

    fn, go = rig.function(wait_for), tmp_path / "go"
    marks = [tmp_path / "a", tmp_path / "b"]
    rig.submit([1, 2], fn, [rig.call(str(go), str(mark)) for mark in marks], cls=loop_class)
    rig.wait(lambda: all(mark.exists() for mark in marks))
    rig.send(messages.Cancel([1], 5.0))
    assert rig.wait_for(1).fields["kind"] == "cancelled"
    assert (tmp_path / "a.cancelled").exists()
    go.touch()
    rig.wait_for(2)
    assert rig.result(2) == "ended"


def test_one_that_will_not_be_cancelled_dies_and_its_siblings_start_anew(
    rig: Rig, loop_class: int, tmp_path: Path
) -> None:
    async def stubborn(mark: str) -> None:
        Path(mark).touch()
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                pass

    async def sibling(mark: str) -> int:
        with open(mark, "a") as file:
            file.write("x")
        while len(Path(mark).read_text()) < 2:
            await asyncio.sleep(0.002)
        return 7

    marks = [tmp_path / "a", tmp_path / "b"]
    rig.submit([1], rig.function(stubborn), rig.call(str(marks[0])), cls=loop_class)
    rig.submit([2], rig.function(sibling), rig.call(str(marks[1])), cls=loop_class)
    rig.wait(lambda: all(mark.exists() for mark in marks))
    rig.send(messages.Cancel([1], 0.1))
    assert rig.wait_for(1).fields["kind"] == "cancelled"
    rig.wait_for(2)
    assert rig.result(2) == 7


def test_after_a_shared_death_the_culprit_dies_alone(rig: Rig, loop_class: int, tmp_path: Path) -> None:
    async def die(folder: str) -> None:
        Path(folder, "die").touch()
        while len(os.listdir(folder)) < 2:
            await asyncio.sleep(0.002)
        os._exit(4)

    async def live(folder: str) -> str:
        Path(folder, "live").touch()
        await asyncio.sleep(0.3)
        return "alive"

    rig.submit([1], rig.function(die), rig.call(str(tmp_path)), cls=loop_class)
    rig.submit([2], rig.function(live), rig.call(str(tmp_path)), cls=loop_class)
    rig.wait_for(1, 2)
    assert (rig.ended[1].fields["kind"], rig.ended[1].fields["exit"]) == ("died", 4)
    assert rig.result(2) == "alive"


def test_one_over_its_time_ends_alone(rig: Rig, loop_class: int) -> None:
    async def wait(s: float) -> float:
        await asyncio.sleep(s)
        return s

    fn = rig.function(wait)
    rig.task_class(3, need={}, shared_loop=True, timeout_s=0.1)
    rig.submit([1], fn, rig.call(1000), cls=3)
    rig.submit([2], fn, rig.call(0.3), cls=loop_class)
    assert rig.wait_for(1).fields["kind"] == "timeout"
    rig.wait_for(2)
    assert rig.result(2) == 0.3


def test_a_cancelled_coroutine_alone_in_its_worker_gets_to_clean_up(rig: Rig, tmp_path: Path) -> None:
    async def wait(mark: str) -> None:
        Path(mark).touch()
        try:
            await asyncio.sleep(1000)
        finally:
            Path(mark + ".clean").touch()

    mark = tmp_path / "a"
    rig.submit([1], rig.function(wait), rig.call(str(mark)))
    rig.wait(mark.exists)
    rig.send(messages.Cancel([1], 5.0))
    started = time.monotonic()
    assert rig.wait_for(1).fields["kind"] == "cancelled"
    assert time.monotonic() - started < stretched(4)
    assert (tmp_path / "a.clean").exists()


def test_a_cancelled_one_is_not_cancelled_again_while_it_cleans_up(rig: Rig, loop_class: int, tmp_path: Path) -> None:
    async def wait(mark: str) -> None:
        Path(mark).touch()
        try:
            await asyncio.sleep(1000)
        finally:
            Path(mark + ".cleaning").touch()
            while not os.path.exists(mark + ".go"):
                await asyncio.sleep(0.01)
            Path(mark + ".clean").touch()

    mark = tmp_path / "a"
    rig.submit([1], rig.function(wait), rig.call(str(mark)), cls=loop_class)
    rig.wait(mark.exists)
    rig.send(messages.Cancel([1], 60.0))
    rig.wait((tmp_path / "a.cleaning").exists)
    rig.submit([2], rig.function(asyncio.sleep), rig.call(0), cls=loop_class)  # one more message to the same worker
    rig.wait_for(2)
    (tmp_path / "a.go").touch()
    assert rig.wait_for(1).fields["kind"] == "cancelled"
    assert (tmp_path / "a.clean").exists()


def test_one_that_is_cancelled_before_it_begins_ends_at_once(rig: Rig, loop_class: int, tmp_path: Path) -> None:
    async def block(mark: str) -> str:
        Path(mark).touch()
        while not os.path.exists(mark + ".go"):
            time.sleep(0.01)  # the loop reads no messages in the meantime
        return "once"

    mark = tmp_path / "a"
    rig.submit([1], rig.function(block), rig.call(str(mark)), cls=loop_class)
    rig.wait(mark.exists)
    rig.submit([2], rig.function(asyncio.sleep), rig.call(1000), cls=loop_class)
    rig.send(messages.Cancel([2], 60.0))
    (tmp_path / "a.go").touch()
    assert rig.wait_for(1, 2).fields["kind"] == "cancelled"
    assert rig.result(1) == "once"


def test_each_knows_who_it_is_and_what_it_prints_is_told_apart(rig: Rig, loop_class: int) -> None:
    async def say() -> str:
        from handout import current

        for _ in range(3):
            print(current().id)
            await asyncio.sleep(0.001)
        return current().id

    rig.submit(range(1, 21), rig.function(say), rig.call(), cls=loop_class)
    rig.wait_for(*range(1, 21))
    assert [rig.result(x) for x in range(1, 21)] == [f"t{x}" for x in range(1, 21)]
    rig.wait(lambda: len(rig.heard("log")) >= 20)
    for message in rig.messages:
        if message.fields["name"] == "log":
            assert set(bytes(message.payload).decode().split()) == {f"t{message.fields['attempt_id']}"}


def test_what_coroutines_have_changed_is_put_back_when_none_runs(rig: Rig, loop_class: int) -> None:
    async def change() -> int:
        import locale
        import signal

        os.chdir("/tmp")
        os.umask(0)
        os.environ["CHANGED"] = "1"
        locale.setlocale(locale.LC_ALL, "C")
        signal.alarm(1000)
        for fd in (0, 1, 2):
            os.close(fd)
        return os.getpid()

    async def look() -> list[object]:
        import locale
        import signal

        os.umask(mask := os.umask(0))
        files = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
        state = [mask, os.getcwd(), os.environ.get("CHANGED"), locale.setlocale(locale.LC_ALL), signal.alarm(0)]
        print("heard")
        return [os.getpid(), *files, *state]

    looking = rig.function(look)
    rig.submit([1], looking, rig.call(), cls=loop_class)
    rig.wait_for(1)
    rig.submit([2], rig.function(change), rig.call(), cls=loop_class)
    rig.wait_for(2)
    rig.submit([3], looking, rig.call(), cls=loop_class)
    rig.wait_for(3)
    assert rig.result(1) == rig.result(3)
    assert rig.result(1)[0] == rig.result(2)
    rig.wait(lambda: len(rig.heard("log")) == 2)


def test_a_worker_of_coroutines_that_cannot_be_put_back_ends(rig: Rig, loop_class: int) -> None:
    async def spoil() -> int:
        for fd in range(512, 600):
            try:
                os.close(fd)
            except OSError:
                pass
        os.close(1)
        return os.getpid()

    async def look() -> int:
        print("heard")
        return os.getpid()

    rig.submit([1], rig.function(spoil), rig.call(), cls=loop_class)
    rig.wait_for(1)
    rig.submit([2], rig.function(look), rig.call(), cls=loop_class)
    rig.wait_for(2)
    assert rig.result(1) != rig.result(2)


def test_what_coroutines_print_reaches_no_file_that_another_has_opened(
    rig: Rig, loop_class: int, tmp_path: Path
) -> None:
    async def close(folder: str) -> None:
        for fd in (0, 1, 2):
            os.close(fd)
        Path(folder, "closed").touch()

    async def write(folder: str) -> list[str]:
        while not os.path.exists(folder + "/closed"):
            await asyncio.sleep(0.002)
        files = [open(f"{folder}/{name}", "w") for name in "abc"]  # noqa: SIM115 - they are closed below
        print("progress")
        for file in files:
            file.write("data")
            file.close()
        return [Path(folder, name).read_text() for name in "abc"]

    rig.submit([1], rig.function(write), rig.call(str(tmp_path)), cls=loop_class)
    rig.submit([2], rig.function(close), rig.call(str(tmp_path)), cls=loop_class)
    rig.wait_for(1, 2)
    assert rig.result(1) == ["data"] * 3
    rig.wait(lambda: rig.heard("log"))
