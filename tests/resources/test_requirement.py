"""Requirements: which hosts cover a cost, and how an error describes what the other hosts lack."""

from __future__ import annotations

from typing import Any

import pytest

from handout.resources import (
    PARTS,
    Cost,
    Lack,
    as_costs,
    compile_capabilities,
    compile_cost,
    explain_lacks,
    placement_error,
)


def lacks(
    cost: dict[str, Any], host: dict[str, Any], shared: dict[str, int] | None = None, *, complete: bool = True
) -> tuple[Lack, ...]:
    return compile_cost(Cost(**{"cpu": 0, **cost})).lacks(compile_capabilities(host, complete=complete), shared or {})


@pytest.mark.parametrize(
    ("cost", "host"),
    [
        ({"memory": "2 GB"}, {"memory": "2 GB"}),
        ({"memory": "2 GiB"}, {"memory": 2148}),
        ({"licence": 0.5}, {"licence": 1}),
        ({"compute_capability": ">=8.6"}, {"compute_capability": 8.6}),
        ({"compute_capability": ">8.6"}, {"compute_capability": 9}),
        ({"compute_capability": "!=8.6"}, {"compute_capability": 9}),
        ({"compute_capability": "==9.0"}, {"compute_capability": 9}),
        ({"memory": ">=2 GB"}, {"memory": "4 GB"}),
        ({"memory": "<4.5 GB"}, {"memory": "4 GB"}),
        ({"gpu": ">0"}, {"gpu": 1}),
        ({"gpu_memory": ">=8 GB"}, {"gpu": 2, "gpu_memory": ["4 GB", "8 GB"]}),
        ({"has_cuda": True}, {"has_cuda": True}),
        ({"licence": True}, {"licence": 2}),
        ({"has_cuda": False}, {}),
        ({"has_cuda": None}, {"has_cuda": True}),
        ({"camera": "basler"}, {"camera": "basler"}),
        ({"camera": "basler"}, {"camera": {"basler", "flir"}}),
        ({"camera": "basler"}, {"camera": ["basler"]}),
        ({"camera": "!=flir"}, {"camera": "basler"}),
        ({"camera": "==flir"}, {"camera": {"basler", "flir"}}),
        ({"driver": ">=535.104.05"}, {"driver": "535.104.12"}),
        ({"cuda": ">=12.9"}, {"cuda": "12.10"}),
        ({"python": "3.11"}, {"python": "3.11.7"}),
        ({"python": ">=3.9"}, {"python": "3.10.1"}),
        ({"python": ">=3.9, <3.11"}, {"python": "3.10.1"}),
        ({"python": "==3.11"}, {"python": "3.11.7"}),
        ({"gpu": 2, "gpu_memory": "4 GB"}, {"gpu": 2, "gpu_memory": "4 GB"}),
        ({"gpu": 0.5, "gpu_memory": "4 GB"}, {"gpu_memory": "4 GB"}),
        ({"gpu_memory": "4 GB"}, {"gpu_memory": ["2 GB", "4 GB"]}),
        ({"scratch": "200 GB"}, {"scratch": "2 TB"}),
    ],
)
def test_a_host_covers(cost: dict[str, Any], host: dict[str, Any]) -> None:
    assert lacks(cost, host) == ()


@pytest.mark.parametrize(
    ("cost", "host", "says"),
    [
        ({"memory": "8 GB"}, {"memory": "4 GB"}, "needs memory=8 GB, offers memory=4 GB"),
        ({"memory": "8 GB"}, {}, "needs memory=8 GB, offers no memory"),
        ({"cpu": 2}, {}, "needs cpu=2, offers cpu=1"),
        ({"memory": 4_000.000001}, {"memory": "4 GB"}, "needs memory=4000000001 B, offers memory=4 GB"),
        ({"has_cuda": True}, {"has_cuda": False}, "needs has_cuda, offers has_cuda=False"),
        ({"has_cuda": True}, {}, "needs has_cuda, offers no has_cuda"),
        ({"camera": "bas"}, {"camera": {"basler", "flir"}}, "needs camera=bas, offers camera one of {basler, flir}"),
        ({"camera": "bas"}, {"camera": "basler"}, "needs camera=bas, offers camera=basler"),
        ({"camera": "!=flir"}, {"camera": {"basler", "flir"}}, "needs camera!=flir"),
        ({"camera": "!=flir"}, {}, "offers no camera"),
        ({"camera": True}, {"camera": "flir"}, "ask for the text instead of True"),
        (
            {"compute_capability": ">=8.6"},
            {"compute_capability": 7.5},
            "needs compute_capability>=8.6, offers compute_capability=7.5",
        ),
        ({"compute_capability": ">=8.6"}, {}, "offers no compute_capability"),
        ({"memory": ">=8 GB"}, {"memory": "4 GB"}, "needs memory>=8 GB, offers memory=4 GB"),
        ({"licence": "2"}, {"licence": 5}, "without quotes"),
        ({"licence": 1}, {"licence": True}, "does not give an amount"),
        ({"scratch": 200}, {"scratch": "2 TB"}, "unit of size"),
        ({"scratch": "200 GB"}, {"scratch": 2000}, "unit of size"),
        ({"scratch": ">=200"}, {"scratch": "2 TB"}, "unit of size"),
        ({"python": "3.1"}, {"python": "3.11.7"}, "needs python=3.1, offers python=3.11.7"),
        ({"python": "<3.11"}, {"python": "3.11.7"}, "needs python<3.11"),
        ({"gpu": 2}, {"gpu": 1}, "needs gpu=2, offers gpu=1"),
        ({"gpu": 0.5}, {}, "needs gpu=0.5, offers gpu=0"),
        ({"gpu_memory": "4 GB"}, {}, "needs gpu_memory=4 GB, offers gpu=0"),
        ({"gpu_memory": "8 GB"}, {"gpu": 2, "gpu_memory": "6 GB"}, "needs gpu_memory=8 GB, offers gpu_memory=6 GB"),
        (
            {"gpu": 2, "gpu_memory": "6 GB"},
            {"gpu_memory": ["8 GB", "4 GB"]},
            "needs gpu_memory=6 GB on 2 devices, offers gpu_memory=8 GB on 1",
        ),
        ({"GPU": 1}, {"gpu": 1}, "did you mean 'gpu'?"),
        ({"memry": "1 GB"}, {"memory": "4 GB"}, "did you mean 'memory'?"),
        ({"ram": "1 GB"}, {"memory": "4 GB"}, "did you mean 'memory'?"),
        ({"has_cdua": True}, {"has_cuda": True}, "did you mean 'has_cuda'?"),
        ({"has-cuda": True}, {"has_cuda": True}, "did you mean 'has_cuda'?"),
        ({"cpu_intensiv": True}, {}, "did you mean 'cpu_intensive'?"),
    ],
)
def test_a_host_lacks(cost: dict[str, Any], host: dict[str, Any], says: str) -> None:
    found = lacks(cost, host)
    assert len(found) == 1
    assert says in str(found[0])


