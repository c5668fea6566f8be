"""Gives several calls of one function the same snapshot, as long as the function and what it uses stay the same.

A snapshot gives the functions and classes that it sends by value a version of its own, so that a worker does not take
those of an earlier snapshot for them. If each call had a snapshot, each call of a function of a script would therefore
send the function again, and a worker would load it again and lose what the function keeps in its globals.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MappingProxyType
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from handout.graph.stored import Home
from handout.graph.warm import check_event_loop
from handout.serialization import diagnosis
from handout.serialization.pickling import Segment, Snapshot
from handout.submission.call_encoder import CallEncoder
from handout.submission.call_values import CallValues, SharedArguments
from handout.submission.code_bundles import FunctionBlob, function_bytes, numbered
from handout.submission.function_dependencies import Dependencies, dependencies_of
from handout.submission.function_identity import timeless
from handout.submission.refusals import refused
from handout.submission.supplied_values import CodeWatch

__all__ = ["CallBytes", "CallSnapshots"]

#: At most this many snapshots are known.
_MOST: Final = 1024
#: The serial of the snapshots whose bytes are only compared. `timeless` needs one of 8 bytes.
_COMPARED: Final = 1 << 62


class CallBytes(NamedTuple):
    """The bytes of a function and of one call of it."""

    function: FunctionBlob
    #: The call, which `handout.serialization.calls.load_call` reads. Its inputs are ``values``, in their order.
    blob: bytes
    #: For each input: the bytes of the value that a large argument became, or the stored object. Bytes that the call
    #: shares with other calls are a `SharedValue`.
    values: Sequence[Sequence[Segment] | Home]
    #: Dotted names of the modules that the call needs.
    modules: frozenset[str]
    #: For the values that are recipes of warm values: the identities of these, in hexadecimal.
    warm: Mapping[int, str] = MappingProxyType({})


class _SentFunction(NamedTuple):
    """A snapshot, and the function that was pickled with it.

    Only the serial of the snapshot is kept. The snapshot itself would keep the function, and all that the function
    refers to, alive in the caller's program.
    """

    serial: int
    function: FunctionBlob


class _ReusableFunction(NamedTuple):
    """A function as an earlier call sent it. The arguments of that call brought no code by value."""

    dependencies: Dependencies
    function: FunctionBlob
    #: Dotted names of the modules that the function needs.
    modules: frozenset[str]


class CallSnapshots:
    """Encodes calls. Any thread may do so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The functions that were called. Those that are pickled for each call have None. The table keeps no function
        #: alive.
        self._reusable: WeakKeyDictionary[Any, _ReusableFunction | None] = WeakKeyDictionary()
        #: The key has the digests of all that the function and the arguments bring by value.
        self._known: OrderedDict[tuple[bytes, ...], _SentFunction] = OrderedDict()

    def encode(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        companions: Sequence[type],
        shared: SharedArguments | None = None,
    ) -> CallBytes:
        """Pickle a function and the arguments of one call; see `encode_call`.

        Raises:
            UnserializableError: The function or an argument cannot be pickled.
        """
        try:
            found = self._encode(name, fn, args, kwargs, companions, shared)
        except BaseException:
            if shared is not None:
                shared.forget_unused()
            raise
        if shared is not None:
            shared.begin(found.values)
        return found

    def _encode(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        companions: Sequence[type],
        shared: SharedArguments | None,
    ) -> CallBytes:
        reusable = self._find_reusable(fn, companions)
        if reusable is not None:
            compared = Snapshot(_COMPARED)
            compared.modules.update(reusable.modules)
            supplied = CallValues(compared, shared)
            call = _call(name, fn, args, kwargs, supplied)
            if not call.by_value:
                return _bytes(reusable.function, call, supplied, compared)
            # The function and the arguments may bring the same code. So one snapshot must pickle both.
        compared = Snapshot(_COMPARED)
        dependencies = self._dependencies_of(fn, companions)
        function = _function(name, fn, compared, companions)
        before, modules = set(compared.blobs), frozenset(compared.modules)
        compared.closures = 0
        supplied = CallValues(compared, shared)
        call = _call(name, fn, args, kwargs, supplied)
        if not (function.by_value or call.by_value):
            blob = numbered(function.data, False)
            self._note(fn, dependencies, blob, modules)
            return _bytes(blob, call, supplied, compared)
        # The names of the spaces of globals, and the versions of the classes, are not part of the digests of blobs. A
        # function with a closure has no blob. If it is an argument, the bytes are never taken for those of another one.
        definitions = [blob.digest for number, blob in compared.blobs.items() if number not in before]
        key = None if compared.closures else (hashlib.sha256(function.data).digest(), *sorted(definitions))
        known, is_as_compared = self._find(key), True
        if known is None:
            snapshot = Snapshot()
            data, by_value, _ = _function(name, fn, snapshot, companions)
            known = _SentFunction(snapshot.serial, numbered(data, by_value))
            is_as_compared = timeless(data, snapshot.serial) == timeless(function.data, _COMPARED)
            if is_as_compared:  # otherwise another thread has changed something meanwhile
                self._remember(key, known)
        if is_as_compared:
            self._note(fn, None if call.by_value else dependencies, known.function, modules)
        if call.by_value:
            supplied = CallValues(Snapshot(known.serial), shared, supplied)
            call = _call(name, fn, args, kwargs, supplied)
        return _bytes(known.function, call, supplied, compared)

    def _find_reusable(self, fn: Callable[..., Any], companions: Sequence[type]) -> _ReusableFunction | None:
        """Return the function as an earlier call sent it, if pickling it again would give the same bytes."""
        if companions or type(fn) is not FunctionType:
            return None
        with self._lock:
            found = self._reusable.get(fn)
        return found if found is not None and found.dependencies.are_unchanged() else None

    def _dependencies_of(self, fn: Callable[..., Any], companions: Sequence[type]) -> Dependencies | None:
        if companions or type(fn) is not FunctionType:
            return None
        with self._lock:
            is_pickled_each_time = fn in self._reusable and self._reusable[fn] is None
        return None if is_pickled_each_time else dependencies_of(fn)

    def _note(
        self,
        fn: Callable[..., Any],
        dependencies: Dependencies | None,
        function: FunctionBlob,
        modules: frozenset[str],
    ) -> None:
        """Note how a function was sent. `dependencies` are those from before the function was pickled.

        If they are None, the function is pickled for each call from now on.
        """
        if dependencies is not None and not dependencies.are_unchanged():
            return  # another thread has changed something meanwhile, so the bytes may be older or newer
        if type(fn) is FunctionType:
            with self._lock:
                self._reusable[fn] = (
                    None if dependencies is None else _ReusableFunction(dependencies, function, modules)
                )

    def _find(self, key: tuple[bytes, ...] | None) -> _SentFunction | None:
        with self._lock:
            known = None if key is None else self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)  # type: ignore[arg-type]
            return known

    def _remember(self, key: tuple[bytes, ...] | None, known: _SentFunction) -> None:
        if key is None:
            return
        with self._lock:
            self._known[key] = known
            if len(self._known) > _MOST:
                self._known.popitem(last=False)


