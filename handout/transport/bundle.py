"""Makes the bundle that the controller sends to a host: a zip of some of Handout's folders, a stub, and dill.

The stub takes the place of the module ``handout`` on the host.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import io
import marshal
import threading
import zipfile
from functools import cache
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import dill

from handout.errors import InternalError

__all__ = ["TRAVELS", "Bundle", "agent_bundle", "boot_source"]

#: The folders of ``handout`` that are sent to hosts. No other folder is sent.
TRAVELS = ("protocol", "serialization", "host")
#: The time of every entry in the zip. With the times of the files, equal sources would give different zips.
_EPOCH = (2020, 1, 1, 0, 0, 0)

_making = threading.Lock()


class Bundle(NamedTuple):
    """A zip and the digest of its sources."""

    data: bytes
    digest: str


def agent_bundle() -> Bundle:
    """Return this installation's bundle, which is the same for every host. The first call, in any thread, makes it."""
    with _making:
        return _agent_bundle()


@cache
def boot_source() -> bytes:
    """Return the source that a host executes first."""
    return (_package_folder() / "host" / "boot.py").read_bytes()


def travelling_sources() -> list[Path]:
    """Return the source files of Handout that are in the bundle, sorted by path."""
    root = _package_folder()
    return sorted(path for folder in TRAVELS for path in (root / folder).rglob("*.py"))


def _package_folder() -> Path:
    return Path(__file__).parents[1]


@cache
def _agent_bundle() -> Bundle:
    entries = _entries()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    # The bytecode is not part of the digest, because its bytes differ between processes: what marshal writes depends on
    # the number of references to each constant.
    digest = hashlib.sha256(importlib.util.MAGIC_NUMBER)
    for name, data in entries.items():
        if name.endswith(".py"):
            digest.update(f"{name} {len(data)}\n".encode())
            digest.update(data)
    return Bundle(out.getvalue(), digest.hexdigest()[:16])


def _entries() -> dict[str, bytes]:
    """Return the bundle's files by name."""
    entries: dict[str, bytes] = {}
    top = _package_folder().parent
    for path in travelling_sources():
        name = path.relative_to(top).as_posix()
        entries[name] = path.read_bytes()
        entries[f"{name}c"] = _compiled(path, name)
    entries["handout/__init__.py"] = entries["handout/host/handout_stub.py"]
    root = Path(str(dill.__file__)).parent
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if "tests" not in inside.parts:
            entries[f"dill/{inside.as_posix()}"] = path.read_bytes()
    return entries


def _compiled(path: Path, name: str) -> bytes:
    """Return a module's bytecode, so that a host with the controller's version of Python need not compile the module.

    Any other version of Python refuses the bytecode's magic number and compiles the source. The bytecode is of the
    unchecked hash-based kind (PEP 552), so that Python does not compare it with the times in the zip.
    """
    loader = importlib.machinery.SourceFileLoader(name.removesuffix(".py").replace("/", "."), str(path))
    code = loader.get_code(loader.name)
    if code is None:
        raise InternalError(f"{path} has no code.")
    code = _renamed(code, name)
    return importlib.util.MAGIC_NUMBER + (0b01).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def _renamed(code: CodeType, name: str) -> CodeType:
    """Return the code with ``name`` as its file, so that no path of the controller's machine reaches a host."""
    consts = tuple(_renamed(const, name) if isinstance(const, CodeType) else const for const in code.co_consts)
    return code.replace(co_filename=name, co_consts=consts)
