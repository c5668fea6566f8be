"""The wheel: what it contains, and that it works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.patience import HANG_S
from tests.pythons import OF_THE_CONTROLLER, require_python
from tests.sshd import OpenSsh

ROOT = Path(__file__).parent.parent

PROGRAM = """
import sys
import handout


def double(x):
    return 2 * x


def where(x):
    return x, handout.current().host


if __name__ == "__main__":
    graph = handout.Graph()
    doubled = graph.map(double, [1, 2, 3])
    out = graph.add(where, doubled)
    results = handout.run(graph, inventory=sys.argv[1])
    numbers, host = results[out]
    print(numbers, host)
    print(handout.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command, and return what it prints. If the command fails, the test fails with its errors.

    The command does not inherit environment variables by which it could find the checkout.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * HANG_S,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from this checkout. The build uses the packages that are installed here, and downloads none."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    return folder / "program.py"


def test_the_wheel_has_the_package_with_its_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    package = {name for name in names if name.startswith("handout/")}
    assert {name.split("/")[0].split("-")[0] for name in names - package} == {"handout_dag"}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "handout").rglob("*.py")}
    assert package == {*sources, "handout/py.typed"}


def check_it_runs(python: Path, program: Path, sshd: OpenSsh, on_hosts: str) -> None:
    """Run a graph over SSH, in a folder outside the checkout, with the handout package that `python` has installed."""
    inventory = sshd.inventory_file({"one": "{ cpu = 1 }", "two": "{ cpu = 1 }"}, python=on_hosts)
    numbers, file = run(python, program, inventory, cwd=program.parent).splitlines()
    assert numbers in ("[2, 4, 6] one", "[2, 4, 6] two")
    assert Path(file).is_relative_to(python.parents[1])
    assert not Path(file).is_relative_to(ROOT)


@pytest.mark.ssh
def test_the_wheel_runs_a_graph_without_the_checkout(wheel: Path, program: Path, sshd: OpenSsh, tmp_path: Path) -> None:
    """The test installs the wheel in a fresh environment, which takes its dependencies from the tests' environment."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=tmp_path
    )
    installed = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    # Python reads no .pth files in a folder that a .pth file names, so it does not find handout's editable install.
    Path(installed, "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    check_it_runs(python, program, sshd, on_hosts=sys._base_executable)


@pytest.mark.ssh
@pytest.mark.full
@pytest.mark.parametrize("minor", OF_THE_CONTROLLER)
def test_the_wheel_installs_with_its_dependencies_and_runs(
    minor: int, wheel: Path, program: Path, sshd: OpenSsh, tmp_path: Path
) -> None:
    """As for a user, `pip install` takes the dependencies of the wheel from the registry."""
    base = require_python(minor)
    run(base, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", wheel, cwd=tmp_path)
    check_it_runs(python, program, sshd, on_hosts=base)
