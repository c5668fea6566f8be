"""Finds the Python blocks of the README and of the pages, and what each page says about them.

A page on which the blocks share one namespace says so, in the sentence `SHARED`. Without this sentence, each block
runs on its own. A block of text with the title "output" shows what the block before it prints. A comment in the
source of the page, which a reader of the page does not see, marks a block that is not run:

- ``<!-- not run: the reason -->``: it never runs.
- ``<!-- needs: dask, numpy -->``: it runs if these modules can be imported.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import handout

__all__ = ["ROOT", "SHARED", "Block", "Page", "pages", "read_page"]

ROOT = Path(handout.__file__).parents[1]

#: The sentence by which a page says that its blocks share one namespace.
SHARED = "The Python blocks of this page build on each other, as the cells of a notebook do."

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (not run|needs): ((?:(?!-->).)+?) -->\s*\Z", re.DOTALL)


@dataclass
class Block:
    """One Python block of a page."""

    line: int
    """Number of the first line of code in the page."""
    code: str
    title: str | None
    """The file that the block shows, if the page names one."""
    not_run: str | None
    """The reason for which the block never runs."""
    needs: tuple[str, ...]
    """Modules without which the block does not run."""
    output: str | None = None
    """What the page says that the block prints."""


@dataclass(frozen=True)
class Page:
    """The Python blocks of one page."""

    name: str
    is_shared: bool
    """True if the blocks share one namespace."""
    blocks: list[Block]


def read_page(path: Path) -> Page:
    """Read the blocks of a page.

    Raises:
        ValueError: A block of output does not follow a Python block.
    """
    text = path.read_text(encoding="utf-8")
    blocks: list[Block] = []
    for language, info, code, before, line in _fences(text):
        title = re.search(r'title="([^"]*)"', info)
        if language == "python":
            mark = _MARK.search(before)
            kind, said = (mark[1], mark[2]) if mark else (None, "")
            needs = tuple(re.findall(r"[\w.]+", said)) if kind == "needs" else ()
            reason = " ".join(said.split()) if kind == "not run" else None
            blocks.append(Block(line, code, title and title[1], reason, needs))
        elif title and title[1] == "output":
            if not blocks or blocks[-1].output is not None:
                raise ValueError(f"{path.name}:{line}: no Python block without an output is before this output")
            blocks[-1].output = code
    return Page(path.relative_to(ROOT).as_posix(), SHARED in " ".join(text.split()), blocks)


def _fences(text: str) -> Iterator[tuple[str, str, str, str, int]]:
    """Yield each fenced block: its language, its info string, its text, the page before it, and its first line."""
    for found in _FENCE.finditer(text):
        info = found["info"].strip()
        line = text.count("\n", 0, found.start("text")) + 1
        yield info.partition(" ")[0], info, textwrap.dedent(found["text"]), text[: found.start()], line


def pages() -> list[Page]:
    """Return the README and every page of the documentation that has a Python block."""
    found = [read_page(path) for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]
    return [page for page in found if page.blocks]
