"""Exceptions, exit codes and ``retry_on`` of a task that raise, hang or refuse: they harm this task alone."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import operator
import os
import sys
import threading
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import handout
from handout import Cluster, Graph
from handout.execution.shell import retry_decisions
from tests import work
from tests.patience import HANG_S

pytestmark = pytest.mark.asyncio(loop_scope="module")


class KeywordError(Exception):
    def __init__(self, *, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class RefusingError(Exception):
    """An exception that takes no notes and no attributes, and shows none."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(f"no {name}")

    def add_note(self, note: str) -> None:
        raise RuntimeError("no notes")

    def with_traceback(self, tb: Any) -> Any:
        raise RuntimeError("no traceback")


class SilentError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__

    def __getattr__(self, name: str) -> Any:
        raise KeyboardInterrupt


class HangingError(Exception):
    def __str__(self) -> str:
        while True:  # catches everything, so that no signal ends it
            try:
                threading.Event().wait()
            except BaseException:
                continue

    __repr__ = __str__


class FalseError(Exception):
    def __len__(self) -> int:
        return 0

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")


class LockedError(Exception):
    """An exception that cannot be pickled, but whose class can be."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def fail(kind: type[Exception], *args: Any, **kwargs: Any) -> None:
    raise kind(*args, **kwargs)


def fail_odd(notes: Any) -> None:
    error = ValueError("the real reason")
    error.__notes__ = notes
    raise error


def fail_first(path: str, kind: type[Exception], *args: Any, **kwargs: Any) -> str:
    with open(path, "a", encoding="utf-8") as file:
        file.write("x")
    if Path(path).stat().st_size < 2:
        raise kind(*args, **kwargs)
    return "done"


def hurry() -> None:
    """Let the worker wait for user objects only as long as a test wants to wait."""
    sys.modules["handout.serialization.user_objects"].LIMIT_S = 0.2  # type: ignore[attr-defined]


def fail_hanging() -> None:
    hurry()
    raise HangingError


def leave(code: Any) -> None:
    hurry()
    sys.exit(code)


def leave_with(kind: type) -> None:
    leave(kind())


def import_missing(how: str) -> None:
    if how == "statement":
        import not_installed_anywhere
    elif how == "function":
        importlib.import_module("not_installed_anywhere.sub")
    elif how == "raised again":
        try:
            import not_installed_anywhere  # noqa: F401
        except ImportError:
            raise
    raise ModuleNotFoundError("No module named 'not_installed_anywhere'", name="not_installed_anywhere")


async def failure_of(cluster: Cluster, graph: Graph) -> tuple[BaseException, handout.Failure]:
    with pytest.raises(Exception) as caught:
        await asyncio.wait_for(cluster.execute(graph), HANG_S)
    found = handout.failure(caught.value)
    assert found is not None
    assert found.attempts == 1
    return caught.value, found


@pytest.mark.parametrize(
    ("kind", "args", "kwargs", "said"),
    [
        (KeywordError, (), {"status": 404}, "status 404"),
        (FrozenError, (404,), {}, "404"),
        (RefusingError, ("why",), {}, "why"),
        (SilentError, (), {}, "<no text: str() raised SystemExit>"),
        (FalseError, ("empty",), {}, "empty"),
        (work.Refused, ("no", 3), {}, "no"),
    ],
)
async def test_an_exception_is_one_tasks_own_error(
    cluster: Cluster, kind: type[Exception], args: Any, kwargs: Any, said: str
) -> None:
    graph = Graph()
    graph.add(fail, kind, *args, **kwargs)
    error, found = await failure_of(cluster, graph)
    assert type(error) is kind
    assert said in found.reason
    assert "in fail" in found.traceback


@pytest.mark.parametrize("notes", [5, "text", None])
async def test_an_exception_that_takes_no_note_arrives_as_itself(cluster: Cluster, notes: Any) -> None:
    graph = Graph()
    graph.add(fail_odd, notes)
    error, _ = await failure_of(cluster, graph)
    assert (type(error), error.args) == (ValueError, ("the real reason",))


async def test_an_exception_whose_text_hangs_ends_with_its_type(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(fail_hanging, retries=2, retry_on=ValueError)
    graph.add(fail_hanging, id="again", retries=1, retry_on=HangingError)
    graph.add(work.add, 1, 2, id="other")
    results = await asyncio.wait_for(cluster.execute(graph, on_failure="continue"), HANG_S)
    found = results.failures["fail_hanging"]
    assert found.attempts == 1
    assert "HangingError: <no text: Handout stopped waiting for str() after 0.2 s>" in found.reason
    assert "was not sent: Handout stopped waiting for the methods of its class" in str(found.exception)
    assert "in fail_hanging" in found.traceback
    assert results.failures["again"].attempts == 2
    assert results["other"] == 3


@pytest.mark.parametrize("kind", [object, SilentError, HangingError, RefusingError])
async def test_an_exit_with_an_object_is_one_tasks_own_error(cluster: Cluster, kind: type) -> None:
    graph = Graph()
    graph.add(leave_with, kind)
    error, _ = await failure_of(cluster, graph)
    assert isinstance(error, handout.errors.TaskExitedError)
    assert isinstance(error.code, str)


class Status(int):
    def __abs__(self) -> int:
        raise RuntimeError("no size")


@pytest.mark.parametrize(("code", "told"), [(True, 1), (Status(7), 7), ("why", "why"), (1 << 80, str(1 << 80))])
async def test_an_exit_with_a_number_or_a_text_tells_it(cluster: Cluster, code: Any, told: Any) -> None:
    graph = Graph()
    graph.add(leave, code)
    error, _ = await failure_of(cluster, graph)
    assert isinstance(error, handout.errors.TaskExitedError)
    assert error.code == told


async def test_an_exit_with_a_huge_number_is_told_by_its_size(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(leave, 10**6000)
    error, _ = await failure_of(cluster, graph)
    assert "an integer of 19932 bits" in str(error)


@pytest.mark.parametrize(
    ("kind", "args", "kwargs"),
    [(KeywordError, (), {"status": 503}), (FrozenError, (503,), {}), (LockedError, ("held",), {})],
)
async def test_retry_on_knows_the_class(
    cluster: Cluster, tmp_path: Path, kind: type[Exception], args: Any, kwargs: Any
) -> None:
    graph = Graph()
    given = {"retries": 2, "backoff_s": 0.01}
    out = graph.add(fail_first, str(tmp_path / "tries"), kind, *args, retry_on=kind, **given, **kwargs)
    assert (await cluster.execute(graph))[out] == "done"


@pytest.mark.parametrize("how", ["statement", "function", "raised again", "raised by the function"])
async def test_a_missing_package_is_one_clear_error_without_retries(cluster: Cluster, how: str) -> None:
    graph = Graph()
    graph.add(import_missing, how, id="bad", retries=1)
    with pytest.raises(ModuleNotFoundError) as caught:
        await asyncio.wait_for(cluster.execute(graph), HANG_S)
    error, failure = caught.value, handout.failure(caught.value)
    assert failure is not None
    assert error.name == "not_installed_anywhere"
    by_import = how != "raised by the function"
    assert failure.attempts == (1 if by_import else 2)
    assert (f"(imported at {__file__}, line " in str(error)) == by_import
    assert ("it is not installed on this host" in str(error)) == by_import
    remedy = f"Install 'not_installed_anywhere' for the Python of that host, {sys.executable}, or name another Python"
    assert (remedy in error.__notes__[-1]) == by_import


def import_missing_submodule() -> None:
    import json.not_a_module_of_it  # type: ignore[import-not-found]  # noqa: F401


async def test_a_missing_module_of_a_package_that_the_host_has_is_told_as_such(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(import_missing_submodule)
    with pytest.raises(ModuleNotFoundError, match="the package 'json' on this host has no such module") as caught:
        await asyncio.wait_for(cluster.execute(graph), HANG_S)
    remedy = "Install a version of 'json', or another package, that has 'json.not_a_module_of_it', for the Python of"
    assert remedy in caught.value.__notes__[-1]


@pytest.mark.parametrize(
    ("retry_on", "attempts"),
    [
        (Exception, 1),
        ((ValueError, OSError), 1),
        (ModuleNotFoundError, 3),
        ((ValueError, ImportError), 3),
        (lambda error: isinstance(error, ModuleNotFoundError), 3),
        (lambda error: isinstance(error, ValueError), 1),
    ],
)
async def test_a_missing_package_is_tried_again_if_retry_on_names_its_error(
    cluster: Cluster, retry_on: Any, attempts: int
) -> None:
    graph = Graph()
    graph.add(import_missing, "statement", id="bad", retries=2, backoff_s=0.01, retry_on=retry_on)
    with pytest.raises(ModuleNotFoundError) as caught:
        await asyncio.wait_for(cluster.execute(graph), HANG_S)
    failure = handout.failure(caught.value)
    assert failure is not None
    assert failure.attempts == attempts
    assert len(failure.hosts) == min(attempts, 2)
    advice = caught.value.__notes__[-1]
    assert ("tried again only if its retry_on= names ModuleNotFoundError" in advice) == (attempts == 1)
    assert ("raise retries=" in advice) == (attempts > 1)


@pytest.mark.parametrize("place", ["module", "script", "argument"])
async def test_a_package_that_is_missing_when_a_task_is_loaded_is_one_clear_error(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    missing = ModuleType("not_on_hosts")
    missing.__spec__ = ModuleSpec("not_on_hosts", None)
    exec("def made(): pass", vars(missing))
    monkeypatch.setitem(sys.modules, "not_on_hosts", missing)
    name = f"homissing{len(os.listdir(tmp_path.parent))}"  # each launcher has a module of its own
    (tmp_path / f"{name}.py").write_text("import not_on_hosts\ndef f(): pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    space: dict[str, Any] = {"__name__": "__main__", "not_on_hosts": missing}
    exec("def f(): return not_on_hosts", space)
    graph = Graph()
    if place == "argument":
        graph.add(repr, missing.made, id="bad")
    else:
        graph.add(space["f"] if place == "script" else importlib.import_module(name).f, id="bad")
    with pytest.raises(handout.TaskError) as caught:
        await asyncio.wait_for(cluster.execute(graph), HANG_S)
    error, failure = caught.value, handout.failure(caught.value)
    assert failure is not None
    assert error.problem.startswith(f"Task 'bad' could not be started on host {error.host!r}: the ")
    assert "could not be loaded: ModuleNotFoundError: No module named 'not_on_hosts'" in error.problem
    assert (f"(imported at {tmp_path / name}.py, line 1): it is not installed" in error.problem) == (place == "module")
    assert failure.attempts == 2  # one on each host
    assert sorted(failure.hosts) == ["gpu", "plain"]
    tried = ", ".join(map(repr, failure.hosts))
    assert error.problem.endswith(f". Hosts that were tried, because another host may have the package: {tried}.")
    assert error.remedy == (
        f"Install 'not_on_hosts' for the Python of that host, {sys.executable}, or name another Python in the entry of "
        "the host: Host(..., python=...). Or give the function host= with the name of a host that has the package."
    )
    assert error.__notes__[-1] == f"What to do: {error.remedy}"


async def test_an_exception_that_cannot_be_pickled_is_a_remote_error_whatever_its_class(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(fail, LockedError, "held", retries=2, retry_on=(KeyError, OSError))
    error, _ = await failure_of(cluster, graph)
    assert isinstance(error, handout.RemoteError)
    assert error.message == "held"


class Judge(type(Exception)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: object) -> bool:
        raise SystemExit(4)


class JudgedError(Exception, metaclass=Judge):
    pass


@pytest.mark.parametrize("retry_on", [JudgedError, (KeyError, JudgedError), lambda error: error.nothing_of_that_name])
@pytest.mark.parametrize("kind", [FrozenError, RefusingError])
async def test_a_retry_on_that_raises_is_a_no_also_for_what_takes_no_note(
    cluster: Cluster, kind: type[Exception], retry_on: Any
) -> None:
    graph = Graph()
    graph.add(fail, kind, 404, retries=2, retry_on=retry_on)
    error, _ = await failure_of(cluster, graph)
    assert type(error) is kind


ALLOWED: contextvars.ContextVar[bool] = contextvars.ContextVar("ALLOWED", default=False)


async def test_a_retry_on_has_the_callers_context_variables(cluster: Cluster) -> None:
    ALLOWED.set(True)
    graph = Graph()
    graph.add(fail, FrozenError, 404, retries=1, backoff_s=0.01, retry_on=lambda error: ALLOWED.get())
    with pytest.raises(FrozenError) as caught:
        await cluster.execute(graph)
    found = handout.failure(caught.value)
    assert found is not None
    assert found.attempts == 2


async def test_a_retry_on_that_hangs_is_a_no_and_the_loop_goes_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, release = threading.Event(), threading.Event()

    def judge(error: Exception) -> bool:
        asked.set()
        return release.wait()

    monkeypatch.setattr(retry_decisions, "LIMIT_S", 0.2)
    graph = Graph()
    for number in range(3):
        graph.add(fail, KeywordError, status=number, retries=2, retry_on=judge, id=f"hangs-{number}")
    graph.add(fail, KeywordError, status=9, retries=2, retry_on=lambda error: False, id="answers")
    results = await asyncio.wait_for(cluster.execute(graph, on_failure="continue"), HANG_S)
    release.set()
    assert asked.is_set()
    said = [results.failures[f"hangs-{number}"].exception.__notes__ for number in range(3)]
    assert sum("retry_on=judge did not answer within 0.2 s" in "".join(notes) for notes in said) == 1
    assert all("so the task was not retried" in "".join(notes) for notes in said)
    assert results.failures["answers"].attempts == 1


async def test_a_retry_on_that_answers_after_its_run_was_left_harms_nothing(cluster: Cluster) -> None:
    asked, release = threading.Event(), threading.Event()

    def judge(error: Exception) -> bool:
        asked.set()
        return release.wait()

    graph = Graph()
    graph.add(fail, KeywordError, status=1, retries=2, retry_on=judge)
    running = asyncio.ensure_future(cluster.execute(graph))
    await asyncio.to_thread(asked.wait, HANG_S)
    running.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    again = Graph()
    out = again.add(work.add, 1, 2)
    assert (await cluster.execute(again))[out] == 3


async def test_a_class_of_a_script_that_travels_by_value_arrives_as_itself(cluster: Cluster) -> None:
    class LocalError(Exception):
        def __init__(self, *, status: int) -> None:
            super().__init__(f"status {status}")
            self.status = status

    def local() -> None:
        raise LocalError(status=404)

    graph = Graph()
    graph.add(local)
    error, _ = await failure_of(cluster, graph)
    assert type(error) is LocalError
    assert error.status == 404


async def test_a_group_of_exceptions_arrives_as_itself(cluster: Cluster) -> None:
    def several() -> None:
        raise ExceptionGroup("several", [KeywordError(status=1), FrozenError(2)])

    graph = Graph()
    graph.add(several)
    with pytest.raises(ExceptionGroup) as caught:
        await cluster.execute(graph)
    assert [type(each) for each in caught.value.exceptions] == [KeywordError, FrozenError]


@pytest.mark.parametrize("value", [10**6000, [10**6000]], ids=["plain", "inside"])
async def test_a_huge_integer_travels_also_with_a_journal(tmp_path: Path, value: Any) -> None:
    graph = Graph()
    out = graph.add(work.identity, value)
    for _ in range(2):
        results = await handout.execute(graph, journal=tmp_path / "run.db")
        assert results[out] == value


class Nameless:
    """A callable whose attributes cannot be looked up."""

    def __call__(self) -> int:
        return 5

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no name")


class Classless:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


def make_classless() -> Any:
    return Classless()


async def test_a_callable_and_a_result_that_raise_when_they_are_asked_are_as_good_as_others(cluster: Cluster) -> None:
    graph = Graph()
    called, made = graph.add(Nameless(), id="called"), graph.add(make_classless)
    results = await cluster.execute(graph)
    assert results[called] == 5
    assert type(results[made]) is Classless


async def test_an_error_of_an_attribute_or_a_name_keeps_the_name(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(operator.attrgetter("nope"), "text", id="attribute")
    error, _ = await failure_of(cluster, graph)
    assert type(error) is AttributeError
    assert error.name == "nope"
