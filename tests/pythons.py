"""Other versions of Python on this machine, to test code that must run on every version that a host may have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from handout.transport.bundle import agent_bundle
from tests.patience import HANG_S

#: The minor versions of Python 3 that an agent runs on, and the minor versions that the controller runs on.
MINORS = (9, 10, 11, 12, 13, 14)
OF_THE_CONTROLLER = tuple(minor for minor in MINORS if minor >= 11)


@cache
def find_python(minor: int) -> str | None:
    """Return a working interpreter of Python 3.`minor`, or None if this machine has none."""
    name = f"python3.{minor}"
    if sys.version_info[:2] == (3, minor):
        return sys.executable
    managed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(name), *sorted(map(str, managed.glob(f"3.{minor}.*/bin/{name}")))]
    for candidate in candidates:
        # The program on the path may be a version manager's shim that refuses to run.
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def require_python(minor: int) -> str:
    """Return an interpreter as `find_python` does, or skip the test."""
    found = find_python(minor)
    if found is None:
        pytest.skip(f"no Python 3.{minor} on this machine")
    return found


def run_on_host(python: str, source: str, *args: str, stdin: bytes = b"", bundle: Path) -> bytes:
    """Run a script as a worker on a host runs: it can import only the standard library and the bundle.

    Returns: The bytes that the script wrote to standard output.
    """
    prelude = f"import sys; sys.path.insert(0, {str(bundle)!r})\n"
    done = subprocess.run(
        [python, "-I", "-S", "-c", prelude + source, *args],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the zip file that agents run from, and return its path."""
    path = tmp_path_factory.mktemp("bundle") / "bundle.zip"
    path.write_bytes(agent_bundle().data)
    return path
