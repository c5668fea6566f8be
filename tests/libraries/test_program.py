"""The program `q01_executor` runs on two hosts, with Dask and scikit-learn in place of its stand-ins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import HANG_S

PROGRAM = Path(__file__).parents[1] / "typing" / "programs" / "q01_executor.py"
FILE = 'Cluster("hosts.toml")'
LOCAL = "Cluster([handout.Host.local(name, {'cpu': 2, 'memory': '16 GB'}) for name in ('one', 'two')])"
#: What takes the place of functions and classes of the program.
REAL = """

def collection_of_tables() -> object:
    import dask.dataframe, pandas
    return dask.dataframe.from_pandas(pandas.DataFrame({"x": range(100)}), npartitions=4).x.sum()

def compute(collection: object, *, scheduler: Executor) -> float:
    return float(collection.compute(scheduler=scheduler))

class Search:
    def fit(self, x, y) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV
        print("best", sorted(GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(x, y).best_params_))

if __name__ == "__main__":
    main([[float(n)] for n in range(40)], [0, 1] * 20)
    print(asyncio.run(service()))
"""


@pytest.mark.full
@pytest.mark.parametrize("launcher", ["local", "ssh"])
def test_the_program_runs(launcher: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for library in ("dask.dataframe", "joblib", "sklearn"):
        pytest.importorskip(library, reason=f"{library} is not installed: pip install -e '.[libraries]'")
    text = PROGRAM.read_text(encoding="utf-8") + REAL
    assert text.count(FILE) == 2
    if launcher == "local":
        text = text.replace(FILE, LOCAL)
    else:
        capabilities = '{ cpu = 2, memory = "16 GB" }'
        inventory = request.getfixturevalue("sshd").inventory_file({"one": capabilities, "two": capabilities})
        (tmp_path / "hosts.toml").write_text(inventory.read_text())
    (tmp_path / "program.py").write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    *simulated, total, computed, best, last = done.stdout.splitlines()
    assert sorted(map(float, simulated)) == [10_000.0 + seed for seed in range(100)]
    assert (float(total), float(computed), best, float(last)) == (104_950.0, 4950.0, "best ['C']", 1007.0)
