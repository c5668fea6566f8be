"""Writes the files of a project for a test."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write"]


def write(folder: Path, /, *names: str, **contents: bytes) -> None:
    """Write files below a folder.

    Args:
        folder: The folder.
        *names: The names of files whose contents do not matter.
        **contents: The contents of further files, by name.
    """
    for name, data in [*((name, b"") for name in names), *contents.items()]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