def test_a_new_name_gets_no_hint() -> None:
    assert lacks({"telescope": 1}, {"memory": "4 GB", "camera": "flir"})[0].hint == ""


def test_shared_amounts_are_not_asked_of_the_host() -> None:
    assert lacks({"licence": 2}, {}, {"licence": 5 * PARTS}) == ()
    (lack,) = lacks({"licence": 9}, {"licence": 20}, {"licence": 5 * PARTS})
    assert str(lack) == "needs licence=9, all hosts share 5"
    assert lack.shared
    assert "did you mean 'licence'?" in str(lacks({"license": 1}, {}, {"licence": 5 * PARTS})[0])


def test_what_is_not_probed_yet_is_not_lacked() -> None:
    assert (
        lacks(
            {"cpu": 64, "gpu": 2, "gpu_memory": "8 GB", "python": "3.12", "machine": "x86_64"},
            {"memory": "4 GB"},
            complete=False,
        )
        == ()
    )
    assert [one.name for one in lacks({"memory": "8 GB"}, {"memory": "4 GB"}, complete=False)] == ["memory"]
    assert [one.name for one in lacks({"x": True}, {}, complete=False)] == ["x"]
    assert lacks({"gpu": 2, "gpu_memory": "8 GB"}, {"gpu": 2}, complete=False) == ()
    assert lacks({"gpu": 2, "gpu_memory": "8 GB"}, {"gpu_memory": "8 GB"}, complete=False) == ()
    assert [one.name for one in lacks({"gpu": 2}, {"gpu": 1}, complete=False)] == ["gpu"]
    assert [one.name for one in lacks({"gpu": 2, "gpu_memory": "8 GB"}, {"gpu_memory": "4 GB"}, complete=False)] == [
        "gpu_memory"
    ]


def test_all_lacks_of_a_host_are_named() -> None:
    assert [one.name for one in lacks({"memory": "8 GB", "gpu": 1, "has_cuda": True}, {"memory": "4 GB"})] == [
        "memory",
        "gpu",
        "has_cuda",
    ]


def test_a_host_that_covers_one_variant_is_not_explained() -> None:
    variants = [compile_cost(cost) for cost in as_costs([{"gpu": 1}, {"cpu": 16}])]
    offers = {"big": compile_capabilities({"cpu": 16}), "small": compile_capabilities({"cpu": 2})}
    assert explain_lacks(variants, offers, {}) == {
        "small": "variant 0 needs gpu=1, offers gpu=0; variant 1 needs cpu=16, offers cpu=2"
    }


def test_the_error_names_for_each_host_what_it_lacks() -> None:
    offers = {
        "node1": compile_capabilities({"memory": "8 GB", "has_cuda": False}),
        "gpu1": compile_capabilities({"memory": "1 GB", "has_cuda": True}),
    }
    error = placement_error("train", [compile_cost(Cost(memory="4 GB", has_cuda=True))], offers, {})
    assert str(error) == (
        "task 'train' cannot be placed on any of 2 hosts: host 'node1': needs has_cuda, offers has_cuda=False; "
        "host 'gpu1': needs memory=4 GB, offers memory=1 GB. Lower the cost of the task, or add a host that covers it."
    )
    assert error.id == "train"
    assert set(error.lacks) == {"node1", "gpu1"}


def test_a_thousand_hosts_that_lack_the_same_are_told_of_once() -> None:
    offers = {f"n{i}": compile_capabilities({"memory": "8 GB"}) for i in range(1000)}
    error = placement_error("t", [compile_cost(Cost(memory="9 GB"))], offers, {})
    assert len(error.lacks) == 1000
    assert "hosts 'n0', 'n1', 'n2' and 997 more: needs memory=9 GB" in str(error)
    assert len(str(error)) < 250


def test_no_host_at_all_is_said_so() -> None:
    assert "there is no host" in str(placement_error("t", [compile_cost(Cost())], {}, {}))
