"""The page about notebooks, as a notebook: a kernel of Jupyter executes its blocks, cell by cell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import notebook_process
from tests.docs.blocks import ROOT, read_page
from tests.docs.conftest import Reader
from tests.docs.test_blocks import is_installed, matches
from tests.ledger import Ledger
from tests.patience import HANG_S

PAGE = ROOT / "docs" / "howto" / "notebook.md"

pytestmark = [
    pytest.mark.ssh,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (is_installed("nbclient") and is_installed("ipykernel")),
        reason="Jupyter's parts are not installed: pip install -e '.[dev]'",
    ),
]


def execute(cells: list[str], folder: Path, reader: Reader) -> list[str]:
    """Execute cells in a new kernel, and return what each of them has printed."""
    done = subprocess.run(
        [sys.executable, notebook_process.__file__],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**reader.environment, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"},
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed: list[str] = json.loads(done.stdout)
    return printed


def test_the_page_is_a_notebook_that_runs_from_top_to_bottom(ledger: Ledger, reader: Reader, tmp_path: Path) -> None:
    """A second kernel then executes the same notebook, as after a restart, and takes results from the journal."""
    folder = reader.new_folder(tmp_path / "folder")
    blocks = read_page(PAGE).blocks
    cells = [block.code for block in blocks]
    for block, printed in zip(blocks, execute(cells, folder, reader), strict=True):
        assert block.output is None or matches(printed, block.output), f"line {block.line} printed:\n{printed}"
    again = execute(cells, folder, reader)
    assert [cell for cell in again if "['load', 'clean', 'train']" in cell]


def test_an_interrupted_cell_ends_its_functions_and_leaves_the_cluster_open(
    ledger: Ledger, reader: Reader, tmp_path: Path
) -> None:
    cells = [
        "import asyncio, os, signal, threading\nfrom handout import Cluster\n"
        "cluster = await Cluster('hosts.toml').open()",
        "def wait(mark: str) -> None:\n    open(mark, 'w').close()\n    threading.Event().wait()\n"
        f"mark = {str(tmp_path / 'began')!r}\n"
        "async def interrupt() -> None:\n"
        "    while not os.path.exists(mark):\n        await asyncio.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGINT)  # as the button of a notebook does\n"
        "interrupting = asyncio.create_task(interrupt())\n"
        "try:\n    await cluster.call(wait, mark)\n"
        "except (asyncio.CancelledError, KeyboardInterrupt) as error:\n    print('ended')",
        "print(await cluster.call(pow, 2, 10))\nwhile cluster.runs:\n    await asyncio.sleep(0.01)\nawait cluster.close()",
    ]
    assert execute(cells, reader.new_folder(tmp_path / "folder"), reader)[1:] == ["ended\n", "1024\n"]
