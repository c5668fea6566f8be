"""What happened, in order, for whoever has to find out why a seed fails."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

__all__ = ["SimulationStory"]


class SimulationStory:
    """Remembers things and times; makes words of them only when asked."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[tuple[float, str, object]] = []

    def tell(self, now: float, kind: str, what: object) -> None:
        """Add an entry; ``what`` must not change any more."""
        self._entries.append((now, kind, what))

    def lines(self, last: int | None = None) -> Iterator[str]:
        """All of it, or the last entries, a line each."""
        for now, kind, what in self._entries[-last if last else 0 :]:
            yield f"{now:12.6f}  {kind:<9} {what}"

    @property
    def kinds(self) -> set[str]:
        """The events, commands and so on that are in it, by the names of their classes."""
        return {type(what).__name__ for _, _, what in self._entries}

    @property
    def digest(self) -> str:
        """The same for the same story."""
        return sha256("\n".join(self.lines()).encode()).hexdigest()
