"""`Results`: what a run made, by output and by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from handout.errors import DependencyError, GraphError
from handout.failures import Failure, refused
from handout.graph import Output
from handout.graph.path import Path
from handout.scheduler.states import Outcome
from handout.serialization import calls, pickling

if TYPE_CHECKING:
    from handout.execution.shell.run_state import RunState

__all__ = ["Results"]

R = TypeVar("R")


class Results(Mapping[str, Any]):
    """What a run made. Keys are outputs, lists of outputs, and ids; iterating gives the ids.

    Results stay bytes until they are asked for; what was asked for is kept.
    """

    def __init__(self, run: RunState) -> None:
        self._run = run

    @overload
    def __getitem__(self, key: Output[R], /) -> R: ...
    @overload
    def __getitem__(self, key: Sequence[Output[R]], /) -> list[R]: ...
    @overload
    def __getitem__(self, key: str, /) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any:
        if isinstance(key, list | tuple):
            return [self[each] for each in key]
        number, path = self._run.plan.locate(key)
        return value_of(self._run, number, path, key)

    def get(self, key: Any, default: Any = None, /) -> Any:
        """What a key stands for; ``default`` where there is no such result."""
        if key in self:
            return self[key]
        return default

    def __repr__(self) -> str:
        failed = f", {len(self._run.failures)} without a result" if self._run.failures else ""
        return f"<Results of {len(self)} outputs{failed}>"

    def __iter__(self) -> Iterator[str]:
        run = self._run
        names = dict.fromkeys(run.plan.name_of(number) for number in run.plan.outputs if number in run.objects)
        return iter(names)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, key: object) -> bool:
        try:
            number, _ = self._run.plan.locate(key)  # type: ignore[arg-type]
        except (GraphError, TypeError):
            return False
        return number in self._run.objects

    @property
    def failures(self) -> Mapping[str, Failure]:
        """Why functions failed, were skipped or cancelled, by id."""
        return {self._run.plan.ids[task]: failure for task, failure in self._run.failures.items()}

    @property
    def allocations(self) -> Mapping[str | Output[Any], str]:
        """The host that ran each function to its end, good or bad, by id and by output; without all others."""
        return Allocations(self._run)

    def raise_failures(self) -> None:
        """Raise the first failure's own exception, with the other failures named; nothing where none failed.

        Raises:
            Exception: See above.
        """
        run = self._run
        if not run.failed_order:
            cancelled = [t for t, o in enumerate(run.outcomes) if o is Outcome.CANCELLED]
            if cancelled:
                raise run.failures[cancelled[0]].exception
            return
        first = run.failures[run.failed_order[0]]
        error = first.exception
        others = [run.failures[task] for task in run.failed_order[1:]]
        if others:
            named = ", ".join(f"{each.id!r} ({each.kind})" for each in others[:10])
            more = f" and {len(others) - 10} more" if len(others) > 10 else ""
            note = f"Other tasks failed, too: {named}{more}."
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        raise error


class Allocations(Mapping[Any, str]):
    """Hosts by id; outputs serve as keys, too."""

    def __init__(self, run: RunState) -> None:
        self._run = run

    def __repr__(self) -> str:
        return repr(dict(self))

    def __getitem__(self, key: Any, /) -> str:
        run = self._run
        task = run.spec.producer[run.plan.locate(key)[0]]
        if task < 0 or not self._ran(task):
            raise KeyError(key)
        return run.hosts[task]

    def _ran(self, task: int) -> bool:
        """Whether it ended by itself: being handed over to a host is not running there."""
        return bool(self._run.hosts[task]) and self._run.outcomes[task] in (Outcome.DONE, Outcome.FAILED)

    def __iter__(self) -> Iterator[str]:
        return (id for task, id in enumerate(self._run.plan.ids) if self._ran(task))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def value_of(run: RunState, number: int, path: Path, key: object) -> Any:
    """The value of an object, or of an element of it.

    Raises:
        Exception: What its function raised, or what ended the run.
        KeyError: It was not brought back.
    """
    if number in run.objects:
        if number not in run.values:
            run.values[number] = _load(run, number)
        value = run.values[number]
        return calls.apply_path(value, path) if path else value
    failure = run.failures.get(run.spec.producer[number])
    if failure is not None and failure.kind == "cancelled" and run.error is not None:
        raise run.error  # what ended the run says more than that this was cancelled with it
    if failure is not None:
        if failure.kind == "skipped" and failure.caused_by is not None:
            _chain(run, failure)
        raise failure.exception
    if run.error is not None:
        raise run.error
    name = key if isinstance(key, str) else getattr(key, "id", key)
    raise KeyError(f"{name!r} was not brought back: name it in outputs=[...] of the run")


def _load(run: RunState, number: int) -> Any:
    """Unpickle a result, as data alone where it came from a host that is trusted with no more.

    Raises:
        TrustError: It came from such a host and is something else.
    """
    host = run.suspects.get(number)
    if host is None:
        return run.objects.value(number)
    from handout.serialization.untrusted import reader

    try:
        return run.objects.value(number, reader.loads)
    except pickling.LoadError as error:
        task = run.spec.producer[number]
        id = run.plan.ids[task] if task >= 0 else ""
        raise refused(str(error), getattr(error, "name", ""), id=id, host=host) from None


def _chain(run: RunState, failure: Failure) -> None:
    """Give a skipped task's error the failure at its root as cause."""
    error = failure.exception
    root = next((f for f in run.failures.values() if f.id == failure.caused_by), None)
    if isinstance(error, DependencyError) and root is not None and error.__cause__ is None:
        error.__cause__ = root.exception
