"""The rules that decide whether a module is the user's own, and the bundle of such modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from handout.project import package
from handout.project.listing import Listing, list_package
from handout.project.package import imports_of
from handout.project.sources import find_package, own_sources
from handout.slices import Slices, at_once
from handout.submission.code_bundles import CodeBundle, bundle_modules


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "name", ["json", "os.path", "numpy", "pytest", "handout", "handout.submission.code_bundles", "dill", "__main__"]
)
def test_what_a_host_has_or_must_have_is_not_the_users_own(name: str) -> None:
    assert at_once(find_package(name)) is None


def test_a_module_that_does_not_exist_is_not_the_users_own() -> None:
    assert at_once(find_package("no_such_module_at_all")) is None


def test_a_single_module_beside_the_script_is(project: Path) -> None:
    write(project / "hoproj_one.py")
    found = at_once(find_package("hoproj_one.attribute"))
    assert found is not None
    assert [(m.name, m.path, m.is_package) for m in found.modules.values()] == [
        ("hoproj_one", str(project / "hoproj_one.py"), False)
    ]


def test_a_package_is_taken_whole(project: Path) -> None:
    root = project / "hoproj_pkg"
    for name in ("__init__.py", "a.py", "sub/__init__.py", "sub/b.py", "plain/c.py", "not-a-name/d.py", "notes.txt"):
        write(root / name)
    write(root / f"fast{EXTENSION_SUFFIXES[0]}")
    found = at_once(find_package("hoproj_pkg.a"))
    assert found is not None
    assert found.modules.keys() == {
        "hoproj_pkg", "hoproj_pkg.a", "hoproj_pkg.sub", "hoproj_pkg.sub.b", "hoproj_pkg.plain.c"
    }  # fmt: skip
    assert found.files.keys() == {"hoproj_pkg/not-a-name/d.py", "hoproj_pkg/notes.txt"}
    assert found.extensions.keys() == {"hoproj_pkg.fast"}


def test_what_lies_in_site_packages_is_not_even_in_a_folder_of_ones_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = project / "env" / "site-packages"
    write(site / "hoproj_dep.py")
    monkeypatch.syspath_prepend(str(site))
    assert at_once(find_package("hoproj_dep")) is None


def test_looking_for_modules_imports_none(project: Path) -> None:
    write(project / "hoproj_loud.py", "raise SystemExit('imported')")
    assert at_once(find_package("hoproj_loud")) is not None
    assert "hoproj_loud" not in sys.modules


def test_imports_are_found_wherever_they_stand() -> None:
    source = b"import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    if 1:\n        import i\n"
    assert sorted(imports_of(source)) == ["a", "c", "d", "i"]
    assert list(imports_of(b"this is not python")) == []


def test_imports_are_found_within_every_kind_of_statement() -> None:
    source = b"""
class A:
    def f(self):
        async def g():
            async with x: import a
            async for _ in x: import b
            else: import c
        with x: import d
        for _ in x: import e
        else: import f
        while x: import g
        else: import h
try: import i
except E: import j
else: import k
finally: import l
if x: import m
elif y: import n
else: import o; import p
"""
    assert sorted(imports_of(source)) == list("abcdefghijklmnop")


def test_imports_are_found_within_newer_statements() -> None:
    source = b"""
match x:
    case 1: import a
    case _:
        import b
try: pass
except* E: import c
"""
    assert sorted(imports_of(source)) == ["a", "b", "c"]


def test_a_bundle_follows_imports_and_has_one_digest_and_key_for_one_content(project: Path) -> None:
    write(project / "hoproj_x.py", "import hoproj_y, json")
    write(project / "hoproj_y.py", "def f():\n    import hoproj_z")
    write(project / "hoproj_z.py", "import hoproj_x")
    first, again = at_once(bundle_modules(["hoproj_x"])), at_once(bundle_modules(["hoproj_x.f", "json"]))
    assert first is not None
    assert again is not None
    assert first.names == {"hoproj_x", "hoproj_y", "hoproj_z"}
    assert (first.key, first.data) == (again.key, again.data)


def test_nothing_of_ones_own_needs_no_bundle() -> None:
    assert at_once(bundle_modules(["json", "numpy.linalg"])) is None


def test_runs_that_are_prepared_together_read_and_bundle_a_package_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        write(project / "hoproj_many" / f"m{number}.py", f"import hoproj_used{number}")
        write(project / f"hoproj_used{number}.py")
    read: list[bytes] = []

    def counted(source: bytes) -> Iterator[str]:
        read.append(source)
        return imports_of(source)

    monkeypatch.setattr(package, "imports_of", counted)
    runs = [bundle_modules(["hoproj_many"]) for _ in range(3)]
    bundles: list[CodeBundle] = []
    slices = 0
    while runs:
        for run in list(runs):
            try:
                next(run)
                slices += 1
            except StopIteration as end:
                runs.remove(run)
                bundles.append(end.value)
    assert slices > 20
    assert len(read) == 10
    assert bundles[0].names == {"hoproj_many", *(f"hoproj_used{number}" for number in range(5))}
    assert all(bundle is bundles[0] for bundle in bundles)


def test_runs_that_are_prepared_together_list_the_files_of_a_changed_package_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of calls may be prepared when a file changes."""
    for number in range(5):
        write(project / "hoproj_calls" / f"m{number}.py")
    first = at_once(bundle_modules(["hoproj_calls"]))
    write(project / "hoproj_calls" / "more" / "a.txt", "new")
    listed: list[str] = []

    def counted(name: str, places: list[str]) -> Slices[Listing]:
        listed.append(name)
        return list_package(name, places)

    monkeypatch.setattr(package, "list_package", counted)
    runs = [bundle_modules(["hoproj_calls"]) for _ in range(8)]
    bundles: list[CodeBundle] = []
    while runs:
        for run in list(runs):
            try:
                next(run)
            except StopIteration as end:
                runs.remove(run)
                bundles.append(end.value)
    assert listed == ["hoproj_calls"]
    assert all(bundle is bundles[0] is not first for bundle in bundles)


def test_a_run_whose_preparation_was_given_up_does_not_hold_up_another(project: Path) -> None:
    write(project / "hoproj_left" / "__init__.py")
    write(project / "hoproj_left" / "m.py", "VALUE = 1")
    left, other = bundle_modules(["hoproj_left"]), bundle_modules(["hoproj_left"])
    for _ in range(2):
        next(left)
        next(other)
    made = at_once(bundle_modules(["hoproj_left"]))  # it does the rest of what the others have begun
    left.close()
    assert made is not None
    assert at_once(other) is made


def test_a_file_that_changes_while_a_run_is_prepared_counts_for_a_run_that_begins_later(project: Path) -> None:
    """The earlier run still sends what it has found."""
    write(project / "hoproj_data" / "__init__.py")
    write(project / "hoproj_data" / "a.txt", "old")
    write(project / "hoproj_data" / "b" / "b.txt", "old")
    early = own_sources(["hoproj_data"])
    for _ in range(2):
        next(early)
    write(project / "hoproj_data" / "a.txt", "newer")
    late = at_once(own_sources(["hoproj_data"])).packages["hoproj_data"]
    first = at_once(early).packages["hoproj_data"]
    assert [each.files["hoproj_data/a.txt"].size for each in (first, late)] == [3, 5]
