"""Imports the user's own modules from the source bundle that the controller sent.

The bundle is a zip file. It has sources, because the host may have another version of Python than the controller. It
also has the files beside these sources, and the metadata of the packages. The first worker that needs the bundle
unpacks it into a private folder. So a module and the files beside it have real paths on the host. Python's own import
system finds both, in workers and in the processes that tasks start. Each later worker compares the sources in the
folder with the bundle.

The folder ``project`` of the bundle is on ``sys.path`` and on ``PYTHONPATH``. The folder ``shadowing`` has the modules
that are named like modules of the standard library. It is only on ``sys.path``, because a program that a task starts
may need the standard modules.

The traceback that a worker sends to the controller shows the paths of the sources on the controller.
"""

from __future__ import annotations

import fcntl
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import opcode
import os
import re
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from types import ModuleType, TracebackType
from typing import Any

__all__ = ["Project", "controller_paths", "explain_missing", "has_sent", "install"]

#: Name of the file in the bundle that lists its modules.
INDEX = "modules.json"
#: The instruction with which Python imports a module.
_IMPORT_NAME = opcode.opmap["IMPORT_NAME"]
#: The top-level modules that import modules by name while they unpickle a function or an argument.
_UNPICKLERS = ("handout", "dill", "pickle")
#: The projects that this process has installed.
_projects: list[Project] = []


class Project(importlib.abc.MetaPathFinder):
    """The modules of an unpacked bundle.

    Args:
        folder: The folder with the unpacked bundle.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open(f"{folder}/{INDEX}", encoding="utf-8") as file:
            index: dict[str, Any] = json.load(file)
        #: Names of the top-level modules.
        self.modules: list[str] = index["modules"]
        self._folders = [each for each in (f"{folder}/shadowing", f"{folder}/project") if os.path.isdir(each)]
        self._paths: dict[str, str] = index["paths"]
        #: Folders that ``pip install --target`` has made on the controller, and that this host has too.
        self._target_folders = [each for each in index["folders"] if _is_safe_folder(each)]
        #: Names of the project's extension modules, which the controller never sends.
        self.extensions: frozenset[str] = frozenset(index["extensions"])

    def controller_path(self, path: str) -> str:
        """Return the path that a source has on the controller. Return any other path as it is."""
        return self._paths.get(os.path.relpath(path, self.folder), path)

    def make_importable(self) -> None:
        """Put the modules first on ``sys.path`` and, for the processes that tasks start, on ``PYTHONPATH``."""
        for name in [each for each in sys.modules if each.partition(".")[0] in self.modules]:
            # The worker has loaded another module of this name, which is part of the standard library or of the host's
            # own installation. Modules that have imported the other module keep it.
            if name not in ("__main__", "handout", "dill"):
                del sys.modules[name]
        sys.path[:0] = self._folders
        sys.path_hooks.insert(0, self._finder)
        positions = [i for i, known in enumerate(sys.meta_path) if known is importlib.machinery.PathFinder]
        sys.meta_path.insert(positions[0] if positions else len(sys.meta_path), self)
        sys.path += self._target_folders
        present = os.environ.get("PYTHONPATH")
        path = [f"{self.folder}/project", *([present] if present else []), *self._target_folders]
        os.environ["PYTHONPATH"] = os.pathsep.join(path)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a top-level module of the project, even if user code has put other folders first on ``sys.path``.

        See `importlib.abc.MetaPathFinder`. Return None for a namespace package, because other parts of it may be
        installed on the host. Python then looks for all parts on ``sys.path``.
        """
        if path is not None or fullname not in self.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, self._folders)
        return spec if spec is not None and spec.loader is not None and spec.origin is not None else None

    def _finder(self, path: str) -> importlib.machinery.FileFinder:
        """Return a finder for a folder of the project; see ``sys.path_hooks``."""
        if not path.startswith(self.folder + os.sep):
            raise ImportError("the folder does not belong to the project", path=path)
        make_loader: Any = partial(ProjectLoader, self)
        return importlib.machinery.FileFinder(path, (make_loader, importlib.machinery.SOURCE_SUFFIXES))

    def has_source(self, name: str) -> bool:
        """Return True if the bundle has the source of a module.

        An import lacks such a module only if another program has removed its file.
        """
        path = name.replace(".", "/")
        ends = (f"{path}.py", f"{path}/__init__.py")
        return any(f"{folder}/{end}" in self._paths for folder in ("project", "shadowing") for end in ends)


