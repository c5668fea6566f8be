"""Other versions of Python on this machine, for what must run on all that a host may have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from handout.transport.bundle import agent_bundle

#: Minor versions that an agent runs on, and those that the controller runs on.
MINORS = (9, 10, 11, 12, 13, 14)
OF_THE_CONTROLLER = tuple(minor for minor in MINORS if minor >= 11)


@cache
def find_python(minor: int) -> str | None:
    """An interpreter of version 3.`minor` that runs, or None."""
    name = f"python3.{minor}"
    if sys.version_info[:2] == (3, minor):
        return sys.executable
    managed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(name), *sorted(map(str, managed.glob(f"3.{minor}.*/bin/{name}")))]
    for candidate in candidates:
        # A version manager's shim may be on the path and refuse to run.
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def require_python(minor: int) -> str:
    """`find_python`, or skip."""
    found = find_python(minor)
    if found is None:
        pytest.skip(f"no Python 3.{minor} on this machine")
    return found


def run_on_host(python: str, source: str, *args: str, stdin: bytes = b"", bundle: Path) -> bytes:
    """Run a script the way an agent's worker runs: nothing is there but the bundle.

    Returns: What it printed.
    """
    prelude = f"import sys; sys.path.insert(0, {str(bundle)!r})\n"
    done = subprocess.run(
        [python, "-I", "-S", "-c", prelude + source, *args], input=stdin, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip that agents run from."""
    path = tmp_path_factory.mktemp("bundle") / "bundle.zip"
    path.write_bytes(agent_bundle().data)
    return path
