"""Attempt ids: no two attempts share an id, so a late report never passes for a report of another attempt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import handout
from handout import Graph, Host
from handout.protocol import numbering
from handout.scheduler.state.runs import Run

NUMBERS = st.tuples(st.integers(0, 1 << 30), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 44) - 1))


@given(NUMBERS, NUMBERS)
def test_a_ticket_says_which_attempt_of_what_it_is_and_no_two_are_alike(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    assert numbering.parts(numbering.attempt_id(*one)) == one
    assert (numbering.attempt_id(*one) == numbering.attempt_id(*other)) == (one == other)


def test_the_4096th_attempt_is_not_taken_for_an_earlier_one() -> None:
    numbers = [n for k in range(3) for n in range(4096 * k, 4096 * k + 5)]
    assert numbering.by_run(numbering.attempt_id(1, 2, n) for n in numbers) == [(1, [2] * len(numbers), numbers)]


@pytest.mark.parametrize("number", [-1, 1 << 128])
def test_what_is_no_ticket_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        numbering.parts(number)


def fails_until(path: str, attempt: int) -> int:
    print("said in", handout.current().attempt)
    with open(path, "a") as file:
        file.write(f"{handout.current().attempt} ")
    if handout.current().attempt < attempt:
        raise ValueError("not yet")
    return attempt


async def test_a_task_goes_on_past_its_4096th_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Run.begin

    def begin_late(run: Run, *args: Any) -> None:
        begin(run, *args)
        run.attempt = [4093] * len(run.attempt)

    monkeypatch.setattr(Run, "begin", begin_late)
    graph = Graph()
    out = graph.add(fails_until, str(tmp_path / "ran"), 4097, retries=9)
    async with handout.start(graph, inventory=[Host.local("here", {"cpu": 1})]) as execution:
        results = await execution.results()
        said = [line async for line in execution.logs(out)]
    assert results[out] == 4097
    assert said[-1] == "said in 4097"
    assert (tmp_path / "ran").read_text() == "4094 4095 4096 4097 "
