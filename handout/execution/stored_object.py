"""Objects that stay on the hosts of a cluster after the run that made them; see `handout.graph.stored`."""

from __future__ import annotations

import asyncio
import os
import shutil
import weakref
from collections.abc import Sequence
from os import PathLike
from pathlib import Path as FilePath
from typing import Any

from handout.errors import GraphError, HandoutError, HostLostError
from handout.execution.open_loop import not_open
from handout.execution.run_values import read_value
from handout.execution.shell.driver import Driver
from handout.execution.shell.run_objects import RunObjects
from handout.execution.shell.run_state import GraphRun, RunState
from handout.graph.output import Input
from handout.graph.scan import Scanner
from handout.graph.stored import Stored
from handout.scheduler import events as ev
from handout.scheduler.run_spec import RunSpec
from handout.serialization import diagnosis
from handout.serialization.calls import Path
from handout.serialization.file import File
from handout.serialization.pickling import Segment
from handout.submission.arguments import EncodedRun
from handout.submission.call_digests import CallDigests
from handout.submission.plan_to_spec import RunPolicy
from handout.submission.refusals import refused
from handout.submission.supplied_values import SuppliedValues

__all__ = ["StoredObject", "hold", "keep", "put"]

#: A value of more bytes than this is in a file of the controller, not in its memory, until it is dropped.
_IN_MEMORY = 1 << 16


class StoredObject:
    """The place of a stored object; see `Home`.

    Args:
        driver: The driver of the cluster.
        run: The run that keeps the object.
        number: The number of the object in the run.
        id: The id of the object, for messages.
        nbytes: The size of the object in bytes.
        holds_code: True if the object holds code by value.
        modules: Dotted names of the modules that a reader of the object needs.
    """

    def __init__(
        self,
        driver: Driver,
        run: RunState,
        number: int,
        id: str,
        nbytes: int,
        holds_code: bool = False,
        modules: frozenset[str] = frozenset(),
    ) -> None:
        self.id = id
        self.place = run.number, number
        self.nbytes = nbytes
        self.holds_code = holds_code
        self.modules = modules
        self.identity = os.urandom(16)
        self._driver = driver
        self._run = run
        self._number = number
        #: How many open runs use the object.
        self._uses = 0
        self._is_dropped = False
        loop = asyncio.get_running_loop()
        #: Releases the object, also when the last reference to it is gone.
        self._release = weakref.finalize(self, _release_in, loop, driver, run, number)
        self._release.atexit = False

    def id_of(self, node: int, /) -> str:
        """Return the id of the object."""
        return self.id

    def check(self, driver: Driver) -> None:
        """Check that a run of a cluster can take the object.

        Raises:
            HandoutError: The object was dropped, or belongs to another cluster.
        """
        if driver is not self._driver:
            raise HandoutError(
                f"Stored object {self.id!r} is on the hosts of another cluster, or of a cluster that was closed.",
                remedy="Put the value, or run the graph that makes it, on this cluster.",
            )
        if self._is_dropped:
            raise HandoutError(
                f"Stored object {self.id!r} was dropped.",
                remedy="Put the value again, or run the graph that makes it. Or drop the object after its last use.",
            )

    def use(self) -> None:
        """Note that one more open run uses the object."""
        self._uses += 1

    def unuse(self) -> None:
        """Undo `use`."""
        self._uses -= 1
        if self._is_dropped and not self._uses:
            self._release()

    async def fetch(self, path: Path, to: str | PathLike[str] | None) -> Any:
        """Bring the object here and return it, or an element of it; see `Stored.fetch`."""
        if self._driver.is_closed:
            raise self._gone()
        self.check(self._driver)
        self.use()
        try:
            await self._until_here()
            threads = self._driver.reading_threads
            value = await read_value(threads, self._run, self._number, path, self.id)
            return value if to is None else await threads.call(lambda: _written(self.id, value, FilePath(to)))
        finally:
            self.unuse()

    def _gone(self) -> HandoutError:
        return self._driver.broken or HandoutError(
            f"Stored object {self.id!r} is gone, because its cluster was closed.",
            remedy="Fetch it before the cluster is closed, or use a journal to keep the results of a graph.",
        )

    async def _until_here(self) -> None:
        run, number = self._run, self._number
        while number not in run.objects:
            if number in run.lost:
                raise HostLostError(
                    f"Stored object {self.id!r} was lost, and making it again failed: {run.lost[number]}",
                    remedy="Run the graph that makes it again.",
                )
            if self._driver.is_closed:
                raise self._gone()
            arrived = asyncio.Event()
            run.on_object.setdefault(number, []).append(arrived.set)
            self._driver.post(ev.OutputsWanted(run.number, [number]))
            await arrived.wait()

    async def drop(self) -> None:
        """Let the object go; see `Stored.drop`."""
        self.let_go()

    def let_go(self) -> None:
        """Let the object go as soon as no open run uses it."""
        self._is_dropped = True
        if not self._uses:
            self._release()


