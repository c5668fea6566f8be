"""The zip that makes a host's Python an agent."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from handout.remote.bundle import agent_bundle, boot_source


def test_it_holds_the_agent_the_stand_in_and_dill() -> None:
    with zipfile.ZipFile(io.BytesIO(agent_bundle().data)) as archive:
        names = set(archive.namelist())
        assert {"handout/__init__.py", "handout/agent/agent.py", "handout/agent/wire.py", "dill/__init__.py"} <= names
        assert archive.read("handout/__init__.py") == archive.read("handout/agent/standin.py")
    assert all(name.startswith(("handout/agent/", "dill/")) or name == "handout/__init__.py" for name in names)
    assert not any("tests" in name for name in names)


def test_it_is_made_once_and_has_one_digest_in_every_process() -> None:
    """Its bytecode has not: marshal looks at what else refers to a constant. Agents are found again by the digest."""
    bundle = agent_bundle()
    assert agent_bundle() is bundle
    program = "from handout.remote.bundle import agent_bundle; print(agent_bundle().digest)"
    crowded = f"import handout.agent.agent, handout.agent.worker, handout.execution; {program}"
    for text in (program, crowded):
        path = str(Path(__file__).parent.parent.parent)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=path)
        assert done.stdout.strip() == bundle.digest


def test_it_imports_without_anything_installed(tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(agent_bundle().data)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import handout.agent.agent, dill; print(handout.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(str(path))


def test_the_boot_source_stands_alone() -> None:
    compile(boot_source(), "boot.py", "exec")
    assert b"from ." not in boot_source()
