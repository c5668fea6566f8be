"""Sentences name their actor: in docstrings, comments, messages and pages, no "who" or "somebody" is the subject.

The test refuses ``whoever``, ``somebody``, ``anybody`` and ``nobody`` everywhere. It refuses ``who`` only at the
beginning of a sentence or clause, as in "who is silent is let go". It accepts "a user who presses Ctrl-C", because this
names the actor.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Folders and files of the checkout that the test reads.
READ = ["handout", "docs", "README.md", "CONTRIBUTING.md"]

#: Sentences that may stay as they are: a piece of each sentence, by file. A comment beside each piece gives the reason.
EXCEPTIONS: dict[str, set[str]] = {}

_NOBODY = re.compile(r"\b(whoever|somebody|anybody|nobody)\b", re.IGNORECASE)
_CLAUSE = [
    "and",
    "but",
    "or",
    "for",
    "because",
    "if",
    "where",
    "when",
    "while",
    "that",
    "so",
    "until",
    "once",
    "unless",
    "as",
    "than",
    "since",
    "which",
    "what",
    "of",
]
_WHO = re.compile(rf"(?:^|[.,;:!?(\u2013\u2014-]\s+|\b(?:{'|'.join(_CLAUSE)})\s+)who\b(?!\s*\?)", re.IGNORECASE)
#: In "readers who debug a link, or who change it", the second "who" has the same subject as the first, so it may stay.
_AND_WHO = re.compile(rf"(\b(?!(?:{'|'.join(_CLAUSE)})\b)\w+ who\b[^.;:]*?,? (?:and|or)) who\b")


def sentences_of_code(source: str) -> Iterator[tuple[int, str]]:
    """Yield the text of each comment and string of a module, with the line at which the text begins.

    Comments on successive lines are one text, and so are all parts of an f-string.
    """
    comment, began, last = "", 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("#: ")
            if token.start[0] == last + 1 and not token.line[: token.start[1]].strip():
                comment += f" {text}"
            else:
                if comment:
                    yield began, comment
                comment, began = text, token.start[0]
            last = token.start[0]
    if comment:
        yield began, comment
    inside: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def sentences_of_page(page: str) -> Iterator[tuple[int, str]]:
    """Yield each paragraph, list item and table row of a page, with its first line number. Leave out blocks of code."""
    code, text, began = False, "", 0
    for number, line in enumerate([*page.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            code = not code
            line = ""
        if code or not line.strip() or re.match(r"\s*([-*|#]|\d+\.)", line):
            if text:
                yield began, text
            text = ""
        if not code and line.strip():
            began = began if text else number
            text += f" {line.strip().lstrip('-*#|').strip()}"


def found_in(path: Path) -> list[tuple[int, str]]:
    """Return the sentences of a file that do not name their actor, with their line numbers."""
    text = path.read_text(encoding="utf-8")
    found = []
    for line, each in sentences_of_code(text) if path.suffix == ".py" else sentences_of_page(text):
        plain = re.sub(r"``?[^`]*``?", "X", " ".join(each.split()))
        for sentence in re.split(r"(?<=[.!?])\s+|\s\|\s", plain):
            joined = _AND_WHO.sub(r"\1", sentence)
            if " " in sentence and (_NOBODY.search(joined) or _WHO.search(joined)):
                found.append((line, sentence))
    return found


def files() -> list[Path]:
    paths = [ROOT / name for name in READ]
    return sorted(
        each
        for path in paths
        for each in ([path] if path.is_file() else [*path.rglob("*.py"), *path.rglob("*.md")])
        if each.name != "_overloads.py"
    )


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_sentence_names_its_actor(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    allowed = EXCEPTIONS.get(name, set())
    found = [(line, text) for line, text in found_in(path) if not any(piece in text for piece in allowed)]
    assert found == [], "name the controller, core, agent, supervisor, worker, task, caller, allocator or host"


def test_every_exception_is_needed() -> None:
    for name, pieces in EXCEPTIONS.items():
        texts = [text for _, text in found_in(ROOT / name)]
        assert [piece for piece in pieces if not any(piece in text for text in texts)] == []


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("Who has nothing to say lets itself be heard.", True),
        ("heartbeat_s: Who has nothing to say lets itself be heard.", True),
        ("It is killed, and who waits for it is told.", True),
        ("Kept until somebody asks.", True),
        ("Nobody needs it.", True),
        ("See whoever comes first.", True),
        ("Of those who wait.", False),
        ("A user who presses Ctrl-C ends it.", False),
        ("A user who presses Ctrl-C, or who closes the terminal, ends it.", False),
        ("The field `who` is a name.", False),
    ],
)
def test_the_detector_finds_sentences_without_an_actor(text: str, is_found: bool, tmp_path: Path) -> None:
    code = f'def f():\n    """{text}"""\n'
    comment = f"x = 1\n# A first line,\n# and then: {text}\n"
    message = f"raise ValueError({text!r} f'{{x}}')\n"
    for source in (code, comment, message):
        (tmp_path / "one.py").write_text(source, encoding="utf-8")
        assert bool(found_in(tmp_path / "one.py")) == is_found, source
    (tmp_path / "one.md").write_text(f"# A page\n\n- {text}\n\n| a | {text} |\n```\nwho is it\n```\n", encoding="utf-8")
    assert bool(found_in(tmp_path / "one.md")) == is_found
