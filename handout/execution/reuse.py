"""Finds the results of an earlier run that a run can use, because the functions that made them are the same.

A result is used if the task that made it has the same identity in both runs (see `submission.run_identities`). Ids are
not compared: an id may name another function in another graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from handout.execution.earlier_run import EarlierRun
from handout.execution.reuse_reasons import Reasons
from handout.graph.objects import Pick
from handout.graph.plan import Plan
from handout.scheduler.task_states import Outcome
from handout.serialization import exceptions
from handout.serialization.calls import Path
from handout.serialization.printable import printable
from handout.serialization.user_objects import short_name
from handout.slices import Slices, is_slice_end
from handout.submission.arguments import EncodedRun
from handout.submission.run_identities import RunIdentities, element_identity

__all__ = ["Found", "Reuse", "Take", "find_reusable"]

logger = logging.getLogger("handout")

_NOT_NEEDED = "no function that runs takes its result"
#: How many tasks a log record names.
_NAMED = 10


#: Returns an object of the earlier run, or an element of it, in the form in which the new run needs it. None if the new
#: run needs no other form. It may raise any `Exception`, because reading an object runs user code.
Take = Callable[[int, Path], Any]


@dataclass(frozen=True, slots=True)
class Found:
    """An object of the earlier run that a run can use."""

    #: The number of the object in the earlier run.
    number: int
    #: What `Take` returned.
    taken: Any


@dataclass(slots=True)
class Reuse:
    """What a run takes from an earlier one."""

    identities: RunIdentities
    #: For each task that does not run: the task of the earlier run that made its result, or -1 if no task or caller
    #: needs its result.
    done: dict[int, int] = field(default_factory=dict)
    #: By object number: the objects that tasks or the caller need, and that tasks of the earlier run have made.
    objects: dict[int, Found] = field(default_factory=dict)
    #: For each task that runs: why the earlier run has no result for it. The last tasks come first.
    anew: dict[int, str] = field(default_factory=dict)
    #: How many tasks of the earlier run have made what the run takes.
    used: int = 0

    def is_made(self, task: int, number: int) -> bool:
        """Return True if the run makes an object, or has it from the earlier run."""
        return task not in self.done or number in self.objects

    def source(self, task: int, earlier: Plan) -> str:
        """Return in words where the result of a task comes from that does not run."""
        made_by = self.done[task]
        return f"the result of {earlier.ids[made_by]!r} in given=" if made_by >= 0 else _NOT_NEEDED


def find_reusable(plan: Plan, encoded: EncodedRun, earlier: EarlierRun, take: Take) -> Slices[Reuse]:
    """Find what a run can take from an earlier one, and tell the log.

    Args:
        plan: The graph of the run.
        encoded: The bytes of the run.
        earlier: The earlier run.
        take: Takes objects out of the earlier run.
    """
    mine = RunIdentities(plan, encoded)
    yield from mine.compute()
    theirs = yield from earlier.identities()
    matching = _Matching(plan, encoded, earlier, take, mine, theirs)
    yield from matching.run()
    _tell(plan, matching.found)
    return matching.found


class _Matching:
    def __init__(
        self,
        plan: Plan,
        encoded: EncodedRun,
        earlier: EarlierRun,
        take: Take,
        mine: RunIdentities,
        theirs: RunIdentities | None,
    ) -> None:
        self._plan, self._encoded, self._earlier, self._take = plan, encoded, earlier, take
        self._mine, self._theirs = mine, theirs
        self.found = Reuse(mine)
        #: The tasks of the earlier run that are done, and the objects that it still has, by identity.
        self._done: dict[bytes, int] = {}
        self._held: dict[bytes, int] = {}
        #: For each object, 1 if a task that runs, or the caller, needs it.
        self._needed = bytearray(len(encoded.producers))
        #: For each task with elements that are objects of their own, the numbers of these objects.
        self._elements: dict[int, list[int]] = {}

    def run(self) -> Slices[None]:
        if self._theirs is not None:
            yield from self._index(self._theirs)
        for number, extra in enumerate(self._plan.extras, len(self._plan)):
            if is_slice_end(number):
                yield
            if isinstance(extra, Pick):
                self._elements.setdefault(extra.task, []).append(number)
        for number in self._plan.outputs:
            self._needed[number] = 1
        reasons = yield from Reasons.of(self._plan, self._mine, self._earlier, self._theirs)
        for task in reversed(range(len(self._plan))):
            if is_slice_end(task):
                yield
            yield from self._decide(task, reasons)

    def _index(self, theirs: RunIdentities) -> Slices[None]:
        earlier = self._earlier
        for task, outcome in enumerate(earlier.outcomes):
            if is_slice_end(task):
                yield
            if outcome is Outcome.DONE:
                self._done[theirs.tasks[task]] = task
        for number, producer in enumerate(earlier.plan.producers):
            if is_slice_end(number):
                yield
            if producer >= 0 and earlier.holds(number):
                self._held[theirs.object(number)] = number

    def _decide(self, task: int, reasons: Reasons) -> Slices[None]:
        """Decide whether a task runs. All tasks that take its result have been decided before."""
        needed = [number for number in (task, *self._elements.get(task, ())) if self._needed[number]]
        if not needed:
            self.found.done[task] = -1
            return
        made_by = self._done.get(self._mine.tasks[task])
        objects = (yield from self._objects(task, needed)) if made_by is not None else None
        if made_by is not None and objects is not None:
            self.found.done[task] = made_by
            self.found.objects.update(objects)
            self.found.used += 1
            return
        self.found.anew[task] = reasons.why(task)
        for number in self._encoded.inputs[task]:
            self._needed[number] = 1

    def _objects(self, task: int, needed: list[int]) -> Slices[dict[int, Found] | None]:
        """Return the needed objects of a task; None if the earlier run does not have all of them."""
        objects: dict[int, Found] = {}
        for number in needed:
            held = self._locate(task, number)
            if held is None:
                return None
            yield
            try:
                objects[number] = Found(held[0], self._take(*held))
            except Exception as error:
                logger.warning(
                    "The result of %r in given= is not used, because it cannot be read: %s: %s",
                    self._plan.name_of(number),
                    short_name(error),
                    printable(exceptions.message(error)),
                )
                return None
        return objects

    def _locate(self, task: int, number: int) -> tuple[int, Path] | None:
        """Return the earlier run's object that holds an object of a task, and the path to it. None: there is none."""
        whole = self._mine.tasks[task]
        path: Path = ()
        if number != task:
            extra: Any = self._plan.extras[number - len(self._plan)]
            path = extra.path
        for end in range(len(path), -1, -1):
            there = self._held.get(element_identity(whole, path[:end]) if end else whole)
            if there is not None:
                return there, path[end:]
        return None


def _tell(plan: Plan, found: Reuse) -> None:
    """Tell the log what is reused, and what runs anew and why."""
    named = [f"; {plan.ids[task]!r}: {found.anew[task]}" for task in islice(reversed(found.anew), _NAMED)]
    if len(found.anew) > _NAMED:
        named.append(f"; and {len(found.anew) - _NAMED} more")
    logger.log(
        logging.INFO if found.used or not found.anew else logging.WARNING,
        "Results in given= are used for %d of %d functions. Functions that run: %d%s.",
        found.used,
        len(plan),
        len(found.anew),
        "".join(named),
    )
