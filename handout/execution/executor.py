"""A `concurrent.futures.Executor` whose functions run on the hosts of a cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from handout.errors import HandoutError, HostError
from handout.execution.open_loop import OpenLoop
from handout.serialization.untrusted.allowlist import registered_by_value
from handout.serialization.user_objects import is_interruption
from handout.submission.single_call import CallOptions, EncodedCall, encode_call

if TYPE_CHECKING:
    from handout.execution.cluster_runtime import ClusterRuntime

__all__ = ["ClusterExecutor"]

P = ParamSpec("P")
T = TypeVar("T")


class ClusterExecutor(Executor):
    """Runs functions on the hosts of a cluster, for code that knows only executors of the standard library.

    Args:
        runtime: The cluster.
        options: Options for each function that does not have an option of the same name.

    Raises:
        GraphError: An option is wrong, or only a function of a graph can have it.
        HostError: The cluster is not open.
    """

    def __init__(self, runtime: ClusterRuntime, options: Mapping[str, Any]) -> None:
        self._options = CallOptions(options)
        self._runtime = runtime
        self._loop = runtime.open_loop
        #: Guards the two attributes below.
        self._lock = threading.Lock()
        self._is_shut_down = False
        self._unfinished: set[_CallFuture[Any]] = set()

    @property
    def _max_workers(self) -> int:
        """How many calls a library should keep submitted: twice as many as the hosts can run at one time, at least 1.

        Some libraries, such as Dask, read this attribute of executors, and submit only so many calls at a time. With
        twice the number, a host has its next call before it has reported the end of the last one.
        """
        return max(1, 2 * self._runtime.slots(self._options.requirements))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function on a host. Any thread may call this method.

        The arguments are pickled before this method returns. A future is running from the moment at which its function
        is handed over to a host. From then on it cannot be cancelled any more.

        Args:
            fn: The function.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The future. It has the exception if the function or an argument cannot be pickled, if the call is wrong, or
            if the cluster cannot be used. It has a `BrokenExecutor` if the cluster is closed before the call has ended.

        Raises:
            RuntimeError: The executor was shut down.
        """
        future: _CallFuture[T] = _CallFuture(self._loop)
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._unfinished.add(future)
        future.add_done_callback(self._on_done)
        try:
            companions = registered_by_value() if self._runtime.has_data_hosts else ()
            call = encode_call(fn, args, kwargs, self._options, companions)
            self._runtime.bulk_calls.look_at(call, args, kwargs)
            self._begin(future, call)
        except BaseException as error:
            if is_interruption(error):
                future.cancel()
                raise
            future.fail(error)
        return future

    def _begin(self, future: _CallFuture[T], call: EncodedCall) -> None:
        """Run a call in the cluster's event loop."""

        def start() -> None:
            if not self._runtime.spawn(self._run(future, call)):
                future.fail(_closed())

        if self._loop.is_current:
            start()
            return
        try:
            self._loop.post(start)
        except HostError as error:
            if self._loop.is_forked:
                raise
            raise _closed() from error

    async def _run(self, future: _CallFuture[T], call: EncodedCall) -> None:
        """Run a call, and give its result to the future."""
        task = asyncio.current_task()
        assert task is not None
        if not future.will_cancel(lambda: self._loop.post(task.cancel)):
            return
        try:
            result = await self._runtime.calls.run(call, future.begin)
        except asyncio.CancelledError:
            future.fail(_interrupted() if future.is_interrupted else _closed())
            if not (future.is_given_up or future.is_interrupted):
                raise  # the cluster is being closed
        except BaseException as error:
            if is_interruption(error):
                raise
            future.fail(_closed() if self._runtime.is_closed else error)
        else:
            if future.begin():
                future.set_result(result)

    def _on_done(self, future: Future[Any]) -> None:
        assert isinstance(future, _CallFuture)
        with self._lock:
            self._unfinished.discard(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls of `submit`. The cluster stays open.

        Args:
            wait: If True, return only when all futures of this executor are done.
            cancel_futures: If True, cancel the futures that are not running.

        Raises:
            HandoutError: ``wait`` is True, some futures are not done, and the caller is in the event loop of the
                cluster. The futures could never be done, because the loop would wait for itself.
        """
        with self._lock:
            self._is_shut_down = True
            unfinished = list(self._unfinished)
        if cancel_futures:
            for future in unfinished:
                future.cancel()
        if wait and any(not future.done() for future in unfinished):
            _refuse_to_block(self._loop, "executor.shutdown()")
            concurrent.futures.wait(unfinished)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shut the executor down. If Ctrl-C ends the block, end the calls too, instead of waiting for their results."""
        if error is None or not is_interruption(error):
            self.shutdown(wait=True)
            return
        self.shutdown(wait=False)
        with self._lock:
            unfinished = list(self._unfinished)
        for future in unfinished:
            future.interrupt()
        self.shutdown(wait=not self._loop.is_current)


class _CallFuture(Future[T]):
    """The future of a call. In the event loop of the cluster it refuses to wait, because it could wait for ever.

    Args:
        loop: The event loop of the cluster.
    """

    def __init__(self, loop: OpenLoop) -> None:
        super().__init__()
        self._loop = loop
        #: Guards the attributes below, and the change from pending to running. The event loop takes this lock, so
        #: nothing may be called under it that could wait for the event loop, such as the callbacks of the future. It is
        #: reentrant, because a signal handler may use the future, too.
        self._turn = threading.RLock()
        self._end_call: Callable[[], object] | None = None
        #: True once `cancel` has succeeded, also while the callbacks of the future are still called.
        self.is_given_up = False
        #: True if the caller waits no more for the result of the call; see `interrupt`.
        self.is_interrupted = False

    def will_cancel(self, end_call: Callable[[], object]) -> bool:
        """Have a cancellation of the future call ``end_call``. Return False if the future was cancelled before."""
        with self._turn:
            self._end_call = end_call
            return not self.is_given_up

    def begin(self) -> bool:
        """Mark the future as running, unless it is. Return False if it is done."""
        with self._turn:
            if self.is_given_up:
                return False
            if not (self.running() or self.done()):
                self.set_running_or_notify_cancel()
            return not self.done()

    def fail(self, error: BaseException) -> None:
        """Give the future an exception, unless it is done."""
        if self.begin():
            self.set_exception(error)

    def cancel(self) -> bool:
        """Cancel the future, unless it is running or done. Return True if it is cancelled."""
        with self._turn:
            if self.is_given_up:
                return True
            if self.running() or self.done():
                return False
            self.is_given_up = True
            end_call = self._end_call
        if end_call is not None:
            with contextlib.suppress(HostError):  # the cluster was closed, and all of its calls have ended
                end_call()
        super().cancel()
        self.set_running_or_notify_cancel()  # so that `concurrent.futures.wait` learns of it
        return True

    def interrupt(self) -> None:
        """End the call, also if it runs on a host. The future of a running call gets an exception."""
        if self.cancel() or self.done():
            return
        with self._turn:
            self.is_interrupted = True
            end_call = self._end_call
        if end_call is not None:
            with contextlib.suppress(HostError):  # the cluster is closed, and all of its calls have ended
                end_call()

    def result(self, timeout: float | None = None) -> T:
        """Return the result; see `concurrent.futures.Future.result`."""
        if not self.done():
            _refuse_to_block(self._loop, "future.result()")
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception; see `concurrent.futures.Future.exception`."""
        if not self.done():
            _refuse_to_block(self._loop, "future.exception()")
        return super().exception(timeout)


def _refuse_to_block(loop: OpenLoop, what: str) -> None:
    if loop.is_current:
        raise HandoutError(
            f"{what} would wait for ever, because it was called in the event loop of the cluster, which must be free "
            "for the call to end.",
            remedy="Write `await asyncio.wrap_future(future)`, or `await cluster.call(...)`.",
        )


def _interrupted() -> BrokenExecutor:
    return BrokenExecutor("The `with` block of this executor was interrupted before the call had ended.")


def _closed() -> BrokenExecutor:
    return BrokenExecutor("The cluster of this executor was closed before the call had ended.")
