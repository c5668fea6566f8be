"""The pipe on which an agent reports its start."""

from __future__ import annotations

import os
from pathlib import Path

from handout.host.system import report_pipe


def test_a_report_after_the_end_of_the_pipe_goes_into_no_other_file(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"hello")
    assert not report_pipe.has_ended(writing)
    report_pipe.end(writing)
    assert report_pipe.has_ended(writing)
    with (tmp_path / "other").open("wb"):
        os.write(writing, b"an error")
    with os.fdopen(reading, "rb") as end:
        assert end.read() == b"hello"
    os.close(writing)
    assert (tmp_path / "other").read_bytes() == b""
