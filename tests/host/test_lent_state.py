"""What a task changes in its worker's process does not reach the next task of the same worker."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from handout.host.worker import lent_parts
from handout.host.worker.lent_parts import Part
from handout.host.worker.lent_state import Checklist
from handout.protocol import messages
from handout.protocol.messages import INLINE
from tests.host.rig import Rig
from tests.pythons import MINORS, require_python

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can change this")
no_root = pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may raise a hard limit and a priority again")
not_lowest = pytest.mark.skipif(os.nice(0) == 19, reason="the tests run with the lowest priority already")

#: Sets ``seen`` to what `asyncio.get_event_loop` says. Since Python 3.14, it makes no loop.
CURRENT_LOOP = """
import asyncio, warnings
__name__ = "task"  # asyncio asks the caller for its name
warnings.simplefilter("ignore")
try:
    seen = asyncio.get_event_loop().is_closed()
except RuntimeError as error:
    seen = str(error)
"""

#: For each part of the state: code that changes the part, and code that sets ``seen`` to what a task sees of the part.
PARTS = {
    "standard input closed": ("os.close(0)", "seen = os.path.realpath('/proc/self/fd/0')"),
    "standard output closed": ("os.close(1)", "seen = os.readlink('/proc/self/fd/1')"),
    "standard error redirected": (
        "os.dup2(os.open('/dev/null', os.O_WRONLY), 2)",
        "seen = os.readlink('/proc/self/fd/2')",
    ),
    "output as errors": ("os.dup2(2, 1)", "seen = os.readlink('/proc/self/fd/1')"),
    "closed as a daemon does": (
        "[os.close(fd) for fd in (0, 1, 2)]; keep = [open('/dev/null') for _ in range(3)]; sys.kept = keep",
        "seen = [os.readlink(f'/proc/self/fd/{fd}') for fd in range(3)]",
    ),
    "output that does not block": ("os.set_blocking(1, False)", "seen = os.get_blocking(1), os.get_blocking(2)"),
    "output that no process inherits": (
        "[os.set_inheritable(fd, False) for fd in (0, 1, 2)]",
        "seen = [os.get_inheritable(fd) for fd in (0, 1, 2)]",
    ),
    "folder": ("os.chdir('/tmp')", "seen = os.getcwd()"),
    "signal handler": (
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "seen = [str(signal.getsignal(n)) for n in range(1, 32)]",
    ),
    "signal mask": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])",
        "seen = signal.pthread_sigmask(signal.SIG_BLOCK, [])",
    ),
    "alarm": ("signal.alarm(1000)", "seen = signal.alarm(0)"),
    "timer of processor time": (
        "signal.setitimer(signal.ITIMER_VIRTUAL, 1000); signal.setitimer(signal.ITIMER_PROF, 1000)",
        "seen = signal.getitimer(signal.ITIMER_VIRTUAL), signal.getitimer(signal.ITIMER_PROF)",
    ),
    "wakeup descriptor": (
        "import socket; sys.pair = socket.socketpair(); [s.setblocking(False) for s in sys.pair];"
        "signal.set_wakeup_fd(sys.pair[0].fileno())",
        "seen = signal.set_wakeup_fd(-1)",
    ),
    "stack dump timer": ("import faulthandler; faulthandler.dump_traceback_later(0.3, exit=True)", "time.sleep(0.6)"),
    "fault handler": (
        "import faulthandler; faulthandler.disable()",
        "import faulthandler; seen = faulthandler.is_enabled()",
    ),
    "resource limits": (
        "import resource; [resource.setrlimit(n, (64, resource.getrlimit(n)[1])) for n in "
        "(resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)]",
        "import resource; seen = [resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n[:7] == 'RLIMIT_']",
    ),
    "umask": ("os.umask(0o777)", "seen = os.umask(0o22); os.umask(seen)"),
    "recursion limit": ("sys.setrecursionlimit(5000)", "seen = sys.getrecursionlimit()"),
    "switch interval": ("sys.setswitchinterval(1)", "seen = sys.getswitchinterval()"),
    "garbage collector": (
        "import gc; gc.disable(); gc.set_threshold(1, 2, 3)",
        "import gc; seen = gc.isenabled(), gc.get_threshold()",
    ),
    "trace function": (
        "import threading; sys.settrace(lambda *_: None); sys.setprofile(lambda *_: None);"
        "threading.settrace(lambda *_: None)",
        "import threading; seen = sys.gettrace(), sys.getprofile(), threading._trace_hook",
    ),
    "hooks": (
        "import threading; sys.excepthook = sys.displayhook = sys.unraisablehook = threading.excepthook = print",
        "import threading; seen = [repr(h) for h in (sys.excepthook, sys.displayhook, sys.unraisablehook)]",
    ),
    "built-in functions": (
        "import builtins; builtins.print = builtins.open = len",
        "seen = [print.__name__, open.__name__]",
    ),
    "warning filters": (
        "import warnings; warnings.simplefilter('error'); warnings.showwarning = print",
        "import warnings; seen = list(warnings.filters), warnings.showwarning.__name__",
    ),
    "timeout of sockets": (
        "import socket; socket.setdefaulttimeout(1)",
        "import socket; seen = socket.getdefaulttimeout()",
    ),
    "start method": (
        "import multiprocessing; multiprocessing.set_start_method('spawn')",
        "import multiprocessing; multiprocessing.set_start_method('fork')",
    ),
    "decimal context": (
        "import decimal; decimal.getcontext().prec = 5",
        "import decimal; seen = decimal.getcontext().prec",
    ),
    "decimal context by its default": (
        "import decimal; decimal.DefaultContext.prec = 6; decimal.setcontext(decimal.DefaultContext)",
        "import decimal; seen = decimal.getcontext().prec; decimal.DefaultContext.prec = 28",
    ),
    "callbacks of the garbage collector": (
        "import gc; gc.callbacks.append(lambda *_: None)",
        "import gc; seen = len(gc.callbacks)",
    ),
    "switches of the interpreter": (
        "import threading; sys.setdlopenflags(258); threading.stack_size(1 << 20); sys.tracebacklimit = 0;"
        "sys.dont_write_bytecode = not sys.dont_write_bytecode; sys.pycache_prefix = '/nowhere'",
        "import threading; seen = sys.getdlopenflags(), threading.stack_size(), sys.dont_write_bytecode, "
        "sys.pycache_prefix, hasattr(sys, 'tracebacklimit')",
    ),
    "field size of csv": ("import csv; csv.field_size_limit(10)", "import csv; seen = csv.field_size_limit()"),
    "trace of allocations": (
        "import tracemalloc; tracemalloc.start()",
        "import tracemalloc; seen = tracemalloc.is_tracing()",
    ),
    "context variable": (
        "import contextvars; sys.variable = contextvars.ContextVar('variable', default=0); sys.variable.set(1)",
        "seen = sys.variable.get() if hasattr(sys, 'variable') else 0",
    ),
    "environment": (
        "os.environ['SPOILT'] = '1'; del os.environ['PATH']; os.environ['HOME'] = '/nowhere'",
        "seen = sorted(os.environ.items())",
    ),
    "environment as C sees it": (
        "os.environ['SPOILT'] = '1'",
        "import subprocess; seen = subprocess.check_output(['/bin/sh', '-c', 'echo $SPOILT'], env=None)",
    ),
    "environment replaced": ("os.environ = {}", "seen = sorted(os.environ.items())"),
    "event loop after asyncio.run": ("import asyncio; asyncio.run(asyncio.sleep(0))", CURRENT_LOOP),
    "event loop closed": (
        "import asyncio; loop = asyncio.new_event_loop(); asyncio.set_event_loop(loop); loop.close()",
        CURRENT_LOOP,
    ),
    "event loop left": (
        "import asyncio; sys.loop = asyncio.new_event_loop(); asyncio.set_event_loop(sys.loop)",
        CURRENT_LOOP + "\nseen = seen, not hasattr(sys, 'loop') or not sys.loop.is_closed()",
    ),
    "event loop policy": (
        "import asyncio; asyncio.set_event_loop_policy(type('Mine', (asyncio.DefaultEventLoopPolicy,), {})())",
        "import asyncio; seen = type(asyncio.get_event_loop_policy()).__name__",
    ),
    "locale": (
        "import locale; locale.setlocale(locale.LC_ALL, 'C')",
        "import locale; seen = locale.setlocale(locale.LC_ALL)",
    ),
    "time zone": (
        "os.environ['TZ'] = 'UTC+7'; time.tzset()",
        "seen = time.tzname, time.timezone, time.localtime(0)[:6]",
    ),
    "time zone and its variable": (
        "os.environ['TZ'] = 'UTC+7'; time.tzset(); del os.environ['TZ']",
        "seen = time.tzname, time.timezone, time.localtime(0)[:6]",
    ),
    "search path": (
        "sys.path.insert(0, '/nowhere'); sys.path_hooks.clear()",
        "seen = list(sys.path), len(sys.path_hooks)",
    ),
    "search path replaced": ("sys.path = []", "seen = list(sys.path)"),
    "module finders": ("sys.meta_path.clear()", "seen = len(sys.meta_path)"),
    "arguments": ("sys.argv = ['prog', '--option']", "seen = list(sys.argv)"),
    "streams replaced": (
        "import io; sys.stdin = sys.stdout = sys.__stderr__ = io.StringIO()",
        "seen = [type(s).__name__ + s.encoding for s in (sys.stdin, sys.stdout, sys.__stderr__)]",
    ),
    "streams closed": ("sys.stdin.close(); sys.stdout.close()", "seen = sys.stdin.read(), sys.stdout.closed"),
    "streams detached": ("sys.stdout.detach()", "print('heard')"),
    "streams changed": ("sys.stdout.reconfigure(encoding='ascii')", "seen = sys.stdout.encoding"),
    "processors": (
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])",
        "seen = os.sched_getaffinity(0)",
    ),
}


@pytest.fixture(scope="module")
def lasting() -> Iterator[Rig]:
    """Yield one rig for all tests of the module. It runs one task at a time."""
    made = Rig(cpu=1)
    made.task_class()
    try:
        yield made
        made.close()
    finally:
        made.kill()


class Tasks:
    """Runs code in tasks, one after another."""

    _ids = count(1)

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

        def run(code: str) -> tuple[int, Any]:
            import os
            import signal
            import sys
            import time

            scope: dict[str, Any] = {"os": os, "sys": sys, "signal": signal, "time": time}
            exec(code, scope)
            return os.getpid(), scope.get("seen")

        self._function = rig.function(run)

    def fields(self, code: str) -> tuple[dict[str, Any], int]:
        attempt_id = next(self._ids)
        self.rig.submit([attempt_id], self._function, self.rig.call(textwrap.dedent(code)))
        return self.rig.wait_for(attempt_id).fields, attempt_id

    def run(self, code: str) -> tuple[int, Any]:
        """Run code in a task. Return the number of the worker's process, and what the code has put into ``seen``."""
        fields, attempt_id = self.fields(code)
        assert fields["name"] == "finished", "\n".join(map(str, fields.items()))
        value: tuple[int, Any] = self.rig.result(attempt_id)
        return value


