"""scikit-learn on two hosts, by way of `handout.joblib.Backend`: the same numbers as in one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from handout import Cluster

joblib = pytest.importorskip("joblib", reason="joblib is not installed: pip install -e '.[libraries]'")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install -e '.[libraries]'")
from sklearn.datasets import make_classification  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402

from handout.joblib import Backend  # noqa: E402

pytestmark = pytest.mark.slow

Data = tuple[Any, Any]


@pytest.fixture(scope="module")
def data() -> Data:
    """Return 2,000 rows of 20 columns, which are 320 KB, and their classes."""
    rows, classes = make_classification(2000, 20, random_state=0)
    return rows, classes


@pytest.fixture
def on_hosts(opened: Cluster) -> Iterator[None]:
    with joblib.parallel_config(backend=Backend(opened)):
        yield


def searched(data: Data) -> Any:
    return GridSearchCV(LogisticRegression(), {"C": [0.01, 1.0, 100.0]}, cv=3).fit(*data)


@pytest.fixture(scope="module")
def expected(data: Data) -> Any:
    """Return the same search in this process alone."""
    return searched(data)


def test_a_grid_search_finds_what_one_process_finds(expected: Any, data: Data, on_hosts: None) -> None:
    found = searched(data)
    assert found.best_params_ == expected.best_params_
    assert found.best_score_ == pytest.approx(expected.best_score_)
    scores = "mean_test_score"
    assert list(found.cv_results_[scores]) == pytest.approx(list(expected.cv_results_[scores]))
    assert found.predict(data[0][:50]).tolist() == expected.predict(data[0][:50]).tolist()


def test_a_forest_has_the_same_trees(data: Data, on_hosts: None) -> None:
    forest = RandomForestClassifier(n_estimators=12, random_state=7, n_jobs=1)
    alone = forest.fit(*data).predict_proba(data[0][:100])
    with_hosts = forest.set_params(n_jobs=-1).fit(*data).predict_proba(data[0][:100])
    assert with_hosts.tolist() == alone.tolist()


def test_scores_of_a_cross_validation_are_the_same(data: Data, on_hosts: None) -> None:
    model = LogisticRegression()
    assert cross_val_score(model, *data, n_jobs=-1).tolist() == pytest.approx(
        cross_val_score(model, *data, n_jobs=1).tolist()
    )
