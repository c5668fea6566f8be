"""The network namespaces, in which tests break connections, leave nothing behind even if a test fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.netns import make_namespace
from tests.patience import HANG_S
from tests.seen import gone


def test_a_namespace_goes_with_its_processes_when_its_test_fails(namespaces: None) -> None:
    with pytest.raises(RuntimeError, match="a failure"):  # noqa: PT012
        with make_namespace() as line:
            sleeper = subprocess.Popen([*line.prefix, "sleep", "1000"])
            line.drop()
            assert Path("/run/netns", line.name).exists()
            raise RuntimeError("a failure")
    assert sleeper.wait(timeout=HANG_S) == -9
    assert gone(sleeper.pid)
    assert not Path("/run/netns", line.name).exists()