@pytest.fixture
def tasks(lasting: Rig) -> Tasks:
    return Tasks(lasting)


@pytest.mark.parametrize("name", PARTS)
def test_what_a_task_changes_is_put_back_for_the_next_task(tasks: Tasks, name: str) -> None:
    change, look = PARTS[name]
    pid, before = tasks.run(look)
    assert tasks.run(change)[0] == pid
    assert tasks.run(look) == (pid, before)
    assert tasks.run("print('heard', flush=True)")[0] == pid


#: Code that changes what the worker cannot put back.
LOST = {
    "hard limit": pytest.param(
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))", marks=no_root
    ),
    "priority": pytest.param("os.nice(5)", marks=[no_root, not_lowest]),
    "user": pytest.param("os.setuid(65534)", marks=needs_root),
    "user for a while": pytest.param("os.seteuid(65534)", marks=needs_root),
    "root folder": pytest.param("os.chroot('/tmp')", marks=needs_root),
    "root folder with a child": pytest.param(
        "import subprocess; sys.child = subprocess.Popen(['/bin/sleep', '1000']); os.chroot('/tmp')", marks=needs_root
    ),
    "files left open": "import resource; sys.files = [open('/dev/null') for _ in "
    "range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100, 20_000))]",
    "root folder and folder": pytest.param("os.chroot('/tmp'); os.chdir('/')", marks=needs_root),
    "copies of descriptors": "[os.close(fd) for fd in range(512, 600) if os.path.exists(f'/proc/self/fd/{fd}')]\n"
    "os.close(1)",
}


