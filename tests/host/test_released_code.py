"""What a worker frees when a run is over, and that it visits all its objects only if the run left much."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from handout.serialization import pickling
from tests.pythons import bundle, run_on_host

__all__ = ["bundle"]

#: Loads the functions of several runs, calls each twice, drops each run, and prints if what the run left is small.
DROP = (
    "import pickle\n"
    "from handout.host.worker import main_module, released_code\n"
    "from handout.serialization import definitions, functions_by_value, pickling\n"
    "pickling.become_worker()\n"
    "for number, blob in enumerate(pickle.load(sys.stdin.buffer)):\n"
    "    functions_by_value.use(number)\n"
    "    loaded = pickling.loads(blob)\n"
    "    main_module.lend(loaded, '')\n"
    "    loaded(); loaded()\n"
    "    print(released_code.is_small([*definitions.forget([number]), loaded]))\n"
)
#: Runs a program's function in one run after another, and prints how many namespaces are left.
COLLECT = (
    "import gc, pickle\n"
    "from handout.host.worker import released_code\n"
    "from handout.serialization import definitions, functions_by_value, pickling\n"
    "pickling.become_worker()\n"
    "released_code._MAX_RUNS = 3\n"
    "gc.disable()\n"
    "released = released_code.ReleasedCode()\n"
    "released.free([])\n"
    "for number, blob in enumerate(pickle.load(sys.stdin.buffer)):\n"
    "    functions_by_value.use(number)\n"
    "    pickling.loads(blob)()\n"
    "    released.free(definitions.forget([number]))\n"
    "    print(sum(functions_by_value.OWN_MODULE in vars(each) for each in gc.get_objects() if type(each) is type(sys)))\n"
)

SMALL = {
    "constants": "N, LIMITS = 3, {'a': [1, 2.5]}\ndef fn(): return N, LIMITS",
    "functions that call each other": "def one(): return two\ndef two(): return one\ndef fn(): return one(), two()",
    "installed code": (
        "import json\nfrom fractions import Fraction\nfrom textwrap import dedent\n"
        "def fn(x: Fraction = None): return json.dumps(dedent('1')), Fraction, len"
    ),
    "a closure": "def make(n):\n    def inner(): return n, inner\n    return inner\nfn = make(3)",
    "a method and a closure of installed code": (
        "import contextlib, json\nKEPT = []\n"
        "def fn(): KEPT.append((json.JSONDecoder.decode, contextlib.contextmanager(len)))"
    ),
    "a count of a task": "N = 0\ndef fn():\n    global N\n    N += 1",
}
LARGE = {
    "a large constant": "DATA = b'x' * 1_000_000\ndef fn(): return len(DATA)",
    "an array": "DATA = bytearray(10)\ndef fn(): return len(DATA)",
    "a class": "class Model: pass\ndef fn(): return Model",
    "an object that a task keeps": "import io\nKEPT = []\ndef fn(): KEPT.append(io.BytesIO())",
    "a class that a task makes": (
        "KEPT = []\ndef fn():\n    class Model: data = bytearray(10)\n    KEPT.append(Model)"
    ),
    "a class that is named like an imported one": (
        "KEPT = []\ndef fn(): KEPT.append(type('Fraction', (), {'__module__': 'fractions', 'data': bytearray(10)}))"
    ),
    "a closure of an installed package": (
        "import contextlib\nKEPT = []\ndef fn(): KEPT.append(contextlib.contextmanager(bytearray(10)))"
    ),
    "a module that a task makes": (
        "import types\nKEPT = []\n"
        "def fn():\n    made = types.ModuleType('json')\n    made.data = bytearray(10)\n    KEPT.append(made)"
    ),
    "a cache": "import functools\n@functools.cache\ndef helper(): return 1\ndef fn(): return helper()",
    "a default value": "import fractions\ndef fn(x=fractions.Fraction(1)): return x",
    "an object in a closure": (
        "def make(data):\n    def inner(): return data, inner\n    return inner\nfn = make(bytearray(10))"
    ),
    "many constants": "DATA = list(range(900))\nMORE = {n: [str(n)] * 90 for n in range(900)}\ndef fn(): return DATA, MORE",
}


def blob_of(source: str) -> bytes:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(source, space)
    return b"".join(pickling.dumps(space["fn"]))


def on_host(bundle: Path, source: str, blobs: list[bytes]) -> list[str]:
    return run_on_host(sys.executable, source, stdin=pickle.dumps(blobs), bundle=bundle).decode().split()


def test_code_and_small_constants_are_small_and_all_else_is_not(bundle: Path) -> None:
    found = on_host(bundle, DROP, [blob_of(source) for source in (*SMALL.values(), *LARGE.values())])
    assert dict(zip([*SMALL, *LARGE], found, strict=True)) == {
        **dict.fromkeys(SMALL, "True"), **dict.fromkeys(LARGE, "False")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "left"),
    [(SMALL["functions that call each other"], ["1", "2", "0", "1", "2"]), (LARGE["a class"], ["0"] * 5)],
    ids=["small", "large"],
)
def test_a_worker_collects_after_each_run_that_left_much_and_else_after_a_number_of_runs(
    source: str, left: list[str], bundle: Path
) -> None:
    assert on_host(bundle, COLLECT, [blob_of(source) for _ in left]) == left
