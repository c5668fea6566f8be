"""The programs that the type checkers read also run: on this machine, and on hosts behind a real sshd.

Each program runs as it is written. Small stand-ins take the place of what a test machine lacks: data files, GPUs, and a
web client. Where a program names a file of its hosts, the test puts a file of its own there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.ledger import Ledger
from tests.patience import HANG_S
from tests.sshd import OpenSsh

PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """How a program runs in a test."""

    check: Callable[[Path, str], None]
    """Checks the folder and what the program has printed."""
    make: Callable[[Path], None] = lambda folder: None
    """Makes the files that the program reads."""
    driver: str = ""
    """Code that runs what the program only defines. Empty: the program runs by itself."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Texts of the program that the test replaces. ``FOLDER`` stands for the folder of the program."""
    hosts: Mapping[str, str] = field(default_factory=lambda: {"node1": "{ cpu = 2 }"})
    """The capabilities of each host, as an inline TOML table."""
    shared: str = ""
    """The shared amounts, as TOML."""
    needs: tuple[str, ...] = ()
    """Modules that the program imports, and that may not be installed."""


def make_corpus(folder: Path) -> None:
    (folder / "corpus" / "deep").mkdir(parents=True)
    for number in range(20):
        (folder / "corpus" / "deep" / f"{number}.txt").write_text("To be, or not to be")


def check_words(folder: Path, printed: str) -> None:
    counts = dict(json.loads((folder / "words.json").read_text()))
    assert counts == {"to": 40, "be": 40, "or": 20, "not": 20}


def check_service(folder: Path, printed: str) -> None:
    assert printed.splitlines() == ["200 {'score': 0.0}", "{'node1': 0}"]


def make_training(folder: Path) -> None:
    import numpy as np

    np.save(folder / "train.x.npy", np.ones((4, 2), np.float32))
    np.save(folder / "train.y.npy", np.full(4, 3, np.float32))


def check_search(folder: Path, printed: str) -> None:
    *ended, best = printed.splitlines()
    assert len(ended) == 24
    assert {line.rpartition(" ")[2] for line in ended} == {"0.1"}
    assert best == "{'lr': 0.1, 'depth': 2} 0.1"


def make_table(folder: Path) -> None:
    import numpy as np

    np.save(folder / "table.npy", np.arange(30.0).reshape(10, 3))
    np.save(folder / "queries.npy", np.array([[0.0, 1.0, 2.0], [27.0, 28.0, 30.0]]))


def check_hits(folder: Path, printed: str) -> None:
    import numpy as np

    assert np.load(folder / "hits.npy").tolist() == [0, 9]


def make_shards(folder: Path) -> None:
    import numpy as np

    np.save(folder / "big.npy", np.arange(12.0).reshape(3, 4))


def check_shards(folder: Path, printed: str) -> None:
    energies = [f"{t} {t * t * 10_000}" for t in (270.0, 290.0, 310.0)]
    assert printed.splitlines() == [*energies, str(1.5 + 5.5 + 9.5)]


def make_paths(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).write_text("text")
    (folder / "paths.txt").write_text(f"{folder}/a {folder}/b {folder}/missing")


def check_partial(folder: Path, printed: str) -> None:
    first, *lines, good = printed.splitlines()
    assert first == f"{folder}/missing"
    assert [lines[0].strip(), lines[1].strip()] == ["node1", "1"]
    assert "FileNotFoundError" in lines[2]
    assert good == "2"


def check_every_host(folder: Path, printed: str) -> None:
    *spaces, scores = printed.splitlines()
    assert sorted(line.split()[0] for line in spaces) == ["gpu1", "node1"]
    assert all(int(line.split()[1]) > 0 for line in spaces)
    assert scores == "[6.0, 3.5]"


def prints(*expected: str) -> Callable[[Path, str], None]:
    def check(folder: Path, printed: str) -> None:
        assert printed.splitlines() == list(expected)

    return check


