"""Folders of a process's own: made late, gone with what they are for, and with the next one where that was killed."""

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

#: A received file's folder, as the caller of a run has it.
RECEIVE = "import os, pickle, sys; from handout import File; got = pickle.loads(pickle.dumps(File(sys.argv[1]), 5))"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_it_is_made_when_it_is_asked_for_and_goes_with_its_object(place: Path) -> None:
    folder = TempFolder("own-")
    assert list(place.iterdir()) == []
    assert folder.path == folder.path
    assert [Path(folder.path)] == list(place.iterdir())
    del folder
    gc.collect()
    assert list(place.iterdir()) == []


def test_a_fork_that_ends_leaves_it_alone(place: Path) -> None:
    code = (
        "import os, sys; from handout.serialization.temp_folder import TempFolder; folder = TempFolder('own-'); path = folder.path\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait(); print(os.path.isdir(path))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "True\n"
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("owner", ["a link", "a file", "no lock"])
def test_what_only_looks_like_one_that_was_left_is_not_touched(place: Path, owner: str) -> None:
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


def test_where_there_are_no_locks_it_is_made_all_the_same_and_others_are_left_alone(
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


def test_where_it_cannot_be_made_that_is_said_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_files_that_a_killed_caller_had_received_go_with_the_next_ones(place: Path) -> None:
    content = place / "content"
    content.write_text("x")
    killed = subprocess.run([sys.executable, "-c", f"{RECEIVE}; os.kill(os.getpid(), 9)", content], check=False)
    assert killed.returncode == -9
    assert len(list(place.iterdir())) == 2
    subprocess.run([sys.executable, "-c", f"{RECEIVE}; assert got.read_text() == 'x'", content], check=True)
    assert list(place.iterdir()) == [content]
