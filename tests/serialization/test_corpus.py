"""Ordinary scripts whose functions and classes travel by value: the cases in the folder ``corpus``.

Each case is a script that runs as a program of its own. A second process, which has neither the script nor its folder,
loads the script's function and calls it. `benchmarks.pickling.cases` describes the cases, and compares other picklers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from benchmarks.pickling import cases
from benchmarks.pickling.runner import Runner, packages_of

CASES = cases.read()


def _daily() -> set[str]:
    """Return the names of cases that together are of all kinds. Of each kind, it is the first without a package."""
    found: dict[str, str] = {}
    for case in CASES:
        if not packages_of(case):
            for kind in case.kinds:
                found.setdefault(kind, case.name)
    return set(found.values())


DAILY = _daily()


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with Runner(["ours"], tmp_path_factory.mktemp("corpus")) as runner:
        yield runner


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=() if case.name in DAILY else pytest.mark.full) for case in CASES],
)
def test_a_script_works_in_another_process(case: cases.Case, runner: Runner) -> None:
    missing = [name for name in sorted(packages_of(case)) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the case needs {', '.join(missing)}")
    assert runner.run(case)["ours"] == ["ok", ""]


def test_the_corpus_has_each_kind_of_script_that_once_broke_at_least_twice() -> None:
    kinds = [kind for case in CASES for kind in case.kinds]
    assert [kind for case in cases.read("named") for kind in case.kinds if kinds.count(kind) < 2] == []
    assert len({case.name for case in CASES}) == len(CASES) >= 150
