"""The ways of pickling that the corpus compares: Handout's own, none, and those of `comparisons`."""

from __future__ import annotations

from typing import Any

from handout.serialization import diagnosis, pickling

__all__ = ["make", "names"]


class Ours:
    """Handout's own pickler, as it is in ``handout/serialization``."""

    name = "ours"

    def run(self) -> Any:
        """Return what the pickles of one run share."""
        return pickling.Snapshot()

    def dumps(self, value: Any, path: str, run: Any) -> bytes:
        return b"".join(diagnosis.dumps_or_diagnose(value, path, run))

    def worker(self) -> None:
        """Prepare the reading process."""
        pickling.become_worker()

    def loads(self, data: bytes) -> Any:
        return pickling.loads(data)

    def digest(self, fn: Any, run: Any) -> bytes:
        digest: bytes = run.blob(fn).digest
        return digest


class Home:
    """Pickles nothing: the task runs in the process of the script. All cases must pass."""

    name = "home"

    def run(self) -> Any:
        return None


_OWN: dict[str, Any] = {"home": Home, "ours": Ours}


def names() -> list[str]:
    """Return the names of all strategies."""
    from benchmarks.pickling.comparisons import COMPARISONS

    return [*_OWN, *COMPARISONS]


def make(name: str) -> Any:
    """Return the strategy with a name. Those of `comparisons` need cloudpickle."""
    if name in _OWN:
        return _OWN[name]()
    from benchmarks.pickling.comparisons import COMPARISONS

    return COMPARISONS[name]()
