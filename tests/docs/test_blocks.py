"""Every Python block of the README and of the pages runs as it stands, and prints what the page shows."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs import page_process
from tests.docs.blocks import ROOT, SHARED, Block, Page, pages, read_page
from tests.docs.conftest import Reader
from tests.ledger import Ledger
from tests.patience import HANG_S

PAGES = pages()

#: The blocks that never run, by page: how many there are for each reason that the page gives.
NOT_RUN: dict[str, dict[str, int]] = {"docs/howto/typing.md": {"type checkers refuse these lines": 3}}


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def run_page(page: Page, blocks: list[Block], folder: Path, reader: Reader) -> list[dict[str, Any]]:
    """Run blocks in a new process, and return the answer of the process for each block that it has begun."""
    asked = {
        "path": str(ROOT / page.name),
        "is_shared": page.is_shared,
        "blocks": [dataclasses.asdict(block) for block in blocks],
    }
    answers = folder.parent / "answers.json"
    done = subprocess.run(
        [sys.executable, page_process.__file__, str(answers)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**reader.environment, "PYTHONPATH": str(ROOT)},
        timeout=2 * HANG_S,  # Prefect and Ray alone take 80 s on an idle machine
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(answers.read_text(encoding="utf-8"))
    return found


def matches(printed: str, shown: str) -> bool:
    """Return True if a block printed what its page shows. ``...`` in the page stands for any text."""
    pattern = ".*?".join(map(re.escape, shown.strip().split("...")))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.mark.ssh
@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.xdist_group(page.name)) for page in PAGES], ids=lambda page: page.name
)
def test_the_blocks_of_a_page_run(ledger: Ledger, page: Page, reader: Reader, tmp_path: Path) -> None:
    blocks = [b for b in page.blocks if b.not_run is None and all(map(is_installed, b.needs))]
    answers = run_page(page, blocks, reader.new_folder(tmp_path / "folder"), reader)
    for block, answer in zip(blocks, answers, strict=False):
        assert answer["error"] is None, f"{page.name}:{block.line}\n{answer['error']}"
        if block.output is not None:
            assert matches(answer["printed"], block.output), f"{page.name}:{block.line} printed:\n{answer['printed']}"
    assert len(answers) == len(blocks)
    missing = sorted({module for block in page.blocks for module in block.needs if not is_installed(module)})
    if missing:
        left = [str(block.line) for block in page.blocks if not all(map(is_installed, block.needs))]
        pytest.skip(f"{page.name}: the blocks at lines {', '.join(left)} need {', '.join(missing)}; all others passed")


def test_each_block_that_does_not_run_has_a_reason_that_is_listed_here() -> None:
    found: dict[str, dict[str, int]] = {}
    for page in PAGES:
        for block in page.blocks:
            if block.not_run is not None:
                reasons = found.setdefault(page.name, {})
                reasons[block.not_run] = reasons.get(block.not_run, 0) + 1
    assert found == NOT_RUN


def test_a_page_is_read_with_its_marks_titles_and_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.blocks.ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(
        f'{SHARED.replace(" ", chr(10), 1)}\n\n```python title="a.py"\nprint(1)\n```\n\nIt prints:\n\n'
        '```text title="output"\n1\n```\n\n- item\n\n    ```python\n    x = 2\n    ```\n\n'
        "<!-- not run: needs a\nGPU -->\n```python\ny = 3\n```\n\n<!-- needs: dask, a.b -->\n\n```python\nz = 4\n```\n"
    )
    page = read_page(path)
    assert page.is_shared
    assert page.blocks == [
        Block(5, "print(1)\n", "a.py", None, (), "1\n"),
        Block(17, "x = 2\n", None, None, ()),
        Block(23, "y = 3\n", None, "needs a GPU", ()),
        Block(29, "z = 4\n", None, None, ("dask", "a.b")),
    ]
    path.write_text('```text title="output"\n1\n```\n')
    with pytest.raises(ValueError, match=r"page\.md:2"):
        read_page(path)


def test_a_block_that_fails_is_named_with_its_line_and_ends_the_page(reader: Reader, tmp_path: Path) -> None:
    blocks = [
        Block(3, "x = 1\nprint(x)\n", None, None, ()),
        Block(9, "\nawait y\n", None, None, ()),
        Block(12, "", None, None, ()),
    ]
    first, second = run_page(Page("README.md", True, blocks), blocks, reader.new_folder(tmp_path / "folder"), reader)
    assert first == {"line": 3, "printed": "1\n", "error": None}
    assert 'README.md", line 10' in second["error"]
    assert "NameError: name 'y'" in second["error"]


def test_the_tests_that_a_page_shows_are_called(reader: Reader, tmp_path: Path) -> None:
    code = "async def test_later():\n    assert print('called')\n\ndef test_never(): ...\n"
    block = Block(3, code, None, None, ())
    (answer,) = run_page(Page("README.md", False, [block]), [block], reader.new_folder(tmp_path / "folder"), reader)
    assert answer["printed"] == "called\n"
    assert "AssertionError" in answer["error"]


def test_output_is_compared_with_gaps() -> None:
    assert matches("took 12.3 s on node1\n", "took ... s on node1")
    assert not matches("took 12.3 s on node2\n", "took ... s on node1")
    assert not matches("a\nb", "a")
