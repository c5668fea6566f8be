"""Temporary folders: each one is made when it is first used, and removed with its object or its process.

If the process was killed, a later process removes the folder.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from handout.serialization.temp_folder import TempFolder

#: The source of a program that receives a file as the caller of a run does.
RECEIVE = "import os, pickle, sys; from handout import File; got = pickle.loads(pickle.dumps(File(sys.argv[1]), 5))"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which the test makes its temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_folder_is_made_at_its_first_use_and_removed_with_its_object(place: Path) -> None:
    folder = TempFolder("own-")
    assert list(place.iterdir()) == []
    assert folder.path == folder.path
    assert [Path(folder.path)] == list(place.iterdir())
    del folder
    gc.collect()
    assert list(place.iterdir()) == []


def test_a_fork_that_ends_does_not_remove_the_folder(place: Path) -> None:
    code = (
        "import os, sys; from handout.serialization.temp_folder import TempFolder; folder = TempFolder('own-'); path = folder.path\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait(); print(os.path.isdir(path))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "True\n"
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("owner", ["a link", "a file", "no lock"])
def test_a_path_that_only_looks_like_an_orphan_is_not_touched(place: Path, owner: str) -> None:
    other = place / "elsewhere"
    other.mkdir()
    (other / "lock").touch()
    like = place / "own-1"
    if owner == "a link":
        like.symlink_to(other)
    elif owner == "a file":
        like.touch()
    else:
        like.mkdir()
    folder = TempFolder("own-")
    assert os.path.isdir(folder.path)
    assert like.exists()
    assert (other / "lock").exists()


def test_without_locks_a_folder_is_made_and_other_folders_are_not_touched(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = place / "own-other"
    other.mkdir()
    (other / "lock").touch()

    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    folder = TempFolder("own-")
    assert os.path.isdir(folder.path)
    assert len(list(place.iterdir())) == 2


def test_a_folder_that_cannot_be_made_is_an_error_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def full(path: str, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, flags, *rest, **options)

    folder = TempFolder("own-")
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space left"):
        _ = folder.path
    assert list(place.iterdir()) == []


def test_files_that_a_killed_caller_had_received_are_removed_by_the_next_caller(place: Path) -> None:
    content = place / "content"
    content.write_text("x")
    killed = subprocess.run([sys.executable, "-c", f"{RECEIVE}; os.kill(os.getpid(), 9)", content], check=False)
    assert killed.returncode == -9
    assert len(list(place.iterdir())) == 2
    subprocess.run([sys.executable, "-c", f"{RECEIVE}; assert got.read_text() == 'x'", content], check=True)
    assert list(place.iterdir()) == [content]