def _release_in(loop: asyncio.AbstractEventLoop, driver: Driver, run: RunState, number: int) -> None:
    """Release an object in the event loop of its cluster. The garbage collector may call this in any thread."""
    try:
        loop.call_soon_threadsafe(driver.release, run, number)
    except RuntimeError:
        return  # the loop is closed, and with it the cluster


def _written(id: str, value: Any, to: FilePath) -> File:
    """Write the content of a file, or bytes, to a path, and return a `File` with this path."""
    if isinstance(value, File):
        shutil.copyfile(value.path, to)
    elif isinstance(value, bytes | bytearray | memoryview):
        to.write_bytes(value)
    else:
        raise GraphError(
            f"Stored object {id!r} is a {type(value).__name__}, and to= is for a File or bytes.",
            remedy="Leave out to=, or let the function return a handout.File.",
        )
    return File(to)


async def put(driver: Driver, number: int, value: Any) -> Stored[Any]:
    """Pickle a value, and make it an object that hosts get when their tasks need it.

    Args:
        driver: The driver of the cluster.
        number: The number of the run that keeps the value. No other run of the cluster has it.
        value: The value.

    Raises:
        GraphError: The value is a promise of a value, or holds one.
        UnserializableError: The value cannot be pickled.
        OSError: The file of a large value cannot be written.
        HostError: The cluster was closed meanwhile.
        InternalError: The driver has failed.
    """
    if issubclass(type(value), Input):
        raise GraphError(f"{value!r} is a promise of a value, not a value.", remedy="Pass it to functions as it is.")
    id = f"put-{number}"
    supplied = SuppliedValues([-1])
    try:
        supplied.hold(0, value)
    except diagnosis.CannotPickleError as error:
        for promise in Scanner().references((value,), None):
            raise GraphError(
                f"The value of put() holds {promise!r}, which is a promise of a value, not a value.",
                remedy="Pass the list, tuple or dict to functions as it is. They get it with the values in it.",
            ) from None
        raise refused(id, error) from error
    nbytes, segments = supplied.nbytes[0], supplied.values[0]
    objects = RunObjects(max_memory=0)
    _check_open(driver)
    if nbytes > _IN_MEMORY:
        await asyncio.to_thread(_spool, objects, segments, nbytes)
        _check_open(driver)
    else:
        objects.supply(0, segments)
    modules = frozenset(supplied.snapshot.modules)
    return Stored(hold(driver, number, objects, id, nbytes, bool(supplied.code_objects), modules), 0)


def _check_open(driver: Driver) -> None:
    if driver.is_closed:
        raise driver.broken or not_open()


def hold(
    driver: Driver,
    number: int,
    objects: RunObjects,
    id: str,
    nbytes: int,
    holds_code: bool = False,
    modules: frozenset[str] = frozenset(),
) -> StoredObject:
    """Make a stored object of a value whose bytes are in ``objects`` under the number 0; see `StoredObject`."""
    spec = RunSpec(0, [], [], [], [], [-1], [nbytes], keep=[0], ids=[])
    run = RunState(
        number=number,
        encoded=EncodedRun([], [], [], [], spec.producer, spec.nbytes, {}, None, CallDigests(b"", [], {})),
        spec=spec,
        policy=RunPolicy(),
        objects=objects,
        traits=[],
        task_objects=[],
        wanted=bytearray(b"\1"),
        started_at=driver.now,
    )
    driver.submit(run)
    driver.hold(run, [0])
    return StoredObject(driver, run, 0, id, nbytes, holds_code, modules)


def _spool(objects: RunObjects, segments: Sequence[Segment], nbytes: int) -> None:
    file = objects.new_file()
    try:
        for segment in segments:
            file.write(memoryview(segment).cast("B"))
    except BaseException:
        file.remove()
        raise
    objects.put(0, file, nbytes)


def keep(driver: Driver, run: GraphRun) -> dict[int, StoredObject]:
    """Have the driver hold what a run that has ended keeps, and return the stored objects by object number.

    Objects that the run has not made are left out.
    """
    known = driver.core.world.runs.get(run.number)
    if known is None or known.over:
        return {}
    made = [number for number in run.plan.keep if known.objects.replicas[number]]
    driver.hold(run, made)
    bundle = run.encoded.bundle
    modules = frozenset() if bundle is None else bundle.names
    sizes = known.objects.nbytes
    return {
        number: StoredObject(driver, run, number, run.name_of(number), sizes[number], modules=modules)
        for number in made
    }
