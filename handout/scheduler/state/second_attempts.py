"""Two live attempts of one task: the present one, as for any task, and the older one beside it.

The first to finish is the task's result, whichever it is; where one comes to another end, the other goes on alone.
"""

from __future__ import annotations

from typing import Any

from handout.scheduler.state.runs import Run, SecondAttempt

__all__ = ["set_aside", "survive", "swap"]


def set_aside(run: Run, t: int) -> None:
    """Make room for a second attempt beside the present one, which goes on. To be followed by `hand` or `survive`."""
    run.twins[t] = _present(run, t)
    run.claims[t] = None
    run.shared.pop(t, None)
    run.begun.discard(t)
    run.active -= 1


def survive(run: Run, t: int) -> bool:
    """The present attempt is over (`unhand` has seen to it): go on with the other one. Answers whether there is one."""
    twin = run.twins.pop(t, None)
    if twin is None:
        return False
    run.active += 1
    _install(run, t, twin)
    return True


def swap(run: Run, t: int) -> None:
    """Something happened to the older attempt: look at it as the present one."""
    twin = run.twins[t]
    run.twins[t] = _present(run, t)
    _install(run, t, twin)


def _present(run: Run, t: int) -> SecondAttempt:
    return SecondAttempt(
        run.host[t], run.attempt[t], run.claims[t], run.shared.get(t), run.variant.get(t, 0), t in run.begun
    )


def _install(run: Run, t: int, twin: SecondAttempt) -> None:
    # No number is given to two attempts, also where the older one outlives the newer.
    run.latest[t] = max(run.latest.get(t, 0), run.attempt[t], twin.attempt)
    run.host[t], run.attempt[t], run.claims[t] = twin.host, twin.attempt, twin.claim
    _put(run.shared, t, twin.shared)
    _put(run.variant, t, twin.variant or None)
    (run.begun.add if twin.begun else run.begun.discard)(t)


def _put(few: dict[int, Any], t: int, value: Any) -> None:
    if value is None:
        few.pop(t, None)
    else:
        few[t] = value
