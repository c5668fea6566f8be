"""Runs a plan in this process and thread, for `evaluate`.

The arguments of a function contain placeholders, which stand for the values that other functions return.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import os
import types
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from handout.errors import GraphError, RemoteError, TaskExitedError
from handout.graph.objects import Borrowed, Pick, WarmRecipe
from handout.graph.output import Input
from handout.graph.plan import Plan
from handout.host.task_context import HERE, Current, publish
from handout.host.warm_values import WarmValues
from handout.serialization import exceptions
from handout.serialization.calls import Inline, Loaded, Placeholder, Slot, Taken, Warmed, apply_path
from handout.serialization.user_objects import brief, short_name

__all__ = ["evaluate_plan"]


def evaluate_plan(
    plan: Plan, scratch: str, done: Container[int] = (), known: Mapping[int, Any] | None = None
) -> dict[int, Any]:
    """Call every function of a plan once, after the functions whose results it takes.

    Args:
        plan: The plan.
        scratch: A folder in which each task may make its own folder for temporary files. The caller removes it later.
        done: The tasks whose functions are not called, because results of an earlier run are used.
        known: The values of these results, by object number.

    Returns:
        The value of each object, by object number. The result of a task has the number of the task. Elements of results
        and values of the caller have higher numbers.

    Raises:
        Exception: The exception that a function raised, with the id of the task as a note.
    """
    values: dict[int, Any] = dict(known or {})
    picks: dict[int, list[int]] = {}
    for number, extra in enumerate(plan.extras, len(plan)):
        if isinstance(extra, Pick):
            picks.setdefault(extra.task, []).append(number)
        elif isinstance(extra, Borrowed):
            raise GraphError(
                f"The graph takes the stored object {extra.home.id!r}, which is on hosts. No host is contacted here.",
                remedy="Fetch the object first, and build the graph with its value.",
            )
        elif not isinstance(extra, WarmRecipe):
            values[number] = extra.value
    with _Loop() as loop, _WarmValues(plan, values, loop) as warm:
        for task in range(len(plan)):
            if task in done:
                continue
            current = Current(plan.ids[task], HERE, 1, 0, os.path.join(scratch, str(task)))
            try:
                publish(current, context_only=True)
                call = _InProcessCall(plan.slot_of(task), plan.inputs[task], values, warm, loop)
                values[task] = call.run(plan.fns[task], plan.args[task], plan.kwargs[task])
                for number in picks.get(task, ()):
                    values[number] = apply_path(values[task], plan.extras[number - len(plan)].path)  # type: ignore[union-attr]
            except (Exception, asyncio.CancelledError, SystemExit) as error:
                raise _as_failure(plan.ids[task], error) from exceptions.cause_of(error)
            finally:
                publish(None, context_only=True)
    return values


def _as_failure(id: str, error: BaseException) -> BaseException:
    """Return the exception that `evaluate` raises for a task: the task's own exception, or a safe one in its place.

    An exception is replaced if it would act on the caller's own code. `SystemExit` would end the caller's program.
    `CancelledError` and `StopIteration` would change the control flow of the caller's code.
    """
    failure: BaseException = error
    where: dict[str, Any] = {"id": id, "host": HERE, "attempt": 1}
    if issubclass(type(error), SystemExit):
        code = SystemExit.__dict__["code"].__get__(error)
        failure = TaskExitedError(f"Task {id!r} called sys.exit({brief(code)}).", code=code, **where)
    elif issubclass(type(error), StopIteration | StopAsyncIteration | asyncio.CancelledError):
        name, said = short_name(error), exceptions.message(error)
        failure = RemoteError(f"Task {id!r} raised {name}: {said}", type_name=name, message=said, **where)
    exceptions.add_note(failure, f"Task {id!r} was evaluated in this process.")
    return failure


class _Loop:
    """Runs coroutines to their end, in one event loop, which stays until the end because warm values may live in it.

    If this thread has a running event loop already, another thread runs the coroutines.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __enter__(self) -> _Loop:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._runner is not None:
            self._do(self._runner.close)
        if self._thread is not None:
            self._thread.shutdown()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                pass
            else:
                self._thread = ThreadPoolExecutor(1, "handout-evaluate")
        run = partial(self._runner.run, coroutine, context=contextvars.copy_context())
        return self._do(run)

    def _do(self, call: Callable[[], Any]) -> Any:
        if self._thread is None:
            return call()
        outcome: list[tuple[Any, BaseException | None]] = []

        def work() -> None:  # a future of the executor would replace some exceptions by others
            try:
                outcome.append((call(), None))
            except BaseException as error:  # raised again in the thread that waits
                outcome.append((None, error))

        self._thread.submit(work).result()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value


