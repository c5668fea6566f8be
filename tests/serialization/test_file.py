"""`File`: a file or a folder arrives with the same content, and one that cannot travel says why."""

from __future__ import annotations

import os
import pickle
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from handout import File
from handout.serialization import file, folder_content, pickling


def sent(file: File) -> File:
    """Return the file as a receiver writes it."""
    received = pickling.loads(b"".join(pickling.dumps(file)))
    assert type(received) is File
    assert not os.path.samefile(received, file)
    return received


def tree(folder: str | os.PathLike[str]) -> dict[str, tuple[int, bytes | None]]:
    """Return the permissions and the content of everything in a folder, by relative path. A folder has no content."""
    found: dict[str, tuple[int, bytes | None]] = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            content = None if name in folders else path.read_bytes()
            found[os.path.relpath(path, folder)] = stat.S_IMODE(path.stat().st_mode), content
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with all kinds of things that may travel."""
    made = tmp_path / "made"
    (made / "deep" / "er").mkdir(parents=True)
    (made / "empty").mkdir(mode=0o755)
    (made / ".hidden").write_text("hidden")
    (made / "big.bin").write_bytes(bytes(range(256)) * 9_000)
    (made / "nothing").touch()
    (made / "deep" / "größe.txt").write_text("ü")
    (made / os.fsdecode(b"latin-\xfc")).write_text("latin")
    (made / "deep" / "er" / "run.sh").write_text("#!/bin/sh")
    (made / "deep" / "er" / "run.sh").chmod(0o755)
    (made / ".hidden").chmod(0o640)
    return made


def test_a_folder_travels_as_its_files_do(folder: Path) -> None:
    received = sent(File(folder))
    assert os.path.basename(received.path) == "made"
    assert tree(received) == tree(folder)
    assert len(tree(folder)) == 9
    assert tree(sent(received)) == tree(folder)
    assert tree(sent(File(f"{folder}/deep/"))) == tree(folder / "deep")


def test_a_folder_is_named_by_its_full_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert os.path.basename(sent(File(".")).path) == "made"
    assert os.path.basename(sent(File("deep/")).path) == "deep"


def test_a_link_travels_as_what_it_leads_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("outside")
    (folder / "to-folder").symlink_to("../outside")
    (folder / "to-file").symlink_to(tmp_path / "outside" / "file")
    received = Path(sent(File(folder)).path)
    assert (received / "to-file").read_text() == (received / "to-folder" / "file").read_text() == "outside"
    assert not (received / "to-file").is_symlink()
    assert tree(sent(File(folder / "to-folder"))) == tree(tmp_path / "outside")


def test_write_protected_files_and_folders_can_be_removed_where_they_arrive(folder: Path) -> None:
    (folder / "nothing").chmod(0o400)
    (folder / "empty").chmod(0o500)
    received = sent(File(folder))
    assert tree(received)["nothing"] == (0o600, b"")
    assert tree(received)["empty"] == (0o700, None)


def test_a_link_that_leads_around_or_nowhere_is_refused(folder: Path) -> None:
    (folder / "deep" / "around").symlink_to("..")
    with pytest.raises(OSError, match=r"deep/around' is a link to a folder that contains the link"):
        pickling.dumps(File(folder))
    (folder / "deep" / "around").unlink()
    (folder / "gone").symlink_to("no/such/file")
    with pytest.raises(FileNotFoundError, match=r"gone' is a link to 'no/such/file', which does not exist"):
        pickling.dumps(File(folder))


def test_an_empty_path_is_named_as_such() -> None:
    with pytest.raises(FileNotFoundError, match=r"^the path is empty$"):
        pickling.dumps(File(""))


def test_what_is_no_file_is_refused_and_never_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe")
    for path, kind in ((folder / "pipe", "a FIFO"), (folder, "a FIFO"), (os.devnull, "a character device")):
        with pytest.raises(OSError, match=f"is {kind}, and neither a file nor a folder"):
            pickling.dumps(File(path))
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(OSError, match="is a socket"):
            pickling.dumps(File("socket"))


def test_a_folder_beyond_the_limits_says_to_pass_an_archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_content, "MAX_ENTRIES", 9)
    sent(File(folder))
    monkeypatch.setattr(folder_content, "MAX_ENTRIES", 8)
    with pytest.raises(OSError, match=r"made' has more than 8 files and folders.*shutil\.make_archive"):
        pickling.dumps(File(folder))
    monkeypatch.setattr(folder_content, "MAX_ENTRIES", 9)
    monkeypatch.setattr(folder_content, "MAX_FOLDER_BYTES", 1 << 20)
    with pytest.raises(OSError, match=r"has more than 1 MiB.*shutil\.unpack_archive"):
        pickling.dumps(File(folder))


def test_the_limits_are_those_that_the_documentation_names() -> None:
    assert f"{folder_content.MAX_ENTRIES:,} files and folders, and {folder_content.MAX_FOLDER_BYTES >> 20} MiB" in (
        " ".join(str(File.__doc__).split())
    )


def test_packing_leaves_no_descriptor_and_no_file_behind(folder: Path, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        pickle.dumps(File(folder), 5)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before
    assert sorted(os.listdir(tmp_path)) == ["made"]


def test_many_small_files_hold_no_descriptors_and_too_many_large_ones_are_told(tmp_path: Path) -> None:
    code = f"""
import resource
from handout import File
from handout.serialization import file, pickling
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit))
kept = [pickling.dumps(File({str(tmp_path / "small")!r})) for _ in range(100)]
try:
    kept += [pickling.dumps(File({str(tmp_path / "large")!r})) for _ in range(100)]
except OSError as error:
    print(error)
"""
    (tmp_path / "small").write_bytes(bytes(100_000))
    (tmp_path / "large").write_bytes(bytes(file._MAPPED))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = "as many open files as it may have. Raise the limit (ulimit -n)" in done.stdout
    assert told == (sys.version_info < (3, 13))