CASES = {
    "p01_files": Case(check_words, make_corpus),
    "p02_service": Case(
        check_service,
        driver="""
from fastapi.testclient import TestClient
with TestClient(app) as client:
    answer = client.post("/score", json={"text": "good"})
    print(answer.status_code, answer.json())
    print(client.get("/healthz").json())
""",
        needs=("fastapi", "httpx"),
    ),
    "p03_search": Case(
        check_search,
        make_training,
        changes={
            'Inventory([Host("gpu1"), Host("gpu2"), Host("big", capabilities={"has_cuda": False})], '
            'shared={"licence": 4})': 'Inventory.load("hosts.toml")',
            '"/nfs/train.npz"': '"FOLDER/train"',
        },
        hosts={
            "gpu1": '{ cpu = 2, gpu = 1, gpu_memory = "8 GB" }',
            "big": '{ cpu = 16, memory = "32 GB", has_cuda = false }',
        },
        shared="[shared]\nlicence = 4\n",
        needs=("numpy",),
    ),
    "p04_broadcast": Case(check_hits, make_table, needs=("numpy",)),
    "p05_allocators": Case(
        prints(),
        driver="""
import asyncio
graph = handout.Graph()
graph.map(pow, [2, 3], [10, 10], labels={"deadline_s": 60})
asyncio.run(go(graph))
""",
        changes={"handout.execute(graph, ": 'handout.execute(graph, inventory="hosts.toml", '},
    ),
    "p06_cost": Case(
        prints("b'' on lab1", "1 0"),
        driver="""
import handout
results = handout.run(graph, inventory="hosts.toml")
print(results[frame], "on", results.allocations[frame])
import asyncio
asyncio.run(allocator([Task("t", cost=LabCost(camera="basler", matlab=1))], ClusterView(hosts[:1])))
""",
        hosts={"lab1": '{ scratch = "2 TB", bandwidth = 10, camera = ["basler", "flir"], cuda_cc = 8.6 }'},
        shared="[shared]\nmatlab = 2\n",
    ),
    "p07_notebook": Case(
        prints("0.0 []", "0.0"),
        driver="""
import asyncio
async def notebook() -> None:
    global clean
    cluster = await cell_1()
    await cell_2(cluster)
    def clean(rows: Rows) -> Rows: return rows[:1]
    await cell_3(cluster)
    await cluster.close()
asyncio.run(notebook())
""",
    ),
    "p08_dynamic": Case(check_shards, make_shards, changes={'"/data/big.h5"': '"FOLDER/big.npy"'}, needs=("numpy",)),
    "p09_partial": Case(check_partial, make_paths),
    "q12_every_host": Case(
        check_every_host,
        lambda folder: (folder / "train").write_bytes(b"\x03"),
        driver="""
import asyncio
async def main() -> None:
    async with Cluster("hosts.toml", require="all") as cluster:
        await check(cluster)
        print(await train_and_score(cluster, [[1.0, 2.0], [0.5]]))
asyncio.run(main())
""",
        changes={'"/scratch"': '"FOLDER"', '"/data/train.npz"': '"FOLDER/train"'},
        hosts={"node1": "{ cpu = 2 }", "gpu1": '{ cpu = 2, gpu = 1, gpu_memory = "8 GB" }'},
    ),
}


def write_inventory(case: Case, launcher: str, request: pytest.FixtureRequest, path: Path) -> None:
    """Write the ``hosts.toml`` of a program: with hosts on this machine, or with hosts behind sshd."""
    if launcher == "local":
        hosts = [f"[hosts.{name}]\nlocal = true\ncapabilities = {offer}\n" for name, offer in case.hosts.items()]
        text = "".join(hosts)
    else:
        server: OpenSsh = request.getfixturevalue("sshd")
        text = server.inventory_file(case.hosts).read_text()
    path.write_text(case.shared + text)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", pytest.param("ssh", marks=pytest.mark.ssh)])
@pytest.mark.parametrize("name", CASES)
def test_a_program_runs(
    ledger: Ledger, name: str, launcher: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    case = CASES[name]
    for module in case.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[dev]'")
    program = (PROGRAMS / f"{name}.py").read_text()
    for old, new in case.changes.items():
        assert old in program
        program = program.replace(old, new.replace("FOLDER", str(tmp_path)))
    (tmp_path / f"{name}.py").write_text(program + case.driver)
    shutil.copy(PROGRAMS / "scoring.py", tmp_path)
    case.make(tmp_path)
    write_inventory(case, launcher, request, tmp_path / "hosts.toml")
    done = subprocess.run(
        [sys.executable, f"{name}.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    case.check(tmp_path, done.stdout)
