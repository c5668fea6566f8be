"""The pauses before a lost host is started again, and the quarantine after several losses."""

from __future__ import annotations

from typing import NoReturn

import anyio

from handout import Host
from handout.errors import HostLostError
from handout.execution.membership.host_manager import HostManager
from handout.execution.membership.quarantine import LossHistory
from handout.execution.shell.driver import Driver
from handout.sim.clock import VirtualLoop
from handout.transport.timings import Timings


def flap(record: LossHistory, now: float, up_s: float) -> tuple[float, float]:
    """Let a host join at `now` and be lost `up_s` later. Return the time of the loss, and the pause after the loss."""
    record.joined(now)
    return now + up_s, record.lost(now + up_s)


def test_the_third_loss_within_a_minute_is_quarantine_and_each_further_one_is_twice_as_long() -> None:
    record, now, pauses = LossHistory(Timings()), 0.0, []
    for _ in range(6):
        now, pause_s = flap(record, now, up_s=3.0)
        now += pause_s
        pauses.append(pause_s)
    assert pauses == [0.5, 1.0, 10.0, 20.0, 40.0, 80.0]
    assert record.quarantined


def test_quarantine_is_bounded() -> None:
    record, now = LossHistory(Timings()), 0.0
    for _ in range(20):
        now, pause_s = flap(record, now, up_s=3.0)
    assert pause_s == 640.0


def test_who_never_stays_is_waited_for_through_ten_minutes_of_quarantine() -> None:
    record, now, waited_s = LossHistory(Timings()), 0.0, 0.0
    for _ in range(9):
        assert not record.hopeless
        now, pause_s = flap(record, now, up_s=3.0)
        if record.quarantined and not record.hopeless:
            waited_s += pause_s
    assert record.hopeless
    assert waited_s == 630.0
    flap(record, now, up_s=61.0)
    assert not record.hopeless


def test_who_stays_for_a_minute_has_a_clean_record() -> None:
    record, now = LossHistory(Timings()), 0.0
    for _ in range(4):
        now, pause_s = flap(record, now, up_s=3.0)
    assert pause_s == 20.0
    now, pause_s = flap(record, now, up_s=61.0)
    assert (pause_s, record.losses, record.quarantined) == (0.5, 1, False)


def test_losses_that_are_far_apart_do_not_add_up() -> None:
    record, now = LossHistory(Timings()), 0.0
    for _ in range(5):
        now, _ = flap(record, now, up_s=50.0)
        assert not record.quarantined


def test_pauses_stay_as_long_as_they_are_after_days() -> None:
    record, now = LossHistory(Timings()), 0.0
    for _ in range(1100):
        assert record.missed() <= 64.0
        now, pause_s = flap(record, now, up_s=3.0)
    assert pause_s == 640.0
    assert record.hopeless


def test_a_host_that_is_not_there_is_tried_with_pauses_that_double_up_to_a_minute() -> None:
    record = LossHistory(Timings())
    assert [record.missed() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 64, 64]
    assert not record.quarantined


def test_the_pauses_are_no_longer_because_tasks_stop_waiting_meanwhile() -> None:
    """Tasks wait for 30 s, which end between two tries."""
    tries: list[float] = []
    loop = VirtualLoop()

    async def no_launcher() -> NoReturn:
        tries.append(loop.time())
        raise HostLostError("the agent has ended", host="here")

    async def play() -> None:
        driver = Driver(lambda coroutine: coroutine.close())
        told: list[float] = []
        manager = HostManager(
            Host("here"),
            driver,
            no_launcher,
            Timings(),
            0,
            None,
            1.0,
            lambda *_: told.append(loop.time()),
            lambda *_: None,
        )
        with anyio.move_on_after(70.0):
            await manager.run()
        assert told == [30.0]
        driver.close()

    loop.play(play())
    assert tries == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5]
