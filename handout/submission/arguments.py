"""Pickles the functions, arguments and values of a plan, once, before the run begins.

A value is data that the caller gave, for example with ``graph.value``, so that no task makes it. The pickled bytes of
one function or of one call are called a blob. Bytes hold code by value if they contain the definition of a function or
class, and not only its name.
"""

from __future__ import annotations

import os
import pickle
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, cast

from handout.errors import GraphError, UnserializableError
from handout.graph.objects import Borrowed, Pick
from handout.graph.output import Input, Output
from handout.graph.plan import Plan
from handout.graph.stored import Home, Stored, StoredElement
from handout.project.sources import Sources, own_sources
from handout.protocol.frames import MAX_PAYLOAD
from handout.serialization import calls as calls_
from handout.serialization import diagnosis
from handout.serialization.calls import PLAIN_TYPES, Fill, Path, Placeholder, Slot, Taken
from handout.serialization.file import File
from handout.serialization.pickling import Segment, Snapshot
from handout.serialization.user_objects import is_interruption, type_name
from handout.slices import Slices, is_slice_end
from handout.submission.bulk import BULK_BYTES, describe_bulk
from handout.submission.call_digests import CallDigests, Digester
from handout.submission.code_bundles import CodeBundle, FunctionBlob, bundle_sources, function_ref
from handout.submission.function_identity import FunctionDigests
from handout.submission.refusals import refused

__all__ = [
    "LARGE",
    "CallEncoder",
    "CodeWatch",
    "EncodedRun",
    "SuppliedValues",
    "check_size",
    "encode_plan",
    "own_segments",
]

#: An argument of more than this many bytes becomes a separate object, which travels to each host only once.
LARGE = 65536

#: The encoder yields after this many calls, because the pickling of one call with large arguments may take 1 ms.
_CALLS = 8


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRun:
    """The bytes that the controller sends to hosts in a run. Most fields have an entry for each task or object."""

    #: For each task, the blob of its call, which `handout.serialization.calls.load_call` reads. Equal calls may share
    #: a blob.
    calls: Sequence[bytes]
    #: For each task, the index of its function in `functions`.
    fn: Sequence[int]
    functions: Sequence[FunctionBlob]
    #: For each task, the numbers of the objects that it takes: first the plan's objects, then the objects that the
    #: task's large arguments became.
    inputs: Sequence[tuple[int, ...]]
    #: For each object, the task that makes the object, or -1 if the controller supplies it.
    producers: Sequence[int]
    #: For each object, its size in bytes, or -1 if the size is not known.
    nbytes: Sequence[int]
    #: The bytes of the objects that the controller supplies, by object number.
    values: Mapping[int, Sequence[Segment]]
    #: The user's own modules, or None if the run needs none.
    bundle: CodeBundle | None
    #: The digests of the calls, functions and values, by which a later run recognizes the tasks.
    digests: CallDigests
    #: The objects that are stored on hosts already, by object number.
    borrowed: Mapping[int, Home] = field(default_factory=dict)
    #: A message about the bytes that the run sends first, or "" if they do not take long to send.
    bulk: str = ""


def encode_plan(plan: Plan, companions: Sequence[type] = (), *, is_lenient: bool = False) -> Slices[EncodedRun]:
    """Pickle the functions, arguments and values of a plan.

    Args:
        plan: The plan.
        companions: Classes to send along with each function that is sent by value.
        is_lenient: True if only the digests are needed. What cannot be pickled then gets a digest that matches nothing.

    Raises:
        UnserializableError: A function, an argument or a value cannot be pickled. The error names the path to the part
            that failed.
    """
    encoder = _LenientEncoder(plan, companions) if is_lenient else _Encoder(plan, companions)
    return (yield from encoder.run())


