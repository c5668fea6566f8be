"""The surface as the checkers see it: programs that both accept, and calls that both refuse.

``programs/`` are written against the stub that the surface was designed with; they are checked against the package.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
ROOT = HERE.parents[1]
REFUSED = {
    number
    for number, line in enumerate((PROGRAMS / "rejected_calls.py").read_text().splitlines(), 1)
    if re.search(r"# E\d", line)
}

Errors = dict[str, dict[int, str]]

pytestmark = pytest.mark.slow


def mypy(cache: Path) -> Errors:
    """Errors by file and line."""
    (cache / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\npython_version = 3.11\nmypy_path = {ROOT}:{HERE / 'stubs'}:{PROGRAMS}\n"
        "[mypy-asyncssh.*,dill.*]\nignore_missing_imports = True\n"
    )
    files = map(str, sorted(PROGRAMS.glob("*.py")))
    command = [sys.executable, "-m", "mypy", "--config-file", str(cache / "mypy.ini"), "--cache-dir", str(cache)]
    done = subprocess.run([*command, *files], capture_output=True, text=True, cwd=cache, timeout=110)
    errors: Errors = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"(.+?):(\d+): error: (.*)", line):
            errors.setdefault(Path(match[1]).name if "programs" in match[1] else match[1], {})[int(match[2])] = match[3]
    assert "checked" in done.stdout, done.stdout + done.stderr
    return errors


def pyright(folder: Path) -> Errors:
    """Errors by file and line."""
    config = {"include": [str(PROGRAMS)], "extraPaths": [str(ROOT), str(HERE / "stubs")], "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(folder), "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(list(PROGRAMS.glob("*.py")))
    errors: Errors = {}
    for found in report["generalDiagnostics"]:
        if found["severity"] == "error":
            errors.setdefault(Path(found["file"]).name, {})[found["range"]["start"]["line"] + 1] = found["message"]
    return errors


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: str(checker.__name__))
def test_programs_check_and_wrong_calls_do_not(checker: object, tmp_path: Path) -> None:
    assert callable(checker)
    errors = checker(tmp_path)
    refused = errors.pop("rejected_calls.py")
    assert set(refused) == REFUSED
    assert errors == {}
