"""What a task *is*: the same function of the same arguments has one identity, in every process and on every day.

A function's identity is that of its code without names of files and numbers of lines, its constants, defaults,
closure and the globals that it names, followed into the user's own modules; what is installed counts by name and
version. A task's adds its arguments and the identities of the tasks that make them. Equal tasks of one graph are
told apart by their order. None of it depends on the hash seed, on addresses or on pickled bytes.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, Final

from handout.agent.serial import PLAIN, main_name, names_in
from handout.data.project import find_package
from handout.graph import placeholder
from handout.graph.objects import Kept, Pick
from handout.graph.output import Input, Output
from handout.graph.path import Path
from handout.graph.plan import Plan

__all__ = ["DIGEST_SIZE", "Identities", "identity_of"]

#: Bytes of an identity.
DIGEST_SIZE: Final = 16

_PYTHON = f"python {sys.version_info[0]}.{sys.version_info[1]}"


def _digest(*parts: bytes | memoryview) -> bytes:
    made = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        made.update(part)
    return made.digest()


def identity_of(value: Any) -> bytes:
    """The identity of a value or a function by itself.

    Raises:
        RecursionError: It is nested too deeply.
    """
    return _Walk({}).of(value)


class Identities:
    """The identities of a plan's tasks and of the objects that they make.

    Args:
        plan: A validated graph. Its arguments must not change before this is made.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._functions: dict[int, bytes] = {}
        self._values: dict[int, bytes] = {}
        #: By task.
        self.tasks: list[bytes] = []
        seen: dict[bytes, int] = {}
        for task in range(len(plan)):
            made = self._task(task)
            earlier = seen.get(made, 0)
            seen[made] = earlier + 1
            self.tasks.append(_digest(made, b"again %d" % earlier) if earlier else made)

    def part_of(self, number: int) -> str:
        """Which part of its task's result an object is: empty for the whole, else the path to the element."""
        count = len(self._plan)
        if number < count:
            return ""
        extra = self._plan.extras[number - count]
        return _path_text(extra.path) if isinstance(extra, Pick) else ""

    def object(self, number: int) -> bytes:
        """The identity of an object: a task's result, an element of one, or a value of the caller's."""
        count = len(self._plan)
        if number < count:
            return self.tasks[number]
        known = self._values.get(number)
        if known is None:
            extra = self._plan.extras[number - count]
            if isinstance(extra, Pick):
                known = _digest(self.tasks[extra.task], b"element", _path_text(extra.path).encode())
            elif isinstance(extra, Kept):
                known = _digest(b"kept", repr((extra.stored.id, extra.stored.key)).encode())
            else:
                known = identity_of(extra.value)
            self._values[number] = known
        return known

    def _task(self, task: int) -> bytes:
        plan = self._plan
        fn = plan.fns[task]
        called = self._functions.get(id(fn))  # the plan keeps it alive
        if called is None:
            called = self._functions[id(fn)] = _Walk({}).function(fn)
        args, kwargs = plan.args[task], plan.kwargs[task]
        if not kwargs:
            text: list[str] = []
            for arg in args:
                kind = type(arg)
                if kind in PLAIN:
                    text.append(repr(arg))
                elif kind is Output and not arg._path:
                    number, path = plan.objects.find(arg)
                    if number is None or path:
                        break
                    text.append(f"<{self.object(number).hex()}>")
                else:
                    break
            else:
                return _digest(called, "\x1f".join(text).encode("utf-8", "surrogatepass"))
        walk = _Walk({}, self._promise(task))
        return _digest(called, walk.of(args), walk.of(kwargs))

    def _promise(self, task: int) -> Callable[[Any, _Walk], bytes]:
        slot_of, inputs = self._plan.slot_of(task), self._plan.inputs[task]

        def stands_for(found: placeholder.Placeholder, walk: _Walk) -> bytes:
            match found:
                case placeholder.Slot(index):
                    return self.object(inputs[index])
                case placeholder.Inline(fn, args, kwargs):
                    return _digest(b"inline", walk.of(fn), walk.of(args), walk.of(kwargs))
                case placeholder.Loaded(inner, load):
                    return _digest(b"loaded", stands_for(inner, walk), walk.of(load))
                case placeholder.Taken(inner, path):
                    return _digest(b"taken", stands_for(inner, walk), _path_text(path).encode())

        return lambda promise, walk: stands_for(slot_of(promise), walk)


