"""The ledger: it grants no amount twice, and each amount is free again after its release."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from handout.protocol import resource_ledger as module
from handout.protocol.resource_ledger import PARTS, Claim, Ledger
from handout.resources import units

GB = 10**9 * PARTS


def granted(ledger: Ledger, **need: int) -> Claim:
    claim = ledger.claim(need)
    assert claim is not None
    return claim


def idle_devices(ledger: Ledger) -> int:
    return sum(1 for device in ledger._devices if device.present and not device.claims)


def test_both_ends_count_in_the_same_parts() -> None:
    assert PARTS == units.PARTS


def test_it_travels_with_the_standard_library_alone() -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "collections.abc"}
    assert not any(isinstance(node, ast.Import) for node in ast.walk(tree))


def test_cores_are_given_out_until_there_are_none() -> None:
    ledger = Ledger({"cpu": 2 * PARTS})
    first = granted(ledger, cpu=PARTS)
    granted(ledger, cpu=PARTS)
    assert not ledger.fits({"cpu": 1})
    assert ledger.claim({"cpu": 1}) is None
    ledger.release(first)
    assert ledger.free == {"cpu": PARTS}
    assert ledger.used == {"cpu": PARTS}
    assert ledger.claims == 1


def test_ten_tenths_fit_a_core_and_no_eleventh() -> None:
    ledger = Ledger({"cpu": PARTS})
    for _ in range(10):
        granted(ledger, cpu=1000)
    assert ledger.claim({"cpu": 1}) is None


def test_a_claim_that_lacks_one_thing_takes_nothing() -> None:
    ledger = Ledger({"cpu": 2 * PARTS, "memory": GB})
    assert ledger.claim({"cpu": PARTS, "memory": 2 * GB}) is None
    assert ledger.claim({"cpu": PARTS, "licence": 1}) is None
    assert ledger.claim({"cpu": PARTS, "gpu": PARTS}) is None
    assert ledger.free == {"cpu": 2 * PARTS, "memory": GB}
    assert ledger.claims == 0


@pytest.mark.parametrize("need", [{}, {"cpu": 0}, {"unheard_of": 0}, {"gpu": 0, "gpu_memory": 0}])
def test_who_needs_nothing_always_fits(need: dict[str, int]) -> None:
    ledger = Ledger({"cpu": 0})
    assert ledger.fits(need)
    claim = ledger.claim(need)
    assert claim is not None
    ledger.release(claim)
    assert ledger.used == {}


def test_whole_devices_are_shared_with_nobody() -> None:
    ledger = Ledger({}, [8 * GB, 8 * GB])
    assert granted(ledger, gpu=2 * PARTS).devices == (0, 1)
    assert not ledger.fits({"gpu": PARTS})
    assert not ledger.fits({"gpu": 1})
    assert not ledger.fits({"gpu_memory": 1})
    assert ledger.free_devices == ()


def test_memory_alone_shares_one_device_that_has_room() -> None:
    ledger = Ledger({}, [8 * GB, 8 * GB])
    first = granted(ledger, gpu_memory=5 * GB)
    second = granted(ledger, gpu_memory=3 * GB)
    third = granted(ledger, gpu_memory=5 * GB)
    assert (first.devices, second.devices, third.devices) == ((0,), (0,), (1,))
    assert ledger.claim({"gpu_memory": 4 * GB}) is None, "only 3 GB are free, all of them on device 1"
    ledger.release(first)
    assert ledger.claim({"gpu": PARTS}) is None, "neither device is idle"
    assert ledger.free_devices == (5 * GB, 3 * GB)


def test_fractions_of_a_device_lie_on_one_device() -> None:
    ledger = Ledger({}, [0, 0])
    assert granted(ledger, gpu=6000).devices == (0,)
    assert granted(ledger, gpu=6000).devices == (1,)
    assert ledger.claim({"gpu": 6000}) is None
    assert granted(ledger, gpu=4000).devices == (0,)


def test_whole_devices_with_memory_take_the_smallest_that_serve() -> None:
    ledger = Ledger({}, [24 * GB, 8 * GB, 16 * GB])
    assert granted(ledger, gpu=PARTS, gpu_memory=10 * GB).devices == (2,)
    assert granted(ledger, gpu=PARTS).devices == (1,)
    assert ledger.claim({"gpu": PARTS, "gpu_memory": 25 * GB}) is None


def test_shares_fill_a_device_in_use_before_an_idle_one() -> None:
    ledger = Ledger({}, [8 * GB, 16 * GB])
    first = granted(ledger, gpu_memory=10 * GB)
    assert first.devices == (1,)
    assert granted(ledger, gpu_memory=4 * GB).devices == (1,)
    assert granted(ledger, gpu=PARTS).devices == (0,)


def test_a_device_that_frees_up_is_whole_again() -> None:
    ledger = Ledger({"cpu": PARTS}, [8 * GB])
    claims = [granted(ledger, gpu=5000, gpu_memory=GB), granted(ledger, gpu_memory=2 * GB)]
    assert idle_devices(ledger) == 0
    for claim in claims:
        ledger.release(claim)
    assert idle_devices(ledger) == 1
    assert granted(ledger, gpu=PARTS, gpu_memory=8 * GB, cpu=PARTS).devices == (0,)


def test_a_drop_of_capacity_takes_nothing_away_and_gives_nothing_more() -> None:
    ledger = Ledger({"cpu": 4 * PARTS, "tape": PARTS}, [8 * GB, 8 * GB])
    cores = [granted(ledger, cpu=PARTS) for _ in range(3)]
    tape = granted(ledger, tape=PARTS)
    device = granted(ledger, gpu=2 * PARTS)
    ledger.resize({"cpu": 2 * PARTS}, [8 * GB])
    assert ledger.free == {"cpu": -PARTS, "tape": -PARTS}
    assert not ledger.fits({"cpu": 1})
    assert ledger.fits({"cpu": 0})
    for claim in [*cores, tape, device]:
        ledger.release(claim)
    assert ledger.used == {}
    assert ledger.devices == (8 * GB,)
    assert ledger.claim({"gpu": 2 * PARTS}) is None
    ledger.resize({"cpu": 2 * PARTS}, [8 * GB, 4 * GB])
    assert granted(ledger, gpu=2 * PARTS).devices == (0, 1)


def test_less_free_device_memory_lets_nobody_else_in() -> None:
    ledger = Ledger({}, [8 * GB])
    claim = granted(ledger, gpu_memory=5 * GB)
    ledger.resize({}, [4 * GB])
    assert not ledger.fits({"gpu_memory": 1})
    ledger.release(claim)
    assert ledger.fits({"gpu_memory": 4 * GB})


def test_releasing_twice_is_an_error() -> None:
    for need in ({"cpu": PARTS}, {"gpu": PARTS}, {"gpu_memory": GB}):
        ledger = Ledger({"cpu": PARTS}, [GB])
        claim = granted(ledger, **need)
        ledger.release(claim)
        with pytest.raises(ValueError, match="released twice"):
            ledger.release(claim)


@pytest.mark.parametrize(
    ("need", "room"),
    [
        ({"cpu": PARTS}, 4),
        ({"cpu": 3000}, 13),
        ({"cpu": PARTS, "memory": GB}, 2),
        ({"memory": 3 * GB}, 0),
        ({"gpu": PARTS}, 2),
        ({"gpu": 5000}, 4),
        ({"gpu_memory": 3 * GB}, 4),
        ({"gpu": PARTS, "memory": 2 * GB}, 1),
        ({"licence": 1}, 0),
        ({}, 99),
    ],
)
def test_room_counts_what_would_be_granted(need: dict[str, int], room: int) -> None:
    ledger = Ledger({"cpu": 4 * PARTS, "memory": 2 * GB}, [8 * GB, 8 * GB])
    assert ledger.room(need, 99) == room
    assert ledger.used == {}


def test_a_copy_is_independent() -> None:
    ledger = Ledger({"cpu": PARTS}, [GB])
    claim = granted(ledger, gpu=PARTS, cpu=PARTS)
    copy = ledger.copy()
    copy.release(claim)
    assert copy.fits({"gpu": PARTS})
    assert not ledger.fits({"gpu": PARTS})
    assert ledger.used == {"cpu": PARTS}


NEEDS = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.sampled_from([0, 1, 2500, 3333, PARTS, 2 * PARTS]),
        "memory": st.integers(0, 6),
        "gpu": st.sampled_from([0, 1, 2500, 5000, PARTS, 2 * PARTS]),
        "gpu_memory": st.integers(0, 6),
    },
)
AMOUNTS = st.fixed_dictionaries({}, optional={"cpu": st.integers(0, 4 * PARTS), "memory": st.integers(0, 12)})
DEVICES = st.lists(st.integers(0, 8), max_size=3)


class LedgerStory(RuleBasedStateMachine):
    """Claims, releases and changes of capacity in any order, compared with a model that only adds amounts."""

    held = Bundle("held")

    @initialize(amounts=AMOUNTS, devices=DEVICES)
    def begin(self, amounts: dict[str, int], devices: list[int]) -> None:
        self.ledger = Ledger(amounts, devices)
        self.amounts, self.devices = amounts, devices
        self.claims: list[Claim] = []
        self.shrunk = False

    @rule(target=held, need=NEEDS)
    def claim(self, need: dict[str, int]) -> object:
        fits = self.ledger.fits(need)
        assert (self.ledger.room(need, 1) == 1) == fits
        claim = self.ledger.claim(need)
        assert (claim is not None) == fits
        if claim is None:
            return multiple()
        self.claims.append(claim)
        count = -(-need.get("gpu", 0) // PARTS) or (1 if need.get("gpu_memory") else 0)
        assert len(set(claim.devices)) == len(claim.devices) == count
        for device in claim.devices:
            assert need.get("gpu_memory", 0) <= self.devices[device]
            self.no_device_is_over(device)
        for name, parts in need.items():
            if parts and not name.startswith("gpu"):
                assert self.taken(name) <= self.amounts.get(name, 0)
        return claim

    @rule(claim=consumes(held))
    def release(self, claim: Claim) -> None:
        self.ledger.release(claim)
        self.claims.remove(claim)

    @rule(amounts=AMOUNTS, devices=DEVICES)
    def resize(self, amounts: dict[str, int], devices: list[int]) -> None:
        self.ledger.resize(amounts, devices)
        self.amounts, self.devices = amounts, devices

    def taken(self, name: str) -> int:
        return sum(claim.need.get(name, 0) for claim in self.claims)

    def no_device_is_over(self, device: int) -> None:
        on_it = [claim.need for claim in self.claims if device in claim.devices]
        whole = [need for need in on_it if need.get("gpu", 0) >= PARTS]
        assert not whole or len(on_it) == 1
        if not whole:
            assert sum(need.get("gpu", 0) for need in on_it) <= PARTS
            assert sum(need.get("gpu_memory", 0) for need in on_it) <= self.devices[device]

    @invariant()
    def everything_adds_up(self) -> None:
        assert self.ledger.claims == len(self.claims)
        for name in ("cpu", "memory"):
            assert self.ledger.used.get(name, 0) == self.taken(name)
            assert self.ledger.free.get(name, 0) == self.amounts.get(name, 0) - self.taken(name)
        assert self.ledger.devices == tuple(self.devices)
        used = {device for claim in self.claims for device in claim.devices}
        assert idle_devices(self.ledger) == sum(device not in used for device in range(len(self.devices)))


TestLedgerStory = LedgerStory.TestCase


def test_a_part_of_a_claim_is_released_and_the_rest_becomes_another_claim() -> None:
    ledger = Ledger({"cpu": 2 * PARTS, "memory": 4 * GB}, [8 * GB])
    need = {"cpu": PARTS, "memory": 3 * GB, "gpu": PARTS}
    part = ledger.release_part(granted(ledger, **need), "cpu")
    assert ledger.free == {"cpu": 2 * PARTS, "memory": GB}
    assert not ledger.fits({"gpu": PARTS})
    other = granted(ledger, cpu=2 * PARTS)
    assert ledger.exchange(part, need) is None
    ledger.release(other)
    assert ledger.exchange(part, {**need, "memory": 5 * GB}) is None
    assert ledger.exchange(part, {**need, "gpu": PARTS // 2}) is None
    assert ledger.free == {"cpu": 2 * PARTS, "memory": GB}
    whole = ledger.exchange(part, {**need, "memory": 2 * GB})
    assert whole is not None
    assert whole.devices == (0,)
    assert ledger.free == {"cpu": PARTS, "memory": 2 * GB}
    ledger.release(whole)
    assert ledger.free == ledger.total
    assert ledger.claims == 0
