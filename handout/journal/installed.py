"""Finds the versions of installed modules.

An identity is a digest by which a later run recognizes a function or a value. Identities contain the name and version
of an installed module instead of the module's code. A module is "installed" if it is not the user's own (see
`project.ownership`).

No function in this file imports a module to find the module's version.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from handout.project import ownership
from handout.project.ownership import EXTENSIONS, spec_of

if TYPE_CHECKING:
    from importlib.metadata import Distribution

__all__ = ["PYTHON", "is_own", "version_of"]

PYTHON = f"python {sys.version_info[0]}.{sys.version_info[1]}"


def is_own(module: str | None) -> bool:
    """Return True if a module is the user's own. The code of such a module may have changed since the last run."""
    return module in (None, "__main__", "__mp_main__") or _is_own_top(str(module).partition(".")[0])


@functools.cache
def _is_own_top(top: str) -> bool:
    return ownership.is_own(top)


@functools.cache
def version_of(top: str) -> str:
    """Return the version of a top-level module, and Python's version for a module of the standard library.

    If the module has no version or is the user's own, return a digest of the module's files.
    """
    if top in sys.stdlib_module_names:
        return PYTHON
    from importlib import metadata  # imported here: it takes 20 ms, and most functions name only standard modules

    spec = spec_of(top)
    if spec is None:
        return "absent"
    places = [Path(each) for each in spec.submodule_search_locations or filter(None, [spec.origin])]
    if _is_own_top(top):
        # This digest is needed only for the user's compiled code. If the user's code is in Python, an identity is made
        # from the code.
        return _files(places)
    name = "handout-dag" if top == "handout" else top
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        found = None
    # A distribution is what pip installs. The distribution with the module's name may contain other modules instead. A
    # namespace package, which has no origin, may come from several distributions.
    if found is not None and spec.origin is not None and (name != top or _contains(found, top)):
        return found.version
    if top != "handout":  # if Handout has no distribution, Handout runs from its sources
        names = metadata.packages_distributions().get(top, [])
        if names:
            return " ".join(f"{each} {metadata.version(each)}" for each in sorted(set(names)))
    return _files(places)


def _contains(distribution: Distribution, top: str) -> bool:
    """Return True if a distribution contains a top-level module."""
    listed = "\n".join(("", *[distribution.read_text(each) or "" for each in ("top_level.txt", "RECORD")]))
    return any(f"\n{top}{end}" in listed for end in ("\n", "/", ".py,", "."))


def _files(places: list[Path]) -> str:
    """Return a digest of a module's files."""
    made = hashlib.blake2b(digest_size=16)
    for place in places:
        below = sorted(place.rglob("*")) if place.is_dir() else [place]
        for path in below:
            if path.name.endswith((".py", *EXTENSIONS)) and path.is_file():
                status = path.stat()
                made.update(f"{path.relative_to(place)} {status.st_size}\n".encode())
                # A compiled library may be large, so the digest covers its modification time instead of its bytes.
                made.update(path.read_bytes() if path.suffix == ".py" else b"%d" % status.st_mtime_ns)
    return made.hexdigest()
