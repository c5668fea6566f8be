"""Unpickles the values of a run's objects, for the caller of the run.

Unpickling runs user code, which may raise anything, take long or never return.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from handout.errors import DamagedFileError, DependencyError, HandoutError, ResultError
from handout.execution.reading_threads import ReadingThreads
from handout.failures import Failure, refused
from handout.serialization import calls, exceptions, pickling
from handout.serialization.calls import Path
from handout.serialization.user_objects import is_interruption, short_name

if TYPE_CHECKING:
    from handout.execution.shell.run_state import RunState

__all__ = ["fresh_value_of", "read_kept_value", "read_value", "value_of"]

#: An object of at most this many bytes is unpickled in the event loop, if that runs no user code.
_SMALL: Final = 1 << 14
#: The pickle operations that bring in classes and functions, in protocol 5: STACK_GLOBAL, EXT1, EXT2 and EXT4.
_NAMES: Final = (b"\x93", b"\x82", b"\x83", b"\x84")


def value_of(run: RunState, number: int, path: Path, key: object) -> Any:
    """Return the value of an object, or of an element of it.

    Raises:
        Exception: The exception that the object's function raised, the error that ended the run, or the exception
            that the user's own code raised while the object was unpickled. A note of the latter names the task.
        KeyError: The object was not brought back.
    """
    if number in run.objects:
        return _read(run, number, path, lambda: run.values[number] if number in run.values else _keep(run, number))
    _raise_reason(run, number)
    name = key if isinstance(key, str) else getattr(key, "id", key)
    raise KeyError(
        f"The value of {name!r} was not brought back. To get it, list this output in outputs=[...] of the run."
    )


async def read_value(threads: ReadingThreads, run: RunState, number: int, path: Path, key: object) -> Any:
    """Return a new value of an object, or of an element of it, without keeping the event loop from its other work.

    The value is unpickled in a thread, unless it is small and holds plain data only.

    Raises:
        BaseException: See `value_of`.
    """
    if number not in run.objects:
        failure = run.failures.get(run.spec.producer[number])
        if failure is not None and failure.pickled:
            await threads.call(lambda: failure.exception)  # it is raised below
        return value_of(run, number, path, key)
    small = run.objects.small(number, _SMALL)
    if small is not None and not any(name in small for name in _NAMES):
        return fresh_value_of(run, number, path)
    load = _loader(run, number)  # it holds the object, which may be dropped meanwhile
    return await threads.call(lambda: _read(run, number, path, load, in_thread=True))


async def read_kept_value(threads: ReadingThreads, run: RunState, number: int, path: Path, key: object) -> Any:
    """Return what `value_of` returns, without keeping the event loop from its other work; see `read_value`."""
    if number not in run.objects or number in run.values:
        return value_of(run, number, path, key)
    value = await read_value(threads, run, number, (), key)
    kept = run.values.setdefault(number, value)  # another caller may have read the object meanwhile
    return _read(run, number, path, lambda: kept)


def _raise_reason(run: RunState, number: int) -> None:
    """Raise the error that says why there is no object, if there is one."""
    failure = run.failures.get(run.spec.producer[number])
    if failure is not None and failure.kind == "cancelled" and run.error is not None:
        raise run.error  # this error says why the run and its tasks were cancelled
    if failure is not None:
        if failure.kind == "skipped" and failure.caused_by is not None:
            _chain(run, failure)
        raise failure.exception
    if run.error is not None:
        raise run.error


def fresh_value_of(run: RunState, number: int, path: Path) -> Any:
    """Return a new copy of the value of an object that the run holds, or of an element of it; see `value_of`."""
    return _read(run, number, path, _loader(run, number))


def _keep(run: RunState, number: int) -> Any:
    value = run.values[number] = _loader(run, number)()
    return value


def _read(run: RunState, number: int, path: Path, load: Callable[[], Any], *, in_thread: bool = False) -> Any:
    """Load a value, and look up an element of it.

    Args:
        run: The run.
        number: The number of the object.
        path: The way to the element.
        load: Returns the value.
        in_thread: True in a thread of `ReadingThreads`. Neither Ctrl-C nor another signal raises an error there.
    """
    try:
        value = load()
        return calls.apply_path(value, path) if path else value
    except HandoutError:
        raise
    except BaseException as error:  # unpickling and looking up an element run user code, which may raise anything
        if is_interruption(error) and not in_thread:
            raise
        substitute = _explained(run, number, error)
        if substitute is None:
            raise
        raise substitute from error


def _explained(run: RunState, number: int, error: BaseException) -> ResultError | None:
    """Add a note to an error that the user's own code raised while Handout unpickled an object or looked up an element.

    Return None, or a substitute for an error that would act on the caller's own code: `SystemExit` would end the
    caller's program, and `StopIteration` a loop.
    """
    task, kind = run.spec.producer[number], type(error)
    id, host = run.name_of(number) if task < 0 else run.ids[task], run.hosts[task] if task >= 0 else ""
    value = f"the result of task {id!r}{f' from host {host!r}' if host else ''}" if task >= 0 else f"value {id!r}"
    if issubclass(kind, Exception) and not issubclass(kind, StopIteration | StopAsyncIteration):
        note = f"This was raised while {value} was read and unpickled, or an element of it was looked up."
        if note not in exceptions.notes(error):
            exceptions.add_note(error, note)
        return None
    return ResultError(
        f"Unpickling {value}, or looking up an element of it, raised {short_name(error)}: {exceptions.message(error)}.",
        remedy="Correct the class of the value: its __reduce__, its __setstate__, or the function that makes it again.",
        id=id,
        host=host or None,
        path="result",
    )


def _loader(run: RunState, number: int) -> Callable[[], Any]:
    """Return a function that unpickles a result, also after the object was dropped. Any thread may call it.

    If the bytes of the result passed through a host with ``trust="data"``, it accepts only data.

    The function raises:
        TrustError: The result passed through such a host, and holds something that is not accepted as data.
        DamagedFileError: The result is in a file that does not have the bytes that were written to it, or is not there.
    """
    host = run.suspects.get(number)
    task = run.spec.producer[number]
    id = run.ids[task] if task >= 0 else ""
    read = run.objects.reader(number)

    def load() -> Any:
        try:
            if host is None:
                return read(pickling.loads)
            from handout.serialization.untrusted import reader

            return read(reader.loads)
        except DamagedFileError as error:
            raise DamagedFileError(
                f"The result of task {id!r} cannot be read. {error.problem}",
                remedy=error.remedy,
                path=error.path,
                id=id,
            ) from error
        except pickling.LoadError as error:
            if host is None:
                raise
            raise refused(str(error), getattr(error, "name", ""), id=id, host=host) from None

    return load


def _chain(run: RunState, failure: Failure) -> None:
    """Set the cause of a skipped task's error to the exception of the task that failed."""
    error = failure.exception
    root = next((f for f in run.failures.values() if f.id == failure.caused_by), None)
    if type(error) is DependencyError and root is not None and error.__cause__ is None:
        error.__cause__ = root.exception
