"""Each example of the page about libraries is a script that runs, with a `hosts.toml` for a real sshd."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.patience import HANG_S
from tests.sshd import OpenSsh

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "libraries.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.full
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_example_runs(number: int, sshd: OpenSsh, tmp_path: Path) -> None:
    code = EXAMPLES[number]
    for library in ("adaptive", "dask", "sklearn"):
        if re.search(rf"^(import|from) {library}\b", code, re.MULTILINE) and find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install -e '.[libraries]'")
    capabilities = '{ cpu = 2, memory = "8 GB" }'
    inventory = sshd.inventory_file({"one": capabilities, "two": capabilities})
    (tmp_path / "hosts.toml").write_text(inventory.read_text())
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 5
