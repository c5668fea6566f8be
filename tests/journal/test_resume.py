"""Runs with a journal: a committed task never runs again, even if the program that committed it was killed."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, Graph, Host
from handout.errors import HandoutError, JournalError, OutcomeUnknownError
from handout.journal import read
from tests import work
from tests.journal import tasks
from tests.patience import HANG_S
from tests.sshd import OpenSsh

pytestmark = pytest.mark.usefixtures("ledger_of_loop")

ROOT = Path(__file__).parent.parent.parent
HERE = [Host.local("here", {"cpu": 1})]


def run_program(folder: Path, when: int, results: str = "all") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tests/journal/program.py"), str(folder), str(when), results],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )


def ran(folder: Path) -> list[str]:
    path = folder / "ran"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("when", range(1, 9))
def test_row_25_killed_at_any_commit_no_committed_task_runs_again(tmp_path: Path, when: int) -> None:
    killed = run_program(tmp_path, when)
    if killed.returncode == 0:
        # The program ended by itself: on a busy machine more tasks end between two commits, so it makes fewer of them.
        assert when > 2, killed.stderr
    else:
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    committed = {task.id for task in read(tmp_path / "run.db").tasks if task.nbytes is not None}
    (tmp_path / "ran").unlink(missing_ok=True)
    again = run_program(tmp_path, 0)
    assert again.stdout == "15 True 10\n", again.stderr
    assert not committed & {id for id in ran(tmp_path) if id.startswith("part")}
    runs = read(tmp_path / "run.db").runs
    assert runs[-1].outcome == "done"
    assert runs[-1].reused >= len(committed)


def test_with_outputs_alone_a_whole_run_is_not_run_again_and_a_killed_one_makes_again_what_it_needs(
    tmp_path: Path,
) -> None:
    assert run_program(tmp_path, 0, "outputs").stdout == "15 True 10\n"
    kept = {task.id for task in read(tmp_path / "run.db").tasks if task.nbytes is not None}
    assert kept == {"all", "part-9"}
    (tmp_path / "ran").unlink()
    assert run_program(tmp_path, 0, "outputs").stdout == "15 True 10\n"
    assert ran(tmp_path) == []


class Counted:
    """Runs graphs one after the other with one journal, and returns which tasks of each graph ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def __call__(self, build: Callable[[Graph], Any], **options: Any) -> tuple[list[str], handout.Results]:
        graph = Graph()
        build(graph)
        results = await handout.execute(graph, inventory=HERE, journal=self.path, **options)
        story = read(self.path)
        return sorted(task.id for task in story.tasks if task.run == story.runs[-1].number), results


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(tmp_path / "run.db")


def sums(graph: Graph, first: int = 1, more: bool = False) -> None:
    a = graph.add(work.add, first, 1, id="a")
    b = graph.add(work.add, 5, 1, id="b")
    if more:
        graph.add(work.add, b, 3, id="new")
    graph.add(work.total, [a, b], id="sum")


async def test_a_changed_argument_runs_what_depends_on_it_and_a_grown_graph_what_is_new(counted: Counted) -> None:
    first, results = await counted(sums)
    assert first == ["a", "b", "sum"]
    assert results["sum"] == 8
    assert (await counted(sums))[0] == []
    changed, results = await counted(lambda g: sums(g, 2))
    assert changed == ["a", "sum"]
    assert results["sum"] == 9
    grown, results = await counted(lambda g: sums(g, more=True))
    assert grown == ["new"]
    assert results["new"] == 9
    assert [run.reused for run in read(counted.path).runs] == [0, 3, 1, 3]


async def test_a_changed_function_runs_anew(counted: Counted) -> None:
    def build(source: str) -> Callable[[Graph], Any]:
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(source, space)
        return lambda graph: graph.add(work.add, graph.add(space["f"], 2, id="f"), 1, id="g")

    assert (await counted(build("def f(x): return x * 2")))[1]["g"] == 5
    started, results = await counted(build("def f(x):\n    # the same\n    return x * 2"))
    assert (started, results["g"]) == ([], 5)
    started, results = await counted(build("def f(x): return x * 3"))
    assert (started, results["g"]) == (["f", "g"], 7)


