"""Attempt ids and object keys: the numbers by which messages name the attempts and objects of all runs.

An attempt id combines the numbers of a run, a task and an attempt. A key combines the numbers of a run and an object.
Agents only compare ids and keys, and do not take them apart.

An attempt id contains the whole attempt number. If it contained only some lower bits of the number, a late report of an
old attempt could pass for a report of a new attempt. All bits of the number except the lowest 12 are at the top of the
id. These upper bits are zero for attempt numbers below 4,096, so most ids are short.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "FIRST_KEY",
    "attempt_id",
    "base",
    "by_run",
    "checkpoint_key",
    "checkpoint_parts",
    "is_checkpoint",
    "key_parts",
    "of_run",
    "parts",
]

_RUN_SHIFT = 44
_TASK_SHIFT = 12
_TOP_SHIFT = 96
_BITS = 128
_ATTEMPT = (1 << _TASK_SHIFT) - 1
_TASK = (1 << _RUN_SHIFT - _TASK_SHIFT) - 1
_RUN = (1 << _TOP_SHIFT - _RUN_SHIFT) - 1
_OBJECT = (1 << _RUN_SHIFT) - 1

#: The lowest key that an object of a run can have, because runs are numbered from 1. Lower keys name source bundles,
#: which are archives of the user's modules.
FIRST_KEY = 1 << _RUN_SHIFT
#: The object number of a checkpoint is this bit plus the number of its task. No run has so many other objects.
_CHECKPOINT = 1 << _RUN_SHIFT - 1
_COUNT_BITS = 32


def base(run: int) -> int:
    """Return the lowest key of a run. The key of an object is this key plus the object's number."""
    return run << _RUN_SHIFT


def attempt_id(run: int, task: int, attempt: int) -> int:
    """Return the id of an attempt, given the numbers of its run, its task and the attempt itself."""
    return attempt >> _TASK_SHIFT << _TOP_SHIFT | run << _RUN_SHIFT | task << _TASK_SHIFT | attempt & _ATTEMPT


def parts(attempt_id: int) -> tuple[int, int, int]:
    """Return the run, task and attempt numbers of an attempt id.

    Raises:
        ValueError: The id has more than 128 bits.
    """
    top = attempt_id >> _TOP_SHIFT
    if top:
        if attempt_id >> _BITS:
            raise ValueError("an attempt id has more than 128 bits")
        top <<= _TASK_SHIFT
    return attempt_id >> _RUN_SHIFT & _RUN, attempt_id >> _TASK_SHIFT & _TASK, top | attempt_id & _ATTEMPT


def key_parts(key: int) -> tuple[int, int]:
    """Return the run and object numbers of a key."""
    return key >> _RUN_SHIFT & _RUN, key & _OBJECT


def checkpoint_key(attempt_id: int, count: int) -> int:
    """Return the key of a checkpoint that an attempt has made. ``count`` numbers the checkpoints of the attempt.

    The key is that of an object of the run. Its upper bits have the count and the attempt number, so that no two
    checkpoints of a task have the same key.
    """
    run, task, attempt = parts(attempt_id)
    return (attempt << _COUNT_BITS | count) << _TOP_SHIFT | run << _RUN_SHIFT | _CHECKPOINT | task


def is_checkpoint(key: int) -> bool:
    """Return True if a key names a checkpoint."""
    return key & _CHECKPOINT != 0


def checkpoint_parts(key: int) -> tuple[int, int, int]:
    """Return the run, task and attempt numbers of the attempt that has made a checkpoint."""
    return key >> _RUN_SHIFT & _RUN, key & _CHECKPOINT - 1, key >> _TOP_SHIFT + _COUNT_BITS


def of_run(attempt_ids: Iterable[int], run: int) -> tuple[list[int], list[int]]:
    """Return the task numbers and the attempt numbers of the attempts that belong to one run."""
    for number, tasks, attempts in by_run(attempt_ids):
        if number == run:
            return tasks, attempts
    return [], []


def by_run(attempt_ids: Iterable[int]) -> list[tuple[int, list[int], list[int]]]:
    """Group attempts by run. Return (run number, task numbers, attempt numbers) for each run."""
    runs: dict[int, tuple[list[int], list[int]]] = {}
    for each in attempt_ids:
        number, task, attempt = parts(each)
        tasks, attempts = runs.setdefault(number, ([], []))
        tasks.append(task)
        attempts.append(attempt)
    return [(number, *columns) for number, columns in runs.items()]
