"""Modules of the user's project, which a host imports from a bundle of their sources."""

from __future__ import annotations

import os
import py_compile
import shutil
import sys
from pathlib import Path

import pytest

from handout.host.worker import importer
from handout.slices import at_once
from handout.submission.code_bundles import CodeBundle, bundle_modules
from tests.pythons import MINORS, bundle, require_python, run_on_host

__all__ = ["bundle"]

PRELUDE = """
import tempfile
from handout.host.worker import importer
folder = tempfile.TemporaryDirectory()
unpacked = folder.name + "/modules/1"
importer.install(sys.stdin.buffer.read(), unpacked)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder, and put it first on the import path."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def write(folder: Path, **files: str) -> None:
    """Write modules below a folder. ``__in__`` in a name stands for a slash."""
    for name, text in files.items():
        path = folder / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def bundled(name: str) -> CodeBundle:
    made = at_once(bundle_modules([name]))
    assert made is not None
    return made


def on_the_host(name: str, source: str, bundle: Path, python: str = sys.executable) -> str:
    """Run `source` in a process that has the project's bundle, but not its files."""
    made = bundled(name)
    for path in list(Path(sys.path[0]).rglob("*.py")):
        path.unlink()
    return run_on_host(python, PRELUDE + source, stdin=made.data, bundle=bundle).decode().strip()


@pytest.mark.parametrize("minor", MINORS)
def test_packages_and_what_they_import_run_from_their_sources(project: Path, bundle: Path, minor: int) -> None:
    """The project has a package with relative imports, a folder without __init__.py, and a module beside them."""
    write(
        project,
        hoimp_a__in____init__="from .inner import value\nimport hoimp_b",
        hoimp_a__in__inner="from hoimp_space.part import half\nvalue = half(84)",
        hoimp_space__in__part="def half(x): return x // 2",
        hoimp_b="name = __name__",
    )
    source = "import hoimp_a; print(hoimp_a.value, hoimp_a.hoimp_b.name, hoimp_a.__spec__.name)"
    assert on_the_host("hoimp_a", source, bundle, require_python(minor)) == "42 hoimp_b hoimp_a"


def test_a_traceback_shows_the_lines_and_the_path_of_the_callers_source(project: Path, bundle: Path) -> None:
    write(project, hoimp_c="def fail(x):\n    # look here\n    return 1 / x  # the line\n")
    source = (
        "import hoimp_c, traceback\ntry:\n    hoimp_c.fail(0)\n"
        "except ZeroDivisionError:\n    text = traceback.format_exc()\n"
        "    print(f'File \"{unpacked}/project/hoimp_c.py\", line 3' in text)\n"
        "    print(importer.controller_paths(text))"
    )
    printed = on_the_host("hoimp_c", source, bundle)
    assert printed.startswith("True\n")
    assert f'{project / "hoimp_c.py"}", line 3, in fail' in printed
    assert "return 1 / x  # the line" in printed


def test_a_missing_import_names_module_file_and_line(project: Path, bundle: Path) -> None:
    write(
        project,
        hoimp_d__in____init__="from . import deep",
        hoimp_d__in__deep="import os\n\nimport hoimp_not_installed\n",
    )
    source = "try:\n    import hoimp_d\nexcept ModuleNotFoundError as error:\n    print(error.name, error)"
    printed = on_the_host("hoimp_d", source, bundle)
    assert printed.startswith("hoimp_not_installed No module named 'hoimp_not_installed' ")
    assert f"(imported at {project / 'hoimp_d' / 'deep.py'}, line 3)" in printed
    assert printed.count("imported at") == 1
    assert "not installed on this host" in printed


def test_an_extension_module_is_never_sent_and_says_so(project: Path, bundle: Path) -> None:
    write(project, hoimp_e__in____init__="", hoimp_e__in__user="import hoimp_e.fast")
    (project / "hoimp_e" / "fast.abi3.so").write_bytes(b"\x7fELF")
    made = bundled("hoimp_e")
    (project / "hoimp_e" / "fast.abi3.so").unlink()
    source = "try:\n    import hoimp_e.user\nexcept ImportError as error:\n    print(error)"
    printed = run_on_host(sys.executable, PRELUDE + source, stdin=made.data, bundle=bundle).decode()
    assert "user.py, line 1): it is an extension module, which Handout never sends" in printed


def test_the_bundle_wins_over_another_version_that_is_installed(project: Path, bundle: Path, tmp_path: Path) -> None:
    write(project, hoimp_f="version = 'mine'")
    made = bundled("hoimp_f")
    write(tmp_path / "elsewhere", hoimp_f="version = 'installed'")
    source = f"sys.path.insert(0, {str(tmp_path / 'elsewhere')!r})\nimport hoimp_f\nprint(hoimp_f.version)"
    assert run_on_host(sys.executable, PRELUDE + source, stdin=made.data, bundle=bundle) == b"mine\n"


def test_a_bundle_may_be_named_by_its_path(project: Path, bundle: Path, tmp_path: Path) -> None:
    write(project, hoimp_g="x = 1")
    path = tmp_path / "code.zip"
    path.write_bytes(bundled("hoimp_g").data)
    source = (
        "from handout.host.worker import importer\n"
        f"importer.install({str(path)!r}, {str(tmp_path / 'modules' / '1')!r})\nimport hoimp_g\nprint(hoimp_g.x)"
    )
    assert run_on_host(sys.executable, source, bundle=bundle) == b"1\n"


