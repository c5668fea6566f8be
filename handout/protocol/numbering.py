"""Tickets and keys: how attempts and objects are called on the wire, where numbers of different runs meet.

A ticket holds run, task and attempt, a key run and object; agents compare them and look no further. An attempt's
number travels whole, whatever it is: one that came again would let an old answer pass for a new one. Its upper bits are
on top, where the first few thousand have none, so that tickets are short.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["base", "by_run", "key_parts", "of_run", "parts", "ticket"]

_RUN_SHIFT = 44
_TASK_SHIFT = 12
_TOP_SHIFT = 96
_BITS = 128
_ATTEMPT = (1 << _TASK_SHIFT) - 1
_TASK = (1 << _RUN_SHIFT - _TASK_SHIFT) - 1
_RUN = (1 << _TOP_SHIFT - _RUN_SHIFT) - 1
_OBJECT = (1 << _RUN_SHIFT) - 1


def base(run: int) -> int:
    """A run's keys are this, with an object's number in the lower bits."""
    return run << _RUN_SHIFT


def ticket(run: int, task: int, attempt: int) -> int:
    """What an attempt is called."""
    return attempt >> _TASK_SHIFT << _TOP_SHIFT | run << _RUN_SHIFT | task << _TASK_SHIFT | attempt & _ATTEMPT


def parts(ticket: int) -> tuple[int, int, int]:
    """Run, task and attempt of a ticket.

    Raises:
        ValueError: It is none.
    """
    top = ticket >> _TOP_SHIFT
    if top:
        if ticket >> _BITS:
            raise ValueError("no ticket has so many bits")
        top <<= _TASK_SHIFT
    return ticket >> _RUN_SHIFT & _RUN, ticket >> _TASK_SHIFT & _TASK, top | ticket & _ATTEMPT


def key_parts(key: int) -> tuple[int, int]:
    """Run and object of a key."""
    return key >> _RUN_SHIFT, key & _OBJECT


def of_run(tickets: Iterable[int], run: int) -> tuple[list[int], list[int]]:
    """Tasks and attempts of the tickets of one run."""
    for number, tasks, attempts in by_run(tickets):
        if number == run:
            return tasks, attempts
    return [], []


def by_run(tickets: Iterable[int]) -> list[tuple[int, list[int], list[int]]]:
    """Tickets sorted into (run, tasks, attempts)."""
    runs: dict[int, tuple[list[int], list[int]]] = {}
    for each in tickets:
        number, task, attempt = parts(each)
        tasks, attempts = runs.setdefault(number, ([], []))
        tasks.append(task)
        attempts.append(attempt)
    return [(number, *columns) for number, columns in runs.items()]
