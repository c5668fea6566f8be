"""Runs the blocks of one page, in a process of its own that has no other code in ``__main__``.

It reads the blocks from standard input, and writes for each of them what it printed, and the traceback if it failed.
It stops at the first block that fails.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import sys
import traceback
import types
from pathlib import Path
from typing import Any

#: Seconds. A block that waits for longer fails, with the line at which it waited.
LIMIT_S = 60.0

_COMPILER = {"mode": "exec", "flags": ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, "dont_inherit": True}


def new_main() -> dict[str, Any]:
    """Make the module ``__main__`` anew, without a file, as in a notebook. Return its namespace."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    return vars(module)


def write_file(block: dict[str, Any], written: set[str]) -> None:
    """Write a block to the file that it shows. Further blocks with the same title follow in that file."""
    title = block["title"]
    if title:
        with open(title, "a" if title in written else "w", encoding="utf-8") as file:
            file.write(block["code"])
        written.add(title)


def tests_in(code: str) -> list[str]:
    """Return the names of the test functions that a block defines, which pytest would find."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [each.name for each in ast.parse(code).body if isinstance(each, functions) and each.name.startswith("test_")]


def finish(running: object, runner: asyncio.Runner) -> None:
    """If this is a coroutine, run it to its end, for at most `LIMIT_S` seconds."""
    if inspect.iscoroutine(running):
        runner.run(asyncio.wait_for(running, LIMIT_S))


def run_block(page: str, block: dict[str, Any], scope: dict[str, Any], runner: asyncio.Runner) -> dict[str, Any]:
    """Run a block. Its line numbers, in tracebacks, are those of the page."""
    printed = io.StringIO()
    error = None
    try:
        code = compile("\n" * (block["line"] - 1) + block["code"], page, **_COMPILER)
        with contextlib.redirect_stdout(printed):
            finish(eval(code, scope), runner)
            for name in tests_in(block["code"]):
                finish(scope[name](), runner)
    except BaseException:
        error = traceback.format_exc()
    return {"line": block["line"], "printed": printed.getvalue(), "error": error}


def main() -> None:
    """Run the page that standard input describes, and write the answer to the file that the command line names."""
    page = json.load(sys.stdin)
    sys.path[0] = ""
    answers: list[dict[str, Any]] = []
    scope = new_main()
    written: set[str] = set()
    with asyncio.Runner() as runner:
        for block in page["blocks"]:
            scope = scope if page["is_shared"] else new_main()
            write_file(block, written)
            answers.append(run_block(page["path"], block, scope, runner))
            if answers[-1]["error"]:
                break
    Path(sys.argv[1]).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
