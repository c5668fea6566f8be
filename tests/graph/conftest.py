from __future__ import annotations

import pytest

from handout.graph import Graph


@pytest.fixture
def graph() -> Graph:
    return Graph()
