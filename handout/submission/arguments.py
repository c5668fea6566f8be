"""A plan's functions, arguments and values as bytes: snapshotted, once, before anything runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from handout.errors import GraphError, UnserializableError
from handout.graph import placeholder
from handout.graph.objects import Kept, Pick
from handout.graph.output import Input, Output, StoredObject
from handout.graph.path import Path
from handout.graph.plan import Plan
from handout.protocol.frames import MAX_PAYLOAD
from handout.serialization import calls as calls_
from handout.serialization import diagnosis
from handout.serialization.calls import PLAIN_TYPES
from handout.serialization.pickling import Segment, Snapshot
from handout.submission.code_bundles import CodeBundle, FunctionBlob, bundle_modules, function_ref

__all__ = ["LARGE", "EncodedRun", "encode_plan"]

#: An argument over this many bytes is an object of its own, which travels once per host.
LARGE = 65536

_REMEDY = "Make it inside the function, pass what it is made from, or leave it out in __getstate__."


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRun:
    """What travels of a run. Columns by task have one entry a task, columns by object one an object."""

    #: By task: the blob that :func:`handout.serialization.calls.load_call` reads. Equal calls share one.
    calls: Sequence[bytes]
    #: By task: index in `functions`.
    fn: Sequence[int]
    functions: Sequence[FunctionBlob]
    #: By task: objects it needs; the plan's own first, then what its large arguments became.
    inputs: Sequence[tuple[int, ...]]
    #: By object: the task that makes it, -1 where the controller has it (or, of `kept`, hosts do).
    producers: Sequence[int]
    #: By object: its bytes where they are known, else -1.
    nbytes: Sequence[int]
    #: Supplied by the controller, by number.
    values: Mapping[int, Sequence[Segment]]
    #: Held by the cluster's hosts since an earlier run, by number.
    kept: Mapping[int, StoredObject]
    #: The user's own modules, or None where the run needs none.
    bundle: CodeBundle | None


def encode_plan(plan: Plan) -> EncodedRun:
    """Turn everything that a plan holds into bytes.

    Raises:
        UnserializableError: A function, an argument or a value cannot travel; names the path to the culprit.
    """
    return _Encoder(plan).run()


class _Encoder:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.snapshot = Snapshot()
        self.producers: list[int] = list(plan.producers)
        self.nbytes: list[int] = [-1] * len(self.producers)
        self.values: dict[int, list[Segment]] = {}
        self.kept: dict[int, StoredObject] = {}
        #: Numbers of large arguments by identity. The plan keeps them alive.
        self.large: dict[int, int] = {}
        self.functions: list[FunctionBlob] = []
        #: By (identity of the function, whether its call holds code by value): index in `functions`.
        self.function_index: dict[tuple[int, bool], int] = {}
        #: Objects with code by value in them: whoever takes one needs this version of Python.
        self.code_objects: set[int] = set()
        self.shared: dict[Any, bytes] = {}
        self.paths: dict[int, list[Path]] = {}

    def run(self) -> EncodedRun:
        plan = self.plan
        count = len(plan)
        for number, extra in enumerate(plan.extras, count):
            if isinstance(extra, Pick):
                self.paths.setdefault(extra.task, []).append(extra.path)
            elif isinstance(extra, Kept):
                self.kept[number] = extra.stored
                self.nbytes[number] = extra.stored.nbytes
            else:
                self._supply(number, extra.value, plan.name_of(number))
        calls: list[bytes] = []
        fn: list[int] = []
        inputs: list[tuple[int, ...]] = []
        for task in range(count):
            blob, needs, by_value = self._call(task)
            calls.append(blob)
            inputs.append(needs)
            fn.append(self._function(task, by_value))
        bundle = bundle_modules(self.snapshot.modules)
        functions = self.functions
        if bundle is not None:  # what a task is given, or returns, may be of any of the run's modules
            functions = [replace(function, needs_bundle=True) for function in functions]
        return EncodedRun(calls, fn, functions, inputs, self.producers, self.nbytes, self.values, self.kept, bundle)

    # ---- functions and values ------------------------------------------------------------------------------

    def _function(self, task: int, by_value: bool) -> int:
        fn = self.plan.fns[task]
        known = self.function_index.get((id(fn), by_value))
        if known is None:
            try:
                blob = function_ref(fn, self.snapshot)
            except diagnosis.CannotPickleError as error:
                raise _refused(self.plan.ids[task], error) from error
            if len(blob.blob) > MAX_PAYLOAD:
                raise UnserializableError(
                    f"function {self.plan.ids[task]!r} holds {len(blob.blob) / 1e6:.0f} MB: what it closes over, or "
                    f"globals that it names, travels with it, and that is bounded to {MAX_PAYLOAD / 1e6:.0f} MB.",
                    remedy="Pass large data as an argument, or as graph.value(...): it then travels as an object.",
                    path=self.plan.ids[task],
                    type=type(fn).__name__,
                )
            known = self.function_index[id(fn), by_value] = len(self.functions)
            self.functions.append(replace(blob, by_value=True) if by_value else blob)
        return known

    def _supply(self, number: int, value: Any, id: str) -> None:
        try:
            self.hold(number, value)
        except diagnosis.CannotPickleError as error:
            raise _refused(id, error) from error

    def hold(self, number: int, value: Any) -> None:
        """Make `value` the object of a number."""
        with _CodeWatch(self.snapshot) as code:
            kept = [_own(segment) for segment in diagnosis.dumps_or_diagnose(value, "value", self.snapshot)]
        self.values[number] = kept
        self.nbytes[number] = _size(kept)
        if code.seen:
            self.code_objects.add(number)

    # ---- calls ---------------------------------------------------------------------------------------------

    def _call(self, task: int) -> tuple[bytes, tuple[int, ...], bool]:
        """One task's blob, its inputs, and whether there is code by value in it."""
        plan = self.plan
        args, kwargs, inputs = plan.args[task], plan.kwargs[task], plan.inputs[task]
        paths = self.paths.get(task)
        if not kwargs:
            blob = self._plain(args, inputs, paths)
            if blob is not None:
                return blob, inputs, bool(self.code_objects) and not self.code_objects.isdisjoint(inputs)
        call = _CallEncoder(self, task, paths or ())
        with _CodeWatch(self.snapshot) as code:
            blob = call.encode(args, kwargs)
        return blob, tuple(call.inputs), code.seen or not self.code_objects.isdisjoint(call.inputs)

    def _plain(self, args: tuple[Any, ...], inputs: tuple[int, ...], paths: list[Path] | None) -> bytes | None:
        """The blob of a call whose arguments are small scalars and whole results of tasks: no code asked."""
        if not inputs:
            for arg in args:
                if type(arg) not in PLAIN_TYPES or (type(arg) in _SIZED and len(arg) > LARGE):
                    return None
            if not args and not paths:
                return self._share((), ((), None, None, None))
            return pickle.dumps((args, None, tuple(paths) if paths else None, None), 5)
        fills: list[tuple[int, int]] = []
        rest = False
        for position, arg in enumerate(args):
            kind = type(arg)
            if kind is Output:
                number = self._whole(arg)
                if number < 0:
                    return None
                fills.append((position, inputs.index(number)))
            elif kind not in PLAIN_TYPES or (kind in _SIZED and len(arg) > LARGE):
                return None
            else:
                rest = True
        if rest or paths:
            holes = list(args)
            for position, _ in fills:
                holes[position] = None
            return pickle.dumps((tuple(holes), None, tuple(paths) if paths else None, fills), 5)
        return self._share(tuple(fills), ((None,) * len(args), None, None, fills))

    def _whole(self, output: Output[Any]) -> int:
        """The number of a task whose whole result an output is; -1 for any other output."""
        if output._path:
            return -1
        number, path = self.plan.objects.find(output)
        return -1 if number is None or path else number

    def _share(self, key: Any, call: Any) -> bytes:
        blob = self.shared.get(key)
        if blob is None:
            blob = self.shared[key] = pickle.dumps(call, 5)
        return blob


