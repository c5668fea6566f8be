"""Objects that tasks of other runs take.

A run may keep objects after its end; see `RunSpec.keep`. The run is then the home of these objects: it stays until the
shell closes it, and makes a lost object again. A run whose tasks take such an object borrows it. Its columns have an
entry for the object, which mirrors the replicas at home. A graph's run gives back what it has borrowed when it is
closed, because its tasks may run again until then; a task of an open run, when its end is announced.
"""

from __future__ import annotations

from collections.abc import Mapping

from handout.scheduler.events import ObjectsReleased
from handout.scheduler.handlers.cancellation import fail_consumers, is_gone
from handout.scheduler.handlers.replicas import drop_unused, mirror
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World

__all__ = ["borrow_all", "objects_released"]


def borrow_all(world: World, run: Run, borrowed: Mapping[int, tuple[int, int]]) -> None:
    """Have a run borrow objects; see `RunSpec.borrowed`."""
    for o, (number, object_) in borrowed.items():
        home = world.runs.get(number)
        if home is None:
            fail_consumers(world, run, o)
            continue
        run.borrow(o, home, object_)
        if home.objects.replicas[object_]:
            mirror(world, home, object_)
        elif is_gone(home, object_):
            fail_consumers(world, run, o)


def objects_released(world: World, event: ObjectsReleased) -> None:
    """Drop objects that a run kept after its end."""
    run = world.runs.get(event.run)
    if run is None:
        world.stale += len(event.objects)
        return
    for o in event.objects:
        if o in run.borrowers:
            continue  # it goes when this run is closed; the shell releases no object that an open run borrows
        run.objects.release_kept(o)
        if not run.objects.uses[o]:
            drop_unused(world, run, o)
    world.ending.add(run)
