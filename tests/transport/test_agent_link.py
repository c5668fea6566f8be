"""A link to an agent that the test plays in memory: the agent is started, reached, silent, gone or stopped."""

from __future__ import annotations

import asyncio
import time

import pytest

from handout.errors import (
    AuthenticationError,
    BootstrapError,
    HostError,
    HostKeyError,
    HostLostError,
    HostUnreachableError,
)
from handout.transport.bootstrap import Bootstrap
from handout.transport.timings import Timings
from tests.patience import HANG_S, stretched
from tests.transport.rig import QUICK, Rig


async def test_a_connection_that_is_closed_before_the_first_hello_is_made_again(rig: Rig) -> None:
    rig.agent.closed_at_once = True
    rig.agent.unreachable = [HostUnreachableError("not now")]
    assert (await rig.link.open()).agent == "a1"
    assert rig.agent.lines == 2


async def test_a_first_handshake_that_never_succeeds_is_given_up_in_the_time_of_the_lease() -> None:
    rig = Rig(QUICK)
    rig.agent.closes_always = True
    async with asyncio.timeout(HANG_S):
        with pytest.raises(HostUnreachableError, match=r"'far' closed the connection"):
            await rig.link.open()
    assert rig.agent.lines > 2
    await rig.link.abandon()


@pytest.mark.parametrize("kind", [AuthenticationError, HostKeyError, BootstrapError, HostError])
async def test_an_error_that_another_try_cannot_mend_ends_the_first_handshake_at_once(
    rig: Rig, kind: type[HostError]
) -> None:
    rig.agent.unreachable = [kind("it is so")]
    with pytest.raises(kind, match="it is so"):
        await rig.link.open()
    assert rig.agent.lines == 0


async def test_stopping_ends_attempts_at_the_first_handshake(rig: Rig) -> None:
    rig.agent.unreachable = [HostUnreachableError("down") for _ in range(10_000)]
    opening = asyncio.ensure_future(rig.link.open())
    async with asyncio.timeout(HANG_S):
        while len(rig.agent.unreachable) > 9_999:
            await asyncio.sleep(0)
    await rig.link.stop(0.1)
    with pytest.raises(HostError, match="is being released"):
        await opening


async def test_a_silent_line_is_suspected_then_made_from_scratch() -> None:
    rig = Rig(Timings().scaled(0.2))
    await rig.link.open()
    serving = asyncio.ensure_future(rig.link.run())
    rig.agent.mute = True
    first = rig.agent.lines
    async with asyncio.timeout(HANG_S):
        while rig.agent.lines == first:
            await asyncio.sleep(0.005)
    assert rig.suspicions == [True]
    assert rig.agent.aborted == 1
    rig.agent.mute = False
    serving.cancel()
    await rig.link.abandon()


async def test_a_controller_that_is_late_at_each_tick_still_sends_heartbeats() -> None:
    """Otherwise, the host ends the tasks of a controller whose loop is blocked again and again for a short time."""
    rig = Rig(Timings(heartbeat_s=0.01))
    await rig.link.open()
    agent = rig.agent
    agent.hear = lambda line, data: agent.news.set()  # type: ignore[method-assign]  # the agent answers nothing
    serving = asyncio.ensure_future(rig.link.run())
    for _ in range(5):  # at first, the answer to the handshake comes
        agent.news.clear()
        async with asyncio.timeout(HANG_S):
            while not agent.news.is_set():
                time.sleep(0.02)  # blocks the loop for four ticks
                await asyncio.sleep(0)
    serving.cancel()
    await rig.link.abandon()


async def test_silence_beyond_the_lease_loses_the_host() -> None:
    rig = Rig(QUICK)
    await rig.link.open()
    rig.agent.mute = True
    with pytest.raises(HostLostError, match=r"'far' was silent for 1\.5 s") as caught:
        await rig.link.run()
    assert not caught.value.gone
    await rig.link.abandon()


async def test_an_agent_that_is_gone_when_the_line_is_made_again_is_told_at_once(rig: Rig) -> None:
    await rig.link.open()
    rig.agent.refusal = "the controller asked for another agent"
    assert rig.agent.line is not None
    rig.agent.line.close()
    with pytest.raises(HostLostError) as caught:
        await rig.link.run()
    assert caught.value.gone


async def test_stopping_ends_attempts_to_make_the_line_again(rig: Rig) -> None:
    await rig.link.open()
    serving = asyncio.ensure_future(rig.link.run())
    rig.agent.unreachable = [HostError("down") for _ in range(10_000)]
    assert rig.agent.line is not None
    rig.agent.line.close()
    async with asyncio.timeout(HANG_S):
        while len(rig.agent.unreachable) > 9_999:
            await asyncio.sleep(0)
    await rig.link.stop(0.3)
    async with asyncio.timeout(HANG_S):
        await serving
    assert rig.agent.closed == 1


async def test_an_agent_that_is_being_started_when_its_caller_is_cancelled_is_stopped(rig: Rig) -> None:
    rig.agent.may_start.clear()
    opening = asyncio.ensure_future(rig.link.open())
    await rig.agent.asked_to_start.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    stopping = asyncio.ensure_future(rig.link.stop())
    await asyncio.sleep(0)
    rig.agent.may_start.set()
    await stopping
    await rig.link.stop()
    assert rig.agent.heard == ["stop"]
    assert rig.agent.closed == 1