class _Pickled(NamedTuple):
    """Bytes of a function or of a call, and whether they hold code by value."""

    data: bytes
    by_value: bool
    #: See `CallBytes.warm`.
    warm: Mapping[int, str] = MappingProxyType({})


def _function(name: str, fn: Callable[..., Any], snapshot: Snapshot, companions: Sequence[type]) -> _Pickled:
    try:
        return _Pickled(*function_bytes(fn, snapshot, companions))
    except diagnosis.CannotPickleError as error:
        raise refused(name, error) from error


def _call(
    name: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], supplied: CallValues
) -> _Pickled:
    """Return the bytes of a call. They also count as holding code by value if a value of the call does."""
    call = CallEncoder(supplied, name)
    with CodeWatch(supplied.snapshot) as code:
        blob = call.encode(args, kwargs)
    for warm in call.warm:
        check_event_loop(warm, fn, name)
    return _Pickled(blob, code.seen or bool(supplied.code_objects), call.identities)


def _bytes(function: FunctionBlob, call: _Pickled, supplied: CallValues, compared: Snapshot) -> CallBytes:
    if call.by_value and not function.by_value:
        function = FunctionBlob(function.number, function.blob, True, function.needs_bundle)
    return CallBytes(function, call.data, supplied.in_order(), frozenset(compared.modules), call.warm)
