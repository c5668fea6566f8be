"""Functions that tests with a journal run on hosts."""

from __future__ import annotations

import os
import signal


def wait_forever(folder: str) -> None:
    """Say in a file that it began, and never end."""
    with open(f"{folder}/began", "w", encoding="utf-8") as began:
        began.write(str(os.getpid()))
    while True:
        signal.pause()


def fails_once(path: str) -> int:
    """Raises until the file is there, which it makes."""
    if not os.path.exists(path):
        open(path, "w").close()
        raise ValueError("the first time")
    return 7
