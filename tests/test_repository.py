"""What the repository says is true: the README's commands and code, other pages, the configuration, the diagrams."""

from __future__ import annotations

import ast
import builtins
import dis
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import CodeType

import pytest

import handout
from handout.transport.bundle import TRAVELS
from tests.patience import HANG_S

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}.*?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    (command,) = (block.strip() for block in blocks("sh") if "pytest" in block)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_demo_command_names_a_script_that_exists() -> None:
    (command,) = (block.strip() for block in blocks("sh") if "examples/" in block)
    assert (ROOT / command.split()[-1]).is_file()


def test_the_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_tests_that_the_page_on_reliability_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 50
    assert named - set(re.findall(r"^ *(?:async )?def (test_\w+)\(", sources, re.MULTILINE)) == set()


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_python_in_the_documentation_compiles(page: Path) -> None:
    for code in blocks("python", page.read_text(encoding="utf-8")):
        compiled(code)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_python_in_the_documentation_uses_only_names_that_the_page_has_defined_before(page: Path) -> None:
    """A block goes on from the blocks before it. What a function or class binds is not known outside of it."""
    known = set(PREDEFINED)
    for block in blocks("python", page.read_text(encoding="utf-8")):
        assert unknown_names(compiled(block), known) == set(), block


PREDEFINED = {"__file__", "__name__", "__annotations__", *dir(builtins)}


def compiled(source: str) -> CodeType:
    code: CodeType = compile(source, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return code


def unknown_names(code: CodeType, known: set[str]) -> set[str]:
    """Return the names that the code of a module uses before they are bound. Add to `known` what the code binds.

    Functions may use names that are bound behind them, because they are called later.
    """
    unknown, later = set[str](), set[str]()
    for each in dis.get_instructions(code):
        if each.opname in ("STORE_NAME", "STORE_GLOBAL"):
            known.add(each.argval)
        elif each.opname == "DELETE_NAME":  # also at the end of `except ... as`
            known.discard(each.argval)
        elif each.opname in ("LOAD_NAME", "LOAD_GLOBAL") and each.argval not in known:
            unknown.add(each.argval)
        elif isinstance(each.argval, CodeType):
            # A class binds its names for its own code only.
            later |= unknown_names(each.argval, known.copy())
    return unknown | (later - known)


@pytest.mark.parametrize(
    ("source", "unknown"),
    [
        ("x = 1\nprint(x, y)", {"y"}),
        ("print(x)\nx = 1", {"x"}),
        ("def f(a):\n    b = a\n    return b, c\nc = 1\nprint(a, b)", {"a", "b"}),
        ("def f(x: Late): ...\nclass Late: ...", {"Late"}),
        ("class A:\n    inner: int = 1\n    other = inner\nprint(inner)", {"inner"}),
        ("try:\n    pass\nexcept ValueError as error:\n    print(error)\nprint(error)", {"error"}),
        ("import os.path as p\nasync with p as (q, r):\n    print([s for s in q], r)", set()),
        ("print([s for s in range(3)], s)", {"s"}),
    ],
)
def test_names_are_known_only_where_python_knows_them(source: str, unknown: set[str]) -> None:
    assert unknown_names(compiled(source), set(PREDEFINED)) == unknown


def test_the_first_graph_of_the_readme_works(tmp_path: Path) -> None:
    """The test runs the code as a user would: from a file, with three numbers in data.csv."""
    (code,) = (block for block in blocks("python") if "asyncio.run" in block)
    (tmp_path / "first.py").write_text(code, encoding="utf-8")
    (tmp_path / "data.csv").write_text("1\n2\n6\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "first.py"], cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3.0", "local"]


def test_the_first_inventory_of_the_readme_can_be_read(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    (tmp_path / "hosts.toml").write_text(text, encoding="utf-8")
    assert list(handout.Inventory.load(tmp_path / "hosts.toml")) == ["node1", "gpu1"]


def test_the_inventory_beside_the_examples_can_be_read() -> None:
    assert list(handout.Inventory.load(ROOT / "examples" / "hosts.toml")) == ["node1", "gpu1"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name)
def test_the_inventories_of_the_documentation_can_be_read(page: Path, tmp_path: Path) -> None:
    for text in blocks("toml", page.read_text(encoding="utf-8")):
        (tmp_path / "hosts.toml").write_text(text, encoding="utf-8")
        assert len(handout.Inventory.load(tmp_path / "hosts.toml")) > 0


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name
)
def test_the_modules_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*/[a-z_]+\.py)`", page.read_text(encoding="utf-8")))
    assert [
        path for path in sorted(named) if not (ROOT / path).exists() and not (ROOT / "handout" / path).exists()
    ] == []


@pytest.mark.parametrize("tool", ["draw_states.py", "draw_protocol.py", "draw_layers.py"])
def test_what_is_drawn_in_the_documentation_is_up_to_date(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_folders_that_travel_and_no_other_are_held_to_python_3_9() -> None:
    house = ROOT / "handout"
    pinned = {path.parent.relative_to(house).as_posix() for path in house.rglob("ruff.toml")}
    assert pinned == set(TRAVELS)
    for folder in TRAVELS:
        assert tomllib.loads((house / folder / "ruff.toml").read_text(encoding="utf-8"))["target-version"] == "py39"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    environments = project["tool"]["pyright"]["executionEnvironments"]
    old = {each["root"] for each in environments if each.get("pythonVersion") == "3.9"}
    assert old == {f"handout/{folder}" for folder in TRAVELS}
    assert environments[-1] == {"root": "."}, "the root must be last: pyright takes the first that fits"


@pytest.mark.parametrize("folder", ["execution", *TRAVELS])
def test_ruff_refuses_what_python_3_9_cannot_read_where_it_travels(folder: str) -> None:
    source = "match 1:\n    case _:\n        pass\n"
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename", f"handout/{folder}/new.py", "-"],
        cwd=ROOT,
        input=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("Cannot use `match` statement on Python 3.9" in done.stdout) == (folder in TRAVELS), done.stdout
