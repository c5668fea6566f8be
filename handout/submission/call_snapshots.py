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
from handout.serialization.importable import importable_name
from handout.serialization.pickling import Segment, Snapshot
from handout.submission.call_encoder import CallEncoder
from handout.submission.call_values import CallValues, SharedArguments
from handout.submission.code_bundles import FunctionBlob, function_bytes, numbered
from handout.submission.refusals import refused
from handout.submission.supplied_values import CodeWatch

__all__ = ["CallBytes", "CallSnapshots"]

#: At most this many snapshots are known.
_MOST: Final = 1024
#: The serial of the snapshots whose bytes are only compared.
_COMPARED: Final = 0


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


class _NamedFunction(NamedTuple):
    """A function that is sent as its name, because hosts import it."""

    #: The function's module, and its name there.
    name: tuple[str, str]
    blob: FunctionBlob
    #: Dotted names of the modules that the function needs.
    modules: frozenset[str]


class CallSnapshots:
    """Encodes calls. Any thread may do so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The functions that were pickled as a name. The bytes are right as long as the name leads to the function. The
        #: table keeps no function alive.
        self._named: WeakKeyDictionary[Any, _NamedFunction] = WeakKeyDictionary()
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
        compared = Snapshot(_COMPARED)
        named = self._find_named(fn)
        plain = None if named is None else named.blob
        if named is None:
            function = _function(name, fn, compared, companions)
            if not function.by_value:
                plain = numbered(function.data, False)
                self._remember_named(fn, plain, compared)
        else:
            function = _Pickled(named.blob.blob, False)
            compared.modules.update(named.modules)
        before = set(compared.blobs)
        compared.closures = 0
        supplied = CallValues(compared, shared)
        call = _call(name, fn, args, kwargs, supplied)
        if plain is not None and not call.by_value:
            return _bytes(plain, call, supplied, compared)
        # The names of the spaces of globals, and the versions of the classes, are not part of the digests of blobs. A
        # function with a closure has no blob. If it is an argument, the bytes are never taken for those of another one.
        definitions = [blob.digest for number, blob in compared.blobs.items() if number not in before]
        key = None if compared.closures else (hashlib.sha256(function.data).digest(), *sorted(definitions))
        known = self._find(key)
        if known is None:
            snapshot = Snapshot()
            known = _SentFunction(snapshot.serial, numbered(*_function(name, fn, snapshot, companions)[:2]))
            self._remember(key, known)
        if call.by_value:
            supplied = CallValues(Snapshot(known.serial), shared, supplied)
            call = _call(name, fn, args, kwargs, supplied)
        return _bytes(known.function, call, supplied, compared)

    def _find_named(self, fn: Callable[..., Any]) -> _NamedFunction | None:
        if type(fn) is not FunctionType:
            return None
        with self._lock:
            named = self._named.get(fn)
        return named if named is not None and named.name == importable_name(fn) else None

    def _remember_named(self, fn: Callable[..., Any], blob: FunctionBlob, snapshot: Snapshot) -> None:
        name = importable_name(fn) if type(fn) is FunctionType else None
        if name is not None:
            with self._lock:
                self._named[fn] = _NamedFunction(name, blob, frozenset(snapshot.modules))

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
