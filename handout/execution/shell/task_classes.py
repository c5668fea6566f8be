"""Task classes. A task class has the amounts and the options that several tasks share. An agent gets it only once.

A task class is made for a profile and a variant of the cost. Tasks of one function with the same options share a
profile.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handout.execution.shell.run_state import RunState
from handout.graph.function_options import TaskOptions
from handout.protocol.messages import NewTaskClass, WorkerOptions
from handout.resources import PARTS

__all__ = ["TaskClass", "TaskClassTable"]


@dataclass(frozen=True, slots=True)
class TaskClass:
    """A task class, with the message that sends it to an agent."""

    #: The key by which `TaskClassTable` finds an equal task class.
    key: tuple[Any, ...]
    message: NewTaskClass
    #: The key and the bytes of the source bundle, from which workers import the user's modules. None if not needed.
    bundle: tuple[int, bytes] | None


class TaskClassTable:
    """The task classes of a cluster, which its runs share."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], TaskClass] = {}
        #: The task classes of each run, by profile, variant and warm values. Those of `alone` have negative numbers as
        #: variants.
        self._by_run: dict[int, dict[tuple[Any, ...], TaskClass]] = {}
        #: For each number of a task class, how many entries of ``_by_run`` have this class.
        self._uses: Counter[int] = Counter()
        #: No two task classes ever get the same number, because agents drop unused classes by their numbers.
        self._numbers = itertools.count(1)
        self._shared: frozenset[str] = frozenset()

    def share(self, names: frozenset[str]) -> None:
        """Set the names of the amounts that hosts share. Agents do not count these, so task classes leave them out."""
        self._shared = names

    def forget(self, run: int) -> set[int]:
        """Drop the entries of a run. Return the numbers of the task classes that no other run uses."""
        unused: set[int] = set()
        for task_class in self._by_run.pop(run, {}).values():
            number = task_class.message.number
            self._uses[number] -= 1
            if not self._uses[number]:
                del self._uses[number], self._known[task_class.key]
                unused.add(number)
        return unused

    def entry(self, run: RunState, profile: int, variant: int, warm: Sequence[str] = ()) -> TaskClass:
        """Return the task class for the tasks of a run that have a certain profile and run in a certain variant.

        Args:
            run: The run.
            profile: The profile of the tasks.
            variant: The variant of their cost.
            warm: The identities of the warm values that they take.
        """
        by_profile = self._by_run.setdefault(run.number, {})
        entry = (profile, variant, *warm)
        found = by_profile.get(entry)
        if found is None:
            found = by_profile[entry] = self._intern(run, profile, variant, warm=warm)
            self._uses[found.message.number] += 1
        return found

    def alone(self, run: RunState, profile: int, variant: int, is_limited: bool) -> TaskClass:
        """Return a task class for one attempt that gets a worker for itself, because it has a fault.

        Args:
            run: The run.
            profile: The profile of the attempt's task.
            variant: The variant of the task's cost.
            is_limited: True if the memory that the cost states is a limit.
        """
        by_profile = self._by_run.setdefault(run.number, {})
        entry = profile, -1 - 2 * variant - is_limited
        found = by_profile.get(entry)
        if found is None:
            found = by_profile[entry] = self._intern(run, profile, variant, True, is_limited)
            self._uses[found.message.number] += 1
        return found

    def _intern(
        self,
        run: RunState,
        profile: int,
        variant: int,
        is_alone: bool = False,
        is_limited: bool = False,
        warm: Sequence[str] = (),
    ) -> TaskClass:
        requirement = run.spec.profiles[profile].requirements[variant]
        need, _ = requirement.needs(self._shared)
        traits = run.traits[profile]
        options = traits.options
        cpu = need.get("cpu", 0)
        memory = requirement.consumed.get("memory", 0) // PARTS
        limit = memory if (options.enforce_memory or is_limited) and memory else None
        bundle = traits.bundle
        message = NewTaskClass(
            0,  # replaced below; an equal task class that exists keeps its own number
            dict(need),
            threads=max(1, math.ceil(cpu / PARTS)),
            # A task with a memory limit needs a process of its own, because the agent can only measure processes.
            shared_loop=traits.coroutine and not cpu and limit is None and not is_alone,
            timeout_s=options.timeout_s,
            options=_worker_options(options, limit),
            alone=is_alone or not options.idempotent,
            bundle=bundle.key if bundle else None,
            warm=warm,
        )
        key = (tuple(sorted(need.items())), message[2:])
        known = self._known.get(key)
        if known is None:
            message = message._replace(number=next(self._numbers))
            known = self._known[key] = TaskClass(key, message, (bundle.key, bundle.data) if bundle else None)
        return known


def _worker_options(options: TaskOptions, memory_limit: int | None) -> WorkerOptions:
    """Return the options of a function that the worker must know."""
    named = {name: getattr(options, name) for name in WorkerOptions._fields if name != "memory_limit"}
    return WorkerOptions(memory_limit=memory_limit, **named)
