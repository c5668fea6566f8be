"""Reads the corpus: small scripts whose functions, classes and values must travel by value to another process.

The files lie in ``tests/serialization/corpus``. A case begins with a line ``#### name | kinds | how``, followed by the
text of the script. The names of kinds are separated by commas. ``how`` is optional and says how the script is
started; see `launch`. A line ``## file: path`` begins the text of a further file, which lies beside the script. Such a
file is one of the project's own modules: Handout sends it to hosts, so the reading process finds it, too.

A script defines these names:

- ``task``: the function that the reading process calls. ``args``: its arguments (default: none). Both are pickled
  separately, as Handout pickles them.
- ``want``: the value that ``task`` must return; or ``check``: a function that is called with the returned value in the
  script's own process, and returns True if the value is right.
- ``refused``: instead of the above, a part of the text of the error that pickling ``task`` or ``args`` must raise, such
  as the path to a lock.
- ``equal``: instead of the above, two functions whose digests must be equal in two runs of one program.
- ``differ``: instead of the above, two functions whose digests must differ.
- ``pickled``: tells that the value is right only if the task was pickled, for example because of a ``__setstate__``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["FOLDER", "Case", "read"]

FOLDER = Path(__file__).parents[2] / "tests" / "serialization" / "corpus"


class Case(NamedTuple):
    """One script of the corpus."""

    name: str
    kinds: tuple[str, ...]
    #: How the script is started, such as ``script`` or ``zipapp``.
    how: str
    source: str
    #: The texts of further files, by their paths beside the script.
    files: dict[str, str]


def read(file: str = "*") -> list[Case]:
    """Return the cases of the files whose name matches a pattern, in the order of these names."""
    return [case for path in sorted(FOLDER.glob(f"{file}.cases")) for case in _read_file(path)]


def _read_file(path: Path) -> list[Case]:
    return [_parse(text) for text in path.read_text().split("\n#### ")[1:]]


def _parse(text: str) -> Case:
    head, _, body = text.partition("\n")
    name, kinds, *how = (part.strip() for part in head.split("|"))
    source, *others = body.split("\n## file: ")
    files = {each.partition("\n")[0].strip(): each.partition("\n")[2] + "\n" for each in others}
    return Case(name, tuple(kind.strip() for kind in kinds.split(",")), how[0] if how else "script", source, files)