_SIZED = frozenset({str, bytes})


class _CodeWatch:
    """Sees whether anything goes by value in a block. One a call: a generator would take as long as the pickling."""

    __slots__ = ("before", "seen", "snapshot")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.before = snapshot.by_value
        self.seen = False

    def __enter__(self) -> _CodeWatch:
        self.snapshot.by_value = False
        return self

    def __exit__(self, *_: object) -> None:
        self.seen = self.snapshot.by_value
        self.snapshot.by_value = self.before or self.seen


class _CallEncoder:
    """One call that needs a closer look: arguments that are neither scalars nor whole results."""

    def __init__(self, encoder: _Encoder, task: int, paths: Sequence[Path]) -> None:
        self.encoder = encoder
        self.task = task
        self.paths = paths
        self.inputs: list[int] = list(encoder.plan.inputs[task])
        #: Made when the first promise is seen: most arguments hold none.
        self.slot_of: Callable[[Input[Any]], placeholder.Placeholder] | None = None
        #: The agent's marks for the plan's, by identity, with the plan's own to keep the identity.
        self.marks: dict[int, tuple[Any, Any]] = {}
        #: Promises seen since it was last reset.
        self.promises = 0

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """The blob; `inputs` has grown by what its large arguments became."""
        args, named = self._known_large(args, kwargs)
        segments = self._dump(args, named)
        if _size(segments) > LARGE:
            args = tuple(self._shrink(arg) for arg in args)
            named = {name: self._shrink(arg) for name, arg in named.items()}
            segments = self._dump(args, named)
        return b"".join(segments)

    def _dump(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Segment]:
        try:
            return calls_.dumps_call(args, kwargs, self.paths, self.resolve, self.encoder.snapshot)
        except GraphError:
            raise
        except Exception as error:  # whatever a __reduce__ raises
            raise self._culprit(args, kwargs) from error

    def _culprit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> UnserializableError:
        names = [*((f"args[{i}]", arg) for i, arg in enumerate(args)), *kwargs.items()]
        for name, arg in names:
            try:
                self._attempt(arg)
            except Exception:  # whatever a __reduce__ raises
                return _refused(self.encoder.plan.ids[self.task], diagnosis.find_unpicklable(arg, name, self._attempt))
        problem = diagnosis.CannotPickleError("args", "tuple", "pickling failed once, and not when tried again")
        return _refused(self.encoder.plan.ids[self.task], problem)

    def _attempt(self, part: Any) -> list[Segment]:
        return calls_.dumps_call((part,), {"_": None}, (), self.resolve, self.encoder.snapshot)

    # ---- promises ------------------------------------------------------------------------------------------

    def resolve(self, obj: Any) -> Any:
        """The agent's mark for an output, a stored object, an `Arg`, or an argument that is an object by now."""
        if isinstance(obj, Input):
            self.promises += 1
            if self.slot_of is None:
                self.slot_of = self.encoder.plan.slot_of(self.task)
            return self._mark(self.slot_of(obj))
        return obj if isinstance(obj, calls_.Slot) else None

    def _mark(self, found: placeholder.Placeholder) -> Any:
        known = self.marks.get(id(found))
        if known is None:
            known = self.marks[id(found)] = (self._translate(found), found)
        return known[0]

    def _translate(self, found: placeholder.Placeholder) -> Any:
        match found:
            case placeholder.Slot(index):
                return calls_.Slot(index)
            case placeholder.Inline(fn, args, kwargs):
                return calls_.Inline(fn, args, kwargs)
            case placeholder.Loaded(inner, load):
                return calls_.Loaded(self._mark(inner), load)
            case placeholder.Taken(inner, path):
                return calls_.Taken(self._mark(inner), path)

    # ---- large arguments -----------------------------------------------------------------------------------

    def _known_large(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Marks for the arguments that are objects already, or that are seen to be large without pickling them."""
        large = self.encoder.large
        for arg in (*args, *kwargs.values()):
            if id(arg) in large or (type(arg) in _SIZED and len(arg) > LARGE):
                return tuple(map(self._if_known, args)), {name: self._if_known(arg) for name, arg in kwargs.items()}
        return args, kwargs

    def _if_known(self, arg: Any) -> Any:
        if id(arg) in self.encoder.large or (type(arg) in _SIZED and len(arg) > LARGE):
            return self._slot(self._enlist(arg))
        return arg

    def _slot(self, number: int) -> calls_.Slot:
        if number not in self.inputs:
            self.inputs.append(number)
        return calls_.Slot(self.inputs.index(number))

    def _shrink(self, arg: Any) -> Any:
        """The argument, or a mark for the object that it became; containers with promises are looked into."""
        if isinstance(arg, Input | calls_.Slot) or type(arg) in _TINY:
            return arg
        self.promises = 0
        segments = self._attempt(arg)
        if _size(segments) <= LARGE:
            return arg
        if not self.promises:
            return self._slot(self._enlist(arg))
        kind = type(arg)
        if kind is list or kind is tuple:
            return kind(self._shrink(part) for part in arg)
        if kind is dict:
            return {key: self._shrink(part) for key, part in arg.items()}
        return arg

    def _enlist(self, arg: Any) -> int:
        encoder = self.encoder
        number = encoder.large.get(id(arg))
        if number is None:
            number = encoder.large[id(arg)] = len(encoder.producers)
            encoder.producers.append(-1)
            encoder.nbytes.append(-1)
            encoder.hold(number, arg)
        return number


_TINY = frozenset({type(None), bool, int, float, complex})


def _size(segments: Sequence[Segment]) -> int:
    if len(segments) == 1 and type(segments[0]) is bytes:
        return len(segments[0])
    return sum(memoryview(segment).nbytes for segment in segments)


def _own(segment: Segment) -> Segment:
    """A copy of what the caller could still change."""
    if isinstance(segment, bytes) or (isinstance(segment, memoryview) and segment.readonly):
        return segment
    return bytes(segment)


def _refused(id: str, error: diagnosis.CannotPickleError) -> UnserializableError:
    return UnserializableError(
        f"Function {id!r} cannot travel: {error.path} ({error.type}): {error.reason}.",
        remedy=_REMEDY,
        path=error.path,
        type=error.type,
    )
