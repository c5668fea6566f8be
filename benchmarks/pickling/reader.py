"""The reading process: it has neither a case's script nor the script's folder, and forks for each request.

It runs as ``python -c``, in the root folder, with Handout's bundle and the installed packages on its path. The
project's own modules of a case are put on its path, because Handout sends them to hosts.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.pickling.wire import receive, transmit

_LIMIT_S = 60


def serve(path: str) -> None:
    """Answer requests until this process is killed."""
    from benchmarks.pickling import strategies

    for name in os.environ["HANDOUT_CORPUS_STRATEGIES"].split(","):
        strategies.make(name)  # imports what it needs before this process forks
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    print("ready", flush=True)
    while True:
        link, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.alarm(_LIMIT_S)
            _answer(link, strategies.make)
            os._exit(0)
        link.close()


def _answer(link: socket.socket, make: Callable[[str], Any]) -> None:
    request = receive(link)
    if request is None:
        return
    bundle, name, task, args = request
    sys.path.append(bundle)
    try:
        transmit(link, ["ok", _call(make(name), task, args)])
    except BaseException as error:
        try:
            text = str(error)[:300]
        except BaseException as second:
            text = f"<str() raised {type(second).__name__}>"
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
        transmit(link, ["error", f"in the reader: {type(error).__name__}: {text} ({place})"])


def _call(strategy: Any, task: bytes, args: bytes) -> bytes:
    getattr(strategy, "worker", lambda: None)()
    fn = strategy.loads(task)
    value = fn(*strategy.loads(args))
    if inspect.iscoroutine(value):
        value = asyncio.run(value)
    data: bytes = strategy.dumps(value, "result", strategy.run())
    return data
