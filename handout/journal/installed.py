"""What is installed, as identities know it: by name and version, whether it was imported already or not."""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from handout.submission.project_modules import EXTENSIONS, find_package, spec_of

if TYPE_CHECKING:
    from importlib.metadata import Distribution

__all__ = ["PYTHON", "is_own", "version_of"]

PYTHON = f"python {sys.version_info[0]}.{sys.version_info[1]}"


def is_own(module: str | None) -> bool:
    """Whether a module's code is the user's: what may have changed since the last time."""
    return module in (None, "__main__", "__mp_main__") or _is_own_top(str(module).partition(".")[0])


@functools.cache
def _is_own_top(top: str) -> bool:
    return find_package(top) is not None


@functools.cache
def version_of(top: str) -> str:
    """The version of a top-level module; of one that has none, and of the user's own, a digest of its files."""
    if top in sys.stdlib_module_names:
        return PYTHON
    from importlib import metadata  # 20 ms, and most functions name what Python brings

    spec = spec_of(top)
    if spec is None:
        return "absent"
    places = [Path(each) for each in spec.submodule_search_locations or filter(None, [spec.origin])]
    if _is_own_top(top):  # code in C, else nobody would ask
        return _files(places)
    name = "handout-dag" if top == "handout" else top
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        found = None
    # Another distribution may be called what a module is called; parts of a namespace come from several.
    if found is not None and spec.origin is not None and (name != top or _brings(found, top)):
        return found.version
    if top != "handout":  # which runs from its sources, then
        names = metadata.packages_distributions().get(top, [])
        if names:
            return " ".join(f"{each} {metadata.version(each)}" for each in sorted(set(names)))
    return _files(places)


def _brings(distribution: Distribution, top: str) -> bool:
    listed = "\n".join(("", *[distribution.read_text(each) or "" for each in ("top_level.txt", "RECORD")]))
    return any(f"\n{top}{end}" in listed for end in ("\n", "/", ".py,", "."))


def _files(places: list[Path]) -> str:
    made = hashlib.blake2b(digest_size=16)
    for place in places:
        below = sorted(place.rglob("*")) if place.is_dir() else [place]
        for path in below:
            if path.name.endswith((".py", *EXTENSIONS)) and path.is_file():
                status = path.stat()
                made.update(f"{path.relative_to(place)} {status.st_size}\n".encode())
                # Libraries may be large: those that were written anew have another time.
                made.update(path.read_bytes() if path.suffix == ".py" else b"%d" % status.st_mtime_ns)
    return made.hexdigest()
