"""Seeded faults at every message; the rules are checked after every event inside the simulation itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, deque

import pytest

from handout.scheduler import recovery
from handout.sim import Fault, Scenario, SimulationError, simulate

SEEDS = 2000
BATCH = 100


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_every_seed_keeps_the_rules(first: int) -> None:
    """R1, R2, R4 and R7; a failure names its seed and the command that tells its story."""
    for seed in range(first, first + BATCH):
        simulate(seed)


def test_the_seeds_inject_every_kind_of_fault_and_stale_answers() -> None:
    faults: Counter[Fault] = Counter()
    stale = calm = 0
    for seed in range(200):
        report = simulate(seed)
        faults.update(report.faults)
        stale += report.stale
        calm += Scenario.draw(seed).is_calm
    assert set(faults) == set(Fault)
    assert stale
    assert calm


def test_a_seed_is_the_same_story_in_every_process() -> None:
    """Also where strings hash differently: nothing that is decided may hang on that."""
    code = "from handout.sim import simulate; print(*(simulate(seed).digest for seed in range(40)))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1


def test_a_broken_core_is_found_and_the_error_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It forgets that what was being copied from a lost host must come from elsewhere."""
    monkeypatch.setattr(recovery, "_copy_elsewhere", lambda world, run, index: None)
    with pytest.raises(SimulationError, match=r"python -m handout\.sim --seed \d+ --verbose") as caught:
        deque(map(simulate, range(300)), maxlen=0)
    assert caught.value.story


def test_one_command_tells_a_seeds_story() -> None:
    command = [sys.executable, "-m", "handout.sim", "--seed", "7", "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "RunSubmitted" in done.stdout
    assert "seed 7: runs ended" in done.stdout
