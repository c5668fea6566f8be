"""One thing that a host lacks for a cost, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that a host lacks.

    Attributes:
        name: Name of the amount or condition.
        needs: What the cost asks for, such as ``gpu=2``.
        offers: What the host offers, such as ``gpu=1``. If ``shared`` is True, a clause about what all hosts share.
        hint: What the user may have meant, or another remark that helps to mend the cost, or "".
        shared: True: the lack is in an amount that all hosts share, so every host has the same lack.
    """

    name: str
    needs: str
    offers: str
    hint: str
    shared: bool = False

    def __str__(self) -> str:
        """Return a clause for a message: ``needs gpu=2, offers gpu=1``."""
        offers = self.offers if self.shared else f"offers {self.offers}"
        return f"needs {self.needs}, {offers}" + (f" ({self.hint})" if self.hint else "")
