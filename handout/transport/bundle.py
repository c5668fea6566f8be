"""The zip that makes a host's Python an agent: the folders that travel, a stub for ``handout``, and dill."""

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

__all__ = ["Bundle", "agent_bundle", "boot_source"]

#: One fixed time for all entries, so that the same sources always give the same digest.
_EPOCH = (2020, 1, 1, 0, 0, 0)


class Bundle(NamedTuple):
    """A zip and what identifies it."""

    data: bytes
    digest: str


_making = threading.Lock()


#: The folders of the package that travel to hosts; nothing else of it does.
TRAVELS = ("protocol", "serialization", "host")


def _package_folder() -> Path:
    return Path(__file__).parents[1]


def travelling_sources() -> list[Path]:
    """The source files that the bundle ships, sorted by path."""
    root = _package_folder()
    return sorted(path for folder in TRAVELS for path in (root / folder).rglob("*.py"))


@cache
def boot_source() -> bytes:
    """The source that a host executes first."""
    return (_package_folder() / "host" / "boot.py").read_bytes()


def _named(code: CodeType, name: str) -> CodeType:
    """The same code, as if it came from ``name``: where this installation lies is nobody's business."""
    consts = tuple(_named(const, name) if isinstance(const, CodeType) else const for const in code.co_consts)
    return code.replace(co_filename=name, co_consts=consts)


def _compiled(path: Path, name: str) -> bytes:
    """A module's bytecode for this Python: a host of the same version saves compiling it.

    Others find another magic number in it and take the source. It is of the unchecked hash-based kind, which is
    valid whatever the times in an archive say.
    """
    loader = importlib.machinery.SourceFileLoader(name.removesuffix(".py").replace("/", "."), str(path))
    code = loader.get_code(loader.name)
    if code is None:
        raise InternalError(f"{path} has no code.")
    code = _named(code, name)
    return importlib.util.MAGIC_NUMBER + (0b01).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def agent_bundle() -> Bundle:
    """The bundle of this installation; the same bytes for every host. Made once, by whichever thread comes first."""
    with _making:
        return _agent_bundle()


@cache
def _agent_bundle() -> Bundle:
    entries: dict[str, bytes] = {}
    top = _package_folder().parent
    for path in travelling_sources():
        name_ = path.relative_to(top).as_posix()
        entries[name_] = path.read_bytes()
        entries[f"{name_}c"] = _compiled(path, name_)
    entries["handout/__init__.py"] = entries["handout/host/user_stub.py"]
    root = Path(str(dill.__file__)).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if "tests" not in name.parts:
            entries[f"dill/{name.as_posix()}"] = path.read_bytes()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name_, data in entries.items():
            info = zipfile.ZipInfo(name_, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    # Of the sources alone: marshal's bytes differ from process to process, by what else refers to a constant.
    digest = hashlib.sha256(importlib.util.MAGIC_NUMBER)
    for name_, data in entries.items():
        if name_.endswith(".py"):
            digest.update(f"{name_} {len(data)}\n".encode())
            digest.update(data)
    return Bundle(out.getvalue(), digest.hexdigest()[:16])
