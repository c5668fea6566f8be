"""The zip that contains the agent's code."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import handout
from handout.transport.bundle import agent_bundle, boot_source
from tests.patience import HANG_S


def test_it_holds_the_agent_the_stand_in_and_dill() -> None:
    with zipfile.ZipFile(io.BytesIO(agent_bundle().data)) as archive:
        names = set(archive.namelist())
        assert {
            "handout/__init__.py",
            "handout/host/agent/agent.py",
            "handout/protocol/frames.py",
            "dill/__init__.py",
        } <= names
        assert archive.read("handout/__init__.py") == archive.read("handout/host/handout_stub.py")


def test_it_holds_the_folders_that_travel_and_nothing_else() -> None:
    """The test lists the files of these folders itself. A file of any other folder must not reach a host."""
    root = Path(handout.__file__).parent
    sources = {
        path.relative_to(root.parent).as_posix()
        for folder in ("protocol", "serialization", "host")
        for path in (root / folder).rglob("*.py")
    }
    with zipfile.ZipFile(io.BytesIO(agent_bundle().data)) as archive:
        names = set(archive.namelist())
    assert not any("tests" in name for name in names)
    names = {name for name in names if not name.startswith("dill/")}
    assert names == {"handout/__init__.py", *sources, *(f"{name}c" for name in sources)}


def test_it_is_made_once_and_has_one_digest_in_every_process() -> None:
    """A takeover compares digests, so they must be equal.

    The bytecode may differ between processes, because marshal's output depends on the number of references to each
    constant.
    """
    bundle = agent_bundle()
    assert agent_bundle() is bundle
    program = "from handout.transport.bundle import agent_bundle; print(agent_bundle().digest)"
    crowded = f"import handout.host.agent.agent, handout.host.worker.worker, handout.execution; {program}"
    for text in (program, crowded):
        path = str(Path(__file__).parent.parent.parent)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=path)
        assert done.stdout.strip() == bundle.digest


def test_it_imports_without_anything_installed(tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(agent_bundle().data)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import handout.host.agent.agent, dill; print(handout.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    assert done.stdout.startswith(str(path))


def test_the_boot_source_stands_alone() -> None:
    compile(boot_source(), "boot.py", "exec")
    assert b"from ." not in boot_source()
