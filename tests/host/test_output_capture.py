"""The agent divides output among tasks by the marks in it, wherever a read from the pipe ends."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout.host.agent.output_capture import MAX_UNSENT, Logs, Pipe, TaskOutput, mark, new_nonce

NONCE = new_nonce()


def marked(number: int, text: bytes) -> bytes:
    return mark(NONCE, number, len(text)) + text


def read_all(chunks: list[bytes], running: int = 0) -> dict[int, bytes]:
    reading, writing = os.pipe()
    pipe = Pipe(reading, NONCE, lambda: running)
    texts: dict[int, bytes] = {}
    for chunk in chunks:
        os.write(writing, chunk)
        for number, data in pipe.read() or ():
            texts[number] = texts.get(number, b"") + data
    os.close(writing)
    assert pipe.read() is None
    pipe.close()
    return texts


@given(
    st.lists(st.tuples(st.integers(1, 5) | st.just(3 << 96 | 5), st.binary(min_size=1, max_size=40)), max_size=8),
    st.data(),
)
def test_the_owners_of_output_do_not_depend_on_how_the_pipe_splits_it(
    pieces: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    whole = b"".join(marked(n, text) for n, text in pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=10)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if b > a]
    expected: dict[int, bytes] = {}
    for number, text in pieces:
        expected[number] = expected.get(number, b"") + text
    assert read_all(chunks, running=9) == expected


def test_output_without_a_mark_belongs_to_the_task_that_runs() -> None:
    assert read_all([b"before", marked(3, b"three") + b"raw"], running=2) == {2: b"beforeraw", 3: b"three"}


def test_a_task_that_prints_too_much_keeps_its_last_lines_and_the_others_are_counted() -> None:
    output = TaskOutput(1, 1)
    for i in range(10_000):
        output.add(b"%06d %s\n" % (i, b"x" * 92))
    data = output.take(0.0, True)
    assert data is not None
    assert len(data) <= MAX_UNSENT
    assert data.endswith(b"009999 " + b"x" * 92 + b"\n")
    assert output.dropped + data.count(b"\n") == 10_000


def test_an_unfinished_line_waits_for_its_end() -> None:
    output = TaskOutput(1, 1)
    output.add(b"whole\nhal")
    assert output.take(0.0, False) == b"whole\n"
    output.add(b"f\n")
    assert output.take(0.01, False) is None, "sent too soon"
    assert output.take(1.0, False) == b"half\n"


@pytest.fixture
def sent() -> list[tuple[int, int, int, bytes]]:
    return []


def test_nothing_is_sent_while_the_link_has_no_room(sent: list[tuple[int, int, int, bytes]]) -> None:
    room = [False]
    logs = Logs(lambda *message: sent.append(message), lambda: room[0])
    logs.add(7, 1, b"text\n")
    logs.flush(0.0)
    assert sent == []
    room[0] = True
    logs.flush(0.0)
    assert sent == [(7, 1, 0, b"text\n")]


def test_all_output_is_sent_when_a_task_ends(sent: list[tuple[int, int, int, bytes]]) -> None:
    logs = Logs(lambda *message: sent.append(message), lambda: True)
    logs.add(7, 1, b"no end of line")
    logs.add(7, 2, b"error\n")
    logs.end(7, 0.0)
    assert sent == [(7, 1, 0, b"no end of line"), (7, 2, 0, b"error\n")]
    assert not logs.waiting
