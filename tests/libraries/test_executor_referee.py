"""CPython's own tests of executors as a referee. They are run from the standard library that the interpreter ships."""

from __future__ import annotations

import importlib
import unittest
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from handout import Cluster

PACKAGE = "test.test_concurrent_futures"
#: The test classes that need only an executor, each with its module. Python 3.11 has all of them in one module.
CLASSES = {"ExecutorTest": "executor", "WaitTests": "test_wait", "AsCompletedTests": "test_as_completed"}
#: The tests that are left out, each with the reason.
LISTED = {"test_max_workers_negative": "calls the constructor of an executor, and a cluster makes this one"}


def found() -> Iterator[tuple[type, str]]:
    """Yield each test as its class and its name. Yield nothing if the interpreter ships no tests."""
    for name, module in CLASSES.items():
        home = imported(f"{PACKAGE}.{module}") or imported(PACKAGE)
        tests = getattr(home, name, None)
        if tests is not None:
            yield from ((tests, test) for test in unittest.TestLoader().getTestCaseNames(tests) if test not in LISTED)


def imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, unittest.SkipTest):
        return None


TESTS = list(found())


@pytest.mark.full
@pytest.mark.skipif(not TESTS, reason=f"this interpreter ships no {PACKAGE}")
@pytest.mark.parametrize(("tests", "name"), TESTS, ids=[f"{tests.__name__}-{name}" for tests, name in TESTS])
def test_cpythons_own_test_passes(opened: Cluster, tests: type, name: str) -> None:
    class Case(tests, unittest.TestCase):  # type: ignore[misc]
        worker_count = 5

        def setUp(self) -> None:
            self.executor = opened.executor()

        def tearDown(self) -> None:
            self.executor.shutdown()

    result = unittest.TestResult()
    Case(name).run(result)
    failures: list[Any] = [*result.errors, *result.failures]
    assert not failures, failures[0][1]
    assert result.testsRun == 1