class ProjectLoader(importlib.machinery.SourceFileLoader):
    """Loads a module of the project. Explains the error if a module that it imports is missing.

    Args:
        project: The project.
        fullname: Name of the module.
        path: File of the module on this host.
    """

    def __init__(self, project: Project, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._project = project

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of a module."""
        try:
            super().exec_module(module)
        except ModuleNotFoundError as error:
            _explain(error, self.path, _line_in(error.__traceback__, self.path))
            raise


def _is_safe_folder(folder: str) -> bool:
    """Return True if a folder exists and only this user or the superuser can write to it."""
    try:
        status = os.stat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022


def _line_in(trace: TracebackType | None, file: str) -> int:
    """Return the line number of the innermost frame that runs code of a file; 0 if there is no such frame."""
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def has_sent(path: str | None) -> bool:
    """Return True if a source is one of the project's own."""
    return path is not None and any(path.startswith(f"{project.folder}/") for project in _projects)


def explain_missing(error: BaseException | None) -> str | None:
    """Return the name of the module that this host lacks, if an import has raised the error.

    If user code has imported the module, explain the error. Return None for any other error, also if user code has
    raised a `ModuleNotFoundError` itself.
    """
    if type(error) is not ModuleNotFoundError or type(error.name) is not str:
        return None
    by_function = False
    trace, caller = error.__traceback__, None
    while trace is not None:
        # `importlib.import_module` leaves its frames in the traceback, and the statement `import` leaves none.
        by_function = trace.tb_frame.f_globals.get("__package__") == "importlib"
        if not by_function:
            caller = trace
        trace = trace.tb_next
    if caller is None or any(project.has_source(error.name) for project in _projects):
        return None
    if str(caller.tb_frame.f_globals.get("__name__")).partition(".")[0] in _UNPICKLERS:
        return error.name
    code = caller.tb_frame.f_code
    if not by_function and code.co_code[caller.tb_lasti] != _IMPORT_NAME:
        return None
    _explain(error, code.co_filename, caller.tb_lineno)
    return error.name


def _explain(error: ModuleNotFoundError, path: str, line: int) -> None:
    """Add to the error the file and line that imported the missing module, and why the module is missing."""
    # If a chain of imports has led to the missing module, the error passes through each module of the chain. It passes
    # the innermost module first, and its text names only this module.
    if getattr(error, "imported_at", None) is not None:
        return
    file = path
    for project in _projects:
        file = project.controller_path(file)
    error.imported_at = f"{file}:{line}"  # type: ignore[attr-defined]
    package = (error.name or "").rpartition(".")[0]
    if any(error.name in project.extensions for project in _projects):
        why = "it is an extension module, which Handout never sends"
    elif package in sys.modules:
        why = f"the package {package!r} on this host has no such module"
    else:
        why = "it is not installed on this host, and it is not one of the project's own modules, which Handout sends"
    error.msg = f"{error.msg} (imported at {file}, line {line}): {why}."
    error.args = (error.msg,)


def controller_paths(text: str) -> str:
    """Return a traceback with the paths of the project's sources on the controller, instead of their paths here."""
    for project in _projects:
        found = re.compile(rf'(?<=File "){re.escape(project.folder)}/[^"\n]+(?=")')
        text = found.sub(lambda match, project=project: project.controller_path(match[0]), text)  # type: ignore[misc]
    return text


def install(bundle: str | bytes, folder: str) -> None:
    """Make the modules of a bundle importable. These modules take precedence over modules installed on this host.

    Args:
        bundle: The zip file, as a path or as bytes.
        folder: The folder for the unpacked bundle. If it has all files, and all sources have the right bytes, another
            worker has unpacked the bundle.

    Raises:
        OSError: The bundle cannot be unpacked.
        zipfile.BadZipFile: The bundle is damaged.
    """
    _unpack(bundle, folder)
    project = Project(os.path.realpath(folder))
    _projects.append(project)
    project.make_importable()


def _unpack(bundle: str | bytes, folder: str) -> None:
    """Unpack a bundle, unless another worker has done so. The folder appears only once it has all of its files.

    If files are missing, because another program such as a cleaner of temporary files has removed them, or if a source
    has other bytes than in the bundle, the worker puts these files back one by one, because other workers use the
    folder. A source that a task has changed on purpose is put back too, for each new worker.
    """
    with zipfile.ZipFile(bundle if isinstance(bundle, str) else io.BytesIO(bundle)) as archive:
        if _is_complete(archive, folder):
            return  # without the lock, so that workers which begin together do not read all sources one after another
        parent = os.path.dirname(folder)
        os.makedirs(parent, mode=0o700, exist_ok=True)
        with open(f"{folder}.lock", "wb") as lock:
            try:
                # The other workers wait, instead of unpacking the same files. The lock ends with its holder.
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                pass  # the file system has no locks; each worker then unpacks, and all but one discard the files
            if _is_complete(archive, folder):
                return
            made = tempfile.mkdtemp(prefix="unpacking-", dir=parent)
            try:
                _extract(archive, made)
                if os.path.isdir(folder):
                    _put_back(archive, made, folder)
                else:
                    os.rename(made, folder)
            except OSError:
                if not _is_complete(archive, folder):
                    raise
            finally:
                shutil.rmtree(made, ignore_errors=True)


def _is_complete(archive: zipfile.ZipFile, folder: str) -> bool:
    """Return True if a folder has all files of a bundle, and the sources have the bytes that they have in the bundle.

    The bytes of other files are not compared. A task may change a data file of its project, and the change stays.
    """
    return next(_lacking(archive, folder), None) is None


def _lacking(archive: zipfile.ZipFile, folder: str) -> Iterator[str]:
    """Yield the names of the files that a folder lacks, and of the sources and the index if their bytes differ.

    The bytes are compared with the checksum in the directory of the bundle, so that nothing has to be decompressed.
    """
    for member in archive.infolist():
        name, path = member.filename, _path(folder, member.filename)
        if name.endswith(".py") or name == INDEX:
            is_whole = _has_checksum(path, member.file_size, member.CRC)
        else:
            is_whole = os.path.exists(path)
        if not is_whole:
            yield name


def _has_checksum(path: bytes, nbytes: int, crc: int) -> bool:
    try:
        with open(path, "rb", 0) as file:
            return os.fstat(file.fileno()).st_size == nbytes and zlib.crc32(file.read()) == crc
    except OSError:
        return False


def _path(folder: str, name: str) -> bytes:
    """Return the path of a file of a bundle. It is in bytes, because the host's locale may not have all characters."""
    return os.path.join(os.fsencode(folder), name.encode())


def _put_back(archive: zipfile.ZipFile, made: str, folder: str) -> None:
    """Move the files that a folder lacks into it, and the sources that have other bytes there.

    Each file appears as a whole.
    """
    for name in _lacking(archive, folder):
        path = _path(folder, name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.rename(_path(made, name), path)
        try:
            # The new file may have the time and the size of the damaged source from which Python has compiled this.
            os.unlink(importlib.util.cache_from_source(os.fsdecode(path)))
        except OSError:
            continue


def _extract(archive: zipfile.ZipFile, folder: str) -> None:
    """Write all files of a zip file below a folder.

    The worker does not call `zipfile.ZipFile.extractall`, which fails at names that the host's locale cannot encode.
    """
    executable = set(json.loads(archive.read(INDEX))["executable"])
    for name in archive.namelist():
        path = _path(folder, name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        mode = 0o700 if name in executable else 0o600
        with open(path, "wb", opener=lambda p, flags, mode=mode: os.open(p, flags, mode)) as file:  # type: ignore[misc]
            file.write(archive.read(name))
