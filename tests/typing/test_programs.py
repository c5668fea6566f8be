"""Type checkers and the public names: mypy and pyright both accept the programs, and both refuse the wrong calls.

The files in ``programs/`` were written for the stub with which the public names were designed. The tests check these
files against the package itself. They also check the blocks of the page about typing, with the types and the errors
that its comments promise.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import read_page
from tests.patience import HANG_S

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
ROOT = HERE.parents[1]
#: For each file of wrong calls: the lines that both type checkers refuse, by the mark at the end of the line.
REFUSED = {
    path.name: {
        match[1]: number
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := re.search(r"# (E\d+)", line))
    }
    for path in sorted(PROGRAMS.glob("rejected_*.py"))
}

#: Seconds. A type checker computes for a minute on two busy cores, and for far longer beside ten endless loops.
CHECK_S = 350.0

Errors = dict[str, dict[int, str]]

#: The comment by which the page about typing says what type an expression or a new variable has.
_TYPE = re.compile(r"^( *)(?:(\w+) = )?(\S.*?)  +# ((?:Output|Stored)\[.*\]|float|list\[float\])$")

pytestmark = pytest.mark.slow


def mypy(folder: Path) -> Errors:
    """Run mypy on the files of a folder. Return its errors by file and line."""
    (folder / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\npython_version = 3.11\nmypy_path = {ROOT}:{folder}\n"
        "[mypy-asyncssh.*,dill.*]\nignore_missing_imports = True\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", str(folder / "cache")]
    files = [path.name for path in folder.glob("*.py")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, cwd=folder, timeout=CHECK_S)
    assert "checked" in done.stdout, done.stdout + done.stderr
    errors: Errors = {}
    for line in done.stdout.splitlines():
        # A path with a folder in it is a file of the package, which a nox session checks with other settings.
        if match := re.match(r"([^/]+?):(\d+): error: (.*)", line):
            errors.setdefault(match[1], {})[int(match[2])] = match[3]
    return errors


def pyright(folder: Path) -> Errors:
    """Run pyright on the files of a folder. Return its errors by file and line."""
    config = {"include": ["."], "extraPaths": [str(ROOT)], "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(folder), "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(list(folder.glob("*.py")))
    errors: Errors = {}
    for found in report["generalDiagnostics"]:
        if found["severity"] == "error":
            errors.setdefault(Path(found["file"]).name, {})[found["range"]["start"]["line"] + 1] = found["message"]
    return errors


def typing_page() -> tuple[str, set[int]]:
    """Return the page about typing as a program that asserts its types, and the lines that its comments call errors.

    The program is one coroutine function, because type checkers refuse ``await`` outside of functions.
    """
    lines = ["from typing import Any, assert_type", "from handout import Output, Stored", "async def page() -> None:"]
    wrong = set()
    for block in read_page(ROOT / "docs" / "howto" / "typing.md").blocks:
        for line in block.code.splitlines():
            if found := _TYPE.match(line):
                indent, name, value, type = found.groups()
                taken = f"{name} = {value}; assert_type({name}, {type})" if name else f"assert_type({value}, {type})"
                line = indent + taken
            lines.append(f"    {line}")
            if "# error: " in line:
                wrong.add(len(lines))
    return "\n".join(lines) + "\n", wrong


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Copy the programs into a folder that belongs to no package, and return that folder."""
    folder = Path(shutil.copytree(PROGRAMS, tmp_path / "programs", ignore=shutil.ignore_patterns("__pycache__")))
    (folder / "typing_page.py").write_text(typing_page()[0])
    return folder


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: str(checker.__name__))
def test_programs_check_and_wrong_calls_do_not(checker: object, programs: Path) -> None:
    assert callable(checker)
    errors = checker(programs)
    texts: list[str] = []
    for name, marked in REFUSED.items():
        refused = errors.pop(name)
        assert set(refused) == set(marked.values()), name
        texts += refused.values()
    text, promised = typing_page()
    assert len(promised) > 2
    assert text.count("assert_type(") > 7
    assert set(errors.pop("typing_page.py")) == promised
    # Both checkers name the type that a plain function would have to have, and no coroutine.
    expected = [text.partition("expected")[2] for text in texts]
    assert not [text for text in expected if re.search(r", Coroutine\[.*\]\]", text)]
    wrong = {f"{name}:{line}": text for name, lines in errors.items() for line, text in lines.items()}
    assert wrong == {}


def test_each_wrong_call_has_a_corrected_one() -> None:
    corrected = re.findall(r"# (\d-E\d+)", (PROGRAMS / "corrected_calls.py").read_text())
    marks = [f"{number}-{mark}" for number, lines in enumerate(REFUSED.values(), 1) for mark in lines]
    assert corrected == marks


def test_the_program_of_tests_passes(tmp_path: Path) -> None:
    for name, text in (("a.txt", "one two"), ("b.txt", "two")):
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nfilterwarnings = error\n")
    program = PROGRAMS / "p10_test.py"
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{PROGRAMS}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, "-o", "asyncio_default_fixture_loop_scope=function", str(program)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
