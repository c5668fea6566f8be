"""Dask's collections on two hosts: their functions run with `scheduler=cluster.executor()`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handout import Cluster
from tests import work

dask = pytest.importorskip("dask", reason="dask is not installed: pip install -e '.[libraries]'")
np = pytest.importorskip("numpy", reason="numpy is not installed: pip install -e '.[libraries]'")

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]


def test_an_array_is_what_one_process_computes(opened: Cluster) -> None:
    array = pytest.importorskip("dask.array", reason="dask.array is not installed: pip install 'dask[array]'")
    x = array.random.default_rng(0).random((400, 400), chunks=(100, 100))
    y = (x @ x.T + 1).sum(axis=0)
    np.testing.assert_allclose(y.compute(scheduler=opened.executor()), y.compute(scheduler="sync"))


def test_chunks_over_64_kib_go_through_the_caller_unchanged(opened: Cluster) -> None:
    array = pytest.importorskip("dask.array", reason="dask.array is not installed: pip install 'dask[array]'")
    x = array.arange(200_000, chunks=50_000)
    found = (x + x[::-1]).rechunk(40_000).compute(scheduler=opened.executor())
    np.testing.assert_array_equal(found, np.full(200_000, 199_999))


def test_a_table_is_what_one_process_computes(opened: Cluster) -> None:
    tables = pytest.importorskip("dask.dataframe", reason="dask.dataframe is not installed: 'dask[dataframe]'")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    table = pandas.DataFrame({"key": np.arange(1000) % 7, "value": np.arange(1000.0)})
    lazy = tables.from_pandas(table, npartitions=5)
    means = lazy[lazy.value > 100].groupby("key").value.mean()
    found = means.compute(scheduler=opened.executor())
    pandas.testing.assert_series_equal(found.sort_index(), table[table.value > 100].groupby("key").value.mean())


def test_delayed_functions_run_on_both_hosts(opened: Cluster, tmp_path: Path) -> None:
    with dask.config.set(scheduler=opened.executor()):
        seen: Any = dask.compute(*[dask.delayed(work.meet_on_both_hosts)(str(tmp_path)) for _ in range(8)])
    assert {host for host, _ in seen} == {"plain", "gpu"}


def test_the_exception_of_a_function_is_raised(opened: Cluster) -> None:
    with pytest.raises(ZeroDivisionError):
        dask.delayed(divmod)(1, 0).compute(scheduler=opened.executor())
