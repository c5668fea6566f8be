"""Fixtures that start a host's processes, and check after the test that nothing of them is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.host.rig import Rig


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    """Yield a function that starts a rig. After the test, stop each rig, and check that nothing of it is left."""
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        rig = Rig(**options)
        made.append(rig)
        rig.task_class()
        return rig

    try:
        yield make
        for rig in made:
            rig.close()
    finally:
        for rig in made:
            rig.kill()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """Start the processes of a host with two processors."""
    return make_rig()
