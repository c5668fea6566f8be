"""Runs in the process of a case's script: pickles what the script defines, and compares what comes back."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

from benchmarks.pickling.wire import receive, transmit

#: Seconds that one case may take with one strategy. Only a hang takes so long.
_LIMIT_S = 60


def send(space: dict[str, Any]) -> None:
    """Try each strategy in a forked process of its own, and append the outcomes to the file of the runner."""
    if os.environ.get("HANDOUT_CORPUS_OUT") is None:
        return
    from benchmarks.pickling.strategies import make

    sys.stdout.flush()
    for name in os.environ["HANDOUT_CORPUS_STRATEGIES"].split(","):
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            outcome = _guarded(space, make(name))
            os.write(theirs, json.dumps(outcome).encode())
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        outcome = json.loads(text) if text else ["crash", f"the process ended with status {status}"]
        with open(os.environ["HANDOUT_CORPUS_OUT"], "a") as out:
            out.write(json.dumps([name, *outcome]) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _guarded(space: dict[str, Any], strategy: Any) -> list[str]:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_LIMIT_S)
    try:
        return _outcome(space, strategy)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return ["error", f"{type(error).__name__}: {_text(error)} ({where.filename.rpartition('/')[2]}:{where.lineno})"]


def _text(value: object) -> str:
    try:
        return str(value)[:300]
    except BaseException as error:
        return f"<str() raised {type(error).__name__}>"


def _outcome(space: dict[str, Any], strategy: Any) -> list[str]:
    if strategy.name == "home" and not {"equal", "differ"}.isdisjoint(space):
        return ["ok", ""]
    for name, same in (("equal", True), ("differ", False)):
        if name in space:
            first, second = (strategy.digest(fn, strategy.run()) for fn in space[name])
            return ["ok", ""] if (first == second) is same else ["wrong", f"digests are {'not ' * same}equal"]
    run = strategy.run()
    if strategy.name == "home":
        return _at_home(space)
    if "refused" in space:
        try:
            strategy.dumps(space["task"], "task", run)
            strategy.dumps(space.get("args", ()), "args", run)
        except Exception as error:
            named = space["refused"] in str(error)
            return ["ok", ""] if named else ["error", f"refused, but without the path: {_text(error)}"]
        return ["wrong", "copied without a word"]
    blobs = strategy.dumps(space["task"], "task", run), strategy.dumps(space.get("args", ()), "args", run)
    link = socket.socket(socket.AF_UNIX)
    link.connect(os.environ["HANDOUT_CORPUS_READER"])
    transmit(link, [os.environ["HANDOUT_CORPUS_BUNDLE"], strategy.name, *blobs])
    answer = receive(link)
    if answer is None:
        return ["crash", "the reading process died"]
    kind, data = answer
    if kind != "ok":
        return [kind, data]
    return _compare(space, strategy.loads(data))


def _at_home(space: dict[str, Any]) -> list[str]:
    """Call the task without pickling anything, to show that the case itself is right."""
    if "refused" in space or "pickled" in space:
        return ["ok", ""]
    value = space["task"](*space.get("args", ()))
    return _compare(space, asyncio.run(value) if inspect.iscoroutine(value) else value)


def _compare(space: dict[str, Any], value: Any) -> list[str]:
    if "check" in space:
        right = space["check"](value)
    else:
        right = value == space["want"] and type(value) is type(space["want"])
    return ["ok", ""] if right else ["wrong", f"got {value!r}"[:300]]
