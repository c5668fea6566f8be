"""A plugin of pytest that runs joblib's own tests of ``Parallel`` with Handout's backend; see `test_joblib_referee`."""

from __future__ import annotations

from typing import Any

import joblib
import pytest

import handout.joblib
from handout import Cluster, Host

_CLUSTER = Cluster([Host.local("one", {"cpu": 2}), Host.local("two", {"cpu": 2})], require="all")

_NO_DEFAULT = "without n_jobs, joblib's default is one job, and this backend's default is all slots"
_OWN_SCRIPT = "runs a script of its own, in which the backend is not registered"
_FILES = "maps files of this machine into processes of this machine"
_INITIALIZER = "an initializer is for the processes of a pool; handout.joblib.Backend refuses it"

#: The tests that cannot hold for functions on hosts, each with the reason.
LISTED = {
    "test_effective_n_jobs_None": _NO_DEFAULT,
    "test_nested_backend_in_sequential": _NO_DEFAULT,
    "test_backend_hinting_and_constraints": "expects that the default backend is one of joblib's own",
    "test_error_capture": "a KeyboardInterrupt on a host is no Ctrl-C in this program, so it becomes a RemoteError",
    "test_parallel_with_interactively_defined_functions": _OWN_SCRIPT,
    "test_parallel_with_unpicklable_functions_in_args": _OWN_SCRIPT,
    "test_auto_memmap_on_arrays_from_generator": _FILES,
    "test_memmapping_leaks": _FILES,
    "test_threadpool_limitation_in_child_override": "environment variables of the caller do not travel to hosts",
    "test_initializer_context": _INITIALIZER,
    "test_initializer_parallel": _INITIALIZER,
}
#: The parameters of a test that name the backend that it tests.
_BACKENDS = ("backend", "parent_backend", "outer_backend")
#: The parameters that name the backend of calls that functions make on hosts. There, no backend is registered by name.
_NESTED = ("child_backend", "inner_backend")
#: Words in the names of tests that are about another backend.
_OTHERS = ("loky", "threading", "threads", "dask", "multiprocessing", "mp_context")


class _Backend(handout.joblib.Backend):
    """The backend as joblib makes it by its name."""

    def __init__(self, nesting_level: int | None = None) -> None:
        super().__init__(_CLUSTER)
        self.nesting_level = nesting_level


def pytest_configure(config: pytest.Config) -> None:
    """Open the cluster, and make the backend joblib's default, before joblib's tests are imported."""
    _CLUSTER.__enter__()
    joblib.register_parallel_backend("handout", _Backend, make_default=True)
    config.addinivalue_line("markers", "thread_unsafe: of joblib")
    config.addinivalue_line("markers", "no_cover: of joblib")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the cluster."""
    _CLUSTER.__exit__(None, None, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leave out the tests of other backends, and those that are listed above."""
    left = [item for item in items if _is_ours(item) and item.originalname not in LISTED]
    config.hook.pytest_deselected(items=[item for item in items if item not in left])
    items[:] = left


def _is_ours(item: Any) -> bool:
    if any(word in item.originalname for word in _OTHERS):
        return False
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if any(params.get(name) == "handout" for name in _NESTED):
        return False
    named = [params[name] for name in _BACKENDS if name in params]
    return all(each is None or each == "handout" or isinstance(each, _Backend) for each in named)
