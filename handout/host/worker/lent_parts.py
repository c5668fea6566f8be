"""The parts of the state that a worker lends to its tasks: how the worker reads each part, and how it puts it back.

A system call takes 0.2 to 0.4 us on the machine of docs/benchmarks.md, and a call of a Python function 0.05 us. So a
part's `read` is the C function itself if Python has such a function. Parts that matter only in the long run are in
`after_each_batch`.
"""

from __future__ import annotations

import builtins
import faulthandler
import gc
import importlib
import locale
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Callable, NamedTuple

from handout.host.system import shared_page
from handout.host.worker.descriptors import Descriptors

# The functions of the module `signal` convert each number to an enum, which takes 1 us for each signal.
_signal: Any = importlib.import_module("_signal")
# The module `tracemalloc` imports further modules. This one is built into the interpreter.
_tracemalloc: Any = importlib.import_module("_tracemalloc")

#: The signals whose handlers are checked after each task.
_SIGNALS = [
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE),
    *(signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD, signal.SIGVTALRM, signal.SIGPROF, signal.SIGXCPU),
    *(shared_page.SAMPLE_SIGNAL, shared_page.FLUSH_SIGNAL),
]
#: The other signals that a program can handle. No task of a batch waits for one of them.
_RARE_SIGNALS = sorted(signal.valid_signals() - {*_SIGNALS, signal.SIGKILL, signal.SIGSTOP})
#: Name of a part; see `Checklist.keep_changes_beside`.
WARNING_FILTERS = "warning filters"
#: What `csv.field_size_limit` returns before a program changes it.
_FIELD_SIZE = 128 << 10
_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


class Part(NamedTuple):
    """A part of the state, such as the umask."""

    name: str
    #: Returns the present value. The value is compared with ``==``.
    read: Callable[[], Any]
    #: Puts a value back.
    write: Callable[[Any], object]
    #: True if a module may change the part for good while it is imported. The method `read` then changes nothing.
    kept_after_import: bool = True
    #: Reads the part after a short task, if the next task could do harm that no second run undoes: print into a file,
    #: or make a file in another folder or with another mode. None: the part is checked later.
    read_at_once: Callable[[], Any] | None = None
    #: If the value is a dictionary: the number of the thread that was the last one to set each entry. An entry is
    #: missing if no thread has set it since the worker began, or since the entry was removed.
    set_by: Mapping[Any, int] | None = None


def after_each_task(descriptors: Descriptors) -> list[Part]:
    """Return the parts that the worker checks after each task, in the order in which they must be put back."""
    return [*_privileges(), *_signals(), *_process(descriptors), *_interpreter(), *_environment()]


def _list(name: str, owner: Any, attribute: str) -> Part:
    """Return the part that is a list in a module. Other code may hold the list, so the list object stays the same."""
    original = getattr(owner, attribute)

    def write(values: list[Any]) -> None:
        original[:] = values
        setattr(owner, attribute, original)

    return Part(name, partial(attrgetter(attribute), owner), write)


def _privileges() -> list[Part]:
    """Return the user and group of the process. Only the superuser can change them."""
    if os.geteuid() != 0 or not hasattr(os, "getresuid"):
        return []

    def restore(value: tuple[tuple[int, int, int], tuple[int, int, int]]) -> None:
        os.setresuid(*value[0])
        os.setresgid(*value[1])
        # A change of the user also ends the kernel's promise to kill this process when the supervisor ends. So this
        # process cannot become what it was.
        raise OSError("the task has changed the user or the group of the worker")

    def read() -> tuple[Any, ...]:
        return os.getresuid(), os.getresgid()

    return [Part("user and group", read, restore, False)]


def _timer(number: int) -> Part:
    return Part("timers", partial(_signal.getitimer, number), lambda _: signal.setitimer(number, 0), False)


def _handlers(numbers: Sequence[int]) -> Part:
    get = _signal.getsignal

    def write(handlers: Sequence[Any]) -> None:
        for number, handler in zip(numbers, handlers):
            if get(number) is not handler:
                signal.signal(number, handler)
        faulthandler.register(shared_page.SAMPLE_SIGNAL, file=2, all_threads=True, chain=False)

    return Part("signal handlers", lambda: tuple(map(get, numbers)), write)


def _signals() -> list[Part]:
    get_mask = _signal.pthread_sigmask

    def write_mask(mask: Iterable[int]) -> None:
        for number in signal.sigpending():
            # A signal that waits until it is not blocked any more belongs to the task. To ignore it discards it.
            handler = signal.signal(number, signal.SIG_IGN)
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return [
        # These two reads also put the part back. The first one ends the countdown to a stack dump, which may also end
        # the process. A descriptor for wakeups would get a byte for each signal, even if the task has closed it and
        # another file has its number.
        Part("stack dump timer", faulthandler.cancel_dump_traceback_later, lambda _: None, False),
        Part("signal wakeups", partial(_signal.set_wakeup_fd, -1), lambda _: None, False),
        _timer(signal.ITIMER_REAL),
        _handlers(_SIGNALS),
        Part("signal mask", partial(get_mask, signal.SIG_BLOCK, ()), write_mask),
        Part("fault handler", faulthandler.is_enabled, lambda _: faulthandler.enable(file=2, all_threads=True)),
    ]


