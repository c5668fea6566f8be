"""Runs the batches of calls that a library makes, each as one task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import replace
from typing import Any, Final

from handout.errors import HostError
from handout.execution.callback_thread import CallbackThread
from handout.execution.cluster_runtime import ClusterRuntime
from handout.execution.shell.run_objects import RunObjects
from handout.execution.stored_object import StoredObject, hold
from handout.serialization.pickling import Segment
from handout.serialization.several_calls import Item
from handout.serialization.untrusted.allowlist import registered_by_value
from handout.serialization.user_objects import is_interruption
from handout.submission.call_values import SharedArguments, SharedValue
from handout.submission.several_calls import encode_calls
from handout.submission.single_call import CallOptions, EncodedCall

__all__ = ["Batches"]

#: Bytes of large arguments that stay on hosts although no batch takes them at present.
_MAX_IDLE: Final = 256 << 20


class Batches:
    """Runs batches on the hosts of a cluster. A large argument that several batches take travels once to each host.

    Any thread may use it, except that `close` and `submit` must not be called in the event loop of the cluster.

    Args:
        runtime: The cluster.
        options: Finds the options of the functions.
        most: Largest number of batches that hosts have at one time. None means no limit.
        failed: Called in a thread with whatever a callback raises.

    Raises:
        HostError: The cluster is not open.
    """

    def __init__(
        self,
        runtime: ClusterRuntime,
        options: CallOptions,
        most: int | None,
        failed: Callable[[BaseException], object],
    ) -> None:
        self._runtime = runtime
        self._options = options
        self._loop = runtime.open_loop
        self._gate = None if most is None else asyncio.Semaphore(most)
        self._shared = SharedArguments(_MAX_IDLE)
        self._callbacks = CallbackThread("handout batches", failed)
        self._is_closed = False
        #: The asyncio tasks that run batches. Only the event loop uses the set.
        self._running: set[asyncio.Task[Any]] = set()
        #: The stored objects that shared values are. Only the event loop uses the table.
        self._homes: dict[SharedValue, StoredObject] = {}

    def submit(
        self,
        items: Sequence[Item],
        prepare: Callable[..., Callable[[], Any]],
        extra: tuple[Any, ...],
        done: Callable[[Future[Any]], object] | None,
    ) -> Future[Any]:
        """Run a batch on a host.

        Args:
            items: The calls of the batch.
            prepare: Makes one function of the calls, on the host; see `make_calls`.
            extra: Further arguments of ``prepare``.
            done: Called with the future when the future is done, in a thread of its own. It is not called after
                `close`.

        Returns:
            The future. It has the exception if the batch cannot be sent. It has a `BrokenExecutor` if the cluster is
            closed before the batch has ended. It is cancelled by `close`.
        """
        future: Future[Any] = Future()
        if done is not None:
            future.add_done_callback(lambda ended: self._callbacks.call(done, ended))
        try:
            companions = registered_by_value() if self._runtime.has_data_hosts else ()
            call = encode_calls(items, prepare, extra, self._options, companions, self._shared)
            self._loop.post(lambda: self._start(future, call))
        except BaseException as error:
            if is_interruption(error):
                future.cancel()
                raise
            future.set_exception(_closed() if isinstance(error, HostError) else error)
        return future

    def _start(self, future: Future[Any], call: EncodedCall) -> None:
        if not self._runtime.spawn(self._run(future, call)):
            future.set_exception(_closed())

    async def _run(self, future: Future[Any], call: EncodedCall) -> None:
        """Run a batch, and give its result to the future."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            if self._is_closed:
                return
            async with self._gate or contextlib.nullcontext():
                result = await self._runtime.calls.run(self._with_homes(call))
        except asyncio.CancelledError:
            if not self._is_closed:
                future.set_exception(_closed())
                raise  # the cluster is being closed
        except BaseException as error:
            if is_interruption(error):
                future.set_exception(error)
                raise
            future.set_exception(_closed() if self._runtime.is_closed else error)
        else:
            future.set_result(result)
        finally:
            self._running.discard(task)
            self._let_go(self._shared.end(call.bytes.values))
            future.cancel()  # does nothing if the future is done

    def _with_homes(self, call: EncodedCall) -> EncodedCall:
        """Return a call with a stored object in place of each value that it shares with other calls."""
        values = [self._home_of(value) if isinstance(value, SharedValue) else value for value in call.bytes.values]
        return replace(call, bytes=call.bytes._replace(values=values))

    def _home_of(self, value: SharedValue) -> StoredObject | Sequence[Segment]:
        if not value.is_known:
            return value  # no other call may take it any more
        home = self._homes.get(value)
        if home is None:
            objects, number = RunObjects(), self._runtime.next_run()
            objects.supply(0, value)
            home = hold(self._runtime.driver, number, objects, f"shared-{number}", value.nbytes)
            self._homes[value] = home
        return home

    def _let_go(self, values: Sequence[SharedValue]) -> None:
        for value in values:
            home = self._homes.pop(value, None)
            if home is not None:
                home.let_go()

    def forget_arguments(self) -> None:
        """Have hosts drop the large arguments as soon as no batch takes them."""
        values = self._shared.clear()
        self._in_loop(lambda: self._let_go(values))

    def close(self) -> None:
        """End all batches, and call no more callbacks. Batches that hosts have are ended there."""
        self._is_closed = True
        self._in_loop(self._cancel)
        self.forget_arguments()
        self._callbacks.end()

    def _cancel(self) -> None:
        for task in list(self._running):
            task.cancel()

    def _in_loop(self, function: Callable[[], object]) -> None:
        try:
            self._loop.post(function)
        except HostError:
            return  # the cluster was closed, and all batches have ended with it


def _closed() -> BrokenExecutor:
    return BrokenExecutor("The cluster was closed before these calls had ended.")
