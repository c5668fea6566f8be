"""A host's processes for tests, and the check that nothing of them is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.host.rig import Rig


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    """Starts rigs; each must end clean."""
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
    """One host with two processors."""
    return make_rig()