@pytest.mark.parametrize("code", LOST.values(), ids=LOST)
def test_a_worker_that_cannot_be_put_back_ends_and_both_tasks_are_right(tasks: Tasks, code: str) -> None:
    look = "import resource; seen = os.getuid(), os.path.realpath('/proc/self/root'), os.nice(0)"
    pid, before = tasks.run(look)
    assert tasks.run(code) == (pid, None)
    other, after = tasks.run(look)
    assert other != pid
    assert after == before


@pytest.mark.parametrize("code", [
    pytest.param("os.setuid(65534)", marks=needs_root, id="user"),
    pytest.param("os.chroot('/tmp')", marks=needs_root, id="root folder"),
    pytest.param("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, -1))", id="limit"),
    pytest.param("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))", id="hard limit"),
    pytest.param("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 128))", id="descriptors"),
    pytest.param("os.umask(0o777)", id="umask"),
])  # fmt: skip
def test_a_large_result_arrives_whatever_its_task_has_changed(tasks: Tasks, code: str) -> None:
    fields, attempt_id = tasks.fields(f"{code}\nseen = bytes({INLINE * 3})")
    assert fields["name"] == "finished", fields
    assert fields["inline_sizes"] == [[-1]]
    data = tasks.rig.fetch(attempt_id)
    assert len(data) > INLINE * 3
    tasks.rig.submit([10_000 + attempt_id], tasks.rig.function(len), tasks.rig.call(inputs=1), inputs=[[attempt_id]])
    tasks.rig.wait_for(10_000 + attempt_id)
    assert tasks.rig.result(10_000 + attempt_id) == 2


