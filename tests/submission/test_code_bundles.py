"""The bundle of the user's own modules, and of the files beside them."""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path

import pytest

from handout.project import package
from handout.slices import at_once
from handout.submission.code_bundles import bundle_modules
from tests.project.files import write


def test_the_log_tells_once_which_files_travel_and_leaves_out_those_that_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "handout")
    monkeypatch.syspath_prepend(str(tmp_path))
    key = b"# mine\n-----BEGIN OPENSSH PRIVATE KEY-----"
    write(tmp_path / "hobundle", "__init__.py", **{"key.txt": key, "table.json": b"[]", "words.txt": b"a b"})

    def told() -> list[str]:
        caplog.clear()
        made = at_once(bundle_modules(["hobundle"]))
        assert made is not None
        with zipfile.ZipFile(io.BytesIO(made.data)) as archive:
            assert "project/hobundle/key.txt" not in archive.namelist()
        return [record.message for record in caplog.records if record.levelno == logging.INFO]

    begin = "Hosts that run code of 'hobundle' also get these files: "
    assert told() == [f"{begin}hobundle/table.json (2 bytes), hobundle/words.txt (3 bytes)."]
    write(tmp_path / "hobundle", **{"table.json": b"[1]", "new.txt": b"more"})
    assert told() == [f"{begin}hobundle/new.txt (4 bytes)."]
    monkeypatch.setattr(package, "_TOLD", 2)
    write(tmp_path / "hobundle", "a", "b", "c")
    named = [f"hobundle/{name} (0 bytes)" for name in "abc"]
    assert told() == [f"{begin}{named[0]}, {named[1]}.", f"{begin}{named[2]}."]
