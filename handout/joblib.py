"""A backend for joblib: scikit-learn, and all other libraries that use joblib, run on the hosts of a cluster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Unpack

from handout.errors import HandoutError
from handout.execution.batches import Batches
from handout.execution.cluster import Cluster
from handout.graph import Options
from handout.submission.single_call import CallOptions

try:
    from joblib.parallel import (
        AutoBatchingMixin,
        BatchCompletionCallBack,
        BatchedCalls,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
    )
except ImportError as error:
    raise ImportError(
        "handout.joblib needs joblib 1.3 or newer, and it cannot be imported here. Install it: pip install joblib",
        name="joblib",
    ) from error

__all__ = ["Backend"]

#: The settings that joblib gives to every backend.
_COMMON: Final = frozenset({"context", "max_nbytes", "mmap_mode", "prefer", "require", "temp_folder", "verbose"})


if TYPE_CHECKING:

    class _JoblibBackend:
        """What `Backend` uses of the classes below. joblib has no types, so those of `Backend` would be incomplete."""

        nesting_level: int | None

        def reset_batch_stats(self) -> None: ...

else:
    # With joblib's choice of the sizes of batches.
    _JoblibBackend = type("_JoblibBackend", (AutoBatchingMixin, ParallelBackendBase), {})


class Backend(_JoblibBackend):
    """A backend of joblib whose functions run on the hosts of a cluster.

    Libraries that use joblib, such as scikit-learn, need no change. The hosts need joblib and these libraries. joblib
    puts quick calls together into batches, and each batch is one task.

    In joblib, ``n_jobs=-1`` means as many batches at one time as the hosts can run with the cost in ``options``. It is
    the default of this backend. With a smaller number, the hosts get at most that many at one time. With ``n_jobs=1``,
    joblib calls the functions in this program, one after another. Functions that use joblib themselves do so without
    further parallelism on their host.

    An argument of more than 64 KiB travels once to each host in a call of ``joblib.Parallel``, as long as the calls get
    the same object. If the object is changed between two of them, the later ones get its new content.

    Args:
        cluster: An open cluster. If it was opened by ``async with``, use joblib in another thread:
            ``await asyncio.to_thread(...)``.
        **options: Options of each task, see `Options`. If the functions of a batch have options of their own, these
            options win.

    Raises:
        GraphError: An option is wrong, or only a function of a graph can have it.
        HostError: The cluster is not open.

    Example:
        ```python
        import joblib
        import handout.joblib

        with handout.Cluster() as cluster:
            with joblib.parallel_config(backend=handout.joblib.Backend(cluster, cost={"cpu": 1})):
                powers = joblib.Parallel()(joblib.delayed(pow)(2, n) for n in range(100))
            assert powers[10] == 1024
        ```
    """

    default_n_jobs = -1
    supports_retrieve_callback = True

    def __init__(self, cluster: Cluster, /, **options: Unpack[Options]) -> None:
        super().__init__()
        if not isinstance(cluster, Cluster):
            raise HandoutError(
                f"A backend for joblib needs an open Cluster, and got a {type(cluster).__name__}.",
                remedy="Write `with Cluster(...) as cluster:`, and in this block Backend(cluster).",
            )
        self._options = CallOptions(options)
        self._runtime = cluster._runtime
        _ = self._runtime.open_loop  # raises if the cluster is not open
        #: The ``Parallel`` that uses this backend at present.
        self.parallel: Any = None
        #: Runs the batches of that ``Parallel``. joblib's own backends have an attribute of this name, too.
        self._pool: Batches | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches joblib should take for the number that run at one time.

        Args:
            n_jobs: The number that the caller has asked for; see `joblib.Parallel`.

        Returns:
            1 only if ``n_jobs`` is 1, because joblib then calls the functions in this program.

        Raises:
            ValueError: ``n_jobs`` is 0.
        """
        if n_jobs == 1:
            return 1
        return max(2, self._most(n_jobs))

    def _most(self, n_jobs: int | None) -> int:
        """Return how many batches the hosts may have at one time."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        return max(1, self._slots + 1 + (-1 if n_jobs is None else n_jobs))

    @property
    def _slots(self) -> int:
        return self._runtime.slots(self._options.requirements)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **settings: Any) -> int:
        """Prepare for a ``Parallel``.

        Args:
            n_jobs: The number that the caller has asked for.
            parallel: The ``Parallel``.
            **settings: What joblib tells every backend. It concerns processes of this machine, so it is ignored here.

        Returns:
            The number of batches that joblib takes for the number that run at one time.

        Raises:
            FallbackToBackend: joblib must use another backend, which the exception has.
            HandoutError: There is a setting that is not for every backend, or the caller is in the event loop of the
                cluster.
        """
        if unknown := settings.keys() - _COMMON:
            raise HandoutError(
                f"joblib.Parallel got {', '.join(sorted(unknown))}, which handout.joblib.Backend does not have.",
                remedy="Give options of the tasks to Backend(cluster, ...). What an initializer does belongs into the "
                "function itself.",
            )
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self._pool is not None:
            # Another `Parallel` uses this backend, such as one whose generator was not read to its end.
            raise FallbackToBackend(self._twin())
        if self._runtime.open_loop.is_current:
            raise HandoutError(
                "joblib would wait for ever, because it was called in the event loop of the cluster, which must be "
                "free for the calls to end.",
                remedy="Write `await asyncio.to_thread(f)`, where f uses joblib.",
            )
        self.parallel = parallel
        self._pool = self._new_pool(n_jobs)
        return self.effective_n_jobs(n_jobs)

    def _twin(self) -> Backend:
        """Return a backend of the same cluster that no ``Parallel`` uses."""
        twin = copy.copy(self)
        twin.parallel = twin._pool = None
        twin.reset_batch_stats()
        return twin

    def _new_pool(self, n_jobs: int) -> Batches:
        most = self._most(n_jobs)
        parallel = self.parallel
        limit = most if most < self._slots else None
        return Batches(self._runtime, self._options, limit, lambda error: _fail(parallel, error))

    def submit(self, func: Any, callback: Callable[[Future[Any]], object] | None = None) -> Future[Any]:
        """Run a batch on a host.

        Args:
            func: The batch, of joblib's class ``BatchedCalls``.
            callback: Called with the future when the future is done.

        Raises:
            HandoutError: The call of ``Parallel`` has ended already.
        """
        pool = self._pool
        if pool is None:
            raise HandoutError("This call of joblib.Parallel has ended, so it cannot run more functions.")
        return pool.submit(func.items, BatchedCalls, (self.get_nested_backend(),), callback)

    def apply_async(self, func: Any, callback: Callable[[Future[Any]], object] | None = None) -> Future[Any]:
        """Run a batch on a host. Versions of joblib before 1.5 have this name for `submit`."""
        return self.submit(func, callback)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch that has ended, or raise its exception."""
        return out.result()

    def get_nested_backend(self) -> tuple[Any, None]:
        """Return the backend of functions that use joblib themselves: on the host, they call one after another."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None

    def stop_call(self) -> None:
        """Have hosts drop the large arguments of the call, because the call has ended."""
        if self._pool is not None:
            self._pool.forget_arguments()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End all batches, because one of them has failed or its time is over.

        Args:
            ensure_ready: True if the same ``Parallel`` may run further batches.
        """
        self._end_pool()
        if ensure_ready:
            self._pool = self._new_pool(self.parallel.n_jobs)

    def terminate(self) -> None:
        """End all batches, because the ``Parallel`` needs the backend no more."""
        self._end_pool()
        self.parallel = None
        self.reset_batch_stats()

    def _end_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


def _fail(parallel: Any, error: BaseException) -> None:
    """End a call of ``Parallel`` with what its callback raised, for example while it asked for further functions.

    joblib itself ends a call in this way, but only for exceptions that the caller's iterable raises.
    """
    failed = BatchCompletionCallBack(0, 1, parallel)
    parallel._register_new_job(failed)
    failed._register_outcome({"result": error, "status": "Error"})
