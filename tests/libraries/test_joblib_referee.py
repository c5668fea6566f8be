"""joblib's own tests of ``Parallel`` as a referee. They are run from the installed package, with Handout's backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("joblib", reason="joblib is not installed: pip install -e '.[libraries]'")
pytest.importorskip("numpy", reason="some of joblib's tests need numpy: pip install -e '.[libraries]'")

ROOT = Path(__file__).parents[2]
#: The line of joblib's tests that names the backends with processes of their own. Its functions are pickled, too.
PROCESS_BACKENDS = 'PROCESS_BACKENDS = ["multiprocessing", "loky"]'


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_joblibs_own_tests_pass(tmp_path: Path) -> None:
    """`joblib_referee.LISTED` names the tests that are left out, each with the reason."""
    spec = find_spec("joblib.test.test_parallel")
    if spec is None or spec.origin is None:
        pytest.skip("this installation of joblib has no tests")
    source = Path(spec.origin).read_text(encoding="utf-8")
    assert source.count(PROCESS_BACKENDS) == 1, "joblib's tests name their backends in another way"
    tests = tmp_path / "test_parallel.py"
    tests.write_text(source.replace(PROCESS_BACKENDS, 'PROCESS_BACKENDS = ["handout"]'), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.libraries.joblib_referee", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(tests)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 150, done.stdout
