"""The project's modules, the files beside them and their metadata, in tasks and in the processes that tasks start.

Each function runs here first. Then the project's folder is moved away, so that the functions on hosts can use only what
has travelled.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from handout import Cluster, Graph, Host
from handout.events import TaskRetried
from handout.project import package, sources
from tests.project.files import write
from tests.seen import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PACKAGE = """
    import importlib.metadata, importlib.resources, inspect, json, os, pathlib, pkgutil, subprocess, sys
    HERE = pathlib.Path(__file__).parent

    def run(*argv):
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    def files(): return json.loads(importlib.resources.files("hoproject").joinpath("table.json").read_text())
    def files_of_a_folder(): return sorted(e.name for e in importlib.resources.files("hoproject.data").iterdir())
    def package_data(): return json.loads(pkgutil.get_data("hoproject", "data/more.json"))
    def beside(): return json.loads((HERE / "table.json").read_text()), (HERE / "data" / "x.bin").read_bytes()
    def glob(): return sorted(str(each.relative_to(HERE)) for each in HERE.rglob("*.json"))
    def where_the_code_is(): return json.loads((pathlib.Path(inspect.getfile(files)).parent / "table.json").read_text())
    def source(): return inspect.getsource(run)
    def program(): return run(str(HERE / "tool.sh"))
    def submodules(): return sorted(each.name for each in pkgutil.walk_packages([str(HERE)]))
    def version(): return importlib.metadata.version("hoproject")
    def entry_point():
        found, = importlib.metadata.entry_points(group="hoproject.plugins")
        return found.load()(3)
    def child(): return run(sys.executable, "-c", "import hoproject.helper as h; print(h.square(5), h.table())")
    def module_as_program(): return run(sys.executable, "-m", "hoproject.helper")
    def child_has_the_standard_module():
        return run(sys.executable, "-c", "import statistics; print(statistics.mean([4]))")
    def single(): import hoproject_single; return hoproject_single.text()
    def shadowing(): import statistics; return statistics.mean([4])
    def zipped(): import hoproject_zipped; return hoproject_zipped.text()
    def by_name(): return importlib.import_module("hoproject_plugin").NAME
"""
HELPER = """
    import pathlib
    def square(x): return x * x
    def table(): return (pathlib.Path(__file__).parent / "table.json").read_text()
    def pool(method):
        import multiprocessing
        with multiprocessing.get_context(method).Pool(2) as pool: return pool.map(square, range(3))
    def fails(): raise ValueError("on purpose")
    if __name__ == "__main__": print("as a program", table())
"""
#: The names of the functions in `PACKAGE`.
FUNCTIONS = re.findall(r"^    def (\w+)\(\):", PACKAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Write the project, import it, and return it."""
    folder = tmp_path_factory.mktemp("project")
    write(
        folder / "hoproject",
        "data/nothing.txt",
        **{
            "__init__.py": textwrap.dedent(PACKAGE).encode(),
            "helper.py": textwrap.dedent(HELPER).encode(),
            "table.json": b'{"a": 1}',
            "data/x.bin": bytes(range(256)),
            "data/more.json": b"[1, 2]",
            "tool.sh": b"#!/bin/sh\necho from a program\n",
        },
    )
    (folder / "hoproject" / "tool.sh").chmod(0o755)
    write(
        folder,
        **{
            "hoproject_single.py": b"import pathlib\ndef text(): return pathlib.Path(__file__).with_suffix('.txt').read_text()",
            "hoproject_single.txt": b"beside a single module",
            "hoproject_plugin.py": b"NAME = 'plugin'",
            "statistics.py": b"def mean(values): return 'own'",
            "hoproject-1.2.3.dist-info/METADATA": b"Metadata-Version: 2.1\nName: hoproject\nVersion: 1.2.3\n",
            "hoproject-1.2.3.dist-info/entry_points.txt": b"[hoproject.plugins]\nsquare = hoproject.helper:square\n",
        },
    )
    with zipfile.ZipFile(folder / "lib.zip", "w") as archive:
        archive.writestr("hoproject_zipped.py", "import hoproject_inside\ndef text(): return hoproject_inside.f()")
        inside = "import pkgutil\ndef f(): return pkgutil.get_data(__name__, 'x.txt')"
        archive.writestr("hoproject_inside/__init__.py", inside)
        archive.writestr("hoproject_inside/x.txt", "in a zip file")
    path, standard = list(sys.path), sys.modules.pop("statistics", None)
    sys.path[:0] = [str(folder), str(folder / "lib.zip")]
    importlib.invalidate_caches()
    try:
        yield importlib.import_module("hoproject")
    finally:
        sys.path[:] = path
        for name in [each for each in sys.modules if each.partition("_")[0].partition(".")[0] == "hoproject"]:
            del sys.modules[name]
        sys.modules.pop("statistics", None)
        if standard is not None:
            sys.modules["statistics"] = standard


