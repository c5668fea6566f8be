"""Costs: the amounts that they consume, the conditions that they set, and the values that they refuse."""

from __future__ import annotations

import pickle
from enum import Enum
from fractions import Fraction
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from handout.errors import CostError
from handout.graph import Graph
from handout.resources import PARTS, Amount, Cost, Host, Inventory, as_costs, compile_cost, needs, units


class LabCost(Cost):
    """A cost class as users write it, with fields and a validator of its own."""

    scratch: Amount = 0
    bandwidth: Amount = 0
    camera: Literal["basler", "flir"] | None = None
    matlab: int = Field(default=0, ge=0, le=2)
    cuda_cc: str | None = None

    @field_validator("bandwidth", mode="before")
    @classmethod
    def gbit(cls, v: object) -> object:
        return float(v.removesuffix(" Gbit/s")) if isinstance(v, str) else v


def consumed(**cost: Any) -> dict[str, int]:
    return dict(compile_cost(Cost(**cost)).consumed)


def test_a_function_costs_one_core_unless_it_says_otherwise() -> None:
    assert consumed() == {"cpu": PARTS}
    assert consumed(cpu=0) == {}
    assert consumed(cpu=None) == {}
    assert consumed(cpu=0.5) == {"cpu": 5_000}


def test_amounts_are_normalized_and_sizes_are_bytes() -> None:
    amounts = Cost(memory="2 GB", gpu_memory=500, disk="1 GiB", licence=2).amounts
    assert amounts["memory"] == 2 * 10**9
    assert amounts["gpu_memory"] == 500 * 10**6
    assert amounts["disk"] == 2**30
    assert amounts["licence"] == Fraction(2)
    assert amounts["gpu"] == 0


def test_a_name_of_the_users_own_is_a_size_where_it_has_a_unit() -> None:
    assert Cost(scratch="200 GB").amounts["scratch"] == 200 * 10**9


def test_false_and_none_ask_for_nothing() -> None:
    requirement = compile_cost(Cost(has_cuda=False, camera=None, memory=False, gpu=None, python=False))
    assert dict(requirement.consumed) == {"cpu": PARTS}
    assert requirement.conditions == ()


def test_true_text_and_comparisons_are_conditions() -> None:
    requirement = compile_cost(Cost(has_cuda=True, camera="basler", compute_capability=">=8.6", python="3.11"))
    assert [str(one) for one in requirement.conditions] == [
        "python=3.11",
        "has_cuda",
        "camera=basler",
        "compute_capability>=8.6",
    ]


def test_a_numeral_in_quotes_under_an_own_name_is_text() -> None:
    assert "cuda=12.1" in map(str, compile_cost(Cost(cuda="12.1")).conditions)


def test_a_numeral_in_quotes_in_a_field_of_numbers_is_an_amount() -> None:
    assert LabCost(scratch="200").amounts["scratch"] == 200


@pytest.mark.parametrize(
    ("cost", "cpu"),
    [
        ({"cpu_intensive": True}, 1),
        ({"cpu_intensive": False}, 0),
        ({"cpu_intensive": None}, 1),
        ({"cpu_intensive": False, "cpu": 2}, 2),
        ({"cpu_intensive": True, "cpu": 4}, 4),
    ],
)
def test_cpu_intensive_is_a_hint_that_an_amount_overrides(cost: dict[str, Any], cpu: int) -> None:
    assert Cost(**cost).amounts["cpu"] == cpu


def test_several_comparisons_may_stand_together() -> None:
    assert [str(one) for one in compile_cost(Cost(python=">=3.10, <3.13")).conditions] == [
        "python>=3.10",
        "python<3.13",
    ]


@pytest.mark.parametrize("unit", ["kB", "KB"])
def test_a_kilobyte_may_be_written_both_ways_in_any_amount(unit: str) -> None:
    for name in ("memory", "scratch"):
        assert compile_cost(Cost(**{name: f"2 {unit}"})).consumed[name] == 2000 * PARTS


@pytest.mark.parametrize(
    ("cost", "name", "says"),
    [
        ({"memory": "2 GX"}, "memory", "Units are"),
        ({"memory": [1]}, "memory", "list is not an amount"),
        ({"memory": ">= many"}, "memory", "not an amount"),
        ({"gpu": True}, "gpu", "Write how much"),
        ({"gpu": 1.5}, "gpu", "whole"),
        ({"cpu": "2 GB"}, "cpu", "counted"),
        ({"cpu": -1}, "cpu", "negative"),
        ({"python": 3.11}, "python", "in quotes"),
        ({"python": True}, "python", "Write one"),
        ({"python": ">=three"}, "python", "no version"),
        ({"scratch": "200 gb"}, "scratch", "Did you mean 'GB'"),
        ({"camera": ["basler", "flir"]}, "camera", "list of costs"),
        ({"camera": b"basler"}, "camera", "bytes means nothing"),
        ({"camera": ""}, "camera", "empty"),
        ({"cc": ">="}, "cc", "no comparison"),
        ({"cc": ">=8,9"}, "cc", "no comparison"),
        ({"cc": ">=big"}, "cc", "neither an amount nor a version"),
        ({"cpu_intensive": "yes"}, "cpu_intensive", "True or False"),
    ],
)
def test_what_means_nothing_is_refused_with_a_remedy(cost: dict[str, Any], name: str, says: str) -> None:
    with pytest.raises(CostError) as caught:
        Cost(**cost)
    assert says in str(caught.value)
    assert caught.value.name == name
    assert caught.value.remedy
    with pytest.raises(CostError):
        as_costs(cost)


