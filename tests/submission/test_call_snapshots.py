"""The bytes of a called function, from one call to the next."""

from __future__ import annotations

import functools
import gc
import importlib
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handout.serialization.calls import load_call
from handout.serialization.pickling import loads
from handout.submission.single_call import CallOptions, EncodedCall, encode_call


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield a module with a function ``work``."""
    (tmp_path / "module_of_calls.py").write_text("def work(x=0):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("module_of_calls")
    del sys.modules["module_of_calls"]


OPTIONS = CallOptions({})


def encoded(fn: Any, *args: Any) -> EncodedCall:
    return encode_call(fn, args, {}, OPTIONS)


def test_calls_of_a_function_that_hosts_import_have_the_same_function_and_modules(module: Any) -> None:
    first, second = encoded(module.work, 1), encoded(module.work, 2)
    assert second.bytes.function is first.bytes.function
    assert loads(first.bytes.function.blob) is module.work
    assert second.bytes.modules == first.bytes.modules == {"module_of_calls"}
    assert [load_call(each.bytes.blob, lambda _: None)[0] for each in (first, second)] == [(1,), (2,)]


def test_a_function_that_is_no_more_found_by_its_name_is_sent_by_value(module: Any) -> None:
    """Otherwise, the host would run the new function of that name."""
    work = module.work
    assert not encoded(work).bytes.function.by_value
    module.work = functools.wraps(work)(lambda x=0: x + 1)
    assert encoded(work).bytes.function.by_value
    assert loads(encoded(module.work).bytes.function.blob) is module.work
    module.work = work
    assert not encoded(work).bytes.function.by_value


def test_a_function_that_moves_to_another_name_is_sent_by_that_name(module: Any) -> None:
    first = encoded(module.work)
    module.moved = module.work
    del module.work
    module.moved.__qualname__ = "moved"
    second = encoded(module.moved)
    assert second.bytes.function.blob != first.bytes.function.blob
    assert loads(second.bytes.function.blob) is module.moved


def test_code_among_the_arguments_does_not_change_the_function(module: Any) -> None:
    plain, with_code, again = encoded(module.work, 1), encoded(module.work, lambda: 1), encoded(module.work, 1)
    assert with_code.bytes.function.by_value
    assert [plain.bytes.function.by_value, again.bytes.function.by_value] == [False, False]
    assert {each.bytes.function.blob for each in (plain, with_code, again)} == {plain.bytes.function.blob}


def test_a_function_that_was_called_is_not_kept_alive(module: Any) -> None:
    encoded(module.work)
    alive = weakref.ref(module.work)
    del module.work
    gc.collect()
    assert alive() is None