def at_home(project: ModuleType, name: str) -> Any:
    if name in ("child", "module_as_program"):  # here, these need the project's folder as the working directory
        table = '{"a": 1}'
        return f"25 {table}" if name == "child" else f"as a program {table}"
    return getattr(project, name)()


async def test_functions_see_the_project_as_they_do_at_home(
    cluster: Cluster, project: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "handout")
    expected = {name: at_home(project, name) for name in FUNCTIONS}
    assert expected["shadowing"] == "own"
    assert expected["child_has_the_standard_module"] == "4"
    folder = Path(str(project.__file__)).parents[1]
    moved = folder.with_name("moved")
    helper = importlib.import_module("hoproject.helper")
    graph = Graph()
    graph.add(project.files, id="read the project")
    await cluster.execute(graph)
    folder.rename(moved)
    try:
        graph = Graph()
        for name in FUNCTIONS:
            graph.add(getattr(project, name), id=name)
        for method in ("fork", "spawn", "forkserver"):
            graph.add(helper.pool, method, id=method)
        results = await cluster.execute(graph, on_failure="continue")
    finally:
        moved.rename(folder)
    assert {id: str(failure) for id, failure in results.failures.items()} == {}
    assert {name: results[name] for name in FUNCTIONS} == expected
    assert [results[method] for method in ("fork", "spawn", "forkserver")] == [[0, 1, 4]] * 3


async def test_the_traceback_of_an_error_shows_the_callers_path_and_line(cluster: Cluster, project: ModuleType) -> None:
    helper = importlib.import_module("hoproject.helper")
    graph = Graph()
    graph.add(helper.fails, id="fails")
    with pytest.raises(ValueError, match="on purpose") as caught:
        await cluster.execute(graph)
    notes = "\n".join(caught.value.__notes__)
    assert f'File "{helper.__file__}", line' in notes
    assert 'raise ValueError("on purpose")' in notes


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
async def test_a_process_that_a_task_starts_has_the_functions_of_the_script(cluster: Cluster, method: str) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(
        textwrap.dedent("""
            SCALE, SEEN = None, []
            class Cube:
                def __init__(self, x): self.volume = SCALE * x ** 3
            def set_scale(scale):
                global SCALE
                SCALE = scale
                SEEN.append(scale)
            def cube(x):
                import __main__
                return Cube(x), SEEN, __main__.SCALE, __main__.SEEN is SEEN
            def pooled(method, n):
                import multiprocessing
                with multiprocessing.get_context(method).Pool(2, set_scale, [2]) as pool:
                    return [(each.volume, *more) for each, *more in pool.map(cube, range(n))]
        """),
        space,
    )
    graph = Graph()
    graph.add(space["pooled"], method, 3, id="pooled", timeout_s=60)
    assert (await cluster.execute(graph))["pooled"] == [(each, [2], 2, True) for each in (0, 2, 16)]


async def test_what_only_looks_for_the_file_of_the_script_writes_none(cluster: Cluster) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def look():\n    import __main__\n    return hasattr(__main__, '__file__')", space)
    graph = Graph()
    graph.add(space["look"], id="look")
    assert (await cluster.execute(graph))["look"] is False


async def test_an_unpacked_bundle_is_removed_when_no_run_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    folders = []
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        for version in range(3):
            write(tmp_path, **{f"hounpacked{version}.py": b"def where(): return __file__"})
            graph = Graph()
            graph.add(importlib.import_module(f"hounpacked{version}").where, id="where")
            folders.append(Path((await cluster.execute(graph))["where"]).parents[1])
        await until(lambda: [each.exists() for each in folders] == [False, False, True])
        assert os.stat(folders[-1].parent).st_mode & 0o777 == 0o700
        await until(lambda: not list(folders[-1].parent.glob("removed-*")))


