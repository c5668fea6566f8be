"""Runs cases of the corpus: each in a process of its own, beside one reading process for all."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from benchmarks.pickling import launch
from benchmarks.pickling.cases import Case
from handout.transport.bundle import agent_bundle

__all__ = ["Runner", "packages_of"]

ROOT = Path(__file__).parents[2]
#: Seconds that the script of one case may take with all strategies together.
_LIMIT_S = 400


#: The packages that cases import and that are not Python's own.
_PACKAGES = frozenset({"IPython", "attr", "attrs", "cachetools", "loguru", "msgspec", "numpy", "pydantic"})


def packages_of(case: Case) -> set[str]:
    """Return the names of the packages that a case needs and that are not Python's own."""
    found = {"IPython"} if case.how == "cells" else set()
    for text in (case.source, *case.files.values()):
        for node in ast.walk(ast.parse(text.replace("# %%", "#"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found & _PACKAGES


class Runner:
    """A context manager. Between its ends, the reading process is alive.

    Args:
        strategies: The names of the strategies under which each case runs.
        folder: An empty folder.
        python: The Python that runs the scripts and reads.
    """

    def __init__(self, strategies: list[str], folder: Path, python: str = sys.executable) -> None:
        self.strategies, self.folder, self.python = strategies, folder, python
        bundle = folder / "bundle.zip"
        bundle.write_bytes(agent_bundle().data)
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{bundle}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore",
            "HANDOUT_CORPUS_READER": str(folder / "socket"), "HANDOUT_CORPUS_STRATEGIES": ",".join(strategies),
        }  # fmt: skip

    def __enter__(self) -> Runner:
        program = "import os; os.environ.pop('PYTHONPATH'); from benchmarks.pickling.reader import serve; "
        self.reader = subprocess.Popen(
            [self.python, "-c", f"{program}serve({self.environment['HANDOUT_CORPUS_READER']!r})"],
            cwd="/", env=self.environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.reader.stdout is not None
        assert self.reader.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.reader.kill()
        self.reader.communicate()

    def run(self, case: Case) -> dict[str, list[str]]:
        """Run a case. Return its outcome for each strategy: a kind, such as ``ok``, and a text."""
        place = "".join(char if char.isalnum() else "_" for char in case.name)
        home, bundle, out = self.folder / "home" / place, self.folder / "sent" / place, self.folder / f"{place}.out"
        environment = {**self.environment, "HANDOUT_CORPUS_OUT": str(out), "HANDOUT_CORPUS_BUNDLE": str(bundle)}
        process = launch.start([self.python, *launch.prepare(case, home, bundle)], home, environment)
        try:
            _, errors = process.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        found = {name: [kind, text] for name, kind, text in lines}
        why = (errors.strip().splitlines() or ["no output"])[-1]
        return {name: found.get(name, ["broken", f"the script did not get so far: {why}"]) for name in self.strategies}
