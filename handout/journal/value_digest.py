"""What a value *is*: the same in every process, whatever the hash seed, the addresses and the order of imports.

Never wrongly the same: what a walk cannot take apart gets an identity that matches nothing, so it is run anew.
Kinds have rules in one table; what has none is taken apart as pickling would take it apart.
"""

from __future__ import annotations

import asyncio
import contextvars
import copyreg
import dataclasses
import dis
import functools
import gc
import hashlib
import os
import pickle
import struct
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

from handout.graph.output import Input
from handout.journal.installed import PYTHON, is_own, version_of
from handout.serialization.calls import PLAIN_TYPES
from handout.serialization.functions_by_value import importable_name, main_name, names_in
from handout.submission.project_modules import own_sources

__all__ = ["DIGEST_SIZE", "Walk", "digest"]

#: Bytes of an identity.
DIGEST_SIZE: Final = 16


def digest(*parts: bytes | memoryview) -> bytes:
    """One identity of several."""
    made = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        made.update(part)
    return made.digest()


_SCALARS = frozenset({*PLAIN_TYPES, type(Ellipsis), type(NotImplemented)})

#: In a class's dictionary because it is a class, or made from what else is there.
_CLASS_MADE = frozenset({
    "__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__", "__static_attributes__", "_abc_impl",
    "__annotations_cache__",
})  # fmt: skip

#: What pydantic keeps in a class that is not made from the rest of it: compiled schemas, caches and the like are.
_PYDANTIC_KEPT = frozenset({
    "__pydantic_fields__", "__pydantic_config__", "__pydantic_generic_metadata__", "__pydantic_root_model__",
    "__pydantic_custom_init__", "__pydantic_post_init__",
})  # fmt: skip

#: Kinds whose value cannot change what a function computes; they count by class alone.
_HARMLESS: tuple[type, ...] = (
    type(threading.Lock()),  # who waits, not what is computed
    type(threading.RLock()),
    threading.local,  # empty in the thread that runs the function
    asyncio.AbstractEventLoop,  # the process's own; the function has another one
)

#: A class that was made at run time, and not by a static definition in C.
_HEAP_TYPE: Final = 1 << 9


