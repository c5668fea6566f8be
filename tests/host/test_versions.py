"""The agent runs tasks on every version of Python that a host may have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.host.rig import Rig
from tests.pythons import MINORS, require_python


@pytest.mark.parametrize("minor", MINORS)
def test_an_agent_runs_tasks(minor: int, make_rig: Callable[..., Rig]) -> None:
    """The tasks call only builtins, because a function that travels by value needs the same version on both ends."""
    rig = make_rig(python=require_python(minor))
    assert rig.hello["python"][:2] == [3, minor]
    rig.submit(range(1, 201), rig.function(pow), [rig.call(x, 2) for x in range(1, 201)])
    rig.wait_for(*range(1, 201))
    assert [rig.result(x) for x in range(1, 201)] == [x * x for x in range(1, 201)]
    rig.submit([300], rig.function(bytearray), rig.call(1 << 20))
    rig.submit([301], rig.function(len), rig.call(inputs=1), inputs=[[300]])
    rig.wait_for(301)
    assert rig.result(301) == 1 << 20
    failed = rig.run(int, "x", attempt_id=302).fields
    assert (failed["kind"], failed["type"]) == ("raised", "ValueError")
