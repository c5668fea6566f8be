"""Starts the script of a case in one of the ways in which users start programs."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.pickling.cases import Case

__all__ = ["HOW", "prepare", "start"]

_SEND = "\n__import__('benchmarks.pickling.writer', fromlist=['send']).send(globals())\n"


def prepare(case: Case, folder: Path, bundle: Path) -> list[str]:
    """Write the files of a case into `folder`, copy its modules to `bundle`, and return the arguments of Python."""
    for root in (folder, bundle):
        root.mkdir(parents=True)
        for name, text in case.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return HOW[case.how](case.source + _SEND, folder, bundle)


def _script(source: str, folder: Path, _bundle: Path) -> list[str]:
    path = folder / "script.py"
    path.write_text(source)
    return [str(path)]


def _folder(source: str, folder: Path, _bundle: Path) -> list[str]:
    (folder / "__main__.py").write_text(source)
    return [str(folder)]


def _zipapp(source: str, folder: Path, _bundle: Path) -> list[str]:
    path = folder.with_suffix(".pyz")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", source)
        for each in sorted(folder.rglob("*.py")):
            archive.write(each, each.relative_to(folder).as_posix())
    return [str(path)]


def _profiled(module: str) -> Callable[[str, Path, Path], list[str]]:
    def arguments(source: str, folder: Path, bundle: Path) -> list[str]:
        return ["-m", module, "-o", str(folder / "profile"), *_script(source, folder, bundle)]

    return arguments


def _module(name: str, argument: str) -> Callable[[str, Path, Path], list[str]]:
    def arguments(source: str, folder: Path, bundle: Path) -> list[str]:
        for root in (folder, bundle):  # Handout sends the package of a program that `python -m` started
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).parent.joinpath("__init__.py").touch()
            (root / name).write_text(source)
        return ["-m", argument]

    return arguments


def _command(source: str, _folder: Path, _bundle: Path) -> list[str]:
    return ["-c", source]


def _executed(source: str, folder: Path, _bundle: Path) -> list[str]:
    (folder / "session.txt").write_text(source)
    return ["-c", f"exec(open({str(folder / 'session.txt')!r}).read())"]


def _run_path(name: str) -> Callable[[str, Path, Path], list[str]]:
    def arguments(source: str, folder: Path, bundle: Path) -> list[str]:
        (path,) = _script(source, folder, bundle)
        return ["-c", f"import runpy; runpy.run_path({path!r}, run_name={name!r})"]

    return arguments


def _cells(source: str, folder: Path, _bundle: Path) -> list[str]:
    """Run the source as cells of an IPython shell, as a notebook does. A line ``# %%`` begins a new cell."""
    (folder / "session.txt").write_text(source)
    program = (
        "import os, sys\n"
        "os.environ['IPYTHONDIR'] = os.environ['HOME'] = sys.argv[1]\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "for cell in open(sys.argv[1] + '/session.txt').read().split('# %%\\n'):\n"
        "    shell.run_cell(cell, store_history=True).raise_error()\n"
        "os._exit(0)\n"
    )
    return ["-c", program, str(folder)]


#: For each way of starting a script, a function that returns the arguments of Python.
HOW: dict[str, Callable[[str, Path, Path], list[str]]] = {
    "script": _script,
    "folder": _folder,
    "zipapp": _zipapp,
    "cprofile": _profiled("cProfile"),
    "profile": _profiled("profile"),
    "module": _module("pkg/mod.py", "pkg.mod"),
    "package": _module("pkg/__main__.py", "pkg"),
    "command": _command,
    "executed": _executed,
    "run_path": _run_path("__main__"),
    "named_path": _run_path("other"),
    "cells": _cells,
}


def start(arguments: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start Python, whose path comes first, with the arguments that `prepare` returned."""
    return subprocess.Popen(
        arguments, cwd=folder, env=environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
