"""A cluster for libraries, which know nothing of Handout: a plain `with` opens it, so they need no event loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from handout import Cluster
from tests.execution.conftest import hosts


@pytest.fixture(scope="module", params=["local", "ssh"])
def opened(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Yield a cluster of two hosts with two processors each: local ones, and ones that a real sshd serves."""
    with Cluster(hosts(request, request.param), require="all") as cluster:
        yield cluster
