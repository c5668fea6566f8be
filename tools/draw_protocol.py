"""Describe the messages of ``handout/protocol/messages.py`` in ``docs/protocol.md``.

``python tools/draw_protocol.py`` writes the page. With ``--check``, it fails if the page is out of date.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from marked_page import redraw

from handout.protocol import frames, messages

PAGE = Path(__file__).parent.parent / "docs" / "protocol.md"

#: For each heading of the page, the class that lists the messages in that direction.
DIRECTIONS: dict[str, type] = {
    "Controller to agent": messages.ToAgent,
    "Agent to controller": messages.ToController,
    "Agent to worker": messages.ToWorker,
    "Worker to agent": messages.FromWorker,
    "Agent to supervisor": messages.ToSupervisor,
    "Supervisor to agent": messages.FromSupervisor,
}
HELLOS = (messages.Greeting, messages.Welcome, messages.Progress)

#: The syntax tree of each class, by name. It has the texts below the fields, which a class does not keep at run time.
PARSED = {node.name: node for node in ast.parse(inspect.getsource(messages)).body if isinstance(node, ast.ClassDef)}


def marked(text: str) -> str:
    """Turn a docstring's marks for code into Markdown, and its references to messages into links on the page."""
    text = re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))
    return re.sub(r"(?<!`)`([A-Z]\w+)`", lambda m: f"[`{m[1]}`](#{m[1].lower()})" if m[1] in PARSED else m[0], text)


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring."""
    yield from (marked(part) for part in inspect.cleandoc(text).split("\n\n"))


def fields(name: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield the fields of a message: name, type, default, meaning."""
    body = PARSED[name].body
    for statement, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
                raise SystemExit(f"{name}.{statement.target.id} has no text: add a string below the field.")
            default = "" if statement.value is None else f"`{ast.unparse(statement.value)}`"
            kind = ast.unparse(statement.annotation).replace("|", "\\|")
            yield statement.target.id, kind, default, marked(str(below.value.value))


def message(title: str, name: str) -> Iterator[str]:
    """Yield the section for one message.

    Args:
        title: The message's name on the link; empty for a class that is not sent by name.
        name: The name of the message's class.
    """
    yield f"### {name}"
    yield ""
    if title:
        yield f"Name on the link: `{title}`."
        yield ""
    for paragraph in paragraphs(ast.get_docstring(PARSED[name]) or ""):
        yield paragraph
        yield ""
    rows = list(fields(name))
    if rows:
        yield "| field | type | default | meaning |"
        yield "|---|---|---|---|"
        yield from (f"| `{field}` | `{kind}` | {default} | {text} |" for field, kind, default, text in rows)
        yield ""


def limits() -> Iterator[str]:
    """Yield a table of the size limits of frames."""
    yield "| limit | bytes |"
    yield "|---|---|"
    yield f"| header of a message | {frames.MAX_HEADER:,} |"
    yield f"| payload of a message or a chunk | {frames.MAX_PAYLOAD:,} |"
    yield f"| header of a hello | {frames.MAX_HELLO:,} |"
    yield f"| object in the payload of a message; a larger one is a stream or a file | {messages.INLINE:,} |"
    yield ""


def drawing() -> Iterator[str]:
    """Yield the generated part of the page: the size limits, then all messages by direction."""
    yield "## Size limits"
    yield ""
    yield from limits()
    yield "## Hellos"
    yield ""
    for hello in HELLOS:
        yield from message("", hello.__name__)
    yield "## Parts of messages"
    yield ""
    yield from message("", messages.WorkerOptions.__name__)
    shown: set[str] = set()
    for title, table in DIRECTIONS.items():
        yield f"## {title}"
        yield ""
        for name, kind in messages._by_name(table).items():
            if kind.__name__ in shown:
                yield f"[`{kind.__name__}`](#{kind.__name__.lower()}), declared above, is sent here too, as `{name}`."
                yield ""
            else:
                shown.add(kind.__name__)
                yield from message(name, kind.__name__)


def main() -> None:
    """Write the page. With ``--check``, fail instead if the page is out of date."""
    redraw(PAGE, "messages", drawing(), "handout/protocol/messages.py")


if __name__ == "__main__":
    main()
