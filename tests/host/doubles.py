"""Doubles for parts of the agent, for tests of one part alone."""

from __future__ import annotations

from typing import Any

from handout.host.system import shared_page


class Nothing:
    """A double for any part. Its methods do nothing, and it records the names of those that were called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.calls.append(name)


class Wire:
    """A double for the link. It records each message that is sent, with the size of its payload."""

    def __init__(self) -> None:
        self.bulk: list[tuple[Any, int]] = []

    def send_bulk(self, message: Any, payload: list[bytes]) -> None:
        self.bulk.append((message, sum(map(len, payload))))


def new_page() -> memoryview:
    page = memoryview(bytearray(4096)).cast("Q")
    page[shared_page.RECALLED_FROM] = shared_page.NEVER
    return page
