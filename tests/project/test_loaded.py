"""What hosts run is what the program has loaded, although the files have changed since."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handout import Graph
from handout.project import listing, loaded, package
from handout.project.loaded import is_loaded, remember_loaded
from handout.project.sources import own_sources
from handout.slices import at_once
from tests.project.files import write

OLD = b"def f():\n    from holoaded import lazy\n    return 'old'\n"
NEW = b"def f():\n    return 'new'\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write a package that imports a module only when it runs. Forget the package after the test."""
    monkeypatch.setattr(listing, "_warned", set())
    monkeypatch.setattr(package, "SOURCE_CHECK_S", 0.0)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path / "holoaded", **{"__init__.py": b"", "mod.py": OLD, "lazy.py": b"# old"})
    importlib.invalidate_caches()
    yield tmp_path / "holoaded"
    for name in [name for name in sys.modules if name.partition(".")[0] == "holoaded"]:
        del sys.modules[name]
        loaded.REMEMBERED.discard(name)
    loaded._newest[0] = (0, "", 0)  # the next test's module may get the address of this one


def sent() -> tuple[bytes, bytes]:
    files = at_once(own_sources(["holoaded"])).files
    return files["holoaded.mod"], files["holoaded.lazy"]


def load() -> None:
    importlib.import_module("holoaded.mod")


def test_a_change_after_the_first_reading_changes_nothing_and_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load()
    assert sent() == (OLD, b"# old")
    write(folder, **{"mod.py": NEW, "lazy.py": b"# new"})
    for _ in range(2):
        assert sent() == (OLD, b"# old")
    assert [message.partition(" has changed since ")[2][:20] for message in caplog.messages] == [
        "Handout first read i",
        "this program loaded ",
    ]


@pytest.mark.parametrize("early", ["graph", "cluster"])
def test_a_change_before_the_first_run_is_noticed(folder: Path, caplog: pytest.LogCaptureFixture, early: str) -> None:
    load()
    if early == "graph":
        Graph().add(sys.modules["holoaded.mod"].f)
    else:
        remember_loaded()
    write(folder, **{"mod.py": NEW})
    assert sent()[0] == OLD
    assert "holoaded/mod.py has changed since this program loaded it" in caplog.text


@pytest.mark.parametrize("removed", ["the folder", "a file"])
def test_a_module_that_is_removed_before_the_first_run_is_sent(
    folder: Path, caplog: pytest.LogCaptureFixture, removed: str
) -> None:
    load()
    Graph().add(sys.modules["holoaded.mod"].f)
    if removed == "a file":
        (folder / "mod.py").unlink()
    else:
        folder.rename(folder.with_name("moved"))
    files = at_once(own_sources(["holoaded"])).files
    assert files["holoaded.mod"] == OLD
    assert ("holoaded.lazy" in files) == (removed == "a file")
    assert "mod.py is gone. Hosts still get the source as it was loaded." in caplog.text


def test_a_change_before_the_first_reading_is_said_because_the_source_is_not_known(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load()
    write(folder, **{"mod.py": NEW})
    assert sent()[0] == NEW
    assert "the loaded source is not known" in caplog.text


def test_a_module_that_is_loaded_anew_is_sent_anew(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load()
    sent()
    write(folder, **{"mod.py": NEW + b"# longer"})
    importlib.reload(sys.modules["holoaded.mod"])
    assert sent()[0] == NEW + b"# longer"
    assert not caplog.messages


@pytest.mark.parametrize("changed_before_loading", [True, False])
def test_a_module_that_is_loaded_after_the_first_reading_is_sent_as_loaded(
    folder: Path, changed_before_loading: bool
) -> None:
    first, second = b"def g():\n    return 1\n", b"def g():\n    return 2\n"
    write(folder, **{"lazy.py": first})
    sent()
    if changed_before_loading:
        write(folder, **{"lazy.py": second})
        importlib.import_module("holoaded.lazy")
    else:
        importlib.import_module("holoaded.lazy")
        write(folder, **{"lazy.py": second})
    assert sent()[1] == (second if changed_before_loading else first)


def test_a_new_time_without_a_new_content_is_not_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load()
    sent()
    write(folder, **{"mod.py": OLD, "lazy.py": b"# old"})
    assert sent() == (OLD, b"# old")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("source", "other"),
    [
        (b"def f(): return 1", b"def f(): return 2"),
        (b"class C:\n    def f(self): return 1", b"class C:\n    def f(self): return 2"),
        (b"class C:\n    @staticmethod\n    def f(): return 1", b"class C:\n    @staticmethod\n    def f(): return 2"),
        (b"import functools\n@functools.cache\ndef f(): return 1\ndef g(): pass", b"def g(): return 3"),
        (b"def f(): return 1", b"def f(: syntax error"),
    ],
)
def test_functions_tell_sources_apart(folder: Path, source: bytes, other: bytes) -> None:
    write(folder, **{"mod.py": source})
    load()
    path = str(folder / "mod.py")
    assert is_loaded("holoaded.mod", source, path)
    assert not is_loaded("holoaded.mod", other, path)


def test_a_lazy_module_stays_unloaded_and_an_object_in_place_of_a_module_is_no_harm(folder: Path) -> None:
    class Rude:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    write(folder, **{"lazy.py": b"raise SystemExit('loaded')"})
    spec = importlib.util.find_spec("holoaded.lazy")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)
    sys.modules.update({"holoaded.lazy": lazy, "holoaded.rude": Rude()})  # type: ignore[dict-item]
    write(folder, "rude.py")
    assert sent()[1] == b"raise SystemExit('loaded')"


def test_folders_that_a_package_adds_to_its_path_count(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    extend = b"import pkgutil\n__path__ = pkgutil.extend_path(__path__, __name__)\n"
    second = folder.parent / "second"
    write(folder, **{"__init__.py": extend})
    write(second / "holoaded", **{"__init__.py": extend, "other.py": b"# other", "unused.py": b"# unused"})
    sys.path.append(str(second))  # `syspath_prepend` of the fixture restores the path
    load()
    importlib.import_module("holoaded.other")
    files = at_once(own_sources(["holoaded"])).files
    assert (files["holoaded.mod"], files["holoaded.other"], files["holoaded.unused"]) == (OLD, b"# other", b"# unused")
    assert "is gone" not in caplog.text
