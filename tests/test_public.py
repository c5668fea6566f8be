"""The public names: type checkers and the interpreter see the same names, and every name exists."""

from __future__ import annotations

import ast
import importlib.metadata
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import handout

TREE = ast.parse(Path(handout.__file__).read_text(encoding="utf-8"))


def declared_for_checkers() -> dict[str, str]:
    (block,) = [node for node in TREE.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {
        alias.asname or alias.name: node.module if not alias.asname else f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "handout"
        for alias in node.names
    }


def test_checkers_and_the_interpreter_see_the_same_names() -> None:
    assert declared_for_checkers() == handout._HOMES
    assert list(handout.__all__) == sorted(handout._HOMES)


@pytest.mark.parametrize("name", handout.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(handout, name) is not None


def test_modules_are_reached_without_an_import_of_their_own() -> None:
    code = "import handout; print(handout.events.TaskEnded.__name__, handout.errors.JournalError.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["TaskEnded", "JournalError"]


def test_python_without_docstrings_imports_everything() -> None:
    subprocess.run([sys.executable, "-OO", "-c", "from handout import *"], check=True)


@pytest.mark.parametrize("platform", ["win32", "cygwin"])
def test_windows_is_told_where_the_controller_runs(platform: str) -> None:
    code = f"import sys; sys.platform = {platform!r}; import handout"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: Handout's controller")
    assert all(word in last for word in ("Linux", "macOS", "WSL", "wsl --install", platform))


def test_every_error_is_a_public_name() -> None:
    assert set(handout.errors.__all__) <= set(handout.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    assert handout.__version__ == importlib.metadata.version("handout-dag")


@pytest.mark.parametrize("options", [handout.Options, handout.RunOptions, handout.ClusterOptions])
def test_help_tells_each_option(options: type) -> None:
    text = pydoc.render_doc(options, renderer=pydoc.plaintext)
    # The docstring of ClusterOptions refers to RunOptions instead of repeating it.
    inherited = handout.RunOptions.__annotations__ if options is handout.ClusterOptions else {}
    for name in options.__annotations__.keys() - inherited.keys():
        assert re.search(rf"^ \|      {name}: \S+", text, re.MULTILINE), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'grpah'"):
        handout.grpah
    assert "Graph" in dir(handout)


def test_the_overloads_are_what_their_generator_writes() -> None:
    tool = Path(handout.__file__).parents[1] / "tools" / "overloads.py"
    subprocess.run([sys.executable, str(tool), "--check"], check=True)