def _path_text(path: Path) -> str:
    return repr(tuple(path))


_SCALARS = frozenset({*PLAIN, type(Ellipsis), type(NotImplemented)})


class _Walk:
    """One walk through a value. What was met before counts by the place where it was first met, so cycles end.

    Args:
        met: Places by identity; the values are kept alive beside them.
        promise: The identity of what an output inside arguments stands for.
    """

    def __init__(self, met: dict[int, tuple[int, Any]], promise: Callable[[Any, _Walk], bytes] | None = None) -> None:
        self._met = met
        self._promise = promise

    def of(self, value: Any) -> bytes:
        """The identity of a value."""
        kind = type(value)
        if kind in _SCALARS:
            return _digest(kind.__name__.encode(), repr(value).encode("utf-8", "surrogatepass"))
        if isinstance(value, Input) and self._promise is not None:
            return self._promise(value, self)
        if (met := self._met.get(id(value))) is not None:
            return _digest(b"met", b"%d" % met[0])
        self._met[id(value)] = len(self._met), value
        rule = _RULES.get(kind)
        if rule is not None:
            return rule(self, value)
        if isinstance(value, type):
            return self._class(value)
        return self._object(value)

    def all(self, tag: bytes, values: Iterable[Any]) -> bytes:
        """Several in order."""
        return _digest(tag, *[self.of(value) for value in values])

    # ---- code ------------------------------------------------------------------------------------------------

    def function(self, fn: Any) -> bytes:
        """The identity of what a task calls."""
        return self.of(fn)

    def python_function(self, fn: types.FunctionType) -> bytes:
        """A function written in Python, with what it names."""
        if not _is_own(fn.__module__):
            return _installed(fn.__module__, fn.__qualname__)
        code, space = fn.__code__, fn.__globals__
        names = names_in(code)
        parts = [self.code(code, fn.__doc__), self.of(fn.__defaults__), self.of(fn.__kwdefaults__)]
        for cell in fn.__closure__ or ():
            try:
                parts.append(self.of(cell.cell_contents))
            except ValueError:  # still empty
                parts.append(b"empty")
        for name in sorted(names.used):
            if name in space:
                parts += [name.encode(), self.of(space[name])]
        package = (space.get("__package__") or "").partition(".")[0]
        parts += [_module_named(name or package) for name in sorted(names.imported)]
        wrapped = {k: v for k, v in fn.__dict__.items() if not k.startswith("__")}
        return _digest(b"function", *parts, self.of(wrapped))

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
        return _digest(b"code", _PYTHON.encode(), code.co_code, table, repr(shape).encode(), *constants)

    def _class(self, cls: type) -> bytes:
        if not _is_own(cls.__module__):
            return _installed(cls.__module__, cls.__qualname__)
        held = {k: v for k, v in cls.__dict__.items() if k not in _CLASS_MADE}
        return _digest(b"class", cls.__qualname__.encode(), self.all(b"bases", cls.__bases__), self.of(held))

    # ---- everything else -------------------------------------------------------------------------------------

    def _object(self, value: Any) -> bytes:
        """An object of no known type: what pickling would take apart, taken apart. What cannot be counts by type."""
        name = f"{type(value).__module__}.{type(value).__qualname__}".encode()
        try:
            reduced = value.__reduce_ex__(5)
        except Exception:  # whatever a __reduce__ raises
            return _digest(b"opaque", name)
        if isinstance(reduced, str):
            return _digest(b"named", name, reduced.encode())
        make, args, state, items, pairs = (*reduced, None, None, None)[:5]
        parts = [self.of(make), self.of(args), self.of(state)]
        if items is not None:
            parts.append(self.all(b"items", items))
        if pairs is not None:
            parts.append(self.all(b"pairs", (each for pair in pairs for each in pair)))
        return _digest(b"object", name, *parts)

    def unordered(self, values: Iterable[Any]) -> bytes:
        """A set's: in an order that does not depend on hashes. Its members are met apart from all else."""
        return _digest(b"set", *sorted(_Walk({}).of(value) for value in values))


