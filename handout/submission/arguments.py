"""Pickles the functions, arguments and values of a plan, once, before the run begins.

A value is data that the caller gave, for example with ``graph.value``, so that no task makes it. The pickled bytes of
one function or of one call are called a blob. Bytes hold code by value if they contain the definition of a function or
class, and not only its name.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from handout.errors import GraphError, UnserializableError
from handout.graph.objects import Borrowed, Pick, WarmRecipe
from handout.graph.output import Output
from handout.graph.plan import Plan
from handout.graph.stored import Home
from handout.project.sources import Sources, own_sources
from handout.protocol.frames import MAX_PAYLOAD
from handout.serialization import diagnosis
from handout.serialization.calls import PLAIN_TYPES, Fill, Path
from handout.serialization.pickling import Segment
from handout.serialization.user_objects import type_name
from handout.slices import Slices, is_slice_end
from handout.submission.bulk import BULK_BYTES, describe_bulk
from handout.submission.call_digests import CallDigests, Digester
from handout.submission.call_encoder import CallEncoder
from handout.submission.code_bundles import CodeBundle, FunctionBlob, bundle_sources, function_ref
from handout.submission.function_identity import FunctionDigests
from handout.submission.refusals import refused
from handout.submission.supplied_values import LARGE, CodeWatch, Dump, SuppliedValues

__all__ = ["EncodedRun", "check_size", "encode_plan"]

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
    #: The objects that are recipes of warm values, by object number, with the identities of the values in hexadecimal.
    warm: Mapping[int, str] = field(default_factory=dict)
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
            elif isinstance(extra, WarmRecipe):
                self._supply(number, extra, plan.name_of(number), partial(self._recipe, extra))
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
            calls,
            fn,
            functions,
            inputs,
            self.producers,
            self.nbytes,
            self.values,
            bundle,
            digests,
            self.borrowed,
            {n: extra.identity.hex() for n, extra in enumerate(plan.extras, count) if isinstance(extra, WarmRecipe)},
            bulk,
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

    def _recipe(self, recipe: WarmRecipe) -> Sequence[Segment]:
        encoder = CallEncoder(self, repr(recipe.warm), recipe.inputs, lambda: self.plan.slot_in(recipe))
        recipe.identity = encoder.identity_of(recipe.warm)
        return encoder.encode_recipe(recipe.warm)

    def _supply(self, number: int, value: Any, id: str, dump: Dump | None = None) -> None:
        try:
            self.hold(number, value, dump)
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

    def hold(self, number: int, value: Any, dump: Dump | None = None) -> None:
        try:
            super().hold(number, value, dump)
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
