"""Hosts with the login shells and the Pythons of other people, over a real sshd."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import handout
from handout import Graph, Host
from handout.errors import BootstrapError
from tests import work
from tests.sshd import start_login

ONE = {"cpu": 1}
#: For each login shell: the beginning of its command line, and the file that it reads even for one command.
SHELLS = {
    "bash": (["bash", "-c"], ".bashrc"),
    "busybox": (["busybox", "sh", "-c"], ".profile"),
    "dash": (["dash", "-c"], ".profile"),
    "fish": (["fish", "-c"], ".config/fish/config.fish"),
    "ksh": (["ksh", "-c"], ".kshrc"),
    "mksh": (["mksh", "-c"], ".mkshrc"),
    "tcsh": (["tcsh", "-c"], ".tcshrc"),
    "zsh": (["zsh", "-c"], ".zshenv"),
}


async def name_of(host: Host) -> str:
    graph = Graph()
    out = graph.add(work.where)
    return str((await handout.execute(graph, inventory=[host]))[out][0])


@pytest.mark.parametrize("settings", [(), ("DisableForwarding yes",)], ids=["forwarded", "relayed"])
@pytest.mark.parametrize("shell", SHELLS)
async def test_any_login_shell_starts_an_agent_whatever_it_prints(
    tmp_path: Path, shell: str, settings: Sequence[str]
) -> None:
    """sshd runs a command as ``SHELL -c COMMAND``, and so does this login."""
    argv, startup = SHELLS[shell]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"no {argv[0]} on this machine: install the package {argv[0]}")
    file = tmp_path / startup
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("echo noise of a startup file\n")
    odd = tmp_path / "a $(false) 'quoted' \\ path"
    odd.mkdir()
    python = odd / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    lines = [f"export HOME={tmp_path}", f'exec {" ".join(argv)} "$SSH_ORIGINAL_COMMAND"']
    with start_login(tmp_path, lines, settings) as server:
        assert await name_of(server.host(shell, ONE, python=str(python))) == shell


def shims(folder: Path, scripts: dict[str, str]) -> Path:
    """Write programs into a folder, and return the folder."""
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


#: What a shim of pyenv and one of asdf do for a version that is installed but not selected.
PYENV = (
    "echo \"pyenv: $(basename $0): command not found\" >&2; echo 'The command exists in these versions:' >&2; exit 127"
)
ASDF = "echo 'No version is set for command python3' >&2; exit 126"
REAL = f'exec {sys.executable} "$@"'
OWN = f"python3.{sys.version_info.minor}"


@pytest.mark.parametrize(
    "scripts",
    [
        {OWN: PYENV, "python3.15": PYENV, "python3": REAL},
        {OWN: ASDF, "python3": REAL},
        {OWN: "echo 'Fatal Python error: init_fs_encoding' >&2; exit 1", "python3": REAL},
        {OWN: "kill -SEGV $$", "python3": REAL},
        {OWN: REAL, "python3": PYENV},
    ],
    ids=["pyenv", "asdf", "broken", "crashing", "selected"],
)
async def test_a_shim_that_refuses_is_skipped_for_a_python_that_works(tmp_path: Path, scripts: dict[str, str]) -> None:
    lines = [f"export PATH={shims(tmp_path / 'shims', scripts)}:/bin", 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"']
    with start_login(tmp_path, lines) as server:
        host = server.host("shimmed", ONE)
        host.python = None
        assert await name_of(host) == "shimmed"


async def test_shims_that_all_refuse_are_told_with_what_they_say(tmp_path: Path) -> None:
    names = [f"python3.{minor}" for minor in range(9, 16)] + ["python3"]
    folder = shims(tmp_path / "shims", dict.fromkeys(names, PYENV))
    lines = [f"export PATH={folder}:/nowhere", f'PATH={folder}:/bin exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"']
    with start_login(tmp_path, lines) as server:
        host = server.host("shimmed", ONE)
        host.python = None
        with pytest.raises(BootstrapError, match=r"failed with exit status 127.*pyenv: python3\S*: command not found"):
            await name_of(host)


async def test_pyenv_itself_with_another_version_selected(tmp_path: Path) -> None:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    versions = sorted(root.glob("versions/3.1*/bin/python3"))
    if not (root / "shims" / OWN).exists() or not versions:
        pytest.skip("no pyenv with shims on this machine")
    version = versions[-1].parent.parent.name
    lines = [
        f"export PYENV_ROOT={root} PYENV_VERSION={version} PATH={root}/shims:{root}/bin:/usr/bin:/bin",
        'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"',
    ]
    with start_login(tmp_path, lines) as server:
        host = server.host("pyenv", ONE)
        host.python = None
        assert await name_of(host) == "pyenv"


async def test_the_base_environment_of_conda_is_a_python_like_any_other(tmp_path: Path) -> None:
    """The login activates ``base``: that puts its folder first on PATH, sets variables, and prints a prompt."""
    base = shims(tmp_path / "base", {"python3": REAL, "python": REAL})
    lines = [
        f"export CONDA_DEFAULT_ENV=base CONDA_PREFIX={base} CONDA_SHLVL=1 CONDA_PROMPT_MODIFIER='(base) '",
        f"export PATH={base}:/bin PS1='(base) $ '",
        "printf '(base) '",
        'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"',
    ]
    with start_login(tmp_path, lines) as server:
        host = server.host("conda", ONE)
        host.python = None
        assert await name_of(host) == "conda"
