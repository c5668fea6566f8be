"""Puts asyncio's current event loop and event loop policy back after each task.

`asyncio.run` leaves a thread without a current event loop, so that `asyncio.get_event_loop` fails in a later task that
would get a new loop in a fresh process. A worker may run thousands of short tasks that call `asyncio.run`. So the state
is put back after each task and does not count as a change, for which other tasks would run again.
"""

from __future__ import annotations

from asyncio import events
from operator import is_
from typing import Any, NamedTuple

__all__ = ["EventLoop"]


class _Current(NamedTuple):
    """What asyncio keeps for the thread that runs the tasks.

    It is in private attributes, because asyncio's functions make a policy or a loop where there is none.
    """

    policy: Any = None
    loop: Any = None
    #: False if `asyncio.get_event_loop` may make a loop.
    was_set: bool = False


_UNUSED = _Current()


def _current() -> _Current:
    policy = getattr(events, "_event_loop_policy", None)
    if policy is None:
        return _UNUSED
    local = getattr(policy, "_local", None)
    return _Current(policy, getattr(local, "_loop", None), getattr(local, "_set_called", False))


class EventLoop:
    """The current event loop and the event loop policy that each task must find."""

    def __init__(self) -> None:
        self._expected = _current()

    def restore(self) -> None:
        """Put the loop and the policy back.

        The loop that a task has left is not closed, because a module of the user may hold it and use it in later tasks.
        Python closes it when nothing refers to it any more. In a shared loop, nothing is put back while the loop runs.
        """
        found, expected = _current(), self._expected
        if found is expected or all(map(is_, found, expected)) or events._get_running_loop() is not None:
            return
        events._event_loop_policy = expected.policy  # type: ignore[attr-defined]
        local = getattr(expected.policy, "_local", None)
        if local is not None:
            local._loop, local._set_called = expected.loop, expected.was_set

    def snapshot(self) -> _Current:
        """Return the present loop and policy."""
        return _current()

    def keep_changes_since(self, before: _Current) -> None:
        """Expect from now on what an import has left, if it has changed anything since the snapshot ``before``.

        A policy holds the current loop, so both are kept even if the import has changed only one of them.
        """
        after = _current()
        if not all(map(is_, before, after)):
            self._expected = after
