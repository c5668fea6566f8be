"""Objects that each process has of its own. The corpus shows that the code of a script refers to them by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from handout.serialization import pickling


def copied(value: Any) -> Any:
    return pickling.loads(b"".join(pickling.dumps(value)))


def test_the_environment_as_a_value_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDOUT_TEST_OWN", "before")
    copy = copied(os.environ)
    monkeypatch.setenv("HANDOUT_TEST_OWN", "after")
    assert copy["HANDOUT_TEST_OWN"] == "before"


@pytest.mark.parametrize("name", ["version_info", "flags", "float_info"])
def test_a_value_that_says_what_this_python_is_is_refused_and_never_that_of_another_process(name: str) -> None:
    with pytest.raises(TypeError, match=rf"no copy of sys\.{name}\. Use tuple\(sys\.{name}\)"):
        copied(getattr(sys, name))


def test_a_closure_refers_to_the_environment_by_name() -> None:
    environment = os.environ

    def make() -> Callable[..., Any]:
        def read(given: Any = environment, *, named: Any = environment) -> Any:
            return given, named, environment

        return read

    assert [each is os.environ for each in copied(make())()] == [True, True, True]
