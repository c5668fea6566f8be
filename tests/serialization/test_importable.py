"""Which modules other processes can import."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import pytest

from handout.serialization.importable import importable_name, is_importable

PACKAGE = """
import sys, types
class Ops(types.ModuleType):
    __file__ = "_ops.py"
    def double(self, x): return 2 * x
ops = Ops("hoops.ops")
sys.modules["hoops.ops"] = ops
"""
REPLACED = """
import sys, types
class Itself(types.ModuleType):
    pass
itself = Itself(__name__)
itself.__file__, itself.Itself = __file__, Itself
sys.modules[__name__] = itself
"""


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hoops").mkdir()
    (tmp_path / "hoops" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "hoitself.py").write_text(REPLACED)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("hoops", "hoops.ops", "hoitself"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_an_object_that_importing_a_package_makes_a_module_is_importable() -> None:
    package = importlib.import_module("hoops")
    assert is_importable(package.ops)
    package.ops = None
    assert not is_importable(sys.modules["hoops.ops"])


def test_a_module_that_replaces_itself_is_importable_and_so_is_what_it_names() -> None:
    itself = importlib.import_module("hoitself")
    assert is_importable(itself)
    assert importable_name(itself.Itself) == ("hoitself", "Itself")


def test_a_module_that_a_program_made_is_not_importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = types.ModuleType("hoitself")
    monkeypatch.setitem(sys.modules, "hoitself", made)
    assert not is_importable(made)
    made.__file__ = str(tmp_path / "hoitself.py")  # with other contents than this file
    assert not is_importable(made)


def test_a_module_that_a_program_adds_to_a_package_is_not_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    package = importlib.import_module("hoops")
    package.added = types.ModuleType("hoops.added")
    monkeypatch.setitem(sys.modules, "hoops.added", package.added)
    assert not is_importable(package.added)


def test_a_class_beside_an_object_that_is_no_module_has_no_importable_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings:
        pass

    Settings.__module__, Settings.__qualname__ = "hosettings", "Settings"
    monkeypatch.setitem(sys.modules, "hosettings", Settings())
    assert importable_name(Settings) is None
