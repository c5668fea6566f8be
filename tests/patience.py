"""How long a test waits for what must come: a bound that only a hang reaches, however busy the machine is.

A bound that is a promise of Handout's own (the end of a lease, a result within a limit) is no such bound: the test says it
itself, and leaves room for a machine on which ten other processes are ready to run.
"""

from __future__ import annotations

__all__ = ["HANG_S"]

#: Seconds. It is below pytest's own limit for a test, whose failure would not say what was waited for.
HANG_S = 120.0
