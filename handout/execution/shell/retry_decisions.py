"""Asks the user's ``retry_on`` if a failed task may get another attempt.

A class or a tuple of classes is compared at once. A function is user code, which may raise anything and may never
return. So a daemon thread calls such functions, one after another, and each call has a limit. The event loop goes on
meanwhile: otherwise a function that hangs would stop the heartbeats to all hosts.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from handout.errors import RemoteError
from handout.failures import Failure
from handout.graph.function_options import RetryOn
from handout.serialization import exceptions
from handout.serialization.user_objects import short_name

__all__ = ["RetryDecisions"]

#: Seconds that a call of ``retry_on`` may take.
LIMIT_S = 10.0


class _Question(NamedTuple):
    retry_on: Any
    failure: Failure
    #: The exception of the failure.
    error: Exception
    #: Takes the answer, on the thread of the event loop.
    then: Callable[[bool], None]


class RetryDecisions:
    """Answers for one cluster if failed tasks may be tried again.

    Args:
        loop: The event loop of the cluster.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[_Question] = deque()
        self._asked: _Question | None = None
        #: The functions that did not answer in time. They are not called again, because each such call costs a thread.
        self._overdue: list[Any] = []

    def ask(self, retry_on: RetryOn, failure: Failure, then: Callable[[bool], None]) -> None:
        """Find out if another attempt may help. Pass the answer to ``then``: at once, or in a later turn of the loop.

        If ``retry_on`` raises an error or does not answer in time, the answer is no, and a note of the task's exception
        says why.
        """
        # The exception is made on this thread, because this may import modules, which another thread could be doing.
        question = _Question(retry_on, failure, failure.bare(), then)
        if _is_comparison(retry_on):
            self._conclude(question, _judge(question))
        elif any(retry_on is each for each in self._overdue):
            self._conclude(question, "did not answer in time before")
        else:
            self._waiting.append(question)
            self._ask_next()

    def _ask_next(self) -> None:
        if self._asked is not None or not self._waiting:
            return
        question = self._asked = self._waiting.popleft()
        if any(question.retry_on is each for each in self._overdue):
            self._answered(question, "did not answer in time before")
            return
        timer = self._loop.call_later(LIMIT_S, self._give_up, question)

        def work() -> None:
            answer = _judge(question)
            try:
                self._loop.call_soon_threadsafe(self._in_time, question, answer, timer)
            except RuntimeError:
                return  # the loop is closed, so that nothing waits for the answer any more

        try:
            threading.Thread(target=work, name="handout-retry-on", daemon=True).start()
        except RuntimeError as error:
            self._in_time(question, f"could not be called: {error}", timer)

    def _in_time(self, question: _Question, answer: bool | str, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._answered(question, answer)

    def _give_up(self, question: _Question) -> None:
        if self._asked is question:
            self._overdue.append(question.retry_on)
            self._answered(question, f"did not answer within {LIMIT_S:g} s")

    def _answered(self, question: _Question, answer: bool | str) -> None:
        if self._asked is not question:
            return  # the answer came too late
        self._asked = None
        self._conclude(question, answer)
        self._ask_next()

    def _conclude(self, question: _Question, answer: bool | str) -> None:
        if isinstance(answer, str):
            question.failure.report["retryable"] = False
            exceptions.add_note(question.failure.exception, f"retry_on {answer}, so the task was not retried.")
            answer = False
        question.then(answer)


def _is_comparison(retry_on: Any) -> bool:
    """Return True if comparing an exception with ``retry_on`` runs no code of a metaclass."""
    kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    return all(isinstance(kind, type) and type(kind) is type for kind in kinds)


def _judge(question: _Question) -> bool | str:
    """Return the answer of the user's ``retry_on``, or a text that says why there is none."""
    retry_on, error = question.retry_on, question.error
    try:
        if not isinstance(retry_on, type | tuple):
            return bool(retry_on(error))
        lost = question.failure.lost_class if type(error) is RemoteError else None
        if lost is not None and issubclass(lost, retry_on):
            return True
        # With plain classes, `isinstance` would do the same, but might also ask the exception for its ``__class__``.
        return issubclass(type(error), retry_on) if _is_comparison(retry_on) else isinstance(error, retry_on)
    except BaseException as raised:  # ``retry_on`` may raise anything; some test tools raise such subclasses
        return f"raised {short_name(raised)}: {exceptions.message(raised)}"