@pytest.mark.filterwarnings("ignore:The `copy` method is deprecated")
def test_costs_that_pydantic_makes_in_other_ways_are_read_as_well() -> None:
    assert compile_cost(Cost(cpu=1).copy(update={"cpu": 4})).consumed == {"cpu": 4 * PARTS}
    assert compile_cost(Cost.model_construct(cpu=2)).consumed == {"cpu": 2 * PARTS}
    with pytest.raises(CostError):
        compile_cost(Cost.model_construct(cpu="many"))


def test_a_cost_cannot_be_changed_and_a_copy_is_read_anew() -> None:
    cost = Cost(memory="1 GB")
    with pytest.raises(ValidationError, match="frozen"):
        cost.memory = "2 GX"
    copy = cost.model_copy(update={"memory": "2 GB"})
    assert (cost.amounts["memory"], copy.amounts["memory"]) == (10**9, 2 * 10**9)
    assert dict(compile_cost(copy).consumed)["memory"] == 2 * 10**9 * PARTS
    with pytest.raises(CostError, match="memory"):
        cost.model_copy(update={"memory": "2 GX"})


def test_a_cost_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noting(value: Any, *, size: bool, name: str = "amount") -> tuple[int, bool]:
        read.append(name)
        return units.read_amount(value, size=size, name=name)

    monkeypatch.setattr(needs, "read_amount", noting)
    graph = Graph()
    graph.add(len, "", cost={"memory": "3 GB", "licence": 5})
    graph.check(Inventory([Host("gpu1", capabilities={"memory": "4 GB", "licence": 8})]))
    assert [options.requirements[0].cost.amounts["licence"] for options in graph.compile().options] == [5]
    assert sorted(read) == ["cpu", "disk", "gpu", "gpu_memory", "licence", "memory"]


def test_variants_keep_the_objects_that_were_given() -> None:
    first = LabCost(matlab=1)
    costs = as_costs([first, {"cpu": 16}])
    assert costs[0] is first
    assert costs[1].amounts["cpu"] == 16


def test_equal_mappings_are_built_once_but_types_matter() -> None:
    assert as_costs({"cpu": 2})[0] is as_costs({"cpu": 2})[0]
    assert compile_cost(as_costs({"x": True})[0]) != compile_cost(as_costs({"x": 1})[0])


def test_no_cost_at_all_is_the_default() -> None:
    assert as_costs(None) == as_costs({}) == (Cost(),)


@pytest.mark.parametrize("wrong", [[], "2 GB", 3, [3], [None]])
def test_what_is_no_cost_is_refused(wrong: Any) -> None:
    with pytest.raises(CostError):
        as_costs(wrong)


def test_a_subclass_types_its_names_and_keeps_its_validators() -> None:
    cost = LabCost(camera="basler", bandwidth="2 Gbit/s", matlab=1, cuda_cc=">=8.6")
    assert cost.amounts["bandwidth"] == 2
    assert cost.amounts["scratch"] == 0
    requirement = compile_cost(cost)
    assert requirement.cost is cost
    assert dict(requirement.consumed) == {"cpu": PARTS, "bandwidth": 2 * PARTS, "matlab": PARTS}
    assert {str(one) for one in requirement.conditions} == {"camera=basler", "cuda_cc>=8.6"}
    match cost:
        case LabCost(camera="basler", matlab=1):
            pass
        case _:
            pytest.fail("a subclass must match by its fields")
    with pytest.raises(ValidationError):
        LabCost(matlab=3)


def test_a_field_that_refuses_leaves_the_users_own_type_alone() -> None:
    class Camera(Enum):
        BASLER = "basler"

    class EnumCost(Cost):
        camera: Camera | None = None

    assert "camera=basler" in map(str, compile_cost(EnumCost(camera=Camera.BASLER)).conditions)


def test_requirements_are_equal_when_they_ask_for_the_same() -> None:
    one, other = compile_cost(Cost(memory="2 GB", x=True)), compile_cost(Cost(x=True, memory=2000))
    assert one == other
    assert hash(one) == hash(other)
    assert one != compile_cost(Cost(memory="2 GB"))


def test_shared_names_are_split_off() -> None:
    requirement = compile_cost(Cost(licence=1, memory="1 GB"))
    host, shared = requirement.needs({"licence": 5 * PARTS})
    assert dict(host) == {"cpu": PARTS, "memory": 10**9 * PARTS}
    assert dict(shared) == {"licence": PARTS}


def test_costs_and_their_errors_pickle() -> None:
    cost = Cost(memory="2 GB", has_cuda=True)
    assert pickle.loads(pickle.dumps(cost)) == cost
    with pytest.raises(CostError) as caught:
        Cost(memory="2 GX")
    assert pickle.loads(pickle.dumps(caught.value)).name == "memory"
