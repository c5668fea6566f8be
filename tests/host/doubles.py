"""What stands for a part of the agent, where a test has one part alone."""

from __future__ import annotations

from typing import Any

from handout.host.system import shared_page


class Nothing:
    """Stands for a part that is called and does nothing; counts what it was asked to do."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.calls.append(name)


class Wire:
    """Stands for the link: keeps what is sent."""

    def __init__(self) -> None:
        self.bulk: list[tuple[Any, int]] = []

    def send_bulk(self, message: Any, payload: list[bytes]) -> None:
        self.bulk.append((message, sum(map(len, payload))))


def new_page() -> memoryview:
    page = memoryview(bytearray(4096)).cast("Q")
    page[shared_page.RECALLED_FROM] = shared_page.NEVER
    return page