class Walk:
    """One walk through a value. What was met before counts by the place where it was first met, so cycles end.

    Args:
        promise: The identity of what an output inside arguments stands for.
        sources: Identities of modules, for walks that are made at the same time.
    """

    def __init__(
        self, promise: Callable[[Any, Walk], bytes] | None = None, sources: dict[str, bytes] | None = None
    ) -> None:
        #: Places by address; the values are kept alive beside them.
        self._met: dict[int, tuple[int, Any]] = {}
        self._promise = promise
        #: Whether all of it could be taken apart.
        self.sure = True
        self._sources = {} if sources is None else sources

    def of(self, value: Any) -> bytes:
        """The identity of a value."""
        kind = type(value)
        if kind in _SCALARS:
            return digest(kind.__name__.encode(), repr(value).encode("utf-8", "surrogatepass"))
        if isinstance(value, Input) and self._promise is not None:
            return self._promise(value, self)
        if (met := self._met.get(id(value))) is not None:
            return digest(b"met", b"%d" % met[0])
        self._met[id(value)] = len(self._met), value
        rule = _RULES.get(kind)
        if rule is not None:
            return rule(self, value)
        if issubclass(kind, types.ModuleType):
            return self.module(typing.cast(types.ModuleType, value))
        if issubclass(kind, type):
            return self.a_class(typing.cast(type, value))
        if issubclass(kind, _HARMLESS):
            return digest(b"harmless", self.of(kind))
        return self.an_object(value)

    def whole(self, value: Any) -> bytes:
        """The identity of a value by itself, also of one that is nested too deeply to be taken apart."""
        try:
            return self.of(value)
        except RecursionError:
            return self.unknown()

    def unknown(self) -> bytes:
        """The identity of what cannot be taken apart: it matches nothing, not even itself."""
        self.sure = False
        return os.urandom(DIGEST_SIZE)

    def all(self, tag: bytes, values: Iterable[Any]) -> bytes:
        """Several in order."""
        return digest(tag, *[self.of(value) for value in values])

    def mapping(self, value: Any) -> bytes:
        """A dictionary's, in its order."""
        return self.all(b"dict", (each for pair in value.items() for each in pair))

    def unordered(self, values: Iterable[Any]) -> bytes:
        """A set's: in an order that does not depend on hashes, so each member is met as if it came first."""
        found, before = [], len(self._met)
        for value in values:
            found.append(self.of(value))
            while len(self._met) > before:
                self._met.popitem()
        return digest(b"set", *sorted(found))

    # ---- code ------------------------------------------------------------------------------------------------

    def function(self, fn: types.FunctionType) -> bytes:
        """A function written in Python: its code with what it names, or its name where it is installed.

        Its globals tell where it is from: `functools.wraps` copies ``__module__``.
        """
        space, code = fn.__globals__, fn.__code__
        home = str(space.get("__name__"))
        installed = not is_own(home) and getattr(sys.modules.get(home), "__dict__", None) is space
        if installed and not is_own(fn.__module__) and importable_name(fn) is not None:
            return _installed(fn.__module__, fn.__qualname__)
        held = {k: v for k, v in fn.__dict__.items() if not k.startswith("__handout")}
        if installed and home == "functools" and "registry" in held and "dispatch" in held:  # singledispatch: a cache
            return digest(b"dispatch", self.mapping(held["registry"]))
        annotations = getattr(fn, "__annotate__", None) or fn.__annotations__  # 3.14 evaluates them when asked
        parts = [self.code(code, fn.__doc__), self.of(fn.__defaults__), self.of(fn.__kwdefaults__)]
        parts += [self.of(annotations), self.of(held), self.of(fn.__closure__)]
        if installed:  # made by an installed function; what it names is of that version
            return digest(_installed(home, fn.__qualname__), *parts)
        for name in sorted(names_in(code).used):
            if name in space:
                parts += [name.encode(), self.of(space[name])]
        parts += [self.sources(name) for name in _imported(code, space.get("__package__") or "")]
        return digest(b"function", *parts)

    def code(self, code: types.CodeType, doc: str | None = None) -> bytes:
        """Code without where it stands: names of files, numbers of lines and the docstring do not count."""
        constants = [
            self.code(each) if isinstance(each, types.CodeType) else self.of(None if not at and each == doc else each)
            for at, each in enumerate(code.co_consts)
        ]
        shape = (
            code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_names,
            code.co_varnames, code.co_freevars, code.co_cellvars,
        )  # fmt: skip
        table = getattr(code, "co_exceptiontable", b"")
        return digest(b"code", PYTHON.encode(), code.co_code, table, repr(shape).encode(), *constants)

    def cell(self, cell: types.CellType) -> bytes:
        """What a closure holds."""
        try:
            return self.of(cell.cell_contents)
        except ValueError:  # still empty
            return digest(b"empty")

    def bound(self, value: Any, func: Any) -> bytes:
        """A method with its object; one that a module offers as a function of its own (`random.random`) is that."""
        owner, name = value.__self__, getattr(value, "__name__", "")
        if owner is None or isinstance(owner, types.ModuleType):
            return _installed(value.__module__ or "builtins", value.__qualname__)
        for home in (getattr(value, "__module__", None), type(owner).__module__):
            if home is None or is_own(home):
                continue
            if getattr(sys.modules.get(home), "__dict__", {}).get(name) is value:
                return _installed(home, name)
        return digest(b"bound", self.of(func), self.of(owner))

    def a_class(self, cls: type) -> bytes:
        """A class: what it holds, or its name where it is installed."""
        if type(cls) in copyreg.dispatch_table:
            return self.an_object(cls)
        static = not cls.__flags__ & _HEAP_TYPE
        if static or (not is_own(cls.__module__) and importable_name(cls) is not None):
            return _installed(cls.__module__, cls.__qualname__)
        held = {k: v for k, v in cls.__dict__.items() if k not in _CLASS_MADE}
        if "__pydantic_decorators__" in held:
            held = _pydantic(held)
        hashed = getattr(held.get("__hash__"), "__code__", None)
        if hashed is not None and hashed.co_filename.startswith("<attrs generated"):
            held["__hash__"] = "made"  # the hash of a string is written into its code
        registered: Iterable[Any] = ()
        if "_abc_impl" in cls.__dict__ and (dump := getattr(sys.modules.get("_abc"), "_get_dump", None)):
            registered = {found for each in dump(cls)[0] if (found := each()) is not None}
        name = cls.__qualname__.encode()
        parts = [self.of(type(cls)), self.all(b"bases", cls.__bases__), self.mapping(held), self.unordered(registered)]
        return digest(b"class", name, *parts)

    def module(self, module: types.ModuleType) -> bytes:
        """A module that code names as a whole."""
        if sys.modules.get(module.__name__) is not module:
            return self.unknown()
        return self.sources(module.__name__)

    def sources(self, name: str) -> bytes:
        """The sources of the user's own package that a module is in and of all that they import, else its version."""
        top, script = name.partition(".")[0], None
        if name == "__main__":
            script = getattr(sys.modules[name], "__file__", None)
            if script is None or not os.path.isfile(script):  # typed by hand
                return self.unknown()
        if top not in self._sources:
            found = own_sources([main_name() or top if script else top], script)
            parts = [part for each in sorted(found.files) for part in (each.encode(), digest(found.files[each]))]
            binaries = sorted(each for package in found.packages.values() for each in package.extensions.items())
            parts += [part for each, path in binaries for part in (each.encode(), digest(path.read_bytes()))]
            parts += [version_of(each).encode() for each in sorted(found.installed)]
            self._sources[top] = digest(b"sources", *parts) if found.files else _installed(top, "")
        return digest(name.encode(), self._sources[top])

    # ---- everything else -------------------------------------------------------------------------------------

    def an_object(self, value: Any) -> bytes:
        """An object of no known kind: what pickling would take apart, taken apart."""
        kind = type(value)
        reduce = copyreg.dispatch_table.get(kind)
        try:
            reduced: Any = reduce(value) if reduce is not None else value.__reduce_ex__(5)
        except Exception:  # whatever a __reduce__ raises: there is no way in
            for base in (property, staticmethod, classmethod):
                if isinstance(value, base):
                    state = getattr(value, "__dict__", None)
                    return digest(b"derived", self.of(kind), _RULES[base](self, value), self.of(state))
            return self.unknown()
        if isinstance(reduced, str):
            return self.named(value, reduced)
        parted: tuple[Any, ...] = (*reduced, None, None, None)
        make, args, state, items, pairs = parted[:5]
        told = [*args, *(each for each in (state, items, pairs) if each is not None)]
        if len(told) == 1 and told[0] is kind and _hides(value):
            return self.unknown()
        parts = [self.of(make), self.of(args), self.of(state)]
        if items is not None:
            parts.append(self.all(b"items", items))
        if pairs is not None:
            parts.append(self.all(b"pairs", (each for pair in pairs for each in pair)))
        return digest(b"object", f"{kind.__module__}.{kind.__qualname__}".encode(), *parts)

    def named(self, value: Any, name: str) -> bytes:
        """What pickling finds by its name in a module, if it is there."""
        for home in (getattr(value, "__module__", None), type(value).__module__, *_holders(value, name)):
            module = sys.modules.get(home) if isinstance(home, str) else None
            if home is None or module is None or getattr(module, name, None) is not value:
                continue
            if not is_own(home):
                return _installed(home, name)
            if not _hides(value):
                # A function that Cython made is named, too, and only its file tells more.
                code = b"" if is_own(type(value).__module__) or home == "__main__" else self.sources(home)
                state = object.__getstate__(value)
                return digest(b"named", name.encode(), code, self.of(type(value)), self.of(state))
        return self.unknown()


