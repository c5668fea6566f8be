"""File systems in memory that are short of something, for tests of a host that cannot store objects."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def mounted(options: str) -> Iterator[str]:
    """Mount a file system with these options of ``tmpfs``, and yield its folder. Without the right to, skip the test."""
    folder = tempfile.mkdtemp(prefix="handout-disk-")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        os.rmdir(folder)
        pytest.skip("mounting a file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)
        os.rmdir(folder)