class _WarmValues:
    """The warm values of one call of `evaluate`, by the numbers of their recipes.

    Args:
        plan: The plan.
        values: The values of the objects of the plan.
        loop: The loop for asynchronous values.
    """

    def __init__(self, plan: Plan, values: dict[int, Any], loop: _Loop) -> None:
        self._plan = plan
        self._values = values
        self._loop = loop
        self._made = WarmValues(loop.run)

    def __enter__(self) -> _WarmValues:
        return self

    def __exit__(self, *exc: object) -> None:
        self._made.leave()

    def value(self, number: int) -> Any:
        """Return the value of a recipe. The first call makes it."""
        recipe = self._plan.extras[number - len(self._plan)]
        assert isinstance(recipe, WarmRecipe)
        key = number.to_bytes(8, "little"), recipe.inputs
        if key not in self._made.values:
            warm, slot_of = recipe.warm, self._plan.slot_in(recipe)
            call = _InProcessCall(slot_of, recipe.inputs, self._values, self, self._loop)
            self._made.make(key, partial(call.apply, warm.make, warm.args, warm.kwargs))
        return self._made.values[key]


class _InProcessCall:
    """Replaces each placeholder in the arguments of one call by a value, and then calls the function."""

    def __init__(
        self,
        slot_of: Callable[[Input[Any]], Placeholder],
        inputs: Sequence[int],
        values: dict[int, Any],
        warm: _WarmValues,
        loop: _Loop,
    ) -> None:
        self._slot_of = slot_of
        self._inputs = inputs
        self._values = values
        self._warm = warm
        self._loop = loop
        #: Results of inline functions, by ``id()`` of their placeholders. An inline function is called as a part of the
        #: task that takes its result. It is called only once, even if several arguments contain its placeholder.
        self._inlined: dict[int, Any] = {}
        #: Containers in which placeholders were replaced, by ``id()`` of the original containers. If a container occurs
        #: twice, the same new container is used in both places. The originals are kept, because a container of a user's
        #: class may make its items anew each time, and another item could get the same ``id()``.
        self._rebuilt: dict[int, tuple[Any, Any]] = {}

    def run(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return the result of a function. If it is a coroutine function, run the coroutine."""
        result = self.apply(fn, args, kwargs)
        return self._loop.run(result) if type(result) is types.CoroutineType else result

    def apply(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return what a function returns."""
        return fn(*[self._fill(arg) for arg in args], **{name: self._fill(arg) for name, arg in kwargs.items()})

    def _fill(self, value: Any) -> Any:
        """Return a value with all its placeholders replaced. A value without placeholders is returned as it is."""
        kind = type(value)  # not `isinstance`, which asks the value for its ``__class__``
        if issubclass(kind, Input):
            return self._value_of(self._slot_of(value))
        if not issubclass(kind, list | tuple | dict) or not value:
            return value
        if id(value) in self._rebuilt:
            return self._rebuilt[id(value)][1]
        filled = self._fill_dict(value) if issubclass(kind, dict) else self._fill_sequence(value)
        self._rebuilt[id(value)] = value, filled
        return filled

    def _fill_dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        items = [(self._fill(key), self._fill(each)) for key, each in value.items()]
        if all(a is c and b is d for (a, b), (c, d) in zip(items, value.items(), strict=True)):
            return value
        filled = copy.copy(value)  # keeps the class, and state such as the default factory of a defaultdict
        filled.clear()
        filled.update(items)
        return filled

    def _fill_sequence(self, value: list[Any] | tuple[Any, ...]) -> Any:
        items = [self._fill(each) for each in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        kind = type(value)
        named: Callable[[list[Any]], Any] | None = getattr(kind, "_make", None)
        if named is not None:
            return named(items)
        if isinstance(value, tuple):
            return kind(items)
        filled = copy.copy(value)
        filled[:] = items
        return filled

    def _value_of(self, placeholder: Placeholder) -> Any:
        match placeholder:
            case Slot(index):
                return self._values[self._inputs[index]]
            case Taken(inner, path):
                return apply_path(self._value_of(inner), path)
            case Loaded(inner, load):
                return load(self._value_of(inner))
            case Inline(fn, args, kwargs):
                key = id(placeholder)
                if key not in self._inlined:
                    self._inlined[key] = self.run(fn, args, kwargs)
                return self._inlined[key]
            case Warmed(recipe=recipe):
                return self._warm.value(self._inputs[recipe.index])