def _installed(module: str | None, name: str) -> bytes:
    top = (module or "").partition(".")[0]
    return digest(b"installed", f"{module}:{name}:{version_of(top)}".encode())


@functools.lru_cache(maxsize=4096)
def _imported(code: types.CodeType, package: str) -> tuple[str, ...]:
    """Modules that code imports when it runs; for those of its own `package`, that."""
    found: set[str] = set()
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            found.update(_imported(each, package))
    before = [each for each in dis.get_instructions(code) if each.opname != "EXTENDED_ARG"]
    for at, each in enumerate(before):
        if each.opname == "IMPORT_NAME":
            relative = before[at - 2].argval != 0  # its level was put on the stack before the names
            found.add(package if relative else each.argval)
    return tuple(sorted(found))


def _hides(value: Any) -> bool:
    """Whether it may hold what only C sees: neither a dictionary nor slots, and not a bare `object` either."""
    kind = type(value)
    return kind is not object and not hasattr(value, "__dict__") and "__slots__" not in vars(kind)


def _holders(value: Any, name: str) -> list[str]:
    """Installed modules that offer an object which does not know where it is from (SciPy's ufuncs)."""
    found = [each for each, module in list(sys.modules.items()) if getattr(module, "__dict__", {}).get(name) is value]
    return sorted(each for each in found if not is_own(each))


