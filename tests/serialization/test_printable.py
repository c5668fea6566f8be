"""Text from hosts is made safe for a terminal and a log."""

from __future__ import annotations

import pickle

import pytest

import handout
from handout.failures import from_report
from handout.serialization.printable import printable, printable_line

HOSTILE = {
    "\x1b[2J": "\\x1b[2J",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "a\rb": "a\\x0db",
    "\x9b31m": "\\x9b31m",
    "\x7f\x00\b": "\\x7f\\x00\\x08",
    "\u202eevil\u2066": "\\u202eevil\\u2066",
    "\u2028\u2029\x85": "\\u2028\\u2029\\x85",
    "\udc1b": "\\udc1b",
    "\U000e0041": "\\U000e0041",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_what_a_terminal_obeys_is_escaped(text: str, shown: str) -> None:
    assert printable(f"<{text}>") == f"<{shown}>"
    assert printable(printable(text)) == printable(text)


def test_other_text_stays_as_it_is() -> None:
    for text in ("plain", "two\nlines\tand a tab", "größe 你好 \U0001f469\u200d\U0001f680 e\u0301\xa0", ""):
        assert printable(text) == text
    assert printable("a\r\nb") == "a\nb"


def test_a_line_keeps_colours_only_if_asked() -> None:
    line = "\x1b[1;31mred\x1b[0m\x1b[2J\x07"
    assert printable_line(line) == "\\x1b[1;31mred\\x1b[0m\\x1b[2J\\x07"
    assert printable_line(line, colours=True) == "\x1b[1;31mred\x1b[0m\\x1b[2J\\x07"
    assert printable_line("one\ntwo") == "one\\ntwo"


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_messages_and_facts_of_a_failure_are_safe(text: str, shown: str) -> None:
    report = {
        "kind": "raised", "type": f"Odd{text}", "message": text, "text": f"Traceback{text}", "stderr": [text],
        "stack": [text],
    }  # fmt: skip
    failure = from_report("fit", "far", 1, report, b"")
    error = failure.exception
    assert isinstance(error, handout.RemoteError)
    told = [str(failure), failure.reason, str(error), error.message, error.traceback, error.type_name]
    told += [failure.traceback, *failure.stderr_tail, *failure.stack, *error.__notes__]
    for each in told:
        assert text not in each
        assert each == printable(each)
    assert shown in str(error)


def test_what_an_error_of_handout_says_is_safe_and_its_facts_are_data() -> None:
    error = handout.HostError("it printed: \x1b[2J", remedy="Look at \x07.", host="far", output="\x1b")
    assert str(error) == "it printed: \\x1b[2J Look at \\x07."
    assert error.output == "\x1b"  # type: ignore[attr-defined]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