async def test_a_host_that_is_still_being_logged_in_to_is_not_waited_for(rig: Rig) -> None:
    rig.agent.may_start.clear()
    rig.agent.begins = False
    opening = asyncio.ensure_future(rig.link.open())
    await rig.agent.asked_to_start.wait()
    async with asyncio.timeout(stretched(1)):
        await rig.link.stop()
    with pytest.raises(HostError, match="is being released"):
        await opening
    assert rig.agent.lines == 0


@pytest.mark.parametrize("serving", [False, True], ids=["a try of stop", "a try of run"])
async def test_an_agent_is_stopped_over_another_connection_where_making_one_hangs(serving: bool) -> None:
    rig = Rig(Timings())
    await rig.link.open()
    running = asyncio.ensure_future(rig.link.run()) if serving else None
    rig.agent.hangs = 1
    assert rig.agent.line is not None
    rig.agent.line.close()
    async with asyncio.timeout(HANG_S):
        while serving and rig.agent.tries == 1:
            await asyncio.sleep(0.01)
    async with asyncio.timeout(stretched(2.5)):
        await rig.link.stop()
    assert rig.link.agent_ended
    assert rig.agent.heard == ["stop"]
    if running is not None:
        async with asyncio.timeout(HANG_S):
            await running


async def test_an_agent_that_is_slow_to_be_reached_is_stopped_all_the_same() -> None:
    rig = Rig(Timings())
    await rig.link.open()
    rig.agent.slow_s = 1.5
    assert rig.agent.line is not None
    rig.agent.line.close()
    await rig.link.stop()
    assert rig.link.agent_ended
    assert rig.agent.tries == 3


async def test_stopping_ends_a_first_handshake_that_hangs() -> None:
    rig = Rig(Timings())
    rig.agent.hangs = 1
    opening = asyncio.ensure_future(rig.link.open())
    async with asyncio.timeout(HANG_S):
        while not rig.agent.tries:
            await asyncio.sleep(0.01)
    async with asyncio.timeout(stretched(2.5)):
        await rig.link.stop()
        with pytest.raises(HostError, match="is being released"):
            await opening
    assert rig.link.agent_ended


@pytest.mark.parametrize("slow_s", [0.3, 0.7], ids=["slow", "slower"])
async def test_a_silent_line_to_a_host_that_has_become_slow_is_made_again_at_the_first_try(slow_s: float) -> None:
    rig = Rig(Timings().scaled(0.2))  # the lease is 3 s, and 1.2 s are left when the reconnection begins
    await rig.link.open()
    await _until_made_again_at_the_first_try(rig, slow_s)


async def test_a_host_that_was_slow_from_the_start_gets_as_long_again_and_longer() -> None:
    rig = Rig(Timings().scaled(0.2))
    rig.agent.may_start.clear()
    opening = asyncio.ensure_future(rig.link.open())
    await asyncio.sleep(0.4)
    rig.agent.may_start.set()
    await opening
    await _until_made_again_at_the_first_try(rig, 1.0)


async def test_a_try_that_hangs_leaves_time_for_one_on_a_line_of_its_own() -> None:
    rig = Rig(Timings().scaled(0.2))
    await rig.link.open()
    running = asyncio.ensure_future(rig.link.run())
    rig.agent.hangs = 1
    assert rig.agent.line is not None
    rig.agent.line.close()
    async with asyncio.timeout(HANG_S):
        while rig.agent.lines == 1 and not running.done():
            await asyncio.sleep(0.01)
    assert rig.agent.tries == 3
    assert rig.agent.aborted == 1
    await rig.link.stop()
    await running


async def test_an_agent_is_taken_over_over_another_connection_where_making_one_hangs() -> None:
    rig = Rig(Timings())
    rig.agent.hangs = 1
    await rig.link.take_over(await rig.agent.start(Bootstrap("far", None, {})), "token", 1.0)
    assert rig.agent.aborted == 1
    assert rig.agent.lines == 1
    await rig.link.stop()


async def test_taking_over_an_agent_that_is_gone_fails_at_once() -> None:
    rig = Rig(Timings())
    rig.agent.unreachable = [HostLostError("nothing listens", gone=True)]
    async with asyncio.timeout(stretched(1)):
        with pytest.raises(HostLostError, match="nothing listens"):
            await rig.link.take_over(await rig.agent.start(Bootstrap("far", None, {})), "token", 10.0)
    assert rig.agent.tries == 1
    await rig.link.abandon()


async def test_an_agent_that_is_being_taken_over_when_the_host_is_released_is_stopped() -> None:
    rig = Rig(Timings())
    rig.agent.hangs = 1
    started = await rig.agent.start(Bootstrap("far", None, {}))
    taking_over = asyncio.ensure_future(rig.link.take_over(started, "token", 10.0))
    async with asyncio.timeout(HANG_S):
        while not rig.agent.tries:
            await asyncio.sleep(0.01)
        await rig.link.stop()
        with pytest.raises(HostError, match="is being released"):
            await taking_over
    assert rig.agent.heard == ["stop"]


async def _until_made_again_at_the_first_try(rig: Rig, slow_s: float) -> None:
    """Let the connection fall silent, and the next one take `slow_s` to open. Wait for it, and stop the link."""
    running = asyncio.ensure_future(rig.link.run())
    rig.agent.mute, rig.agent.slow_s = True, slow_s
    async with asyncio.timeout(HANG_S):
        while rig.agent.tries == 1:
            await asyncio.sleep(0.01)
        rig.agent.mute = False
        while rig.agent.lines == 1 and not running.done():
            await asyncio.sleep(0.01)
    assert rig.agent.tries == 2
    await rig.link.stop()
    await running