class SuppliedValues:
    """The objects of a run, and the bytes of those that the controller supplies.

    Args:
        producers: For each object that exists already, the task that makes it, or -1 if the controller supplies it.
        snapshot: The snapshot of the run. Default: a new one.
    """

    def __init__(self, producers: Iterable[int] = (), snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot or Snapshot()
        self.producers: list[int] = list(producers)
        self.nbytes: list[int] = [-1] * len(self.producers)
        self.values: dict[int, list[Segment]] = {}
        #: The objects that are stored on hosts already.
        self.borrowed: dict[int, Home] = {}
        #: The numbers of the objects that large arguments became, by the ``id`` of the argument.
        self.large: dict[int, int] = {}
        #: These arguments. A list that contains one may change between two slices, so the encoder keeps them alive.
        #: Otherwise another object could get the same ``id``.
        self.kept: list[Any] = []
        #: Numbers of the objects that hold code by value. A task that takes such an object needs the controller's
        #: version of Python.
        self.code_objects: set[int] = set()
        #: How many bytes of objects and functions the run sends to a host that needs them all.
        self.sent = 0

    def hold(self, number: int, value: Any) -> None:
        """Pickle a value, and keep its bytes as the object with this number."""
        with CodeWatch(self.snapshot) as code:
            kept = own_segments(diagnosis.dumps_or_diagnose(value, "value", self.snapshot))
        self.values[number] = kept
        self.nbytes[number] = _size(kept)
        self.sent += self.nbytes[number]
        self.note_held(number, kept, code)
        if code.seen:
            self.code_objects.add(number)

    def note_held(self, number: int, segments: Sequence[Segment], code: CodeWatch) -> None:
        """Note that a value was pickled. A subclass may make a digest of its bytes."""

    def borrow(self, number: int, home: Home) -> None:
        """Note that an object is stored on hosts already."""
        self.borrowed[number] = home
        self.nbytes[number] = home.nbytes
        self.snapshot.modules.update(home.modules)
        if home.holds_code:
            self.code_objects.add(number)

    def number_of(self, home: Home) -> int:
        """Make a stored object an object of this run, unless it is one already. Return its number."""
        number = self.large.get(id(home))
        if number is None:
            number = self.large[id(home)] = len(self.producers)
            self.kept.append(home)
            self.producers.append(-1)
            self.nbytes.append(-1)
            self.borrow(number, home)
        return number

    def is_large(self, arg: Any) -> bool:
        """Return True if an argument is an object already, or is known to become one before it is pickled."""
        return id(arg) in self.large or _is_known_large(arg)

    def enlist(self, arg: Any) -> int:
        """Make an argument an object of its own, unless it is one already. Return the number of the object."""
        number = self.large.get(id(arg))
        if number is None:
            number = self.large[id(arg)] = len(self.producers)
            self.kept.append(arg)
            self.producers.append(-1)
            self.nbytes.append(-1)
            self.hold(number, arg)
        return number


class _Encoder(SuppliedValues):
    def __init__(self, plan: Plan, companions: Sequence[type]) -> None:
        super().__init__(plan.producers)
        self.plan = plan
        self.companions = companions
        self.digester = Digester(self.snapshot)
        self.function_digests = FunctionDigests(self.snapshot)
        self.functions: list[FunctionBlob] = []
        #: Indices into `functions`. A key is a pair: the function's ``id``, and True if the task's call or one of its
        #: inputs holds code by value.
        self.function_index: dict[tuple[int, bool], int] = {}
        self.shared: dict[Any, bytes] = {}
        self.paths: dict[int, list[Path]] = {}

    def run(self) -> Slices[EncodedRun]:
        plan = self.plan
        count = len(plan)
        for number, extra in enumerate(plan.extras, count):
            yield
            if isinstance(extra, Pick):
                self.paths.setdefault(extra.task, []).append(extra.path)
            elif isinstance(extra, Borrowed):
                self.borrow(number, extra.home)
            else:
                self._supply(number, extra.value, plan.name_of(number))
                yield from self.digester.settle()
        calls: list[bytes] = []
        fn: list[int] = []
        inputs: list[tuple[int, ...]] = []
        for task in range(count):
            if not task % _CALLS:
                yield
            blob, needs, by_value = yield from self._call(task)
            calls.append(blob)
            inputs.append(needs)
            fn.append(self._function(task, by_value))
            if self.digester.is_unsettled:
                yield from self.digester.settle()
        sources = yield from own_sources(self.snapshot.modules)
        bundle = yield from self._bundle(sources)
        digests = yield from self.digester.finish(sources.packages)
        functions = self.functions
        if bundle is not None:  # every task needs it, because any object may be of a class from these modules
            functions = [replace(function, needs_bundle=True) for function in functions]
        bulk = ""
        if self.sent >= BULK_BYTES:
            arguments = dict(enumerate(self.kept, len(self.nbytes) - len(self.kept)))
            bulk = describe_bulk(plan, self.sent, self.nbytes, inputs, arguments, fn, functions)
        return EncodedRun(
            calls, fn, functions, inputs, self.producers, self.nbytes, self.values, bundle, digests, self.borrowed, bulk
        )

    def _bundle(self, sources: Sources) -> Slices[CodeBundle | None]:
        return bundle_sources(sources)

    def note_held(self, number: int, segments: Sequence[Segment], code: CodeWatch) -> None:
        """Make the digest of a value."""
        self.digester.value(number, segments, code.modules, code.seen)

    # ---- functions and values ------------------------------------------------------------------------------

    def _function(self, task: int, by_value: bool) -> int:
        fn = self.plan.fns[task]
        known = self.function_index.get((id(fn), by_value))
        if known is None:
            try:
                with CodeWatch(self.snapshot) as code:
                    blob = function_ref(fn, self.snapshot, self.companions)
            except diagnosis.CannotPickleError as error:
                raise refused(self.plan.ids[task], error) from error
            check_size(self.plan.ids[task], fn, blob)
            known = self.function_index[id(fn), by_value] = len(self.functions)
            self.sent += len(blob.blob)
            self.functions.append(replace(blob, by_value=True) if by_value else blob)
            self.digester.function(self.function_digests.of(fn, blob.blob, blob.by_value), code.modules)
        return known

    def _supply(self, number: int, value: Any, id: str) -> None:
        try:
            self.hold(number, value)
        except diagnosis.CannotPickleError as error:
            raise refused(id, error) from error

    # ---- calls ---------------------------------------------------------------------------------------------

    def _call(self, task: int) -> Slices[tuple[bytes, tuple[int, ...], bool]]:
        """Return the blob of a task's call, the task's inputs, and whether the call or an input holds code by value."""
        plan = self.plan
        args, kwargs, inputs = plan.args[task], plan.kwargs[task], plan.inputs[task]
        paths = self.paths.get(task)
        if not kwargs:
            blob = yield from self._plain(args, inputs, paths)
            if blob is not None:
                return blob, inputs, bool(self.code_objects) and not self.code_objects.isdisjoint(inputs)
        call = CallEncoder(self, plan.ids[task], inputs, lambda: plan.slot_of(task), paths or ())
        with CodeWatch(self.snapshot) as code:
            blob = call.encode(args, kwargs)
        self.digester.call(call.pathless, code.modules, code.seen)
        return blob, tuple(call.inputs), code.seen or not self.code_objects.isdisjoint(call.inputs)

    def _plain(self, args: tuple[Any, ...], inputs: tuple[int, ...], paths: list[Path] | None) -> Slices[bytes | None]:
        """Return the blob of a simple call, and None for any other call.

        A simple call has no keyword arguments, and each argument is a small plain value, an output that names a whole
        object, or a list or tuple of such outputs. The C pickler makes the blob of such a call without help. The blobs
        of other calls need a pickler with hooks in Python, which is far slower.
        """
        if not inputs:
            for arg in args:
                if type(arg) not in PLAIN_TYPES or (type(arg) in _SIZED and len(arg) > LARGE):
                    return None
            if not args and not paths:
                return self._share((), ((), None, None, None))
            return self._note(args, None, paths)
        fills: list[tuple[int, Fill]] = []
        index: dict[int, int] = {}
        rest = False
        for position, arg in enumerate(args):
            kind = type(arg)
            if kind is Output:
                number = self._whole(arg)
                if number < 0:
                    return None
                fills.append((position, inputs.index(number)))
            elif kind in _SEQUENCES:
                if not index:
                    if _has_repeated_sequence(args):
                        return None
                    index = {number: i for i, number in enumerate(inputs)}
                indices = yield from self._indices(arg, index)
                if not indices:
                    return None
                fills.append((position, kind(indices)))
                rest = True
            elif kind not in PLAIN_TYPES or (kind in _SIZED and len(arg) > LARGE):
                return None
            else:
                rest = True
        if rest or paths:
            holes = list(args)
            for position, _ in fills:
                holes[position] = None
            return self._note(tuple(holes), fills, paths)
        return self._share(tuple(fills), ((None,) * len(args), None, None, fills))

    def _indices(self, outputs: Sequence[Any], index: Mapping[int, int]) -> Slices[list[int]]:
        """Return the index of each output among a task's inputs. Empty: an entry is not an output of a whole object.

        Args:
            outputs: The entries of a list or tuple among the task's arguments.
            index: The index of each input, by the number of the object.
        """
        indices = []
        for seen, output in enumerate(outputs):
            if is_slice_end(seen):
                yield
            number = self._whole(output) if type(output) is Output else -1
            if number not in index:
                return []  # also if the caller has changed the list since the graph was compiled
            indices.append(index[number])
        return indices

    def _whole(self, output: Output[Any]) -> int:
        """Return the number of the object that an output names as a whole, or -1 if there is no such object."""
        if output._path:
            return -1
        number, path = self.plan.objects.find(output)
        return -1 if number is None or path else number

    def _note(self, args: tuple[Any, ...], fills: list[tuple[int, Fill]] | None, paths: list[Path] | None) -> bytes:
        """Return the blob of a simple call. Note the call's digest, of which the paths are no part."""
        blob = pickle.dumps((args, None, None, fills), 5)
        self.digester.call(blob)
        return pickle.dumps((args, None, tuple(paths), fills), 5) if paths else blob

    def _share(self, key: Any, call: Any) -> bytes:
        blob = self.shared.get(key)
        if blob is None:
            blob = self.shared[key] = pickle.dumps(call, 5)
        self.digester.call(blob)
        return blob


class _LenientEncoder(_Encoder):
    """Makes the digests of a run whose bytes are not sent. Of what cannot be pickled, the digest matches nothing."""

    def hold(self, number: int, value: Any) -> None:
        try:
            super().hold(number, value)
        except diagnosis.CannotPickleError:
            self.digester.value(number, [os.urandom(16)], (), False)

    def _call(self, task: int) -> Slices[tuple[bytes, tuple[int, ...], bool]]:
        try:
            return (yield from super()._call(task))
        except GraphError:
            self.digester.call(os.urandom(16))
            return b"", self.plan.inputs[task], False

    def _function(self, task: int, by_value: bool) -> int:
        try:
            return super()._function(task, by_value)
        except GraphError:
            self.digester.function(os.urandom(16), ())
            self.functions.append(FunctionBlob(0, b"", by_value=False, needs_bundle=False))
            return len(self.functions) - 1

    def _bundle(self, sources: Sources) -> Slices[CodeBundle | None]:
        yield from ()
        return None


_SIZED = frozenset({str, bytes})
_SEQUENCES = frozenset({list, tuple})


def _has_repeated_sequence(args: tuple[Any, ...]) -> bool:
    """Return True if two arguments are the same list or tuple. The function then gets one object for both too."""
    ids = [id(arg) for arg in args if type(arg) in _SEQUENCES]
    return len(set(ids)) < len(ids)


class CodeWatch:
    """A context manager. After its block, `seen` is True if the block has pickled code by value.

    `modules` then has the names of the modules to which the block has referred.

    It is a class because ``contextlib.contextmanager`` would take as much time as the pickling itself.
    """

    __slots__ = ("before", "modules", "modules_before", "seen", "snapshot")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.before, self.modules_before = snapshot.by_value, snapshot.modules
        self.seen = False
        self.modules: set[str] = set()

    def __enter__(self) -> CodeWatch:
        self.snapshot.by_value, self.snapshot.modules = False, self.modules
        return self

    def __exit__(self, *_: object) -> None:
        self.seen = self.snapshot.by_value
        self.snapshot.by_value = self.before or self.seen
        self.modules = self.snapshot.modules
        self.snapshot.modules = self.modules_before
        self.snapshot.modules |= self.modules


class CallEncoder:
    """Encodes any call, such as one with keyword arguments or with a list.

    Args:
        supplied: The objects of the run. Large arguments of the call are added to them.
        id: The id of the task.
        inputs: The numbers of the objects that the task takes.
        make_slot_of: Returns the function that returns the placeholder of an output.
        paths: Paths of the elements of the task's result that become separate objects.
    """

    def __init__(
        self,
        supplied: SuppliedValues,
        id: str,
        inputs: Sequence[int] = (),
        make_slot_of: Callable[[], Callable[[Input[Any]], Placeholder]] | None = None,
        paths: Sequence[Path] = (),
    ) -> None:
        self.supplied = supplied
        self.id = id
        self.paths = paths
        self.inputs: list[int] = list(inputs)
        self.make_slot_of = make_slot_of
        #: The function that returns the placeholder of an output. It is made when the first output is met, because many
        #: calls contain none.
        self.slot_of: Callable[[Input[Any]], Placeholder] | None = None
        #: How many outputs `resolve` has met since this number was last set to 0.
        self.outputs_seen = 0
        #: The blob without the paths of the elements that are taken from the task's result.
        self.pathless = b""

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Turn large arguments into objects, add these objects to `inputs`, and return the blob of the call."""
        try:
            held, named = self._known_large(args, kwargs)
            segments = self._dump(held, named)
            if _size(segments) > LARGE:
                held = tuple(self._shrink(arg) for arg in held)
                named = {name: self._shrink(arg) for name, arg in named.items()}
                segments = self._dump(held, named)
            blob = b"".join(segments)
            paths, self.paths = self.paths, ()
            self.pathless = b"".join(self._dump(held, named)) if paths else blob
            return blob
        except GraphError:
            raise
        except BaseException as error:  # a __reduce__ may raise anything, also SystemExit
            if is_interruption(error):
                raise
            raise self._culprit(args, kwargs) from error

    def _dump(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Segment]:
        return calls_.dumps_call(args, kwargs, self.paths, self.resolve, self.supplied.snapshot)

    def _culprit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> UnserializableError:
        names = [*((f"args[{i}]", arg) for i, arg in enumerate(args)), *kwargs.items()]
        for name, arg in names:
            try:
                self._attempt(arg)
            except BaseException as error:  # see `encode`
                if is_interruption(error):
                    raise
                return refused(self.id, diagnosis.find_unpicklable(arg, name, self._attempt))
        problem = diagnosis.CannotPickleError("args", "tuple", "pickling failed, but succeeded when tried again")
        return refused(self.id, problem)

    def _attempt(self, part: Any) -> list[Segment]:
        return calls_.dumps_call((part,), {"_": None}, (), self.resolve, self.supplied.snapshot)

    # ---- outputs -------------------------------------------------------------------------------------------

    def resolve(self, obj: Any) -> Any:
        """Return the placeholder of an output, of an `Arg`, or of an argument that became an object.

        Return None for anything else.
        """
        kind = type(obj)  # not `isinstance`, which asks the object for its ``__class__``
        if issubclass(kind, Input):
            self.outputs_seen += 1
            if self.make_slot_of is None and issubclass(kind, Stored | StoredElement):
                slot = self._slot(self.supplied.number_of(cast(Home, obj._origin)))
                return Taken(slot, obj._path) if obj._path else slot
            if self.slot_of is None:
                self.slot_of = _belongs_nowhere if self.make_slot_of is None else self.make_slot_of()
            return self.slot_of(obj)
        return obj if kind is Slot else None

    # ---- large arguments -----------------------------------------------------------------------------------

    def _known_large(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return the arguments, with a `Slot` in place of each argument that is an object already or becomes one here.

        Large texts, bytes and files become objects here, because their sizes are known before anything is pickled.
        """
        is_large = self.supplied.is_large
        for arg in (*args, *kwargs.values()):
            if is_large(arg):
                return tuple(map(self._if_known, args)), {name: self._if_known(arg) for name, arg in kwargs.items()}
        return args, kwargs

    def _if_known(self, arg: Any) -> Any:
        if self.supplied.is_large(arg):
            return self._slot(self.supplied.enlist(arg))
        return arg

    def _slot(self, number: int) -> Slot:
        if number not in self.inputs:
            self.inputs.append(number)
        return Slot(self.inputs.index(number))

    def _shrink(self, arg: Any) -> Any:
        """Return a `Slot` for a large argument. Return any other argument as it is.

        A large container that holds outputs cannot become an object, because objects contain no placeholders. The large
        items of the container become objects instead.
        """
        if issubclass(type(arg), Input | Slot) or type(arg) in _TINY:
            return arg
        if self.supplied.is_large(arg):  # it is an argument twice
            return self._slot(self.supplied.enlist(arg))
        self.outputs_seen = 0
        segments = self._attempt(arg)
        if _size(segments) <= LARGE:
            return arg
        if not self.outputs_seen:
            return self._slot(self.supplied.enlist(arg))
        kind = type(arg)
        if kind is list or kind is tuple:
            return kind(self._shrink(part) for part in arg)
        if kind is dict:
            return {key: self._shrink(part) for key, part in arg.items()}
        return arg


def _belongs_nowhere(promised: Input[Any]) -> NoReturn:
    raise GraphError(
        f"{promised!r} is a promise of a graph, and this call belongs to no graph.",
        remedy="Add the function to the graph of this output: graph.add(f, output).",
    )


def _is_known_large(arg: Any) -> bool:
    """Return True for a text, bytes or a file of more than `LARGE` bytes, and for a folder of any size.

    To pickle a folder copies its files, so this must happen only once.
    """
    kind = type(arg)
    if kind in _SIZED:
        return len(arg) > LARGE
    if kind is not File:
        return False
    try:
        status = os.stat(arg.path)
    except OSError:
        return False  # the error of the attempt to pickle it says more
    return stat.S_ISDIR(status.st_mode) or status.st_size > LARGE


_TINY = frozenset({type(None), bool, int, float, complex})


def _size(segments: Sequence[Segment]) -> int:
    if len(segments) == 1 and type(segments[0]) is bytes:
        return len(segments[0])
    return sum(memoryview(segment).nbytes for segment in segments)


def own_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments, with a copy in place of each segment whose bytes could still change."""
    return [_own(segment) for segment in segments]


def _own(segment: Segment) -> Segment:
    if isinstance(segment, bytes) or (isinstance(segment, memoryview) and segment.readonly and _is_frozen(segment)):
        return segment
    return bytes(segment)


def _is_frozen(view: memoryview) -> bool:
    """Return False if the bytes of a read-only view may change, because a writable array has the same memory.

    So it is with the arrays that a table of pandas hands out.
    """
    owner: Any = view.obj
    numpy = sys.modules.get("numpy")
    while numpy is not None and isinstance(owner, numpy.ndarray) and owner.base is not None:
        owner = owner.base
    try:
        return memoryview(owner).readonly
    except TypeError:
        return False  # numpy made the array from an object that only tells its address


def check_size(id: str, fn: Callable[..., Any], blob: FunctionBlob) -> None:
    """Raise `UnserializableError` if a function has too many bytes to be sent in one message."""
    if len(blob.blob) > MAX_PAYLOAD:
        path, part = diagnosis.largest_part(fn, repr(id))
        raise UnserializableError(
            f"Function {id!r} holds {len(blob.blob) / (1 << 20):.1f} MiB, with its closure and the globals that it "
            f"uses. The limit is {MAX_PAYLOAD >> 20} MiB. The largest part is {path} ({type_name(part)}).",
            remedy="Pass large data as an argument, or as graph.value(...), so that it travels as an object.",
            path=path,
            type=type_name(part),
        )