@needs_root
def test_a_result_that_the_worker_cannot_write_or_send_is_no_error_of_the_function(tasks: Tasks) -> None:
    fields, _ = tasks.fields(f"os.setuid(65534); seen = bytes({20 << 20})")
    assert (fields["name"], fields["kind"]) == ("failed", "host")
    assert "could not write the result of" in fields["message"]
    assert "user and group" in fields["message"]


def test_what_a_task_prints_into_its_own_file_has_no_mark(tasks: Tasks, tmp_path: Path) -> None:
    path = tmp_path / "printed"
    tasks.run(f"os.dup2(os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT), 1); print('into the file')")
    assert path.read_text() == "into the file\n"


def test_nothing_that_a_task_prints_reaches_a_file_of_the_next_task(tasks: Tasks, tmp_path: Path) -> None:
    tasks.run("[os.close(fd) for fd in (0, 1, 2)]")
    paths = [str(tmp_path / str(i)) for i in range(3)]
    tasks.run(
        f"""
        files = [open(path, "w") for path in {paths!r}]
        print("progress", file=sys.stderr, flush=True)
        os.write(1, b"raw")
        for file in files:
            file.write("data")
            file.close()
        """
    )
    assert [Path(path).read_text() for path in paths] == ["data"] * 3


def test_a_signal_that_a_task_has_blocked_is_discarded(tasks: Tasks) -> None:
    pid, _ = tasks.run(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM]); os.kill(os.getpid(), signal.SIGALRM)"
    )
    assert tasks.run("seen = signal.sigpending()") == (pid, set())


