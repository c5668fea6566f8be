"""Capabilities: how they are read, and how declared, probed and tracked capabilities of a host are merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from handout.errors import CostError
from handout.host.system.probe import probe
from handout.resources import (
    PARTS,
    Amount,
    Capabilities,
    as_probed,
    capabilities_of,
    compile_capabilities,
    effective,
    merge,
    remaining,
)
from handout.resources.names import PROBED_NAMES

GB = 10**9 * PARTS


class LabHost(Capabilities):
    scratch: Amount = 0
    bandwidth: float = 0
    camera: set[str] = Field(default_factory=set)
    cuda_cc: float = 0


def test_amounts_text_sets_and_flags_are_told_apart() -> None:
    offer = compile_capabilities(
        {
            "cpu": 8,
            "memory": "8 GB",
            "has_cuda": True,
            "ssd": False,
            "camera": {"basler", "flir"},
            "rack": "r1",
            "licence": 3,
            "x": None,
        }
    )
    assert dict(offer.amounts) == {"cpu": 8 * PARTS, "memory": 8 * GB, "licence": 3 * PARTS}
    assert dict(offer.labels) == {
        "has_cuda": True,
        "ssd": False,
        "camera": frozenset({"basler", "flir"}),
        "rack": frozenset({"r1"}),
    }
    assert offer.devices == ()


@pytest.mark.parametrize(
    ("said", "devices"),
    [
        ({}, ()),
        ({"gpu": 2}, (0, 0)),
        ({"gpu": 2, "gpu_memory": "8 GB"}, (8 * GB, 8 * GB)),
        ({"gpu_memory": "8 GB"}, (8 * GB,)),
        ({"gpu_memory": 0}, ()),
        ({"gpu": 0, "gpu_memory": "8 GB"}, ()),
        ({"gpu": 2, "gpu_memory": ["8 GB", "4 GB"]}, (8 * GB, 4 * GB)),
        ({"gpu_memory": ["8 GB", "4 GB"]}, (8 * GB, 4 * GB)),
        ({"gpu": 3, "gpu_memory": ["8 GB", "4 GB"]}, (8 * GB, 4 * GB, 4 * GB)),
        ({"gpu": False}, ()),
    ],
)
def test_gpu_memory_is_that_of_each_device(said: dict[str, Any], devices: tuple[int, ...]) -> None:
    assert compile_capabilities(said).devices == devices


def test_a_host_that_does_not_say_has_one_core() -> None:
    assert compile_capabilities({}).amounts["cpu"] == PARTS


def test_what_is_not_probed_yet_is_unknown() -> None:
    offer = compile_capabilities({"memory": "4 GB"}, complete=False)
    assert offer.unknown == PROBED_NAMES - {"memory"}


@pytest.mark.parametrize(
    ("said", "name", "says"),
    [
        ({"memory": "8 GX"}, "memory", "Units are"),
        ({"memory": ">=8 GB"}, "memory", "belongs in a cost"),
        ({"memory": True}, "memory", "not amounts"),
        ({"gpu": 0.5}, "gpu", "whole"),
        ({"cc": ">=8"}, "cc", "belongs in a cost"),
        ({"cpu_intensive": True}, "cpu_intensive", "cpu="),
        ({"python": 3.11}, "python", "quotes"),
        ({"x": {"a": 1}}, "x", "means nothing"),
        ({"x": [1, 2]}, "x", "means nothing"),
        ({"scratch": "2 tb"}, "scratch", "Did you mean 'TB'"),
    ],
)
def test_what_means_nothing_is_refused(said: dict[str, Any], name: str, says: str) -> None:
    with pytest.raises(CostError) as caught:
        Capabilities(**said)
    assert caught.value.name == name
    assert says in str(caught.value)


def test_amounts_are_normalized() -> None:
    amounts = Capabilities(memory="8 GB", gpu=2, gpu_memory=["8 GB", "4 GB"], has_cuda=True).amounts
    assert amounts == {"memory": 8 * 10**9, "gpu": 2, "gpu_memory": 8 * 10**9}


def test_what_is_declared_wins_over_what_was_probed() -> None:
    merged = merge({"cpu": 8, "memory": "16 GB", "python": "3.11.7"}, {"memory": "8 GB", "has_cuda": False})
    offer = compile_capabilities(merged)
    assert dict(offer.amounts) == {"cpu": 8 * PARTS, "memory": 8 * GB}
    assert dict(offer.labels) == {"python": frozenset({"3.11.7"}), "has_cuda": False}


def test_none_declares_nothing() -> None:
    assert merge({"cpu": 8}, {"cpu": None}).amounts["cpu"] == 8


def test_declared_device_memory_is_a_device_where_none_was_found() -> None:
    assert compile_capabilities(merge({"gpu": 0}, {"gpu_memory": "4 GB"})).devices == (4 * GB,)
    assert compile_capabilities(merge({"gpu": 2, "gpu_memory": "8 GB"}, {"gpu_memory": "4 GB"})).devices == (
        4 * GB,
        4 * GB,
    )
    assert compile_capabilities(merge({"gpu": 2, "gpu_memory": "8 GB"}, {"gpu": 0})).devices == ()


def test_a_users_class_survives_the_merge_and_its_defaults_declare_nothing() -> None:
    merged = merge({"cpu": 4, "scratch": "1 TB"}, LabHost(bandwidth=10, camera={"flir"}))
    assert isinstance(merged, LabHost)
    assert merged.camera == {"flir"}
    assert merged.amounts["scratch"] == 10**12
    assert merged.amounts["cpu"] == 4
    again = merge(merged, {"bandwidth": 5})
    assert isinstance(again, LabHost)
    assert again.bandwidth == 5


def test_a_tracker_wins_over_both_and_leaves_the_rest() -> None:
    now = effective(
        {"cpu": 8, "memory": "16 GB"},
        {"gpu": 1, "gpu_memory": "8 GB", "nfs": True},
        {"gpu_memory": "3 GB", "nfs": False},
    )
    offer = compile_capabilities(now)
    assert offer.devices == (3 * GB,)
    assert offer.labels["nfs"] is False
    assert offer.amounts["cpu"] == 8 * PARTS


def test_the_merge_leaves_its_sources_alone() -> None:
    declared = LabHost(bandwidth=10)
    merge({"cpu": 4, "scratch": "1 TB"}, declared)
    assert declared == LabHost(bandwidth=10)
    assert declared.model_fields_set == {"bandwidth"}


def test_what_remains_is_of_the_same_class() -> None:
    said = {
        "cpu": 4,
        "memory": "8 GB",
        "scratch": "2 TB",
        "bandwidth": 10,
        "camera": {"flir"},
        "gpu": 2,
        "gpu_memory": "8 GB",
    }
    total = LabHost.model_validate(said)
    free = remaining(total, {"cpu": 15_000, "memory": -GB, "scratch": 500 * GB, "bandwidth": 2 * PARTS}, (3 * GB,))
    assert isinstance(free, LabHost)
    assert free.camera == {"flir"}
    assert free.bandwidth == 2
    assert free.amounts == {
        "scratch": 500 * 10**9,
        "bandwidth": 2,
        "cuda_cc": 0,
        "cpu": 1.5,
        "memory": 0,
        "gpu": 1,
        "gpu_memory": 3 * 10**9,
    }


@pytest.mark.parametrize(
    "said",
    [
        {
            "cpu": 8,
            "memory": "16.334712833 GB",
            "scratch": "2 TB",
            "licence": 2.5,
            "camera": {"a", "b"},
            "rack": "r1",
            "ok": True,
            "no": False,
        },
        {"cpu": 1, "gpu": 2, "gpu_memory": ["8 GB", "4 GB"], "python": "3.11.7"},
        {"cpu": 1, "gpu": 2},
        {"memory": 0},
    ],
)
def test_an_offer_turns_back_into_capabilities(said: dict[str, Any]) -> None:
    offer = compile_capabilities(said)
    assert compile_capabilities(capabilities_of(offer)) == offer


def test_a_probe_counts_bytes() -> None:
    probed = as_probed(
        {"cpu": 2, "memory": 4 * 10**9, "disk": 10**6, "gpu": 1, "gpu_memory": 8 * 10**9, "python": "3.11"}
    )
    assert probed.amounts == {"cpu": 2, "memory": 4 * 10**9, "disk": 10**6, "gpu": 1, "gpu_memory": 8 * 10**9}
    assert as_probed({"gpu_memory": [8 * 10**9, 4]}).amounts["gpu_memory"] == 8 * 10**9


def test_what_the_agent_probes_is_known_to_be_probed(tmp_path: Path) -> None:
    assert set(probe(str(tmp_path))) <= PROBED_NAMES
    compile_capabilities(as_probed(probe(str(tmp_path))))