def _process(descriptors: Descriptors) -> list[Part]:
    return [
        _limits(),
        Part(
            "descriptors",
            descriptors.are_intact,
            lambda _: descriptors.restore(),
            False,
            descriptors.are_standard_intact,
        ),
        Part("folder", descriptors.return_to_folder, lambda _: None, False, descriptors.return_to_folder),
        _umask(),
    ]


def _umask() -> Part:
    """Return the umask. The system tells it only when it is set, so a read sets it to the last value that was read."""
    last = os.umask(0o077)

    def read() -> int:
        nonlocal last
        found = os.umask(last)
        if found != last:
            last = found
            os.umask(found)
        return found

    read()
    return Part("umask", read, os.umask, read_at_once=read)


def _limits() -> Part:
    """Return the resource limits.

    Reading all of them takes 4 us, so they are read only if the module `resource` was imported, without which Python
    code cannot change them. The worker's own import does not count, so it is hidden.
    """
    get = resource.getrlimit
    sys.modules.pop("resource", None)
    unchanged = tuple(map(get, _LIMITS))

    def read() -> tuple[Any, ...]:
        return tuple(map(get, _LIMITS)) if "resource" in sys.modules else unchanged

    def write(values: Sequence[tuple[int, int]]) -> None:
        for number, value in zip(_LIMITS, values):
            if get(number) != value:
                resource.setrlimit(number, value)

    return Part("resource limits", read, write)


def _interpreter() -> list[Part]:
    modules = sys.modules
    return [
        _settings(),
        _list("callbacks of the garbage collector", gc, "callbacks"),
        _hooks(),
        Part(WARNING_FILTERS, lambda: warnings.filters, _set_filters),
        Part(
            "start method of multiprocessing",
            lambda: _start_method() if "multiprocessing" in modules else None,
            _set_start_method,
        ),
        Part(
            "decimal context",
            lambda: _decimal_context() if "decimal" in modules else _NOT_IMPORTED,
            _set_decimal_context,
        ),
    ]


def _settings() -> Part:
    """Return the settings that have functions to read and to write them."""
    get_digits = getattr(sys, "get_int_max_str_digits", int)
    write_digits = getattr(sys, "set_int_max_str_digits", lambda _: None)
    modules, attribute_of_sys = sys.modules, vars(sys).get
    setters: Sequence[Callable[[Any], object]] = (
        sys.setrecursionlimit,
        sys.setswitchinterval,
        lambda enabled: gc.enable() if enabled else gc.disable(),
        lambda thresholds: gc.set_threshold(*thresholds),
        gc.set_debug,
        sys.settrace,
        sys.setprofile,
        socket.setdefaulttimeout,
        write_digits,
        sys.setdlopenflags,
        threading.stack_size,
        partial(setattr, sys, "dont_write_bytecode"),
        partial(setattr, sys, "pycache_prefix"),
        _set_traceback_limit,
        lambda size: modules["_csv"].field_size_limit(size),
        lambda enabled: _tracemalloc.start() if enabled else _tracemalloc.stop(),
    )

    def read() -> tuple[Any, ...]:
        # One function for all of them takes half the time of a function for each.
        return (
            sys.getrecursionlimit(),
            sys.getswitchinterval(),
            gc.isenabled(),
            gc.get_threshold(),
            gc.get_debug(),
            sys.gettrace(),
            sys.getprofile(),
            socket.getdefaulttimeout(),
            get_digits(),
            sys.getdlopenflags(),
            threading.stack_size(),
            sys.dont_write_bytecode,
            sys.pycache_prefix,
            attribute_of_sys("tracebacklimit"),
            modules["_csv"].field_size_limit() if "_csv" in modules else _FIELD_SIZE,
            _tracemalloc.is_tracing(),
        )

    def write(values: Sequence[Any]) -> None:
        for old, new, setter in zip(values, read(), setters):
            if old != new:
                setter(old)

    return Part("interpreter settings", read, write)


def _set_traceback_limit(limit: Any) -> None:
    if limit is not None:
        sys.tracebacklimit = limit
    elif hasattr(sys, "tracebacklimit"):
        del sys.tracebacklimit


def _hooks() -> Part:
    """Return the functions that user code replaces in modules."""
    threads: Any = threading
    places = (
        *((sys, name) for name in ("excepthook", "displayhook", "unraisablehook", "breakpointhook")),
        *((builtins, name) for name in ("__import__", "input", "open", "print")),
        *((threads, name) for name in ("excepthook", "_trace_hook", "_profile_hook")),
        (warnings, "showwarning"),
    )

    def read() -> tuple[Any, ...]:
        return (
            *(sys.excepthook, sys.displayhook, sys.unraisablehook, sys.breakpointhook),
            *(builtins.__import__, builtins.input, builtins.open, builtins.print),
            *(threads.excepthook, threads._trace_hook, threads._profile_hook),
            warnings.showwarning,
        )

    def write(values: Sequence[Any]) -> None:
        for (owner, name), value in zip(places, values):
            setattr(owner, name, value)

    return Part("hooks", read, write)


