"""Makes text from hosts safe for a terminal and for a log.

A terminal obeys control characters: text from a host could hide lines, change the title of the window, or answer
questions in the user's name. So these characters are escaped in every message, log record and line of output that
Handout makes from such text. Data stays as it is: results, the arguments of a task's own exception, and the output of
programs that a tracker runs.
"""

from __future__ import annotations

import re

__all__ = ["printable", "printable_line"]

#: Characters that a terminal obeys, that change the order of what is shown, or that cannot be shown. Line feeds and
#: tabs are not among them. In order: the controls C0, DEL and C1; line and paragraph separators; marks, embeddings and
#: isolates for text direction; surrogates; other invisible marks; and invisible tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
#: A sequence of characters that sets colours and styles (ECMA-48, SGR).
_COLOURS = re.compile("(\x1b\\[[0-9;:]*m)")


def printable(text: str) -> str:
    r"""Return a text in which unsafe characters are escaped, such as ``\x1b``. Line feeds and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escaped, text.replace("\r\n", "\n"))


def printable_line(line: str, colours: bool = False) -> str:
    """Return a line of a task's output in which unsafe characters are escaped.

    Args:
        line: One line.
        colours: True to keep the sequences that set colours and styles.
    """
    if not colours:
        return printable(line).replace("\n", "\\n")
    return "".join(part if number % 2 else printable_line(part) for number, part in enumerate(_COLOURS.split(line)))


def _escaped(found: re.Match[str]) -> str:
    # The codec would keep ASCII characters as they are.
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x80 else found[0].encode("ascii", "backslashreplace").decode("ascii")
