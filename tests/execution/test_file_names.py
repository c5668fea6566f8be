"""Files keep their names on hosts whose file system has another encoding."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import handout
from handout import Graph
from tests import work
from tests.pythons import require_python
from tests.sshd import OpenSsh


def ascii_python(minor: int, folder: Path) -> str:
    """Return an interpreter that encodes the names of files in ASCII, as it does where no locale is set."""
    path = folder / f"python{minor}"
    settings = "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
    path.write_text(f'#!/bin/sh\nexport {settings}\nexec {require_python(minor)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("minor", [9, 13, sys.version_info[1]])
async def test_a_file_with_any_name_arrives_where_names_are_ascii(sshd: OpenSsh, tmp_path: Path, minor: int) -> None:
    names = ["größe.txt", "日本.csv", os.fsdecode(b"latin-\xfc.bin"), "plain.txt"]
    graph = Graph()
    found = []
    for name in names:
        path = tmp_path / name
        path.write_text("content", encoding="utf-8")
        found.append(graph.add(work.look_at, handout.File(path)))
    hosts = [sshd.host("ascii", python=ascii_python(minor, tmp_path))]
    results = await handout.execute(graph, inventory=hosts)
    for name, output in zip(names, found, strict=True):
        encoding, seen, content, back = results[output]
        assert encoding == "ascii"
        assert (bytes.fromhex(seen), content) == (os.fsencode(name), "content")
        assert os.path.basename(back.path) == name
        assert back.read_text() == "content and more"


@pytest.mark.parametrize("minor", [9, sys.version_info[1]])
async def test_a_folder_with_any_names_arrives_where_names_are_ascii(sshd: OpenSsh, tmp_path: Path, minor: int) -> None:
    folder = tmp_path / "größe"
    (folder / "日本").mkdir(parents=True)
    (folder / "日本" / os.fsdecode(b"latin-\xfc.bin")).write_text("content", encoding="utf-8")
    graph = Graph()
    out = graph.add(work.with_one_more, handout.File(folder))
    results = await handout.execute(graph, inventory=[sshd.host("ascii", python=ascii_python(minor, tmp_path))])
    back = Path(results[out].path)
    assert back.name == "größe"
    assert (back / "日本" / os.fsdecode(b"latin-\xfc.bin")).read_text(encoding="utf-8") == "content"
    assert (back / "more").exists()