async def test_after_a_failure_only_what_has_no_result_is_run(counted: Counted, tmp_path: Path) -> None:
    def build(graph: Graph) -> None:
        a = graph.add(work.add, 1, 1, id="a")
        f = graph.add(tasks.fails_once, str(tmp_path / "flag"), id="f")
        graph.add(work.add, a, f, id="sum")

    _, results = await counted(build, on_failure="continue")
    assert set(results.failures) == {"f", "sum"}
    (attempt,) = read(counted.path).attempts
    assert (attempt.id, attempt.outcome) == ("f", "raised")
    assert "the first time" in attempt.error
    started, results = await counted(build)
    assert started == ["f", "sum"]
    assert results["sum"] == 9


async def test_elements_of_a_committed_result_are_there_again(counted: Counted) -> None:
    def build(graph: Graph) -> None:
        pair = graph.add(divmod, 7, 2, id="pair")
        graph.add(work.add, pair[0], 10, id="more")

    assert (await counted(build))[1]["more"] == 13
    assert (await counted(build))[0] == []


ONCE = """
import asyncio, sys
from dataclasses import replace
from handout import Cluster, Graph, Host
from handout.transport.timings import Timings
from tests.journal.tasks import wait_forever

# The lease does not end while the program lives, even on a busy machine.
QUICK = replace(Timings().scaled(0.1), host_timeout_s=5.0, linger_s=0.1)

async def main():
    graph = Graph()
    graph.add(wait_forever, sys.argv[1], id="once", idempotent=False)
    async with Cluster([Host.local("here", {"cpu": 1})], timings=QUICK) as cluster:
        await cluster.execute(graph, journal=sys.argv[1] + "/run.db")

asyncio.run(main())
"""