def test_a_data_file_that_a_cleaner_has_removed_is_unpacked_again(project: Path, bundle: Path, tmp_path: Path) -> None:
    write(project, hoimp_i__in____init__="")
    (project / "hoimp_i" / "table.csv").write_text("1,2")
    path, folder = tmp_path / "code.zip", tmp_path / "modules" / "1"
    path.write_bytes(bundled("hoimp_i").data)
    table = folder / "project" / "hoimp_i" / "table.csv"
    source = (
        "from handout.host.worker import importer\n"
        f"importer.install({str(path)!r}, {str(folder)!r})\nprint(open({str(table)!r}).read())"
    )
    assert run_on_host(sys.executable, source, bundle=bundle) == b"1,2\n"
    table.unlink()
    assert run_on_host(sys.executable, source, bundle=bundle) == b"1,2\n"


def test_only_a_worker_that_lacks_files_waits_for_the_others(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, hoimp_j="x = 1")
    data, folder, locks = bundled("hoimp_j").data, tmp_path / "modules" / "1", []
    monkeypatch.setattr(importer.fcntl, "flock", lambda *_: locks.append(os.path.isdir(folder)))
    for _ in range(3):
        importer._unpack(data, str(folder))
    (folder / "project" / "hoimp_j.py").unlink()
    for _ in range(3):
        importer._unpack(data, str(folder))
    assert locks == [False, True]
    assert (folder / "project" / "hoimp_j.py").read_text() == "x = 1"


def written(path: Path) -> tuple[int, int]:
    """Return what changes if a file is written again."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def printing(path: Path, folder: Path, module: str) -> str:
    """Return a program for a host that unpacks a bundle into a folder, and prints ``x`` of one of its modules."""
    return (
        "from handout.host.worker import importer\n"
        f"importer.install({str(path)!r}, {str(folder)!r})\nimport {module}\nprint({module}.x)"
    )


def test_a_source_with_other_bytes_is_unpacked_again_and_other_files_stay(
    project: Path, bundle: Path, tmp_path: Path
) -> None:
    write(project, hoimp_k__in____init__="", hoimp_k__in__kept="", hoimp_k__in__odd="x = 1234567")
    (project / "hoimp_k" / "table.csv").write_text("1,2")
    path, folder = tmp_path / "code.zip", tmp_path / "modules" / "1"
    path.write_bytes(bundled("hoimp_k").data)
    source = printing(path, folder, "hoimp_k.odd")
    assert run_on_host(sys.executable, source, bundle=bundle) == b"1234567\n"
    files = folder / "project" / "hoimp_k"
    (files / "table.csv").write_text("2,1")
    kept = written(files / "kept.py")
    for damaged in ("x = 1234566", "x = 123", "x = 1234567\nx = 8"):
        (files / "odd.py").write_text(damaged)
        compiled = Path(py_compile.compile(str(files / "odd.py"), doraise=True))
        importer._unpack(str(path), str(folder))
        assert not compiled.exists()  # Python might use it, because it may have the time and the size of the source
        assert run_on_host(sys.executable, source, bundle=bundle) == b"1234567\n"
    index = (folder / "modules.json").read_bytes()
    (folder / "modules.json").write_bytes(index.replace(b"odd", b"off"))
    assert run_on_host(sys.executable, source, bundle=bundle) == b"1234567\n"
    assert (folder / "modules.json").read_bytes() == index
    assert (files / "table.csv").read_text() == "2,1"
    assert written(files / "kept.py") == kept


def test_files_that_a_cleaner_has_removed_are_unpacked_again(project: Path, bundle: Path, tmp_path: Path) -> None:
    write(project, hoimp_h__in____init__="", hoimp_h__in__kept="", hoimp_h__in__gone="x = 1")
    path, folder = tmp_path / "code.zip", tmp_path / "modules" / "1"
    path.write_bytes(bundled("hoimp_h").data)
    source = printing(path, folder, "hoimp_h.gone")
    assert run_on_host(sys.executable, source, bundle=bundle) == b"1\n"
    kept = written(folder / "project" / "hoimp_h" / "kept.py")
    shutil.rmtree(folder / "project" / "hoimp_h" / "__pycache__", ignore_errors=True)
    (folder / "project" / "hoimp_h" / "gone.py").unlink()
    (folder / "modules.json").unlink()
    assert run_on_host(sys.executable, source, bundle=bundle) == b"1\n"
    assert written(folder / "project" / "hoimp_h" / "kept.py") == kept
    assert sorted(os.listdir(folder.parent)) == ["1", "1.lock"]
    (folder / "project" / "hoimp_h" / "gone.py").unlink()
    path.unlink()
    check = source.replace("importer.install", "try:\n    importer.install").partition("\nimport hoimp_h")[0]
    check += "\nexcept FileNotFoundError:\n    print('the bundle is gone')"
    assert run_on_host(sys.executable, check, bundle=bundle) == b"the bundle is gone\n"
