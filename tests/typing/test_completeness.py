"""``tools/type_completeness.py`` counts the public names with known types. It must fail if it has measured nothing."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "type_completeness.py"


@pytest.mark.slow
def test_it_measures_this_package_whatever_python_is_first_on_path() -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL)],
        capture_output=True,
        text=True,
        check=False,
        cwd=TOOL.parents[1],
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        timeout=350,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    known, total = (int(word) for word in done.stdout.split() if word.isdigit())
    assert known == total > 200


@pytest.mark.parametrize(
    ("symbols", "why"),
    [
        ([], "no symbol of handout: No py.typed file found"),
        ([{"name": "handout.Graph", "diagnostics": []}], "less than half of the public names"),
        ([{"name": "handout.Graph", "diagnostics": [{"message": "Type is missing"}]}], "1"),
    ],
    ids=["nothing", "little", "incomplete"],
)
def test_it_fails_where_pyright_saw_nothing_little_or_an_unknown_type(
    symbols: list[dict[str, Any]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {"generalDiagnostics": [{"message": "No py.typed file found"}], "typeCompleteness": {"symbols": symbols}}

    def answer(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, json.dumps(report), "")

    monkeypatch.setattr(subprocess, "run", answer)
    with pytest.raises(SystemExit, match=why):
        runpy.run_path(str(TOOL), run_name="__main__")
