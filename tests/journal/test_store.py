"""The file of a journal: commits are found again, other files are refused, and only one run writes at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import random
import sqlite3
import stat
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from handout.errors import DamagedFileError, JournalError
from handout.journal import (
    AttemptStart,
    ClassName,
    CommittedTask,
    Journal,
    ResultBatch,
    checksums,
    opening,
    read,
    writer,
)
from handout.journal.object_files import ObjectFile, ObjectFolder
from handout.journal.tables import FORMAT
from tests.patience import HANG_S

ONE, TWO = b"1" * 16, b"2" * 16


def written(path: Path) -> Journal:
    """Return an open journal with one run of two results, a small one and a large one."""
    journal = Journal(path)
    journal.begin_run(["one", "two"], [ONE, TWO], 0, 1, [ClassName("o", 1, "__main__", "A")])
    journal.commit(ResultBatch("h1", "", False, [0], [1], [5], [b"small"]))
    journal.commit_file(ResultBatch("h2", "", False, [1], [3], [70_010]), [b"x" * 70_000, memoryview(b"y" * 10)])
    finish(journal)
    return journal


def loaded(journal: Journal, known: dict[bytes, CommittedTask]) -> dict[bytes, dict[str, bytes]]:
    """Return the committed bytes by identity and part, and check that `read_part` returns the same bytes."""
    parts = [part for committed in known.values() for part in committed.parts.values()]
    journal.load_parts(parts, 1 << 30)
    assert all(journal.read_part(part) == part.data for part in parts if part.file is None)
    return {i: {name: part.data or b"" for name, part in each.parts.items()} for i, each in known.items()}


def finish(journal: Journal, outcome: str = "done") -> Exception | None:
    told: list[Exception | None] = []
    event = threading.Event()

    def then(error: Exception | None) -> None:
        told.append(error)
        event.set()

    journal.end_run(outcome, then)
    assert event.wait(HANG_S)
    return told[0]


def test_the_next_run_finds_what_was_committed(tmp_path: Path) -> None:
    written(tmp_path / "run.db").close()
    journal = Journal(tmp_path / "run.db")
    known = journal.committed([ONE, TWO, b"3" * 16])
    assert set(known) == {ONE, TWO}
    assert known[ONE].host == "h1"
    assert loaded(journal, known)[ONE] == {"": b"small"}
    large = known[TWO].parts[""]
    assert large.file is not None
    assert large.file.read_bytes() == b"x" * 70_000 + b"y" * 10
    assert journal.classes() == [ClassName("o", 1, "__main__", "A")]
    journal.close()
    journal.close()


def test_only_the_user_can_read_the_files(tmp_path: Path) -> None:
    written(tmp_path / "run.db").close()
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((tmp_path / "run.db.objects").stat().st_mode) == 0o700


def test_a_journal_in_use_is_refused_and_can_be_read(tmp_path: Path) -> None:
    journal = written(tmp_path / "run.db")
    with pytest.raises(JournalError, match="in use by another run"):
        Journal(tmp_path / "run.db")
    assert [task.id for task in read(tmp_path / "run.db").tasks] == ["one", "two"]
    journal.close()
    Journal(tmp_path / "run.db").close()


def test_another_format_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "run.db").close()
    with sqlite3.connect(tmp_path / "run.db") as database:
        database.execute(f"PRAGMA user_version={FORMAT + 1}")
    database.close()
    for opened in (Journal, read):
        with pytest.raises(JournalError, match=f"has format {FORMAT + 1}"):
            opened(tmp_path / "run.db")


@pytest.mark.parametrize("content", [b"a,b\n1,2\n" * 200, b"SQLite format 3\0" + b"\xff" * 4000])
def test_what_is_no_journal_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    for opened in (Journal, read):
        with pytest.raises(JournalError, match="not a journal"):
            opened(path)
    assert path.read_bytes() == content


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE orders (n)")
    database.close()
    with pytest.raises(JournalError, match="another program"):
        Journal(tmp_path / "other.db")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="No such file or directory"):
        Journal(tmp_path / "no" / "run.db")
    with pytest.raises(JournalError, match="There is no journal"):
        read(tmp_path / "run.db")


def test_starts_that_were_not_cleared_are_found(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.db")
    journal.begin_run(["one", "two"], [ONE, TWO], 0, 1, [])
    there = threading.Event()
    journal.record_starts(
        [AttemptStart(ONE, "one", "h1", 1, 1), AttemptStart(TWO, "two", "h2", 1, 1)], lambda error: there.set()
    )
    assert there.wait(HANG_S)
    journal.clear_starts([TWO])
    journal.close()
    journal = Journal(tmp_path / "run.db")
    assert journal.open_starts([ONE, TWO]) == {ONE: ("h1", 1, 1)}
    journal.close()
    (attempt,) = read(tmp_path / "run.db").attempts
    assert (attempt.id, attempt.outcome) == ("one", "started")


def test_a_cancelled_start_leaves_the_start_of_a_later_attempt(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.db")
    journal.begin_run(["one", "two"], [ONE, TWO], 0, 1, [])
    journal.record_starts(
        [AttemptStart(ONE, "one", "h1", 2, 2), AttemptStart(TWO, "two", "h1", 1, 1)], lambda error: None
    )
    journal.cancel_starts([(ONE, 1), (TWO, 1)])
    journal.close()
    journal = Journal(tmp_path / "run.db")
    assert journal.open_starts([ONE, TWO]) == {ONE: ("h1", 2, 2)}
    journal.close()


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_torn_tail_costs_only_what_was_in_it(tmp_path: Path, cut: int) -> None:
    """A crash can leave a write-ahead log whose end is missing."""
    journal = written(tmp_path / "run.db")
    torn = tmp_path / "torn.db"
    for suffix in ("", "-wal"):
        (tmp_path / f"torn.db{suffix}").write_bytes((tmp_path / f"run.db{suffix}").read_bytes())
    journal.close()
    log = tmp_path / "torn.db-wal"
    os.truncate(log, log.stat().st_size - cut)
    again = Journal(torn)
    known = loaded(again, again.committed([ONE, TWO]))
    again.close()
    assert set(known) <= {ONE, TWO}
    assert known.get(ONE, {"": b"small"}) == {"": b"small"}


def test_a_result_whose_file_is_gone_or_cut_is_not_committed(tmp_path: Path) -> None:
    written(tmp_path / "run.db").close()
    (file,) = (tmp_path / "run.db.objects").iterdir()
    content = file.read_bytes()
    for damage in (content[:5], content + b"x", None):
        file.unlink() if damage is None else file.write_bytes(damage)
        journal = Journal(tmp_path / "run.db")
        assert journal.committed([ONE, TWO])[TWO].parts == {}
        assert journal.damaged_files == [file]
        assert journal.committed([ONE])[ONE].parts
        assert journal.damaged_files == []  # the file of a task that is not looked for is not damage
        journal.close()


def test_a_journal_that_cannot_be_written_says_so_once_and_commits_nothing_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.db")
    journal.begin_run(["one", "two"], [ONE, TWO], 0, 1, [])
    (tmp_path / "run.db.objects").write_text("in the way")
    journal.commit_file(ResultBatch("h", "", False, [1], [1], [100_000]), [b"x" * 100_000])
    journal.commit(ResultBatch("h", "", False, [0], [1], [5], [b"small"]))
    error = finish(journal)
    assert isinstance(error, JournalError)
    assert "cannot be used" in str(error)
    journal.close()
    assert read(tmp_path / "run.db").tasks == []


def test_tasks_that_ended_together_are_one_row_and_each_is_found(tmp_path: Path) -> None:
    """The last record of a task counts. Size -1 records that the task has ended, without its result."""
    identities = [bytes([i]) * 16 for i in range(4)]
    journal = Journal(tmp_path / "run.db")
    journal.begin_run([f"t{i}" for i in range(4)], identities, 0, 1, [])
    journal.commit(ResultBatch("a", "", False, [3, 0, 1], [1, 1, 2], [2, -1, 3], [b"33", b"111"]))
    journal.commit(ResultBatch("b", "[0]", False, [0], [1], [0], [b""]))
    journal.commit(ResultBatch("b", "", True, [3], [2], [4], [b"3333"]))
    journal.close()
    journal = Journal(tmp_path / "run.db")
    known = journal.committed(identities)
    data = loaded(journal, known)
    journal.close()
    assert {identities.index(identity): parts for identity, parts in data.items()} == {
        0: {"[0]": b""}, 1: {"": b"111"}, 3: {"": b"3333"}}  # fmt: skip
    last = known[identities[3]].parts[""]
    assert (last.host, last.data_only) == ("b", True)
    assert [(t.id, t.host, t.attempt, t.nbytes) for t in read(tmp_path / "run.db").tasks] == [
        ("t0", "a", 1, None), ("t1", "a", 2, 3), ("t3", "b", 2, 4)]  # fmt: skip


def test_what_a_killed_program_was_writing_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run.db.objects"
    folder.mkdir()
    for name in ("new-abc", "0" * 40):
        (folder / name).write_text("x")
    Journal(tmp_path / "run.db").close()
    assert [path.name for path in folder.iterdir()] == ["0" * 40]


def test_agents_are_known_until_they_have_ended(tmp_path: Path) -> None:
    journal = written(tmp_path / "run.db")
    for host in ("h1", "h2"):
        journal.record_agent(host, "token", "{}")
    journal.forget_agent("h1")
    journal.close()
    journal = Journal(tmp_path / "run.db")
    assert journal.left_agents() == [("h2", "token", "{}")]
    journal.close()


@pytest.mark.parametrize("path", ["", "/", ".", "a\0b"])
def test_what_is_no_path_of_a_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JournalError):
        Journal(path)


def test_a_damaged_journal_is_told_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    written(path).close()
    with sqlite3.connect(path) as database:
        (size,) = database.execute("PRAGMA page_size").fetchone()
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'results'").fetchone()
    database.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    journal = Journal(path)
    with pytest.raises(JournalError, match=r"cannot be read: .*The file is damaged"):
        journal.committed([ONE])
    journal.close()


def test_damage_that_is_found_when_the_journal_is_opened_or_written_is_told_as_damage(tmp_path: Path) -> None:
    error = sqlite3.DatabaseError("database disk image is malformed")
    assert "The file is damaged" in opening.of_error(tmp_path / "run.db", error).remedy
    full = sqlite3.OperationalError("database or disk is full")
    assert "free space" in opening.of_error(tmp_path / "run.db", full).remedy


def test_a_journal_that_has_lost_its_contents_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.db"
    written(path).close()
    path.write_bytes(b"")
    for _ in range(2):
        Journal(path).close()
    (message,) = caplog.messages
    assert "run.db is empty, although its folder" in message


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE results SET tasks = '[1'",
        f"UPDATE results SET tasks = '{'[' * 100_000}'",
        "UPDATE results SET run = 77",
        "UPDATE results SET host = CAST(x'ff' AS TEXT)",
        "UPDATE runs SET identities = 'text'",
        "UPDATE ends SET outcome = 'failed'",
        "UPDATE starts SET host = 'h8'",
        "UPDATE attempts SET error = ''",
    ],
    ids=["json", "nested", "run", "text", "identities", "ends", "starts", "attempts"],
)
def test_a_damaged_row_is_told_by_name_to_a_reader(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.db"
    journal = written(path)
    journal.record_failure("one", "h1", 1, "raised", "text")
    journal.record_starts([AttemptStart(ONE, "one", "h1", 1, 1)], lambda error: None)
    journal.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(damage)
    with pytest.raises(
        JournalError, match=r"is damaged: a row of the table '\w+' does not match its checksum"
    ) as caught:
        read(path)
    assert "Reading has not changed the file. Run the graph again with this journal" in caught.value.remedy


@pytest.mark.parametrize(
    "damage",
    [
        f"UPDATE results SET sizes = '[{2**63}]' WHERE file IS NULL",
        "UPDATE results SET tasks = '[1]' WHERE file IS NULL",
        "UPDATE results SET crcs = '[0]' WHERE file IS NULL",
        "UPDATE results SET host = 'h8' WHERE file IS NULL",
        "UPDATE results SET run = 77 WHERE file IS NULL",
    ],
    ids=["sizes", "tasks", "crcs", "host", "run"],
)
def test_the_tasks_of_a_damaged_row_are_not_committed(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.db"
    written(path).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(damage)
    journal = Journal(path)
    assert set(journal.committed([ONE, TWO])) == {TWO}
    assert journal.damaged_rows == {"runs": 0, "results": 1}
    journal.close()


@pytest.mark.parametrize("table", ["runs", "agents", "classes", "starts"])
def test_a_damaged_row_of_another_table_is_left_out_alone(tmp_path: Path, table: str) -> None:
    path = tmp_path / "run.db"
    journal = written(path)
    journal.record_agent("h1", "token", "{}")
    journal.record_starts([AttemptStart(b"3" * 16, "three", "h1", 1, 1)], lambda error: None)
    journal.begin_run(["one"], [ONE], 1, 7, [ClassName("o", 2, "__main__", "B")])
    journal.record_agent("h2", "token", "{}")
    journal.record_starts([AttemptStart(b"4" * 16, "four", "h1", 1, 1)], lambda error: None)
    journal.close()
    with closing(sqlite3.connect(path)) as database, database:
        (first,) = database.execute(f"SELECT min({(column := KEYS[table])}) FROM {table}").fetchone()
        database.execute(f"UPDATE {table} SET checksum = x'00' WHERE {column} = ?", (first,))
    journal = Journal(path)
    left = {table: 1}
    assert set(journal.committed([ONE, TWO])) == (set() if table == "runs" else {ONE, TWO})
    assert len(journal.open_starts([b"3" * 16, b"4" * 16])) == 2 - left.get("starts", 0)
    assert len(journal.left_agents()) == 2 - left.get("agents", 0)
    assert len(journal.classes()) == 2 - left.get("classes", 0)
    wanted = {"runs": 0, "agents": 0, "classes": 0, "starts": 0, "results": 2 if table == "runs" else 0}
    assert journal.damaged_rows == {**wanted, **left}
    assert journal.last_run() == (7, ONE)
    journal.close()


KEYS = {"runs": "run", "agents": "host", "classes": "number", "starts": "identity"}


def test_a_damaged_object_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    written(path).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE results SET data = CAST('smalm' AS BLOB) WHERE file IS NULL")
    (file,) = (tmp_path / "run.db.objects").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    journal = Journal(path)
    known = journal.committed([ONE, TWO])
    parts = [known[ONE].parts[""], known[TWO].parts[""]]
    assert journal.load_parts(parts, 1 << 30) == parts
    assert [part.data for part in parts] == [None, None]
    for part in parts:
        with pytest.raises(DamagedFileError, match="is damaged"):
            journal.read_part(part)
    journal.close()


def test_a_file_that_is_shortened_or_cannot_be_read_is_damaged_and_kills_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "object"
    path.write_bytes(b"x" * 3_000_000)
    segments = ObjectFile(path, 3_000_000, "")
    assert b"".join(segments) == path.read_bytes()
    os.truncate(path, 2_000_000)
    with pytest.raises(DamagedFileError):
        list(segments)
    segments = ObjectFile(path, 2_000_000, "")
    folder = ObjectFolder(tmp_path / "objects")
    name = folder.write(segments)
    assert folder.file(name).read_bytes() == path.read_bytes()

    def bad_sector(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", bad_sector)
    with pytest.raises(DamagedFileError):
        folder.write(segments)


def test_an_object_whose_file_is_damaged_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    written(path).close()
    (file,) = (tmp_path / "run.db.objects").iterdir()
    whole = file.read_bytes()
    file.write_bytes(bytes(len(whole)))
    journal = Journal(path)
    journal.begin_run(["two"], [TWO], 0, 2, [])
    journal.commit_file(ResultBatch("h2", "", False, [0], [1], [70_010]), [whole])
    finish(journal)
    journal.close()
    assert file.read_bytes() == whole


@pytest.mark.parametrize("taker", ["open", "mkstemp"])
@pytest.mark.parametrize(("lacks", "committed"), [(3, {ONE, TWO}), (5, {TWO})])
def test_a_lack_of_descriptors_delays_a_large_result_and_does_not_end_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    taker: str,
    lacks: int,
    committed: set[bytes],
) -> None:
    """After too many tries, only this result is not committed. The result behind it is."""
    monkeypatch.setattr(writer, "PAUSE_S", 0)
    monkeypatch.setattr(writer, "TRIES", 5)
    owner: Any = os if taker == "open" else tempfile
    take, taken = getattr(owner, taker), [0]

    def lacking(*args: Any, **options: Any) -> Any:
        if taker == "mkstemp" or os.path.basename(args[0]).startswith("spilled"):
            taken[0] += 1
            if taken[0] <= lacks:
                raise OSError(errno.EMFILE, "Too many open files")
        return take(*args, **options)

    files = []
    for name in ("spilled-x", "spilled-y"):
        (tmp_path / name).write_bytes(name.encode() * 8_000)
        files.append(ObjectFile(tmp_path / name, 72_000, checksums.of_object([name.encode() * 8_000])))
    monkeypatch.setattr(owner, taker, lacking)
    journal = Journal(tmp_path / "run.db")
    journal.begin_run(["one", "two"], [ONE, TWO], 0, 1, [])
    for number, file in enumerate(files):
        journal.commit_file(ResultBatch("h1", "", False, [number], [1], [72_000]), file, file.digest)
    assert finish(journal) is None
    assert journal.committed([ONE, TWO]).keys() == committed
    journal.close()
    assert [path.name for path in (tmp_path / "run.db.objects").iterdir() if path.name.startswith("new-")] == []
    told = [message for message in caplog.messages if "too many open files" in message]
    assert len(told) == 2 - len(committed)
    assert all("`ulimit -n`" in message for message in told)


def test_many_large_results_wait_together_for_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the entries behind them, such as the end of the run, would wait for each of them in turn."""
    monkeypatch.setattr(writer, "PAUSE_S", 0)
    monkeypatch.setattr(writer, "TRIES", 5)
    calls = []

    def lacking(*args: Any, **options: Any) -> Any:
        calls.append(options)
        raise OSError(errno.ENFILE, "Too many open files in system")

    monkeypatch.setattr(tempfile, "mkstemp", lacking)
    journal = Journal(tmp_path / "run.db")
    journal.begin_run(["one"], [ONE], 0, 1, [])
    for fill in (b"x", b"y", b"z"):
        journal.commit_file(ResultBatch("h1", "", False, [0], [1], [70_000]), [fill * 70_000])
    assert finish(journal) is None
    journal.close()
    assert len(calls) == 5 + 1 + 1


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_anywhere_is_told_or_has_no_effect(tmp_path: Path, seed: int) -> None:
    """No flip changes the bytes of a result without a word."""
    written(tmp_path / "run.db").close()
    whole = (tmp_path / "run.db").read_bytes()
    (file,) = (tmp_path / "run.db.objects").iterdir()
    right = {ONE: b"small", TWO: file.read_bytes()}
    rng = random.Random(seed)
    for _ in range(60):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / "run.db").write_bytes(content)
        with contextlib.suppress(JournalError), closing(Journal(tmp_path / "run.db")) as journal:
            known = journal.committed([ONE, TWO])
            parts = [part for committed in known.values() for part in committed.parts.values()]
            journal.load_parts(parts, 1 << 30)
            found = {i: part.data for i, each in known.items() for part in each.parts.values() if part.data is not None}
            assert found.items() <= right.items()


