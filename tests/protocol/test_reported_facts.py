"""Tests of what a report may contain, where the function that reports sees it, and of the stand-in outside of tasks."""

from __future__ import annotations

import math
import numbers
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import handout
from handout.protocol.reported_facts import check_facts, from_json, to_json


@pytest.mark.parametrize("progress", [-0.1, 1.01, math.nan, math.inf])
def test_a_progress_outside_of_0_and_1_is_refused_where_it_is_reported(progress: float) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1, such as report\(done / total\)"):
        handout.current().report(progress)


@pytest.mark.parametrize("progress", ["half", True, [0.5]])
def test_a_progress_that_is_no_number_is_refused(progress: Any) -> None:
    with pytest.raises(TypeError, match="is a number from 0 to 1"):
        handout.current().report(progress)


@pytest.mark.parametrize("value", [[1], {"a": 1}, 1j, object(), b"x"])
def test_a_fact_that_is_not_one_value_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match=r"'loss'. A fact is one value"):
        handout.current().report(0.5, loss=value)


def test_numbers_of_other_packages_become_numbers() -> None:
    handout.current().report(Fraction(1, 2))
    facts = check_facts({"share": Fraction(1, 4), "count": Registered()})
    assert facts == {"share": 0.25, "count": 7}
    assert [type(fact) for fact in facts.values()] == [float, int]


@numbers.Integral.register
class Registered:
    """A whole number as NumPy has them: no subclass of `int`, but registered as one of its kind."""

    def __int__(self) -> int:
        return 7


def test_facts_have_a_size() -> None:
    handout.current().report(text="x" * 8000, count=1 << 2000)
    with pytest.raises(ValueError, match="at most 8192 bytes"):
        handout.current().report(text="x" * 9000)


def test_outside_of_tasks_a_stand_in_makes_functions_plain(tmp_path: Path) -> None:
    task = handout.current()
    assert (task.attempt, task.variant, task.host, task.id) == (1, 0, "local", "no task")
    default: list[int] = []
    task.report(0.5, loss=1.0)
    task.checkpoint(object())
    assert task.restore(default) is default
    assert os.path.isdir(task.scratch)
    assert handout.current().scratch == task.scratch


def test_numbers_that_json_does_not_have_survive_it() -> None:
    facts = from_json(to_json({"a": math.inf, "b": -math.inf, "c": math.nan, "d": 1.5, "e": None, "f": "nan"}))
    assert math.isnan(facts.pop("c"))  # type: ignore[arg-type]
    assert facts == {"a": math.inf, "b": -math.inf, "d": 1.5, "e": None, "f": "nan"}


@pytest.mark.parametrize(
    "facts", [[], {"a": ["1.5"]}, {"a": ["nan", "nan"]}, {"a": {}}, {"a": ["x"]}, {"a": "x" * 9000}]
)
def test_facts_of_a_faulty_agent_are_refused(facts: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        from_json(facts)