def _pydantic(held: dict[str, Any]) -> dict[str, Any]:
    """What a model is made from. Validators stand in the class; how they are used, only among its decorators."""
    used: Any = held["__pydantic_decorators__"]
    kept = {
        k: v
        for k, v in held.items()
        if k in _PYDANTIC_KEPT or not (k.startswith("__pydantic_") or k == "__signature__")
    }
    if not dataclasses.is_dataclass(used):  # a pydantic of another time: what it says, whatever that is
        return {**kept, "decorators": used}
    pairs = [pair for field in dataclasses.fields(used) for pair in getattr(used, field.name).items()]
    return {**kept, "decorators": [(name, getattr(each, "info", each)) for name, each in pairs]}


def _variable(walk: Walk, value: Any) -> bytes:
    """A type variable; before 3.12 it is written in Python, and what it lacks differs from kind to kind."""
    asked = ("__name__", "__bound__", "__constraints__", "__covariant__", "__contravariant__", "__default__")
    return walk.all(type(value).__name__.encode(), [getattr(value, each, None) for each in asked])


def _descriptor(walk: Walk, value: Any) -> bytes:
    """What a class in C has, by its name; it changes with the file that the class is in."""
    cls, name = value.__objclass__, value.__name__
    made_in_c = type(value) is not types.MemberDescriptorType
    return digest(walk.of(cls), name.encode(), _installed(cls.__module__, name) if made_in_c else b"slot")


def _context_variable(walk: Walk, value: contextvars.ContextVar[Any]) -> bytes:
    """By name and default; what it is set to here is not what it is set to where the function runs."""
    try:
        return walk.all(b"variable", (value.name, contextvars.Context().run(value.get)))
    except LookupError:  # no default
        return walk.all(b"variable", (value.name,))


_DESCRIPTORS = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)

#: By exact kind.
_RULES: dict[type, Callable[[Walk, Any], bytes]] = {
    list: lambda walk, value: walk.all(b"list", value),
    tuple: lambda walk, value: walk.all(b"tuple", value),
    dict: Walk.mapping,
    types.MappingProxyType: Walk.mapping,
    set: Walk.unordered,
    frozenset: Walk.unordered,
    bytearray: lambda _, value: digest(b"buffer", value),
    memoryview: lambda _, value: digest(b"buffer", f"{value.format}{value.shape}".encode(), value.tobytes()),
    pickle.PickleBuffer: lambda _, value: digest(b"buffer", value.raw()),
    struct.Struct: lambda walk, value: walk.all(b"struct", (value.format,)),
    # Code.
    types.FunctionType: Walk.function,
    types.CodeType: Walk.code,
    types.CellType: Walk.cell,
    types.MethodType: lambda walk, value: walk.bound(value, value.__func__),
    types.BuiltinFunctionType: lambda walk, value: walk.bound(value, value.__name__),
    functools.partial: lambda walk, value: walk.all(
        b"partial", (value.func, value.args, value.keywords, value.__dict__)
    ),
    type(functools.cache(len)): lambda walk, value: walk.all(
        b"cached", (value.__wrapped__, value.cache_parameters(), value.__dict__)
    ),
    # Only the collector sees what it compares with.
    type(functools.cmp_to_key(lambda one, other: 0)): lambda walk, value: walk.all(b"key", gc.get_referents(value)),
    # What classes hold.
    property: lambda walk, value: walk.all(b"property", (value.fget, value.fset, value.fdel)),
    staticmethod: lambda walk, value: walk.all(b"staticmethod", (value.__func__,)),
    classmethod: lambda walk, value: walk.all(b"classmethod", (value.__func__,)),
    **dict.fromkeys(_DESCRIPTORS, _descriptor),
    # What annotations hold.
    typing.NewType: lambda walk, value: walk.all(b"new type", (value.__name__, value.__supertype__)),
    types.GenericAlias: lambda walk, value: walk.all(b"alias", (value.__origin__, value.__args__, value.__unpacked__)),
    **{
        getattr(typing, name): _variable
        for name in ("TypeVar", "ParamSpec", "TypeVarTuple", "TypeAliasType")
        if hasattr(typing, name)
    },
    # What stands for something else.
    weakref.ref: lambda walk, value: walk.all(b"reference", (value(),)),
    contextvars.ContextVar: _context_variable,
}
