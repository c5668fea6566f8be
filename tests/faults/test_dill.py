"""Fault row 14: a host that has another version of dill, or a broken dill."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import pytest

import handout
from handout import Graph
from tests.sshd import OpenSsh


def odd(make: Callable[[], Any]) -> tuple[str, Any]:
    """Return the version of dill that this process imports, and an object that only dill can pickle."""
    import dill as there

    return there.__version__, make()


@pytest.mark.parametrize("content", ["__version__ = '0.0.1'", "raise ImportError('broken')"])
async def test_row_14_another_dill_on_the_host_does_not_matter(sshd: OpenSsh, tmp_path: Path, content: str) -> None:
    (tmp_path / "dill.py").write_text(content, encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    graph = Graph()
    out = graph.add(odd, lambda: weakref.ref(Path))
    results = await handout.execute(graph, inventory=[sshd.host("own", {"cpu": 1}, python=str(python))])
    version, reference = results[out]
    assert version == dill.__version__
    assert reference() is Path
