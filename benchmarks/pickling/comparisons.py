"""Other ways of pickling, with which the corpus compares Handout's own.

cloudpickle is needed for these comparisons only: ``pip install cloudpickle``.
"""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import sys
import types
import typing
import weakref
from typing import Any

import cloudpickle
import dill

from handout.serialization import diagnosis, pickling, tokens

__all__ = ["COMPARISONS"]


class Dill:
    """dill alone, with one of its settings."""

    def __init__(self, name: str, **settings: bool) -> None:
        self.name, self.settings = name, settings

    def run(self) -> Any:
        return None

    def dumps(self, value: Any, path: str, run: Any) -> bytes:
        data: bytes = dill.dumps(value, protocol=5, **self.settings)
        return data

    def loads(self, data: bytes) -> Any:
        return dill.loads(data)

    def digest(self, fn: Any, run: Any) -> bytes:
        return hashlib.sha256(self.dumps(fn, "", run)).digest()


class Cloudpickle(Dill):
    """cloudpickle alone."""

    def __init__(self) -> None:
        super().__init__("cloudpickle")

    def dumps(self, value: Any, path: str, run: Any) -> bytes:
        data: bytes = cloudpickle.dumps(value, protocol=5)
        return data

    def loads(self, data: bytes) -> Any:
        return pickle.loads(data)


class _CodeByCloudpickle(cloudpickle.Pickler):
    """cloudpickle's pickler, with Handout's class tokens and refusals."""

    def __init__(self, file: Any, options: set[str], run: Any) -> None:
        super().__init__(file, protocol=5)
        self.options, self.snapshot = options, run

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, pickling.UNPICKLABLE_TYPES) and not isinstance(obj, (io.StringIO, io.BytesIO)):
            if obj is not sys.stdout and obj is not sys.stderr:
                raise TypeError(f"cannot pickle {type(obj).__name__!r} object")
        reduced = super().reducer_override(obj)
        if isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) == 6:
            token = tokens.token_of(obj)
            version = tokens.version_of(obj, self.snapshot.serial)
            return _class_once, (token, *reduced[:2]), (version, reduced[2]), None, None, _fill_once
        return reduced


def _class_once(token: Any, make: Any, args: Any) -> Any:
    return tokens.known(token) or tokens.track(make(*args), token, -1)


def _fill_once(cls: type, state: Any) -> None:
    token = tokens.token_of(cls)
    if not tokens.is_current(token, state[0]):
        tokens.set_version(token, state[0])
        cloudpickle.cloudpickle._class_setstate(cls, state[1])


class _DillForOtherTypes(dill.Pickler):
    """dill's pickler, with cloudpickle's reducers for functions and classes, and Handout's class tokens."""

    def __init__(self, file: Any, options: set[str], run: Any) -> None:
        super().__init__(file, protocol=5, byref=False, recurse=True)
        self.code = _CodeByCloudpickle(io.BytesIO(), options, run)
        self.wants = options

    def reducer_override(self, obj: Any) -> Any:
        reduced = self.code.reducer_override(obj)
        if reduced is NotImplemented and type(obj) in _ONLY_CLOUDPICKLE:
            reduced = cloudpickle.Pickler.dispatch_table[type(obj)](obj)
        return reduced


#: The types of values that cloudpickle gets right and dill gets wrong with each of its settings.
_ONLY_CLOUDPICKLE = (
    types.MethodType, types.ModuleType, memoryview, weakref.WeakSet, io.TextIOWrapper, typing.TypeVar
)  # fmt: skip


class Combined:
    """cloudpickle or dill first, Handout's class tokens around cloudpickle's classes, and the other for the rest."""

    def __init__(self, name: str, first: Any, second: Any) -> None:
        self.name, self.kinds = name, (first, second)

    def run(self) -> Any:
        return pickling.Snapshot()

    def dumps(self, value: Any, path: str, run: Any) -> bytes:
        try:
            return self._dumps(value, run)
        except Exception as error:
            raise diagnosis.find_unpicklable(value, path, lambda part: self._dumps(part, self.run())) from error

    def _dumps(self, value: Any, run: Any) -> bytes:
        refusal: Any = None
        for kind in self.kinds:
            out = io.BytesIO()
            try:
                kind(out, set(), run).dump(value)
                return out.getvalue()
            except Exception as error:
                refusal = refusal or error
        raise refusal

    def loads(self, data: bytes) -> Any:
        return dill.loads(data)

    def digest(self, fn: Any, run: Any) -> bytes:
        return hashlib.sha256(self._dumps(fn, run)).digest()


#: The strategies by name. Each value makes one.
COMPARISONS: dict[str, Any] = {
    "dill": functools.partial(Dill, "dill", byref=False, recurse=False),
    "dill recurse": functools.partial(Dill, "dill recurse", byref=False, recurse=True),
    "dill byref": functools.partial(Dill, "dill byref", byref=True, recurse=False),
    "dill byref recurse": functools.partial(Dill, "dill byref recurse", byref=True, recurse=True),
    "cloudpickle": Cloudpickle,
    "cloudpickle first then dill": functools.partial(
        Combined, "cloudpickle first then dill", _CodeByCloudpickle, _DillForOtherTypes
    ),
    "dill first then cloudpickle": functools.partial(
        Combined, "dill first then cloudpickle", _DillForOtherTypes, _CodeByCloudpickle
    ),
}