async def test_what_must_not_run_twice_is_not_run_again_after_a_crash(tmp_path: Path) -> None:
    program = subprocess.Popen([sys.executable, "-c", ONCE, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        async with asyncio.timeout(HANG_S):
            while not (tmp_path / "began").exists():
                await asyncio.sleep(0.005)
    finally:
        program.kill()
        program.wait()
    graph = Graph()
    graph.add(tasks.wait_forever, str(tmp_path), id="once", idempotent=False)
    for _ in range(2):  # the second try is refused as well
        with pytest.raises(
            OutcomeUnknownError, match=r"'once' was lost on host 'here' \(an earlier run did not see it end\)"
        ):
            await handout.execute(graph, inventory=HERE, journal=tmp_path / "run.db")


async def test_what_must_not_run_twice_and_ended_is_reused(counted: Counted) -> None:
    def build(graph: Graph) -> None:
        graph.add(work.add, graph.add(work.add, 1, 2, id="once", idempotent=False), 1, id="after")

    first, _ = await counted(build, journal_results="outputs")
    assert first == ["after", "once"]
    again, results = await counted(build, journal_results="outputs")
    assert again == []
    assert results["after"] == 4
    assert read(counted.path).attempts == []


async def test_marked_otherwise_since_it_runs_again(tmp_path: Path) -> None:
    """A failure ends the task "first" in the middle, so its outcome is unknown. The task "second" had not begun."""
    path = tmp_path / "ran"

    def build(idempotent: bool) -> Graph:
        graph = Graph()
        graph.add(tasks.waits_then_fails, str(tmp_path / "first.began"), id="fails")
        graph.add(tasks.gated, str(tmp_path), "first", id="first", idempotent=idempotent)
        graph.add(tasks.noted, str(path), "second", id="second", idempotent=idempotent)
        return graph

    async def go(idempotent: bool, **options: Any) -> handout.Results:
        hosts = [Host.local("here", {"cpu": 2})]
        journal = tmp_path / "run.db"
        return await handout.execute(build(idempotent), inventory=hosts, journal=journal, **options)

    with pytest.raises(ValueError, match="as told"):
        await go(False)
    (tmp_path / "first.go").touch()
    results = await go(False, on_failure="continue")
    assert [results.failures[id].kind for id in ("fails", "first")] == ["raised", "host"]
    assert isinstance(results.failures["first"].exception, OutcomeUnknownError)
    assert "mark it idempotent=True" in str(results.failures["first"].exception)
    assert path.read_text() == "second\n"
    results = await go(True, on_failure="continue")
    assert set(results.failures) == {"fails"}
    assert path.read_text() == "second\n"
    assert [each for each in read(tmp_path / "run.db").attempts if each.outcome == "started"] == []


async def test_what_must_not_run_twice_and_was_killed_for_its_time_is_not_run_again(tmp_path: Path) -> None:
    graph = Graph()
    graph.add(tasks.wait_forever, str(tmp_path), id="once", idempotent=False, timeout_s=0.3, retries=1)
    with pytest.raises(handout.TaskTimeoutError):
        await handout.execute(graph, inventory=HERE, journal=tmp_path / "run.db")
    with pytest.raises(OutcomeUnknownError, match="attempt 1"):
        await handout.execute(graph, inventory=HERE, journal=tmp_path / "run.db")


async def test_what_must_not_run_twice_and_would_not_be_recognized_is_refused(tmp_path: Path) -> None:
    """The task takes the result of `tasks.drawn`, which reads a generator. A later run cannot recognize a generator."""
    graph = Graph()
    made = graph.add(tasks.drawn, id="made")
    graph.add(work.add, made, 2, id="once", idempotent=False)
    with pytest.raises(JournalError, match="'once' is marked idempotent=False and would not be recognized"):
        await handout.execute(graph, inventory=HERE, journal=tmp_path / "run.db")
    assert (await handout.execute(graph, inventory=HERE))["once"] == 5


async def test_a_journals_results_are_held_within_max_memory(tmp_path: Path) -> None:
    """The first run commits more bytes than it may hold. The second run reads only the results that it needs."""

    def build(more: bool) -> Graph:
        graph = Graph()
        out = graph.add(work.blob, 60_000)
        for _ in range(10):
            out = graph.add(tasks.same, out)
        out = graph.add(work.length, out, id="length")
        if more:
            graph.add(work.add, out, 1, id="more")
        return graph

    for more, limit in ((False, 130_000), (True, 100)):
        started = handout.start(build(more), inventory=HERE, journal=tmp_path / "run.db", max_memory=130_000)
        async with started as execution:
            results = await execution.results()
            assert results["more" if more else "length"] == 60_000 + more
            assert execution._run is not None
            assert execution._run.objects.nbytes <= limit
    assert sum(task.nbytes or 0 for task in read(tmp_path / "run.db").tasks) > 600_000


async def test_outputs_of_a_resumed_run_are_held_within_max_memory(tmp_path: Path) -> None:
    graph = Graph()
    parts = graph.map(work.blob, [60_000, 60_001, 60_002, 200_000])
    for _ in range(2):
        journal = tmp_path / "run.db"
        async with handout.start(graph, inventory=HERE, journal=journal, max_memory=130_000) as execution:
            results = await execution.results()
            assert execution._run is not None
            assert execution._run.objects.nbytes <= 130_000
        assert [len(results[part]) for part in parts] == [60_000, 60_001, 60_002, 200_000]


async def test_texts_that_are_no_unicode_are_recorded(tmp_path: Path) -> None:
    graph = Graph()
    graph.add(tasks.raises_bytes, b"file \xff", id="task \udcff")
    for _ in range(2):
        with pytest.raises(ValueError, match="file \udcff"):
            async with asyncio.timeout(HANG_S):
                await handout.execute(graph, inventory=HERE, journal=tmp_path / "run.db")
    assert [(each.id, each.error) for each in read(tmp_path / "run.db").attempts] == [
        ("task \\udcff", "file \\udcff")
    ] * 2


async def test_runs_of_a_shared_cluster_are_told_apart_from_what_the_journal_knows(tmp_path: Path) -> None:
    """In the journal, run 1 is the first run of ``quick``. In the second cluster, run 1 is the run of ``slow``."""
    (quick, slow), journal = (Graph(), Graph()), tmp_path / "run.db"
    five = quick.add(work.add, 2, 3)
    held = slow.add(tasks.gated, str(tmp_path), "slow")
    async with Cluster(HERE) as cluster:
        await cluster.execute(quick, journal=journal)
    async with Cluster([Host.local("here", {"cpu": 2})]) as cluster, cluster.start(slow) as execution:
        assert (await cluster.execute(quick, journal=journal))[five] == 5
        (tmp_path / "slow.go").touch()
        async with asyncio.timeout(HANG_S):
            assert (await execution.results())[held] == "slow"


async def test_more_large_results_than_files_may_be_open_are_taken_up_again(tmp_path: Path) -> None:
    graph = Graph()
    parts = graph.map(work.blob, range(70_000, 70_100))
    total = graph.add(work.total, [graph.add(work.length, part) for part in parts])
    for _ in range(2):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
        try:
            results = await handout.execute(graph, inventory=HERE, journal=tmp_path / "run.db", outputs=[total, *parts])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert results[total] == sum(range(70_000, 70_100))
        assert [len(each) for each in results[parts]] == list(range(70_000, 70_100))


async def test_results_of_a_host_that_has_another_name_now_are_what_they_were(counted: Counted) -> None:
    """The second inventory does not have the host, so the trust that the host had at the commit counts."""
    graph = Graph()
    box = graph.add(tasks.Box, 3)
    for name in ("one", "other"):
        hosts = [Host.local(name, {"cpu": 1})]
        results = await handout.execute(graph, inventory=hosts, journal=counted.path)
        assert results[box].value == 3
        assert results.allocations[box] == "one"


async def test_results_of_a_resumed_run_do_not_need_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run names the journal by a link, and both runs go on in another working directory.

    Both use the same files, and return no results but their outputs.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to("run.db")
    graph = Graph()
    small = graph.add(work.add, 1, 2)
    large = graph.add(work.blob, 200_000)
    total = graph.add(work.add, small, graph.add(work.length, large))
    for path in ("run.db", "link.db"):
        async with handout.start(graph, inventory=HERE, journal=path, outputs=[large, total]) as execution:
            monkeypatch.chdir("/")
            results = await execution.results()
        monkeypatch.chdir(tmp_path)
        assert small not in results
    assert sorted(each.name for each in tmp_path.iterdir() if each.suffix != ".py") == [
        "link.db", "run.db", "run.db-lock", "run.db.objects"]  # fmt: skip
    for each in tmp_path.glob("run.db*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    assert (len(results[large]), results[total]) == (200_000, 200_003)


async def test_a_result_that_is_made_again_is_committed(tmp_path: Path) -> None:
    """The first run committed the end of the task without its result, because the result was not an output."""
    ran = tmp_path / "ran"
    graph = Graph()
    one = graph.add(tasks.noted, str(ran), "one")
    two = graph.add(work.length, one)
    for outputs in ([two], [one, two], [one, two]):
        await handout.execute(
            graph, inventory=HERE, journal=tmp_path / "run.db", journal_results="outputs", outputs=outputs
        )
    assert ran.read_text().split() == ["one", "one"]


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("max_memory", [1 << 30, 0])
async def test_a_damaged_result_runs_anew_and_only_this_result(
    tmp_path: Path, max_memory: int, caplog: pytest.LogCaptureFixture
) -> None:
    ran = tmp_path / "ran"
    graph = Graph()
    large, small = graph.add(tasks.noted_blob, str(ran), "large", 100_000), graph.add(tasks.noted, str(ran), "small")
    journal = tmp_path / "run.db"

    async def run() -> tuple[bytes, str]:
        results = await handout.execute(graph, inventory=HERE, journal=journal, max_memory=max_memory)
        return results[large], results[small]

    first = await run()
    (file,) = (tmp_path / "run.db.objects").iterdir()
    flip(file, 50_000)
    assert await run() == first
    assert ran.read_text().split() == ["large", "small", "large"]
    assert "The result of task 'noted_blob' in the journal" in caplog.text
    assert await run() == first  # the file is whole again
    assert ran.read_text().split() == ["large", "small", "large"]
    flip(journal, journal.read_bytes().rindex(b"small"))
    assert await run() == first
    assert ran.read_text().split() == ["large", "small", "large", "small"]
    file.unlink()
    os.mkfifo(file)  # to open it would wait without end
    assert "files of results" not in caplog.text
    assert await run() == first
    assert f"1 files of results are missing, or do not have their sizes: {file}." in caplog.text
    assert ran.read_text().split() == ["large", "small", "large", "small", "large"]


async def test_many_files_of_results_that_are_gone_are_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = Graph()
    outputs = [graph.add(work.blob, 70_000 + i) for i in range(5)]
    journal = tmp_path / "run.db"
    await handout.execute(graph, inventory=HERE, journal=journal)
    for file in (tmp_path / "run.db.objects").iterdir():
        file.unlink()
    results = await handout.execute(graph, inventory=HERE, journal=journal)
    assert [len(results[output]) for output in outputs] == [70_000 + i for i in range(5)]
    (warning,) = [record.getMessage() for record in caplog.records if "files of results" in record.getMessage()]
    assert "5 files of results" in warning
    assert warning.count(str(tmp_path / "run.db.objects")) == 3
    assert " and 2 more. If" in warning


@pytest.mark.parametrize("nbytes", [100, 100_000, 3_000_000])
async def test_a_damaged_result_that_a_task_takes_is_made_again(
    tmp_path: Path, nbytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The first run fails after it has committed an intermediate result. The second run takes this result."""
    ran = tmp_path / "ran"
    graph = Graph()
    made = graph.add(tasks.noted_blob, str(ran), "made", nbytes)
    two = graph.add(tasks.length_or_fail, made, str(tmp_path / "go"))
    three = graph.add(work.length, made)
    journal = tmp_path / "run.db"
    results = await handout.execute(graph, inventory=HERE, journal=journal, on_failure="continue")
    assert set(results.failures) == {"length_or_fail"}
    if nbytes > 65_536:
        (file,) = (tmp_path / "run.db.objects").iterdir()
        flip(file, nbytes // 2)
    else:
        flip(journal, journal.read_bytes().rindex(b"x" * 50))
    results = await handout.execute(graph, inventory=HERE, journal=journal)
    assert (results[two], results[three]) == (nbytes, nbytes)
    assert ran.read_text().split() == ["made", "made"]
    assert "The result of task 'noted_blob' is made again, because it cannot be read" in caplog.text


async def test_a_damaged_journal_does_not_let_a_task_run_twice_that_must_not(tmp_path: Path) -> None:
    ran, journal = tmp_path / "ran", tmp_path / "run.db"
    graph = Graph()
    once = graph.add(tasks.noted_blob, str(ran), "once", 100_000, id="once", idempotent=False)
    await handout.execute(graph, inventory=HERE, journal=journal)
    (file,) = (tmp_path / "run.db.objects").iterdir()
    flip(file, 50_000)
    with pytest.raises(OutcomeUnknownError, match="the result of task 'once' was lost"):
        (await handout.execute(graph, inventory=HERE, journal=journal))[once]
    flip(journal, journal.read_bytes().rindex(file.name.encode()))
    with pytest.raises(JournalError, match=r"1 records of results do not match .* all tasks then run anew, also"):
        await handout.execute(graph, inventory=HERE, journal=journal)
    assert ran.read_text().split() == ["once"]


@pytest.mark.parametrize("table", ["runs", "agents", "classes", "starts"])
async def test_a_damaged_record_costs_at_most_what_it_is_about(
    tmp_path: Path, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    ran, journal = tmp_path / "ran", tmp_path / "run.db"
    graph = Graph()
    graph.add(tasks.noted, str(ran), "often")
    await handout.execute(graph, inventory=HERE, journal=journal)
    rows = {
        "agents": "INSERT INTO agents VALUES ('gone', 'token', '{}', x'00')",
        "classes": "INSERT INTO classes VALUES ('o', 1, 'm', 'A', x'00')",
        "starts": "INSERT INTO starts VALUES (x'00', 1, 'once', 'here', 1, 1, x'00')",
        "runs": "UPDATE runs SET checksum = x'00'",
    }
    with closing(sqlite3.connect(journal)) as database, database:
        database.execute(rows[table])
    await handout.execute(graph, inventory=HERE, journal=journal)
    assert ran.read_text().split() == (["often", "often"] if table == "runs" else ["often"])
    assert (f"1 records of {table} cannot be used" in caplog.text) == (table != "starts")
    graph.add(tasks.noted, str(ran), "once", id="once", idempotent=False)
    if table in ("runs", "starts"):
        with pytest.raises(JournalError, match=f"1 records of {table} do not match"):
            await handout.execute(graph, inventory=HERE, journal=journal)
    else:
        await handout.execute(graph, inventory=HERE, journal=journal)
        assert ran.read_text().split() == ["often", "once"]


async def test_a_damaged_file_of_a_result_is_told_to_the_caller_by_name(tmp_path: Path) -> None:
    graph = Graph()
    large = graph.add(work.blob, 100_000)
    results = await handout.execute(graph, inventory=HERE, max_memory=0)
    file = results._run.objects.file(0)
    assert file is not None
    flip(file.path, 50_000)
    with pytest.raises(handout.DamagedFileError, match=r"task 'blob' .* its bytes are not those that were written"):
        results[large]
    file.path.unlink()
    with pytest.raises(handout.DamagedFileError, match=r"task 'blob' .* is damaged: the file is not there") as caught:
        results[large]
    assert (caught.value.path, caught.value.id) == (str(file.path), "blob")
    del caught  # its traceback would keep the results


async def test_a_journal_that_is_full_ends_the_run_when_that_is_seen(tmp_path: Path) -> None:
    graph = Graph()
    graph.add(tasks.wait_forever, str(tmp_path))
    graph.add(os.urandom, 60_000, id="some")
    hosts = [Host.local("here", {"cpu": 2})]
    async with handout.start(graph, inventory=hosts, journal=tmp_path / "run.db") as execution:
        assert execution._recorder is not None
        execution._recorder._journal._database.execute("PRAGMA max_page_count=1")
        with pytest.raises(JournalError, match=r"full.*If results were committed, a later run"):
            async with asyncio.timeout(HANG_S):
                await execution.results()
        assert len(await execution.result("some")) == 60_000


async def test_two_runs_at_once_do_not_share_a_journal(tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.add, 1, 2)
    async with Cluster(HERE) as cluster:
        async with cluster.start(graph, journal=tmp_path / "run.db") as execution:
            with pytest.raises(JournalError, match="in use"):
                await cluster.execute(graph, journal=tmp_path / "run.db")
            await execution.results()
        await cluster.execute(graph, journal=tmp_path / "run.db")


async def test_a_journal_that_cannot_be_written_ends_the_run_by_name(tmp_path: Path) -> None:
    (tmp_path / "run.db.objects").write_text("in the way of large results")
    graph = Graph()
    graph.add(os.urandom, 200_000)
    with pytest.raises(JournalError, match="cannot be used"):
        await handout.execute(graph, inventory=HERE, journal=tmp_path / "run.db")


async def test_wrong_values_are_refused_before_anything_runs(tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.add, 1, 2)
    for options in ({"journal": 3}, {"journal": tmp_path / "j", "journal_results": "some"}):
        with pytest.raises(HandoutError, match="is not"):
            await handout.execute(graph, inventory=HERE, **options)  # type: ignore[arg-type]


async def test_over_sshd_a_second_run_takes_everything_from_the_journal(sshd: OpenSsh, tmp_path: Path) -> None:
    graph = Graph()
    parts = [graph.add(work.blob, n * 100_000) for n in range(1, 4)]
    total = graph.add(work.total, [graph.add(work.length, part) for part in parts])
    hosts = [sshd.host("a", {"cpu": 1}), sshd.host("b", {"cpu": 1})]
    first = await handout.execute(graph, inventory=hosts, journal=tmp_path / "run.db", outputs=[total, *parts])
    again = await handout.execute(graph, inventory=hosts, journal=tmp_path / "run.db", outputs=[total, *parts])
    assert again[total] == first[total] == 600_000
    assert again[parts] == first[parts]
    assert [run.reused for run in read(tmp_path / "run.db").runs] == [0, 7]
