"""Snapshots that several calls of one function share, as long as the function and what it uses stay the same.

A snapshot gives the functions and classes that it sends by value a version of its own, so that a worker does not take
those of an earlier snapshot for them. If each call had a snapshot, each call of a function of a script would therefore
send the function again, and a worker would load it again and lose what the function keeps in its globals.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from handout.serialization import diagnosis
from handout.serialization.pickling import Segment, Snapshot
from handout.submission.arguments import CallEncoder, CodeWatch, SuppliedValues, refused
from handout.submission.code_bundles import FunctionBlob, function_bytes, numbered

__all__ = ["CallBytes", "CallSnapshots"]

#: At most this many snapshots are kept. They keep functions of the caller alive.
_MOST: Final = 64
#: A snapshot that keeps more objects of the caller alive than this is not used again.
_MOST_KEPT: Final = 10_000
#: The serial of the snapshots whose bytes are only compared.
_COMPARED: Final = 0


class CallBytes(NamedTuple):
    """The bytes of a function and of one call of it."""

    function: FunctionBlob
    #: The call, which `handout.serialization.calls.load_call` reads. Its inputs are ``values``, in their order.
    blob: bytes
    #: The bytes of the values that the large arguments of the call became.
    values: Sequence[Sequence[Segment]]
    #: Dotted names of the modules that the call needs.
    modules: frozenset[str]


class _Shared(NamedTuple):
    """A snapshot, and the function that was pickled with it."""

    snapshot: Snapshot
    function: FunctionBlob


class CallSnapshots:
    """Encodes calls. Any thread may do so."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a __reduce__ may call the cluster
        #: The key has the digests of all that the function and the arguments bring by value.
        self._known: OrderedDict[tuple[bytes, ...], _Shared] = OrderedDict()

    def encode(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        companions: Sequence[type],
    ) -> CallBytes:
        """Pickle a function and the arguments of one call.

        Raises:
            UnserializableError: The function or an argument cannot be pickled.
        """
        compared = Snapshot(_COMPARED)
        function = _function(name, fn, compared, companions)
        before = set(compared.blobs)
        compared.closures = 0
        supplied = SuppliedValues(snapshot=compared)
        blob, holds_code = _call(name, args, kwargs, supplied)
        if not (function[1] or holds_code):
            return _bytes(numbered(*function), blob, holds_code, supplied, compared)
        # The names of the spaces of globals, and the versions of the classes, are not part of the digests of blobs.
        definitions = [compared.blobs[number].digest for number in compared.blobs if number not in before]
        key = (hashlib.sha256(function[0]).digest(), *sorted(definitions))
        with self._lock:
            shared = None if compared.closures else self._known.pop(key, None)
            if shared is None or len(shared.snapshot.kept_alive) > _MOST_KEPT:
                snapshot = Snapshot()
                shared = _Shared(snapshot, numbered(*_function(name, fn, snapshot, companions)))
            supplied = SuppliedValues(snapshot=shared.snapshot)
            blob, holds_code = _call(name, args, kwargs, supplied)
            if not compared.closures:
                self._known[key] = shared
                if len(self._known) > _MOST:
                    self._known.popitem(last=False)
        return _bytes(shared.function, blob, holds_code, supplied, compared)


def _function(name: str, fn: Callable[..., Any], snapshot: Snapshot, companions: Sequence[type]) -> tuple[bytes, bool]:
    try:
        return function_bytes(fn, snapshot, companions)
    except diagnosis.CannotPickleError as error:
        raise refused(name, error) from error


def _call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], supplied: SuppliedValues) -> tuple[bytes, bool]:
    """Return the bytes of a call, and True if they, or a value of the call, hold code by value."""
    call = CallEncoder(supplied, name)
    with CodeWatch(supplied.snapshot) as code:
        blob = call.encode(args, kwargs)
    return blob, code.seen or bool(supplied.code_objects)


def _bytes(
    function: FunctionBlob, blob: bytes, holds_code: bool, supplied: SuppliedValues, compared: Snapshot
) -> CallBytes:
    # `CallEncoder` numbers the values in the order in which the call takes them.
    values = [supplied.values[number] for number in range(len(supplied.producers))]
    if holds_code and not function.by_value:
        function = FunctionBlob(function.number, function.blob, True, function.needs_bundle)
    return CallBytes(function, blob, values, frozenset(compared.modules))
