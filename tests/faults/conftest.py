"""Fixtures: clusters over each launcher, and a host whose network connection the tests break."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from handout import Cluster
from handout.host.system import processes
from tests.execution.conftest import hosts
from tests.faults.far import Far
from tests.ledger import until_none_is_left
from tests.netns import make_namespace, why_none
from tests.patience import HANG_S
from tests.sshd import need_sshd, start_sshd


@pytest.fixture(autouse=True)
def _nothing_is_left(ledger_of_loop: None) -> None:
    """Run the checks of `tests.ledger` after every test of this folder."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["local", "ssh"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """Open one cluster for all tests of a module. Its hosts ``plain`` and ``gpu`` stay connected."""
    async with Cluster(hosts(request, request.param), require="all") as opened:
        yield opened


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip the test if the machine cannot make network namespaces."""
    why = why_none()
    if why is not None:
        pytest.skip(why)


@pytest.fixture(scope="session")
def far_server(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """Make one network namespace with an sshd in it, for the whole session."""
    need_sshd()
    with make_namespace() as line:
        with start_sshd(tmp_path_factory.mktemp("far"), address=line.address, prefix=line.prefix) as server:
            yield Far(line, server)
            line.end_processes()  # otherwise sshd waits for sessions whose connection was cut


@pytest.fixture
def far(far_server: Far) -> Iterator[Far]:
    """Yield the far server with a working connection. After the test, repair the connection and end all agents."""
    yield far_server
    far_server.line.heal()
    far_server.line.plug()
    # A lost agent lingers for a while, but the next test must start without it. On SIGTERM, its supervisor ends the
    # agent and removes everything.
    living = far_server.living()
    parents = processes.parents()
    for pid in living:
        if parents.get(pid) not in living:
            processes.send_signal(pid, signal.SIGTERM)
    until_none_is_left(lambda: [f"process {pid} of the far host" for pid in far_server.living()], HANG_S)