async def test_a_changed_source_is_not_run_and_a_changed_file_is_read(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The sources change as by a ``git pull`` under a service whose cluster is open."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"hopulled{len(os.listdir(tmp_path.parent))}"  # each launcher has a package of its own
    source = f"""
        import pathlib
        def f():
            from {name} import lazy
            return "old", lazy.VALUE, pathlib.Path(__file__).with_name("data.txt").read_text()
    """
    old = {"__init__.py": textwrap.dedent(source).encode(), "lazy.py": b"VALUE = 'old'", "data.txt": b"old"}
    write(tmp_path / name, **old)
    function = importlib.import_module(name).f

    async def answer() -> Any:
        graph = Graph()
        graph.add(function, id="f")
        return (await cluster.execute(graph))["f"]

    assert await answer() == ("old", "old", "old")
    monkeypatch.setattr(package, "SOURCE_CHECK_S", 0.0)
    for known, _ in sources._known.packages.values():
        if known is not None:
            known._next_check_s = 0.0
    write(tmp_path / name, **{"__init__.py": b"def f(): pass", "lazy.py": b"VALUE = 'new'", "data.txt": b"new"})
    assert await answer() == ("old", "old", "new")
    assert sum("has changed since" in message for message in caplog.messages) == 2


async def test_a_package_of_pip_target_is_taken_from_the_same_folder_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, **{"hotarget/__init__.py": b"def where(): return __file__"})
    write(tmp_path / "hotarget-1.dist-info", RECORD=b"hotarget/__init__.py,,\n")
    tmp_path.chmod(0o755)
    monkeypatch.syspath_prepend(str(tmp_path))
    graph = Graph()
    graph.add(importlib.import_module("hotarget").where, id="where")
    async with Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        assert (await cluster.execute(graph))["where"] == str(tmp_path / "hotarget" / "__init__.py")


async def test_a_closure_that_imports_relatively_brings_its_package(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = b"""
def closure(n):
    def add(x):
        from .other import N
        return x + n + N
    return add
def local_class():
    class Adder:
        def add(self, x):
            from . import other
            return x + other.N
    return Adder().add
"""
    write(tmp_path, **{"horelative/__init__.py": source, "horelative/other.py": b"N = 10"})
    monkeypatch.syspath_prepend(str(tmp_path))
    package = importlib.import_module("horelative")
    graph = Graph()
    graph.add(package.closure(2), 1, id="closure")
    graph.add(package.local_class(), 1, id="method")
    results = await cluster.execute(graph)
    assert (results["closure"], results["method"]) == (13, 11)


MEET = """
    import os, time
    def meet(folder, me, count):
        # Wait until `count` tasks have begun, so that each of them has a worker of its own.
        open(f"{folder}/{count}-{me}", "x").close()
        while len([name for name in os.listdir(folder) if name.startswith(f"{count}-")]) < count:
            time.sleep(0.01)
        return __file__
"""


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(b"no zip file")], ids=["gone", "damaged"]
)
async def test_a_bundle_whose_file_vanishes_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, **{"hovanished.py": textwrap.dedent(MEET).encode()})
    (tmp_path / "met").mkdir()
    meet = importlib.import_module("hovanished").meet
    async with Cluster([Host.local("here", {"cpu": 2})]) as cluster:
        alone, both = Graph(), Graph()
        alone.add(meet, str(tmp_path / "met"), 0, 1, id="alone")
        unpacked = Path((await cluster.execute(alone))["alone"]).parents[1]
        (bundle,) = (
            file
            for file in Path("/dev/shm").glob(f"*/{int(unpacked.name):x}")
            if os.fsencode(unpacked.parents[1]) in (file.parent / ".lock").read_bytes()
        )
        shutil.rmtree(unpacked)
        damage(bundle)
        # More tasks than workers are ready when the first one notices that the bundle is gone.
        outs = both.map(meet, [str(tmp_path / "met")] * 9, range(9), [2] * 9)
        async with cluster.start(both) as execution:
            events = [event async for event in execution.events()]
            results = await execution.results()
    assert [Path(results[out]).name for out in outs] == ["hovanished.py"] * 9
    assert not [event for event in events if isinstance(event, TaskRetried)]
    assert not caplog.messages