#: Code that leaves a thread behind, and True if the worker must end because of it.
THREADS = {
    "own code": ("threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()", True),
    "no daemon": ("threading.Thread(target=lambda: time.sleep(1000)).start()", True),
    "low level": (
        "import _thread; go = threading.Event();"
        "_thread.start_new_thread(lambda go: (go.set(), time.sleep(1000)), (go,)); go.wait()",
        True,
    ),
    "timer": ("threading.Timer(1000, print).start()", True),
    "busy pool": (
        "from concurrent.futures import ThreadPoolExecutor; sys.go = threading.Event();"
        "sys.pool = ThreadPoolExecutor(); sys.pool.submit(lambda: (sys.go.set(), time.sleep(1000))); sys.go.wait()",
        True,
    ),
    "idle pool": (
        "from concurrent.futures import ThreadPoolExecutor, wait; sys.pool = ThreadPoolExecutor();"
        "wait([sys.pool.submit(os.getpid) for _ in range(5)])",
        False,
    ),
    "of a package": ("threading.Thread(target=threading.Event().wait, daemon=True).start()", False),
}


@pytest.mark.parametrize("name", THREADS)
def test_a_thread_of_own_code_that_a_task_leaves_ends_the_worker(tasks: Tasks, name: str) -> None:
    code, ends = THREADS[name]
    pid, _ = tasks.run(f"import threading; {code}")
    assert (tasks.run("pass")[0] != pid) == ends


def test_a_thread_that_an_import_has_started_stays(tasks: Tasks, module: Callable[..., str]) -> None:
    source = "import threading, time\nthreading.Thread(target=lambda: time.sleep(1000), daemon=True).start()"
    pid, _ = tasks.run(module("starts_a_thread", source))
    assert tasks.run("pass")[0] == pid


# ---- batches of short tasks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    "os.environ['SPOILT'] = '1'",
    "import locale; locale.setlocale(locale.LC_ALL, 'C')",
    "os.close(1); sys.spoilt = open('/dev/null', 'w')",
    "os.dup2(os.open('/dev/null', os.O_WRONLY), 2)",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "os.umask(0)",
])  # fmt: skip
def test_a_change_within_a_batch_of_short_tasks_is_in_no_result(lasting: Rig, change: str) -> None:
    """The function is harmless at first, so the worker checks several of its tasks together."""

    def step(change: str) -> list[Any]:
        import locale
        import os
        import signal
        import sys

        os.umask(mask := os.umask(0))
        files = [os.readlink(f"/proc/self/fd/{fd}")[:4] for fd in (1, 2)]
        seen = [os.environ.get("SPOILT"), locale.setlocale(locale.LC_ALL), mask, *files]
        seen.append(str(signal.getsignal(signal.SIGTERM)))
        if change:
            exec(change, {"os": os, "sys": sys, "signal": signal})
        elif seen[0]:
            raise ValueError("found the change of another task")
        return seen

    function = lasting.function(step)
    first = 1_000_000 * next(Tasks._ids)
    quiet, loud = lasting.call(""), lasting.call(change)
    lasting.submit([first], function, quiet)
    lasting.wait_for(first)
    ids = range(first + 1, first + 101)
    lasting.submit(ids, function, [loud if id % 10 == 7 else quiet for id in ids])
    lasting.wait_for(*ids)
    assert {lasting.ended[id].fields["name"] for id in ids} == {"finished"}
    results = [lasting.result(id) for id in ids]
    assert results == [lasting.result(first)] * 100


