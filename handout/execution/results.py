"""`Results`: the values that a run brought back to the caller's program, by output and by id."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from handout.errors import GraphError
from handout.execution.run_values import value_of
from handout.failures import Failure
from handout.graph import Output
from handout.graph.stored import Home, Stored
from handout.scheduler.task_states import Outcome
from handout.serialization import exceptions

if TYPE_CHECKING:
    from handout.execution.shell.run_state import GraphRun

__all__ = ["Results", "Reused", "run_of"]

R = TypeVar("R")
V = TypeVar("V")


class Results(Mapping[str, Any]):
    """The values that a run brought back, as a mapping. The keys are outputs, lists of outputs, and ids.

    Iterating gives ids. A value is unpickled when the caller asks for it for the first time, and is kept from then on.
    Values that the caller never asks for are never unpickled.

    Raises:
        Exception: For a key whose function failed: the exception that the function raised.
        DependencyError: For a key whose function was skipped because another function failed.
        TaskCancelledError: For a key whose function was cancelled.
        TrustError: For a value from a host with ``trust="data"``, if the value holds something that is not accepted as
            data.
        ResultError: For a value whose unpickling raises an error that would act on the caller's own code, such as
            `SystemExit`.
        KeyError: For an output that was not brought back. To bring an output back, name it in ``outputs=[...]``.
        GraphError: For a key that is not in the graph.

    Example:
        ```python
        graph = handout.Graph()
        quotient = graph.add(divmod, 17, 5, id="division")
        results = await handout.execute(graph)
        assert results[quotient] == results["division"] == (3, 2)
        assert results[quotient[1]] == 2
        assert results.allocations[quotient] == "local"
        ```
    """

    def __init__(self, run: GraphRun) -> None:
        self._run = run
        #: What stays on hosts, by object number.
        self._stored: Mapping[int, Home] = {}

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
        """Return the value for a key, or ``default`` if the run brought back no such value."""
        if key in self:
            return self[key]
        return default

    def __repr__(self) -> str:
        failed = f"; functions without a result: {len(self._run.failures)}" if self._run.failures else ""
        return f"<Results of {len(self)} output{'' if len(self) == 1 else 's'}{failed}>"

    def __iter__(self) -> Iterator[str]:
        run = self._run
        seen = set[str]()
        for number in run.plan.outputs:
            if number in run.objects and (name := run.plan.name_of(number)) not in seen:
                seen.add(name)
                yield name

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, key: object) -> bool:
        try:
            number, _ = self._run.plan.locate(key)  # type: ignore[arg-type]
        except (GraphError, TypeError):
            return False
        return number in self._run.objects

    def _keep(self, stored: Mapping[int, Home]) -> None:
        """Set what stays on hosts, by object number."""
        self._stored = stored

    def stored(self, output: Output[R], /) -> Stored[R]:
        """Return an object that ``keep=[...]`` has left on hosts. Later graphs and calls of the cluster can take it.

        Args:
            output: One of the outputs in ``keep``.

        Returns:
            The stored object. It stays on the hosts as long as there is a reference to it or to these results.

        Raises:
            KeyError: The output was not in ``keep``.
            Exception: The function of the output failed, or the run ended without it.

        Example:
            ```python
            async def main() -> None:
                async with handout.Cluster() as cluster:
                    first = handout.Graph()
                    table = first.add(list, range(1000))
                    kept = (await cluster.execute(first, keep=[table])).stored(table)
                    second = handout.Graph()
                    total = second.add(sum, kept)
                    print((await cluster.execute(second))[total])
            ```
        """
        run = self._run
        number, path = run.plan.locate(output)
        home = self._stored.get(number)
        if home is not None and not path:
            return Stored(home, 0)
        failure = run.failures.get(run.spec.producer[number])
        if failure is not None:
            raise failure.exception
        raise KeyError(f"{output.id!r} was not kept on hosts. List this output in keep=[...] of the run.")

    @property
    def failures(self) -> Mapping[str | Output[Any], Failure]:
        """For each function that failed, was skipped or was cancelled, by its id and by its outputs: the `Failure`.

        Iterating gives ids. The `Failure` says why the function has no result.
        """
        return Failures(self._run)

    @property
    def allocations(self) -> Mapping[str | Output[Any], str]:
        """For each function, by its id and by its outputs: the name of the host that ran the function to its end.

        A function that was skipped or cancelled has no entry.
        """
        return Allocations(self._run)

    @property
    def reused(self) -> Reused:
        """The functions that did not run, because ``given=`` or the journal has their results; see `Reused`."""
        return Reused(self._run)

    def raise_failures(self) -> None:
        """Raise the exception of the first function that failed, if there is one.

        The notes of the exception name the other functions that failed.

        Raises:
            Exception: The exception that the function raised.
            TaskCancelledError: No function failed, but some functions were cancelled.
        """
        run = self._run
        if not run.failed_order:
            if Outcome.CANCELLED in run.outcomes:
                cancelled = run.failures[run.outcomes.index(Outcome.CANCELLED)].exception
                _note(cancelled, f'{_ended(run)} To get their results, give the run on_failure="continue".')
                raise cancelled
            return
        first = run.failures[run.failed_order[0]]
        error = first.exception
        others = [run.failures[task] for task in run.failed_order[1:]]
        if others:
            named = ", ".join(f"{each.id!r} ({each.kind})" for each in others[:10])
            more = f" and {len(others) - 10} more" if len(others) > 10 else ""
            _note(error, f"Other tasks failed too: {named}{more}.")
        raise error


def _ended(run: GraphRun) -> str:
    done, cancelled = (run.outcomes.count(outcome) for outcome in (Outcome.DONE, Outcome.CANCELLED))
    return f"In this run, {cancelled} tasks were cancelled, and {done} tasks have ended well."


def _note(error: Exception, note: str) -> None:
    if note not in exceptions.notes(error):
        exceptions.add_note(error, note)


class _ByFunction(Mapping[Any, V]):
    """A mapping from functions of a run to facts about them. Keys are ids, and also outputs. Iterating gives ids."""

    def __init__(self, run: GraphRun) -> None:
        self._run = run

    @abstractmethod
    def _tasks(self) -> Iterable[int]:
        """Return the numbers of the functions that are in the mapping, each once."""

    @abstractmethod
    def _at(self, task: int) -> V | None:
        """Return the fact about a function, or None if the function is not in the mapping."""

    def __repr__(self) -> str:
        return repr(dict(self))

    def __getitem__(self, key: Any, /) -> V:
        task = self._run.spec.producer[self._run.plan.locate(key)[0]]
        found = None if task < 0 else self._at(task)
        if found is None:
            raise KeyError(key)
        return found

    def __contains__(self, key: object) -> bool:
        try:
            self[key]
        except (KeyError, GraphError, TypeError):
            return False  # for example a function that this run did not need
        return True

    def get(self, key: Any, default: Any = None, /) -> Any:
        """Return the fact about a function, or ``default`` if the function is not in the mapping."""
        if key not in self:  # `Mapping.get` would raise GraphError for a function that is not in the run
            return default
        return self[key]

    def __iter__(self) -> Iterator[str]:
        return (self._run.plan.ids[task] for task in self._tasks())

    def __len__(self) -> int:
        return sum(1 for _ in self._tasks())


class Reused(_ByFunction[str]):
    """A mapping of the functions of a run that did not run. Keys are ids, and also outputs. Iterating gives ids.

    A value says in words where the function's result comes from: from a function of the results in ``given=``, or from
    the journal. Functions whose results no other function takes any more are in the mapping too.

    Example:
        ```python
        graph = handout.Graph()
        base = graph.add(pow, 2, 10)
        first = await handout.execute(graph)
        root = graph.add(pow, base, 0.5)
        second = await handout.execute(graph, given=first)
        assert dict(second.reused) == {"pow": "the result of 'pow' in given="}
        assert dict(second.reused.anew) == {"pow-2": "the earlier run has no such function"}
        ```
    """

    def _tasks(self) -> Iterable[int]:
        return sorted(self._run.reused)

    def _at(self, task: int) -> str | None:
        return self._run.reused.get(task)

    @property
    def anew(self) -> Mapping[str, str]:
        """For each function that ran although there were earlier results, by its id: why these had no result for it.

        A run that is given no results has entries only for functions whose results in the journal were lost.
        """
        return {self._run.plan.ids[task]: self._run.anew[task] for task in sorted(self._run.anew)}


class Failures(_ByFunction[Failure]):
    """A mapping from the ids of functions without a result to their failures. Outputs are keys too."""

    def _tasks(self) -> Iterable[int]:
        return self._run.failures

    def _at(self, task: int) -> Failure | None:
        return self._run.failures.get(task)


class Allocations(_ByFunction[str]):
    """A mapping from the ids of functions to the names of their hosts. Outputs are keys too."""

    def _tasks(self) -> Iterable[int]:
        return (task for task in range(len(self._run.plan.ids)) if self._at(task) is not None)

    def _at(self, task: int) -> str | None:
        run = self._run  # `GraphRun.hosts` may name a host even if it did not run the task to its end
        return (run.hosts[task] or None) if run.outcomes[task] in (Outcome.DONE, Outcome.FAILED) else None


def run_of(results: Results) -> GraphRun:
    """Return the run that made results."""
    return results._run