def _start_method() -> str | None:
    get = getattr(
        sys.modules["multiprocessing"], "get_start_method", None
    )  # missing while the module is being imported
    return get(allow_none=True) if get is not None else None


def _set_start_method(method: str | None) -> None:
    sys.modules["multiprocessing"].set_start_method(method, force=True)


class _DefaultDecimalContext:
    """What `_decimal_context` returns before the module `decimal` is imported. It is equal to the default context."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return other is self or other == _values(_new_context(sys.modules["decimal"]))


_NOT_IMPORTED = _DefaultDecimalContext()


def _decimal_context() -> Any:
    """Return the settings of the module `decimal`, which are an object that all tasks share."""
    get = getattr(sys.modules["decimal"], "getcontext", None)  # missing while the module is being imported
    return _values(get()) if get is not None else _NOT_IMPORTED


def _values(context: Any) -> tuple[Any, ...]:
    traps = tuple(context.traps.values())
    return context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp, traps


def _new_context(module: Any) -> Any:
    """Return a context with the values that Python documents. A task may have changed `decimal.DefaultContext`."""
    traps = [module.InvalidOperation, module.DivisionByZero, module.Overflow]
    return module.Context(28, module.ROUND_HALF_EVEN, -999999, 999999, 1, 0, [], traps)


def _set_decimal_context(values: Any) -> None:
    module: Any = sys.modules["decimal"]
    context = _new_context(module)
    if values is not _NOT_IMPORTED:
        *numbers, traps = values
        for name, value in zip(("prec", "rounding", "Emin", "Emax", "capitals", "clamp"), numbers):
            setattr(context, name, value)
        context.traps.update(zip(list(context.traps), traps))
    module.setcontext(context)


def _set_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()  # this call also makes Python look at the new filters
    warnings.filters[:] = filters  # type: ignore[index]


def _environment() -> list[Part]:
    original: Any = os.environ
    # A copy of `os.environ` would decode every variable, which takes 20 us. So the encoded variables are read.
    data, decode = original._data, original.decodekey
    put, unset = os.putenv, os.unsetenv
    set_by: dict[Any, int] = {}

    def put_and_note(name: Any, value: Any) -> None:
        put(name, value)
        set_by[name] = threading.get_ident()

    def unset_and_note(name: Any) -> None:
        unset(name)
        set_by.pop(name, None)

    # `os.environ` calls these functions for each variable that it sets or removes.
    os.putenv, os.unsetenv = put_and_note, unset_and_note

    def write(values: dict[Any, Any]) -> None:
        os.environ = original  # noqa: B003 - the task has put another object in its place
        for key in [key for key in data if key not in values]:
            del original[decode(key)]
        for key, value in values.items():
            if data.get(key) != value:
                original[decode(key)] = original.decodevalue(value)
        time.tzset()  # the variable TZ may have changed

    return [
        Part("environment", lambda: data if os.environ is original else None, write, set_by=set_by),
        # The variable TZ, which is part of the environment, has its old value by now.
        Part("time zone", lambda: (time.tzname, time.timezone, time.altzone, time.daylight), lambda _: time.tzset()),
        Part("locale", partial(locale.setlocale, locale.LC_ALL), partial(locale.setlocale, locale.LC_ALL)),
        _list("module search path", sys, "path"),
        _list("module finders", sys, "meta_path"),
        _list("path hooks", sys, "path_hooks"),
        _list("arguments", sys, "argv"),
    ]


def after_each_batch(descriptors: Descriptors) -> list[Part]:
    """Return the parts that the worker checks before it waits for further tasks.

    They matter only in the long run, or change only how fast a task runs. The tasks of a batch take a few milliseconds.
    """
    parts = [
        Part("flags of output", descriptors.have_flags, lambda _: descriptors.set_flags(), False),
        # Tasks may have left many files open. The worker ends before a later task finds no free descriptor.
        Part("free descriptors", descriptors.are_plenty, lambda _: None, False),
        Part("priority", partial(os.getpriority, os.PRIO_PROCESS, 0), partial(os.setpriority, os.PRIO_PROCESS, 0)),
        Part("groups", os.getgroups, os.setgroups),
        _timer(signal.ITIMER_VIRTUAL),
        _timer(signal.ITIMER_PROF),
        _handlers(_RARE_SIGNALS),
    ]
    if hasattr(os, "sched_getaffinity"):
        parts.append(Part("processors", partial(os.sched_getaffinity, 0), partial(os.sched_setaffinity, 0)))
    return parts
