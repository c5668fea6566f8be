"""Hands the results of an earlier run to a run that is about to begin."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from handout.execution.results import fresh_value_of
from handout.execution.reuse import Reuse, Take
from handout.execution.shell.run_state import RunState
from handout.scheduler import events as ev
from handout.scheduler.run_spec import CONTROLLER
from handout.serialization.calls import Path
from handout.serialization.pickling import dumps

__all__ = ["elements_of", "hand_over", "with_reused"]


def elements_of(earlier: RunState) -> Take:
    """Return a function that returns elements of an earlier run's results as bytes, and None for a whole object."""

    def take(number: int, path: Path) -> bytes | None:
        # The value is unpickled anew, because the caller may have changed the value that `Results` have returned.
        return b"".join(dumps(fresh_value_of(earlier, number, path))) if path else None

    return take


def hand_over(run: RunState, earlier: RunState, found: Reuse, done: Collection[int] = ()) -> None:
    """Put objects of an earlier run into a run, and note what the caller is told about them.

    Args:
        run: The run. Its tasks that do not run must be told to the core, see `with_reused`.
        earlier: The earlier run.
        found: What the run takes from the earlier one.
        done: Tasks that do not run for another reason. Their objects are left out.
    """
    run.reused.update((task, text) for task, text in found.reused(earlier.plan).items() if task not in done)
    for task, made_by in found.done.items():
        if made_by >= 0 and task not in done:
            run.hosts[task] = earlier.hosts[made_by]
    run.anew.update((task, why) for task, why in found.anew.items() if task not in done)
    for number, each in found.objects.items():
        if run.spec.producer[number] in done:
            continue
        if each.taken is None:
            run.objects.share(number, earlier.objects, each.number)
        else:
            run.objects.put_new(number, each.taken)
        if each.number in earlier.suspects:
            run.suspects[number] = earlier.suspects[each.number]


def with_reused(run: RunState, found: Reuse, facts: Sequence[ev.Event], done: Collection[int] = ()) -> list[ev.Event]:
    """Add what a run takes from an earlier one to the facts for the core; see `hand_over` for the arguments."""
    tasks = [task for task in found.done if task not in done]
    numbers = [number for number in found.objects if run.spec.producer[number] not in done]
    sizes = [run.objects.size(number) for number in numbers]
    columns: list[list[Any]] = [tasks, numbers, sizes, [CONTROLLER] * len(numbers)]
    rest = list(facts)
    if rest and isinstance(rest[0], ev.ResultsCommitted):
        known = rest.pop(0)
        assert isinstance(known, ev.ResultsCommitted)
        columns = [[*a, *b] for a, b in zip((known.tasks, known.objects, known.nbytes, known.hosts), columns, strict=True)]
    return [ev.ResultsCommitted(run.number, *columns), *rest] if columns[0] else rest
