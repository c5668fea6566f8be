"""A short run of the soak in `benchmarks.soak`, so that a long run can be relied on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import kills, service
from benchmarks.soak.processes import VARIABLE, new_mark
from handout import Inventory
from tests.sshd import need_sshd, start_sshd


@pytest.mark.ssh
@pytest.mark.slow
async def test_workers_and_agents_that_are_killed_cost_no_result_and_leave_nothing(tmp_path: Path) -> None:
    need_sshd()
    mark, keys = new_mark(), tmp_path / "sshd"
    keys.mkdir()
    with start_sshd(keys, [f"SetEnv {VARIABLE}={mark}"]) as server:
        inventory = Inventory([server.host(name, {"cpu": 2}) for name in "ab"])
        figures = await kills.soak(inventory, tmp_path / "soak", mark, tasks=1200, workers=10, agents=1)
    assert (figures["workers_killed"], figures["agents_killed"]) == (10, 1)
    assert figures["tasks_done"] == 1200
    assert figures["results_wrong"] == figures["tasks_failed"] == figures["ended_twice"] == 0
    assert figures["runs"] == 1200 + figures["runs_again"]
    assert figures["runs_again"] >= figures["workers_killed_at_work"] > 0
    assert figures["left_processes"] == 0
    assert figures["hosts_at_end"] == 2
    assert figures["held"]["end"]["descriptors"] <= figures["held"]["start"]["descriptors"]


@pytest.mark.ssh
@pytest.mark.slow
async def test_a_service_that_loses_a_host_answers_each_call_and_its_process_does_not_grow(tmp_path: Path) -> None:
    need_sshd()
    mark, keys = new_mark(), tmp_path / "sshd"
    keys.mkdir()
    with start_sshd(keys, [f"SetEnv {VARIABLE}={mark}"]) as server:
        inventory = Inventory([server.host(name, {"cpu": 2}) for name in "ab"])
        figures = await service.soak(inventory, mark, calls=3000, cancelled=30, objects=5, every_s=2.0)
    assert (figures["calls_right"], figures["calls_cancelled"]) == (2970, 30)
    assert (figures["objects_put"], figures["results_wrong"], figures["left_processes"]) == (5, 0, 0)
    assert figures["agents_killed"] > 0
    held = figures["held"]
    assert held["end"]["runs"] <= 2
    assert held["closed"]["descriptors"] <= held["before"]["descriptors"]
