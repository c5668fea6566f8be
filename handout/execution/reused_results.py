"""Hands the results of an earlier run to a run that is about to begin."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from handout.execution.reuse import Reuse, Take
from handout.execution.run_values import fresh_value_of
from handout.execution.shell.run_state import GraphRun
from handout.scheduler import events as ev
from handout.scheduler.run_spec import CONTROLLER
from handout.serialization.calls import Path
from handout.serialization.pickling import dumps
from handout.slices import Slices, is_slice_end

__all__ = ["HandedOver", "elements_of", "hand_over"]


def elements_of(earlier: GraphRun) -> Take:
    """Return a function that returns elements of an earlier run's results as bytes, and None for a whole object."""

    def take(number: int, path: Path) -> bytes | None:
        # The value is unpickled anew, because the caller may have changed the value that `Results` have returned.
        return b"".join(dumps(fresh_value_of(earlier, number, path))) if path else None

    return take


@dataclass(slots=True)
class HandedOver:
    """What a run has from an earlier run, in the columns of `ResultsCommitted`."""

    tasks: list[int] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)

    def added_to(self, run: GraphRun, facts: Sequence[ev.Event], done: Collection[int] = ()) -> list[ev.Event]:
        """Add the tasks and objects to the facts that the core gets with a run.

        Args:
            run: The run.
            facts: What the journal knows. An event about committed results comes first.
            done: The tasks in ``facts`` that are done. What belongs to these is left out.
        """
        tasks, objects, nbytes = self.tasks, self.objects, self.nbytes
        if done:
            producer = run.spec.producer
            tasks = [task for task in tasks if task not in done]
            nbytes = [size for number, size in zip(objects, nbytes, strict=True) if producer[number] not in done]
            objects = [number for number in objects if producer[number] not in done]
        hosts = [CONTROLLER] * len(objects)
        first, rest = (facts[0], facts[1:]) if facts else (None, ())
        if not isinstance(first, ev.ResultsCommitted):
            return [ev.ResultsCommitted(run.number, tasks, objects, nbytes, hosts), *facts] if tasks else [*facts]
        both = ev.ResultsCommitted(
            run.number,
            [*first.tasks, *tasks],
            [*first.objects, *objects],
            [*first.nbytes, *nbytes],
            [*first.hosts, *hosts],
        )
        return [both, *rest]


def hand_over(run: GraphRun, earlier: GraphRun, found: Reuse, done: Collection[int] = ()) -> Slices[HandedOver]:
    """Put objects of an earlier run into a run, and note what the caller is told about them.

    Args:
        run: The run. The core must learn what is returned.
        earlier: The earlier run.
        found: What the run takes from the earlier one.
        done: Tasks of which the run has the results from its journal.
    """
    handed = HandedOver()
    for seen, (task, made_by) in enumerate(found.done.items()):
        if is_slice_end(seen):
            yield
        if task in done:
            continue
        handed.tasks.append(task)
        run.reused[task] = found.source(task, earlier.plan)
        if made_by >= 0:
            run.hosts[task] = earlier.hosts[made_by]
    for seen, (number, each) in enumerate(found.objects.items()):
        if is_slice_end(seen):
            yield
        if run.spec.producer[number] in done:
            continue
        if each.taken is None:
            run.objects.share(number, earlier.objects, each.number)
        else:
            run.objects.put_new(number, each.taken)
        if each.number in earlier.suspects:
            run.suspects[number] = earlier.suspects[each.number]
        handed.objects.append(number)
        handed.nbytes.append(run.objects.size(number))
    run.anew = {task: why for task, why in found.anew.items() if task not in done} if done else found.anew
    return handed
