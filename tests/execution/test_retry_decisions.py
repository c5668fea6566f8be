"""If a failed task may get another attempt, by the classes in ``retry_on``."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from handout.execution.shell.retry_decisions import RetryDecisions, allows_missing_modules
from handout.failures import from_report

MISSING = {"kind": "raised", "type": "ModuleNotFoundError", "message": "No module named 'x'.", "missing": "x"}


@pytest.mark.parametrize(
    ("retry_on", "report", "may_retry"),
    [
        (ModuleNotFoundError, MISSING, True),
        ((ValueError, ImportError), MISSING, True),
        (ValueError, MISSING, False),
        (ModuleNotFoundError, {**MISSING, "missing": None}, False),
        (ConnectionError, {**MISSING, "type": "ConnectionError"}, False),
    ],
)
async def test_of_a_host_of_which_only_data_is_taken_the_class_for_a_missing_package_is_known(
    retry_on: Any, report: dict[str, Any], may_retry: bool
) -> None:
    """The advice of this error says that the task is tried again if ``retry_on`` names the class."""
    assert allows_missing_modules(retry_on) or not may_retry
    failure = from_report("fit", "far", 1, report, None)
    told: list[bool] = []
    RetryDecisions(asyncio.get_running_loop()).ask(retry_on, failure, contextvars.copy_context(), told.append)
    assert told == [may_retry]