@pytest.mark.parametrize("change", [
    "os.dup2(os.open(f'{folder}/printed', os.O_WRONLY | os.O_CREAT, 0o600), 1)",
    "os.umask(0)",
    "os.close(sys.folder)",
    "os.dup2(os.open(folder, os.O_RDONLY), sys.folder)",
], ids=["output", "umask", "folder closed", "folder replaced"])  # fmt: skip
def test_a_change_within_a_batch_does_no_lasting_harm(lasting: Rig, tmp_path: Path, change: str) -> None:
    """A second run of the tasks behind the change would not undo what they have printed or written."""

    def step(folder: str, change: str) -> None:
        import os
        import sys

        if not hasattr(sys, "folder"):
            sys.folder = next(fd for fd in range(512, 600) if os.path.isdir(f"/proc/self/fd/{fd}"))
        if change:
            exec(change, {"os": os, "sys": sys, "folder": folder})
            return
        print("later")
        os.umask(mask := os.umask(0o22))
        os.close(os.open(f"{folder}/made-{mask:o}-in-{os.getcwd().replace('/', '-')}", os.O_CREAT))

    function = lasting.function(step)
    first = 1_000_000 * next(Tasks._ids)
    quiet, loud = lasting.call(str(tmp_path), ""), lasting.call(str(tmp_path), change)
    for id in (first, first + 1):  # the first task may take long
        lasting.submit([id], function, quiet)
        lasting.wait_for(id)
    before = os.listdir(tmp_path)
    ids = range(first + 2, first + 42)
    lasting.submit(ids, function, [loud if id % 10 == 7 else quiet for id in ids])
    lasting.wait_for(*ids)
    assert {lasting.ended[id].fields["name"] for id in ids} == {"finished"}
    assert [name for name in os.listdir(tmp_path) if name != "printed"] == before
    assert not (tmp_path / "printed").exists() or not (tmp_path / "printed").read_bytes()


def test_results_before_a_task_that_takes_long_arrive_although_it_has_changed_something(
    make_rig: Callable[..., Rig],
) -> None:
    """The results cannot be checked while that task runs, so the tasks run again on another worker."""
    rig = make_rig(cpu=2)

    def step(change: bool) -> str | None:
        import os
        import time

        found = os.environ.get("SPOILT")
        if change:
            os.environ["SPOILT"] = "1"
            time.sleep(1000)
        return found

    function = rig.function(step)
    first = 1
    rig.submit([first], function, rig.call(False))
    rig.wait_for(first)
    ids = range(first + 1, first + 11)
    rig.submit(ids, function, [rig.call(id == ids[-1]) for id in ids])
    rig.wait_for(*ids[:-1])
    assert [rig.result(id) for id in ids[:-1]] == [None] * 9
    rig.send(messages.Cancel([ids[-1]], 0.0))
    rig.wait_for(ids[-1])


# ---- imports -----------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a module, and returns code that imports the module."""

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return f"sys.path.append({str(tmp_path)!r}); import {name}"

    return write


def test_what_a_module_changes_while_it_is_imported_stays(tasks: Tasks, module: Callable[..., str]) -> None:
    load = module(
        "changes_much",
        """
        import locale, os, signal, sys, warnings
        os.environ["BY_IMPORT"] = "1"
        sys.path.insert(0, "/by-import")
        sys.path.append("/by-import-too")
        sys.setrecursionlimit(4321)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        locale.setlocale(locale.LC_NUMERIC, "C")
        warnings.filterwarnings("ignore", "by import")
        import contextvars, decimal
        decimal.getcontext().prec = 50
        variable = contextvars.ContextVar("variable", default=0)
        variable.set(1)
        """,
    )
    pid, _ = tasks.run(f"os.environ['BY_TASK'] = '1'; sys.path.insert(0, '/by-task'); os.umask(0); {load}")
    look = """
        import decimal, warnings
        seen = {
            "decimal": decimal.getcontext().prec, "variable": sys.modules["changes_much"].variable.get(),
            "variables": [os.environ.get(name) for name in ("BY_IMPORT", "BY_TASK")],
            "first": sys.path[0], "last": sys.path[-1], "task": "/by-task" in sys.path,
            "limit": sys.getrecursionlimit(),
            "handler": signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN,
            "filter": warnings.filters[0][0],
        }
    """
    for _ in range(2):
        assert tasks.run(look) == (
            pid,
            {
                "decimal": 50,
                "variable": 1,
                "variables": ["1", None],
                "first": "/by-import",
                "last": "/by-import-too",
                "task": False,
                "limit": 4321,
                "handler": True,
                "filter": "ignore",
            },
        )
        tasks.run(
            """
            import decimal
            os.environ["BY_IMPORT"] = "2"
            sys.path.clear()
            sys.setrecursionlimit(2000)
            decimal.getcontext().prec = 3
            decimal.getcontext().traps[decimal.Inexact] = True
            sys.modules["changes_much"].variable.set(2)
            """
        )


