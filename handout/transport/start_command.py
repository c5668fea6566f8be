"""The start command, which a login shell of a host runs.

The start command is the same for all hosts but for a random marker. It has no exclamation mark and no backslash,
because csh and fish change them. It reads lines of shell code from its standard input and runs them, so no command line
shows what the lines contain. The lines export the variables of the host, run the setup line in a login shell, look for
a Python, and run it. Python reads the rest of the standard input.

What a line prints for the controller begins with the marker; see `start_output`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from handout.transport.start_output import LINE, READY, SETUP, WAITING

__all__ = [
    "BEGUN", "CLEAN_PATH", "CUT", "HIDE_PATH", "OLDEST_PYTHON", "STAGE_0", "TOO_OLD", "candidates", "for_login_shell",
    "hidden_path", "quote_path", "shell_lines", "start_command",
]  # fmt: skip

OLDEST_PYTHON = (3, 9)
#: The shell code looks for Python 3 under names such as ``python3.12``, up to this minor version.
_NEWEST_MINOR = 15
#: The exit status of a Python that is too old.
TOO_OLD = 93
#: The exit status of a Python that has begun to read its input and could not start the agent (`handout.host.boot`).
BEGUN = 94
#: The exit status of a start whose input does not begin as `Bootstrap.command_stdin` does.
CUT = 95
#: Python adds the start folder to ``sys.path``, as a relative path. This code removes it, because a module there, such
#: as a ``random.py`` in the home folder, could take the place of a module of the standard library.
CLEAN_PATH = "sys.path[:]=[p for p in sys.path if p[:1]==chr(47)]"
#: The code that Python runs on the host first. If Python is too old, the code exits with status 93 and reads no input.
#: Otherwise the code reads the source of `handout.host.boot` from standard input and executes this source. If the input
#: does not begin with the length of the source, the code exits with status 95.
STAGE_0 = (
    f"import sys;{CLEAN_PATH};sys.version_info<(3,9) and sys.exit(93);r=sys.stdin.buffer.read;n=r(8);"
    "n.isdigit() or sys.exit(95);exec(r(int(n)))"
)
#: Hides ``PYTHONPATH`` from the Python that a shell starts next, because its folders may have modules with names of the
#: standard library. `handout.host.boot` gives it back to the workers. From Python 3.11 on, PYTHONSAFEPATH keeps the
#: start folder off ``sys.path`` even before the first line of code runs. The switch ``-I`` would do both. But Python
#: passes ``-I`` on to the processes that a task starts with `multiprocessing`.
HIDE_PATH = (
    'if [ -n "$PYTHONPATH" ]; then HANDOUT_PYTHONPATH=$PYTHONPATH; export HANDOUT_PYTHONPATH; unset PYTHONPATH; fi; '
    ': "${PYTHONSAFEPATH:=handout}"; export PYTHONSAFEPATH; '
)
#: The shell variable that holds a line feed, because a line of shell code cannot have one.
_LINE_FEED = "handout_lf"


def candidates(python: str | None) -> list[str]:
    """Return the interpreters to try on a host, in order.

    Args:
        python: The only interpreter to try. If this is None, the controller's own version of Python comes first, then
            all versions from the newest to the oldest, then ``python3``.
    """
    if python is not None:
        return [python]
    minors = range(_NEWEST_MINOR, OLDEST_PYTHON[1] - 1, -1)
    names = [f"python3.{sys.version_info.minor}", *(f"python3.{minor}" for minor in minors), "python3"]
    return list(dict.fromkeys(names))


def start_command(marker: str) -> list[str]:
    """Return the start command, as the words of a command line. It reads what `shell_lines` returns."""
    return ["sh", "-c", _run_next_line(marker, 0)]


def for_login_shell(command: list[str]) -> str:
    """Return a command of ``sh -c`` as a command line for any login shell."""
    *words, script = command
    script = script.replace("'", "'\\''")
    return f"exec {' '.join(words)} '{script}'"


def shell_lines(
    marker: str, python: str | None, variables: Mapping[str, str], last: Mapping[str, str], setup: str | None
) -> bytes:
    """Return the lines of shell code that the start command reads from its standard input.

    A Python that is there but fails before it has read any input is skipped too: a version manager's shim for another
    version, or a Python whose libraries are missing. If a Python has begun to read, its end is the end of the command,
    because no other Python could read the input from its beginning.

    Args:
        marker: The marker of the start.
        python: The interpreter to use, or None to look for one.
        variables: Variables that the code exports before the setup line runs.
        last: Variables that the code exports after that.
        setup: The setup line, or None.
    """
    begin, end = _exports(variables), _exports(last) + _run_python(marker, python)
    lines = [begin + end] if setup is None else [_enter_login_shell(marker), begin + _run_setup(marker, setup, end)]
    return b"".join(f"{marker}{LINE}{line}\n".encode("utf-8", "surrogateescape") for line in lines)


def _run_next_line(marker: str, fd: int) -> str:
    """Return shell code that reads a line of shell code from a descriptor and runs it.

    Another program of the login may have read a part of the input. So the line must begin with the marker.
    """
    return (
        f"IFS= read -r handout_code <&{fd}; case $handout_code in "
        f'"{marker}{LINE}"*) eval "${{handout_code#*{LINE}}}";; *) exit {CUT};; esac'
    )


def _enter_login_shell(marker: str) -> str:
    """Return shell code that becomes a login shell, which runs the next line.

    Programs of the login and of the setup line find an empty standard input, because the real one is for Python. While
    they run, the real one has descriptor 9, standard output has 8, and standard error has 7. Both of their outputs go
    to standard output, so that the controller gets them in the order in which they were printed.
    """
    return (
        f'handout_shell=bash; command -v bash >/dev/null 2>&1 || handout_shell=sh; echo; echo "{marker}{SETUP}"; '
        f"{_watch(marker)}"
        f'exec "$handout_shell" -l -c {_quote(_run_next_line(marker, 9))} 7>&2 8>&1 9<&0 </dev/null 2>&1'
    )


def _run_setup(marker: str, setup: str, then: str) -> str:
    """Return shell code that runs the setup line, and then replaces the login shell by a plain one with other code.

    In the plain shell, settings of the setup line such as ``set -e`` do not hold any more. Whatever the setup line
    starts does not have the descriptors of `_enter_login_shell`.
    """
    quoted, then = _quote(setup), f'echo; echo "{marker}{READY}"; {then}'
    return (
        f"{_line_feed(quoted)}eval {quoted} 7>&- 8>&- 9<&-; handout_status=$?; "
        'kill "$handout_watch" 2>/dev/null; unset handout_watch; [ "$handout_status" = 0 ] || exit "$handout_status"; '
        f"exec sh -c {_quote(then)} 0<&9 1>&8 2>&7 7>&- 8>&- 9<&-"
    )


def _watch(marker: str) -> str:
    """Return shell code that starts a process that watches the setup line.

    The process prints once a second that the line still runs. If the controller does not read this any more, because it
    has ended or has given the start up, the process kills the process group. Otherwise a line that hangs would stay on
    the host for ever: sshd does not end it. A ``wait`` of the line does not wait for the process, because another shell
    has started it.
    """
    prints = f'(echo; echo "{marker}{WAITING}")'
    loop = f'while sleep 1 >/dev/null && kill -s 0 "$$"; do {prints} || kill -s KILL 0; done'
    return f"({loop}) </dev/null 2>/dev/null & handout_watch=$!; export handout_watch; "


def _run_python(marker: str, python: str | None) -> str:
    """Return shell code that finds a suitable Python and runs `STAGE_0`."""
    names = " ".join(quote_path(name) for name in candidates(python))
    return (
        f'{HIDE_PATH}o=; for p in {names}; do command -v "$p" >/dev/null 2>&1 || continue; '
        f'"$p" -c "{STAGE_0}"; s=$?; '
        f'case $s in 0|{BEGUN}|{CUT}) exit $s;; {TOO_OLD}) o="$o $p";; *) o="$o $p=$s";; esac; done; '
        f'echo; echo "{marker}no-python$o"; exit 127'
    )


def _exports(variables: Mapping[str, str]) -> str:
    exports = "".join(f"export {name}={_quote(value)}; " for name, value in variables.items())
    return _line_feed(exports) + exports


def _line_feed(code: str) -> str:
    """Return shell code that sets the variable for line feeds, if other code needs it."""
    if _LINE_FEED not in code:
        return ""
    return f'{_LINE_FEED}=$(printf "\\n."); {_LINE_FEED}=${{{_LINE_FEED}%.}}; '


def _quote(text: str) -> str:
    """Quote a text of any characters for ``sh``, on one line."""
    return "'" + text.replace("'", "'\\''").replace("\n", f"'\"${_LINE_FEED}\"'") + "'"


def quote_path(path: str) -> str:
    """Quote a path for ``sh``, in double quotes. A leading ``~`` becomes ``$HOME``, which ``sh`` then expands."""
    home = path.startswith("~/")
    for character in '\\"$`':
        path = path.replace(character, "\\" + character)
    return f'"$HOME{path[1:]}"' if home else f'"{path}"'


def hidden_path(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process with further variables, and do to it what `HIDE_PATH` does."""
    environment = {**os.environ, **variables}
    path = environment.pop("PYTHONPATH", "")
    if path:
        environment["HANDOUT_PYTHONPATH"] = path
    environment["PYTHONSAFEPATH"] = environment.get("PYTHONSAFEPATH") or "handout"
    return environment
