"""The output of tasks, as the controller gets it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict

from handout.protocol import messages
from tests.host.rig import Rig


def printed(rig: Rig) -> dict[tuple[int, int], str]:
    """Return all output that the controller got, by attempt id and descriptor."""
    texts: dict[tuple[int, int], str] = defaultdict(str)
    for message in rig.messages:
        if message.fields["name"] == "log":
            texts[message.fields["attempt_id"], message.fields["fd"]] += bytes(message.payload).decode()
    return dict(texts)


def test_lines_come_with_the_name_of_their_task_and_stream(rig: Rig) -> None:
    def speak(x: int) -> None:
        print("out", x)
        print("err", x, file=sys.stderr)

    fn = rig.function(speak)
    rig.submit([1, 2], fn, [rig.call(1), rig.call(2)])
    rig.wait(lambda: len(printed(rig)) == 4)
    assert printed(rig) == {(1, 1): "out 1\n", (1, 2): "err 1\n", (2, 1): "out 2\n", (2, 2): "err 2\n"}


def test_lines_of_a_batch_of_short_tasks_are_told_apart(rig: Rig) -> None:
    fn = rig.function(lambda x: print("x" * (x % 7), x))
    rig.submit(range(1, 501), fn, [rig.call(x) for x in range(1, 501)])
    rig.wait(lambda: len(printed(rig)) == 500)
    rig.wait_for(*range(1, 501))
    assert printed(rig) == {(x, 1): f"{'x' * (x % 7)} {x}\n" for x in range(1, 501)}


def test_what_subprocesses_and_raw_writes_print_is_caught(rig: Rig) -> None:
    def speak() -> None:
        print("first")
        os.write(1, b"second\n")
        subprocess.run(["echo", "third"], check=True)
        sys.stdout.buffer.write(b"fourth")

    rig.run(speak)
    rig.wait(lambda: printed(rig).get((1, 1), "").endswith("fourth"))
    assert printed(rig)[1, 1] == "first\nsecond\nthird\nfourth"


def test_output_is_forwarded_while_the_task_runs(rig: Rig) -> None:
    def speak() -> None:
        print("now")
        time.sleep(1000)

    rig.submit([1], rig.function(speak), rig.call())
    rig.wait(lambda: printed(rig))
    assert printed(rig) == {(1, 1): "now\n"}
    rig.send(messages.Cancel([1], 0))


def test_a_flood_is_cut_at_its_beginning_and_counted(rig: Rig) -> None:
    def flood() -> None:
        line = b"x" * 99 + b"\n"
        for _ in range(1000):
            os.write(1, line * 1000)
        print("the end")

    rig.run(flood)
    rig.wait(lambda: printed(rig).get((1, 1), "").endswith("the end\n"))
    logs = [m for m in rig.messages if m.fields["name"] == "log"]
    lines = printed(rig)[1, 1].count("\n")
    assert sum(m.fields["dropped"] for m in logs) + lines >= 1_000_001
    assert sum(len(m.payload) for m in logs) < 10 << 20


def test_the_next_task_can_print_after_a_task_that_closed_its_streams(rig: Rig) -> None:
    def close() -> None:
        sys.stdout.close()
        sys.stderr = None

    rig.run(close)
    rig.run(lambda: print("heard"), attempt_id=2)
    rig.wait(lambda: printed(rig))
    assert printed(rig) == {(2, 1): "heard\n"}
