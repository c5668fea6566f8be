"""Asks the user's ``retry_on`` if a failed task may get another attempt.

A class or a tuple of classes is compared at once. A function is user code, which may raise anything and may never
return. So a daemon thread calls such functions, one after another, and each call has a limit. The event loop goes on
meanwhile: otherwise a function that hangs would stop the heartbeats to all hosts.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from handout.errors import RemoteError
from handout.failures import Failure, bare_exception, lost_class
from handout.graph.function_options import RetryOn
from handout.graph.naming import name_of
from handout.serialization import exceptions
from handout.serialization.user_objects import short_name

__all__ = ["RetryDecisions", "allows_missing_modules"]

#: Seconds that a call of ``retry_on`` may take.
LIMIT_S = 10.0


class _Question(NamedTuple):
    retry_on: Any
    failure: Failure
    #: The exception of the failure.
    error: Exception
    #: The context variables in which the function is called.
    context: contextvars.Context
    #: Takes the answer, on the thread of the event loop.
    then: Callable[[bool], None]


class _Caller:
    """A thread that calls the functions, and what it does. The lock of `RetryDecisions` guards the attributes."""

    def __init__(self) -> None:
        #: The question whose function is being called, or None.
        self.question: _Question | None = None
        #: When the call began, in seconds of the monotonic clock.
        self.since = 0.0
        #: True once the thread was given up. It then answers no more questions.
        self.is_given_up = False


class RetryDecisions:
    """Answers for one cluster if failed tasks may be tried again.

    One thread calls the functions of all waiting questions, and then ends. Starting a thread for each question would
    take milliseconds for each on a busy machine. If a function is overdue, another thread goes on with the others.

    Args:
        loop: The event loop of the cluster.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: deque[_Question] = deque()
        self._caller: _Caller | None = None
        #: The functions that did not answer in time. They are not called again, because each such call costs a thread.
        self._overdue: list[Any] = []

    def ask(
        self, retry_on: RetryOn, failure: Failure, context: contextvars.Context, then: Callable[[bool], None]
    ) -> None:
        """Find out if another attempt may help. Pass the answer to ``then``: at once, or in a later turn of the loop.

        The function is called with a copy of ``context``, because a function that is overdue never leaves its context.

        If ``retry_on`` raises an error or does not answer in time, the answer is no, and a note of the task's exception
        says why.
        """
        # The thread of this call waits while the exception is made, so that no two threads import modules at once.
        question = _Question(retry_on, failure, bare_exception(failure), context.copy(), then)
        if isinstance(retry_on, type | tuple):
            self._conclude(question, _judge(question))
            return
        with self._lock:
            self._waiting.append(question)
            busy = self._caller is not None
        if not busy:
            self._start_thread()

    def _start_thread(self) -> None:
        caller = self._caller = _Caller()
        try:
            threading.Thread(target=self._call_all, args=(caller,), name="handout-retry-on", daemon=True).start()
        except RuntimeError as error:
            self._caller = None
            while self._waiting:
                self._conclude(self._waiting.popleft(), f"could not be called: {error}")
            return
        self._watch(caller)

    def _call_all(self, caller: _Caller) -> None:
        """Call the functions of all waiting questions. This method runs in a thread of its own."""
        while True:
            with self._lock:
                if caller.is_given_up:
                    return
                if not self._waiting:
                    self._caller = None
                    return
                question = caller.question = self._waiting.popleft()
                caller.since = time.monotonic()
            late = any(question.retry_on is each for each in self._overdue)
            answer = "did not answer in time before" if late else question.context.run(_judge, question)
            with self._lock:
                if caller.is_given_up:
                    return
                caller.question = None
            try:
                self._loop.call_soon_threadsafe(self._conclude, question, answer)
            except RuntimeError:
                return  # the loop is closed, so that nothing waits for the answer any more

    def _watch(self, caller: _Caller) -> None:
        """Give the thread up if a function is overdue. Otherwise, look again when one may be."""
        with self._lock:
            if self._caller is not caller:
                return
            question = caller.question
            left_s = LIMIT_S if question is None else caller.since + LIMIT_S - time.monotonic()
            caller.is_given_up = overdue = left_s <= 0.0
            if overdue:
                self._caller = None
        if not overdue:
            self._loop.call_later(left_s, self._watch, caller)
            return
        assert question is not None
        self._overdue.append(question.retry_on)
        self._conclude(question, f"did not answer within {LIMIT_S:g} s")
        if self._waiting and self._caller is None:
            self._start_thread()

    def _conclude(self, question: _Question, answer: bool | str) -> None:
        if isinstance(answer, str):
            report = question.failure.report
            report["retryable"], report["undecided"] = False, True
            said = f"retry_on={_name(question.retry_on)} {answer}, so the task was not retried."
            exceptions.add_note(question.failure.exception, said)
            answer = False
        question.then(answer)


def allows_missing_modules(retry_on: RetryOn | None) -> bool:
    """Return True if ``retry_on`` must be asked after an import of a package that the host lacks.

    A function is asked. Of classes, `Exception` does not count, because it does not name this kind of error.
    """
    if retry_on is None or not isinstance(retry_on, type | tuple):
        return retry_on is not None
    kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    return any(kind is ImportError or kind is ModuleNotFoundError for kind in kinds)


def _name(retry_on: Any) -> str:
    return "(...)" if isinstance(retry_on, tuple) else name_of(retry_on)


def _judge(question: _Question) -> bool | str:
    """Return the answer of the user's ``retry_on``, or a text that says why there is none."""
    retry_on, error = question.retry_on, question.error
    if isinstance(retry_on, type | tuple):
        lost = lost_class(question.failure) if type(error) is RemoteError else None
        return _is_caught(type(error), retry_on) or (lost is not None and _is_caught(lost, retry_on))
    try:
        return bool(retry_on(error))
    except BaseException as raised:  # ``retry_on`` may raise anything; some test tools raise such subclasses
        return f"raised {short_name(raised)}: {exceptions.message(raised)}"


def _is_caught(kind: type, by: type | tuple[type, ...]) -> bool:
    """Return True if ``except`` with this class or tuple would catch an exception of a class. No metaclass is asked."""
    return any(type.__subclasscheck__(each, kind) for each in (by if isinstance(by, tuple) else (by,)))