def test_rows_that_have_vanished_are_told_where_it_matters(tmp_path: Path) -> None:
    """A flipped bit in the header of a page can make rows vanish, which no checksum of a row can tell."""
    path = tmp_path / "run.db"
    journal = written(path)
    journal.record_starts([AttemptStart(ONE, "one", "h1", 1, 1)], lambda error: None)
    journal.close()
    with closing(sqlite3.connect(path)) as database:
        (size,) = database.execute("PRAGMA page_size").fetchone()
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'starts'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size + 3)  # the number of cells on the page
        file.write(b"\0\0")
    journal = Journal(path)
    assert journal.open_starts([ONE]) == {}
    with pytest.raises(JournalError, match="cannot be read"):
        journal.check_structure()
    journal.close()


def test_reading_unpickles_nothing(tmp_path: Path) -> None:
    bitten = tmp_path / "bitten"
    journal = Journal(tmp_path / "run.db")
    journal.begin_run(["one"], [ONE], 0, 1, [])
    journal.commit(ResultBatch("h1", "", False, [0], [1], [5], [pickle.dumps(Bite(bitten))]))
    finish(journal)
    journal.close()
    assert [task.id for task in read(tmp_path / "run.db").tasks] == ["one"]
    assert not bitten.exists()


class Bite:
    """An object whose pickle makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)
