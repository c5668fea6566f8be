"""The metadata of packages that are installed in editable mode, as different tools write it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from handout.project.metadata import metadata_of
from handout.project.ownership import is_own
from tests.project.files import write

METADATA = b"Metadata-Version: 2.1\nName: Lab.Tool\nVersion: 1.2.3\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


def test_by_the_name_of_the_package(site: Path) -> None:
    write(site / "lab_tool-1.2.3.dist-info", METADATA=METADATA, RECORD=b"x")
    assert metadata_of("lab_tool", ["/src/lab_tool"]) == {"lab_tool-1.2.3.dist-info/METADATA": METADATA}
    assert metadata_of("other", ["/src/other"]) == {}


def test_by_the_list_of_modules_with_entry_points(site: Path) -> None:
    files = {
        "METADATA": METADATA,
        "top_level.txt": b"_mine\nmine\n",
        "entry_points.txt": b"[console_scripts]\nx = mine:f",
    }
    write(site / "lab_tool-1.2.3.dist-info", **files)
    found = metadata_of("mine", ["/src/mine"])
    assert found == {f"lab_tool-1.2.3.dist-info/{name}": data for name, data in files.items()}


def test_by_the_folder_of_the_project(site: Path, tmp_path: Path) -> None:
    url = {"url": (tmp_path / "my project").as_uri(), "dir_info": {"editable": True}}
    write(site / "lab_tool-1.2.3.dist-info", **{"METADATA": METADATA, "direct_url.json": json.dumps(url).encode()})
    assert metadata_of("mine", [str(tmp_path / "my project" / "src" / "mine")])
    assert not metadata_of("mine", [str(tmp_path / "my project 2" / "mine")])


def test_an_egg_info_beside_the_package(site: Path) -> None:
    write(site / "Lab_Tool.egg-info", **{"PKG-INFO": METADATA, "top_level.txt": b"mine"})
    assert metadata_of("mine", [str(site / "mine")])["Lab_Tool-1.2.3.dist-info/METADATA"] == METADATA


def test_in_a_zip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "app.pyz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mine/__init__.py", b"")
        archive.writestr("mine-1.2.3.dist-info/METADATA", METADATA)
    monkeypatch.syspath_prepend(str(path))
    assert metadata_of("mine", [f"{path}/mine"]) == {"mine-1.2.3.dist-info/METADATA": METADATA}


@pytest.mark.parametrize(
    ("record", "own"),
    [
        (None, True),
        (b"__editable__.hoinst-1.0.pth,sha256=x,1\nhoinst-1.0.dist-info/METADATA,,\n", True),
        (b"hoinst/__init__.py,sha256=x,0\nhoinst-1.0.dist-info/METADATA,,\n", False),
    ],
)
def test_a_tree_that_pip_has_installed_is_not_the_users_own(site: Path, record: bytes | None, own: bool) -> None:
    write(site, "hoinst/__init__.py")
    write(site / "hoinst-1.0.dist-info", METADATA=METADATA, **({} if record is None else {"RECORD": record}))
    assert is_own("hoinst") is own