def test_the_event_loop_of_a_module_stays_and_the_loop_of_a_task_does_not(
    tasks: Tasks, module: Callable[..., str]
) -> None:
    load = module("has_loop", "import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)")
    pid, _ = tasks.run(f"import asyncio; asyncio.run(asyncio.sleep(0)); {load}; asyncio.run(asyncio.sleep(0))")
    look = "import asyncio, has_loop; seen = asyncio.get_event_loop() is has_loop.loop, has_loop.loop.is_closed()"
    for change in ("asyncio.run(asyncio.sleep(0))", "asyncio.set_event_loop_policy(None)"):
        assert tasks.run(look) == (pid, (True, False))
        tasks.run(f"import asyncio; {change}")
    assert tasks.run(look) == (pid, (True, False))


def test_a_module_that_fails_while_it_is_imported_can_be_imported_later(
    tasks: Tasks, module: Callable[..., str], tmp_path: Path
) -> None:
    load = module("fails_once", "import os\nos.environ['BY_FAILED'] = '1'\nraise ValueError('not yet')")
    fields, _ = tasks.fields(load)
    assert (fields["type"], fields["message"]) == ("ValueError", "not yet")
    module("fails_once", "value = 1")
    assert tasks.run(f"{load}; seen = fails_once.value, fails_once.__loader__.__class__.__name__")[1] == (
        1,
        "SourceFileLoader",
    )


def test_an_import_does_not_keep_what_it_does_to_descriptors(tasks: Tasks, module: Callable[..., str]) -> None:
    load = module("daemon", "import os\nfor fd in (0, 1, 2):\n    os.close(fd)\nos.chdir('/tmp')")
    _, before = tasks.run("seen = os.readlink('/proc/self/fd/1'), os.getcwd()")
    tasks.run(load)
    assert tasks.run("seen = os.readlink('/proc/self/fd/1'), os.getcwd()")[1] == before


def test_an_import_on_another_thread_keeps_nothing_of_what_the_task_changes(
    tasks: Tasks, module: Callable[..., str]
) -> None:
    source = "import sys, warnings\nwarnings.simplefilter('ignore')\nsys.go.set()\nsys.changed.wait()"
    load = module("imported_beside", source)
    look = "seen = os.environ.get('SPOILT'), os.umask(0o22)"
    pid, before = tasks.run(look)
    code = f"""
        import threading
        sys.go, sys.changed = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: exec({load!r}, dict(sys=sys)))
        thread.start()
        sys.go.wait()
        CHANGE
        sys.changed.set()
        thread.join()
    """
    tasks.run(code.replace("CHANGE", "os.environ['SPOILT'] = '1'; os.umask(0)"))
    other, after = tasks.run(look)
    assert after == before
    assert other != pid
    assert tasks.run(code.replace("CHANGE", "pass"))[0] == other
    assert tasks.run(look) == (other, before)


def test_variables_that_an_import_on_another_thread_sets_stay_and_those_of_the_task_do_not(
    tasks: Tasks, module: Callable[..., str]
) -> None:
    source = "import os, sys\nos.environ.update(BY_IMPORT_BESIDE='1', HOME='/by-import')\nsys.meet(); sys.meet()"
    load = module("sets_variables", source)
    look = "seen = [os.environ.get(name) for name in ('BY_IMPORT_BESIDE', 'HOME', 'BY_THREAD', 'BY_TASK')]"
    pid, _ = tasks.run("pass")
    code = f"""
        import threading
        from concurrent.futures import ThreadPoolExecutor
        sys.meet = threading.Barrier(2).wait
        def use():
            os.environ["BY_THREAD"] = "1"
            exec({load!r}, dict(sys=sys))
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(use)
            sys.meet()
            os.environ["BY_TASK"] = "1"
            sys.meet()
            future.result()
    """
    tasks.run(code)
    for _ in range(2):
        assert tasks.run(look) == (pid, ["1", "/by-import", None, None])
        tasks.run("os.environ['BY_IMPORT_BESIDE'] = '2'; os.environ['BY_TASK'] = '1'")