#: In a class's dictionary because it is a class, or made from what else is there.
_CLASS_MADE = frozenset({
    "__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__", "__static_attributes__",
    "__abstractmethods__", "_abc_impl", "__annotations_cache__", "__match_args__",
})  # fmt: skip


def _buffer(_: _Walk, value: Any) -> bytes:
    return _digest(b"buffer", memoryview(value).cast("B"))


def _pickle_buffer(_: _Walk, value: pickle.PickleBuffer) -> bytes:
    return _digest(b"buffer", value.raw())


_RULES: dict[type, Callable[[_Walk, Any], bytes]] = {
    list: lambda walk, value: walk.all(b"list", value),
    tuple: lambda walk, value: walk.all(b"tuple", value),
    dict: lambda walk, value: walk.all(b"dict", (each for pair in value.items() for each in pair)),
    set: lambda walk, value: walk.unordered(value),
    frozenset: lambda walk, value: walk.unordered(value),
    bytearray: _buffer,
    memoryview: lambda walk, value: _digest(b"buffer", value.tobytes()),
    pickle.PickleBuffer: _pickle_buffer,
    types.FunctionType: _Walk.python_function,
    types.MethodType: lambda walk, value: walk.all(b"method", (value.__func__, value.__self__)),
    types.BuiltinFunctionType: lambda walk, value: _builtin(walk, value),
    types.CodeType: _Walk.code,
    types.ModuleType: lambda walk, value: _module(value),
    types.MappingProxyType: lambda walk, value: walk.of(dict(value)),
    functools.partial: lambda walk, value: walk.all(b"partial", (value.func, value.args, value.keywords)),
    staticmethod: lambda walk, value: walk.of(value.__func__),
    classmethod: lambda walk, value: _digest(b"classmethod", walk.of(value.__func__)),
    property: lambda walk, value: walk.all(b"property", (value.fget, value.fset, value.fdel)),
}


def _builtin(walk: _Walk, value: Any) -> bytes:
    owner = value.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        return _installed(value.__module__ or "builtins", value.__qualname__)
    return _digest(b"bound", value.__name__.encode(), walk.of(owner))


@functools.cache
def _is_own(module: str | None) -> bool:
    """Whether a module's code is the user's: what may have changed since the last time."""
    if module in (None, "__main__", "__mp_main__"):
        return True
    assert module is not None
    return find_package(module) is not None


def _installed(module: str | None, name: str) -> bytes:
    top = (module or "").partition(".")[0]
    version = getattr(sys.modules.get(top), "__version__", "")
    return _digest(b"installed", f"{module}:{name}:{version if isinstance(version, str) else ''}".encode())


def _module(module: types.ModuleType) -> bytes:
    return _module_named(main_name() or "__main__" if module.__name__ == "__main__" else module.__name__)


def _module_named(name: str) -> bytes:
    """A module that code names as a whole: the sources of the user's own package that it is in, else its version."""
    package = find_package(name)
    if package is None:
        return _installed(name, "")
    return _digest(b"sources", *[part for each in package.modules for part in (each.name.encode(), _source(each.path))])


def _source(path: Any) -> bytes:
    status = path.stat()
    return _source_digest(str(path), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4096)
def _source_digest(path: str, _changed: int, _size: int) -> bytes:
    with open(path, "rb") as stream:
        return _digest(stream.read())
