"""Fixtures for all tests: the session's folder, the checks that a test leaves nothing behind, and one sshd."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from handout.execution.cluster_hint import OPEN
from handout.execution.start_hint import STARTS
from tests.ledger import Ledger, Place, beyond, open_place, tasks, until_none_is_left, until_the_loop_has_none_left
from tests.sshd import OpenSsh, find_sshd, need_sshd, start_sshd


@pytest.fixture(scope="session", autouse=True)
def place() -> Iterator[Place]:
    """Yield the folder in which all hosts of the test session keep their folders; see `tests.ledger`."""
    with open_place() as opened:
        yield opened


@pytest.fixture(scope="session", autouse=True)
def _no_hints() -> None:
    """Keep Handout from logging its hints: that this process has started hosts several times, or opened two clusters."""
    STARTS.told = OPEN.told = True


@pytest.fixture(scope="module", autouse=True)
def _imports_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the modules that the tests of one module have imported from their temporary folders.

    Handout sends the modules that this process has imported, so one that stays would be part of later tests.
    """
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.fixture(scope="module")
def ledger_of_module(place: Place, request: pytest.FixtureRequest) -> Iterator[None]:
    """Check after a module's last test that no run has left anything behind, not even runs of the module's cluster."""
    if find_sshd() is not None:
        request.getfixturevalue("sshd")  # the session's server starts before the ledger counts what is open
    ledger = Ledger(place, own=False)
    with ledger.listening():
        yield
        gc.collect()  # asyncio reports an unretrieved exception only when the task is garbage-collected
        until_none_is_left(ledger.left)


@pytest.fixture
def ledger(ledger_of_module: None, place: Place, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """Check that the test has left nothing behind.

    A test must request this fixture before all others, so that pytest ends the others before the check.
    """
    if _loop_of(request) == "module":
        request.getfixturevalue("_loop_of_module")  # opens the module's loop before the ledger counts descriptors
    lasting = request.getfixturevalue("cluster") if "cluster" in request.fixturenames else None
    kept = Ledger(place, cluster=lasting)
    with kept.listening():
        yield kept
        until_none_is_left(kept.left)


@pytest.fixture
def ledger_of_loop(ledger: Ledger, request: pytest.FixtureRequest) -> None:
    """Check that the test has left no task in its event loop, before the loop ends and cancels all tasks."""
    if (loop := _loop_of(request)) is not None:
        request.getfixturevalue(f"_tasks_of_{loop}_loop")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _loop_of_module() -> None:
    """Do nothing. A request for this fixture makes pytest-asyncio open the module's event loop."""


@pytest_asyncio.fixture
async def _tasks_of_function_loop() -> AsyncIterator[None]:
    before = tasks()
    yield
    await until_the_loop_has_none_left(lambda: beyond(before, tasks()))


@pytest_asyncio.fixture(loop_scope="module")
async def _tasks_of_module_loop(ledger: Ledger) -> AsyncIterator[None]:
    before = tasks()
    yield
    # Check the ledger here as well, because some things disappear only while this loop runs.
    await until_the_loop_has_none_left(lambda: beyond(before, tasks()) + ledger.left())


def _loop_of(request: pytest.FixtureRequest) -> str | None:
    """Return the scope of a test's event loop, or None if the test is not a coroutine function."""
    if not inspect.iscoroutinefunction(request.function):
        return None
    marker = request.node.get_closest_marker("asyncio")
    return "function" if marker is None else str(marker.kwargs.get("loop_scope", "function"))


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSsh]:
    """Run one OpenSSH server on loopback for the whole test session."""
    need_sshd()
    with start_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of one folder in one process under ``-n 2``, because tests of one module share a cluster."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.parent.name))