class Variables:
    """A dictionary that stands for the environment, and the checklist that has it as its only part."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.set_by: dict[str, int] = {}
        self.checklist = Checklist([Part("variables", lambda: self.values, self.put_back, set_by=self.set_by)])

    def put_back(self, values: dict[str, str]) -> None:
        self.values.clear()
        self.values.update(values)

    def set(self, name: str, value: str) -> None:
        self.values[name] = value
        self.set_by[name] = threading.get_ident()

    def import_beside(self, name: str, value: str) -> None:
        """Import a module that sets a variable, on another thread."""

        def load() -> None:
            before = self.checklist.snapshot()
            self.set(name, value)
            assert self.checklist.keep_changes_beside(before) == []

        thread = threading.Thread(target=load)
        thread.start()
        thread.join()


def test_of_two_imports_that_set_one_variable_the_later_one_counts() -> None:
    variables = Variables()
    variables.import_beside("THREADS", "1")
    before = variables.checklist.snapshot()
    variables.set("THREADS", "4")
    variables.checklist.keep_changes_since(before)
    assert not variables.checklist.has_changed()
    assert variables.checklist.restore() == (0, [])
    assert variables.values == {"THREADS": "4"}
    variables.import_beside("THREADS", "2")
    assert variables.checklist.restore() == (0, [])
    assert variables.values == {"THREADS": "2"}


def test_what_an_import_beside_a_running_task_sets_is_as_expected_before_the_task_ends() -> None:
    variables = Variables()
    variables.import_beside("THREADS", "1")
    assert variables.checklist.is_as_expected(variables.checklist.snapshot())
    variables.set("SPOILT", "1")
    assert not variables.checklist.is_as_expected(variables.checklist.snapshot())
    assert variables.checklist.restore() == (1, [])
    assert variables.values == {"THREADS": "1"}


def test_only_variables_of_the_environment_are_noted_with_the_thread_that_has_set_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "putenv", os.putenv)  # undone at the end
    monkeypatch.setattr(os, "unsetenv", os.unsetenv)
    (environment,) = [part for part in lent_parts._environment() if part.set_by is not None]
    before = dict(environment.read())
    monkeypatch.setenv("HANDOUT_TEST_SET", "1")
    assert environment.set_by == {b"HANDOUT_TEST_SET": threading.get_ident()}
    environment.write(before)
    monkeypatch.setenv("HANDOUT_TEST_REMOVED", "1")
    monkeypatch.delenv("HANDOUT_TEST_REMOVED")
    assert environment.set_by == {}


# ---- other versions of Python ------------------------------------------------------------------------------


@pytest.mark.parametrize("minor", [minor for minor in MINORS if minor != sys.version_info.minor])
def test_it_is_put_back_on_every_version_of_python(minor: int, make_rig: Callable[..., Rig]) -> None:
    """The tasks call only `exec`, because a function that travels by value needs the same version on both ends."""
    rig = make_rig(python=require_python(minor), cpu=1)
    function, ids = rig.function(exec), count(1)

    def run(code: str) -> str:
        attempt_id = next(ids)
        whole = f"import os, signal, sys, time\nseen = None\n{code}\nraise LookupError(os.getpid(), seen)"
        rig.submit([attempt_id], function, rig.call(whole, {}))
        fields = rig.wait_for(attempt_id).fields
        return f"{fields['kind']}: {fields['message']}"

    wrong = {}
    for name, (change, look) in PARTS.items():
        before = run(look)
        run(change)
        after = run(look)
        if before != after or not before.startswith("raised: ("):
            wrong[name] = before, after
    assert not wrong
