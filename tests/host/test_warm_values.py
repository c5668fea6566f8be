"""The warm values of a process: how they are made, entered, shared and left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from handout.host.warm_values import WarmValues

KEY, OTHER = (b"k", (1, 2)), (b"o", ())


@contextmanager
def opened(log: list[str], name: str, fails: bool = False) -> Generator[str]:
    log.append(f"enter {name}")
    yield name
    log.append(f"leave {name}")
    if fails:
        raise OSError(name)


@asynccontextmanager
async def opened_in_loop(log: list[str], name: str) -> AsyncGenerator[tuple[str, asyncio.Task[Any] | None]]:
    log.append(f"enter {name}")
    task = asyncio.current_task()
    yield name, task
    log.append(f"leave {name} {asyncio.current_task() is task}")


def runner(loop: asyncio.AbstractEventLoop) -> WarmValues:
    return WarmValues(loop.run_until_complete)


def test_context_managers_are_left_in_the_opposite_order_even_if_one_raises() -> None:
    loop, log = asyncio.new_event_loop(), list[str]()
    values = runner(loop)
    assert not values.must_leave
    values.make(KEY, lambda: opened(log, "a"))
    values.make(OTHER, lambda: opened_in_loop(log, "b"))
    values.make((b"c", ()), lambda: opened(log, "c", fails=True))
    values.make((b"d", ()), lambda: 5)
    assert values.values[KEY] == "a"
    assert values.values[OTHER][0] == "b"
    assert values.must_leave
    with pytest.raises(OSError, match="c"):
        values.leave()
    assert log == ["enter a", "enter b", "enter c", "leave c", "leave b True", "leave a"]
    loop.close()


def test_a_value_goes_with_its_inputs() -> None:
    loop, log = asyncio.new_event_loop(), list[str]()
    values = runner(loop)
    values.make(KEY, lambda: opened(log, "a"))
    values.make(OTHER, lambda: opened(log, "b"))
    assert values.made_of({2, 9}) == [KEY]
    assert values.forget(KEY) == "a"
    assert log == ["enter a", "enter b", "leave a"]
    assert list(values.values) == [OTHER]
    values.leave()
    loop.close()


def test_a_maker_that_fails_leaves_nothing() -> None:
    async def refuse() -> None:
        raise OSError("no")

    class Refusing:
        async def __aenter__(self) -> None:
            raise OSError("no")

        async def __aexit__(self, *_: object) -> None: ...

    loop = asyncio.new_event_loop()
    values = runner(loop)
    for make in (refuse, Refusing):
        with pytest.raises(OSError, match="no"):
            values.make(KEY, make)
        with pytest.raises(OSError, match="no"):
            loop.run_until_complete(values.make_in_loop(KEY, make))
    assert not values.values
    assert not values.must_leave
    assert not asyncio.all_tasks(loop)
    loop.close()


def test_tasks_that_wait_share_one_value_and_the_last_one_takes_its_making_along() -> None:
    async def main() -> None:
        log: list[str] = []
        go_on = asyncio.Event()

        async def slow() -> str:
            log.append("begin")
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                log.append("cancelled")
                raise
            return "made"

        values = WarmValues(lambda _: None)
        first, second = (asyncio.ensure_future(values.make_in_loop(KEY, slow)) for _ in range(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        second.cancel()
        await asyncio.wait({second})
        third = asyncio.ensure_future(values.make_in_loop(KEY, slow))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert log == ["begin", "cancelled", "begin"]
        go_on.set()
        await third
        assert values.values == {KEY: "made"}
        left = asyncio.ensure_future(values.make_in_loop(OTHER, lambda: asyncio.sleep(1000)))
        await asyncio.sleep(0)
        await values.leave_in_loop()
        with pytest.raises(asyncio.CancelledError):
            await left

    asyncio.run(main())


def test_a_manager_that_is_being_entered_is_left_when_no_task_waits_any_more() -> None:
    async def main() -> None:
        log: list[str] = []

        @asynccontextmanager
        async def slow() -> AsyncGenerator[None]:
            log.append("enter")
            try:
                await asyncio.sleep(1000)
                yield
            finally:
                log.append("end")

        values = WarmValues(lambda _: None)
        waiting = asyncio.ensure_future(values.make_in_loop(KEY, slow))
        for _ in range(4):
            await asyncio.sleep(0)
        assert log == ["enter"]
        waiting.cancel()
        await asyncio.wait({waiting})
        await values.leave_in_loop()
        assert log == ["enter", "end"]

    asyncio.run(main())
