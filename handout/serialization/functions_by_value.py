"""Takes functions apart that are sent by value, and puts them together in another process.

A function consists of its code, its attributes, and the globals that the code names. Functions of one module share
their globals in the receiving process, too: these are a namespace, which is a module that the receiver makes. Code
objects travel as marshal bytes, so both ends must run the same minor version of Python. The receiver checks this.
"""

from __future__ import annotations

import ast
import builtins
import collections
import dis
import functools
import importlib
import importlib.util
import marshal
import sys
import types
import typing
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Callable, NamedTuple

from handout.serialization import own_objects, tokens
from handout.serialization.importable import importable_name, is_importable
from handout.serialization.modules_in_text import modules_in_code

#: Two Pythons that share it read each other's code objects.
MAGIC: bytes = importlib.util.MAGIC_NUMBER
PYTHON: str = f"{sys.version_info[0]}.{sys.version_info[1]}"

Function = types.FunctionType
#: Containers with more items are not searched for functions.
_MOST_ITEMS = 1000
#: Such collections of types are sets, and not tuples, because a metaclass may define ``__eq__``.
CONTAINERS = frozenset({dict, list, tuple, set, frozenset})
#: Names a namespace: the origin of its process, the serial of the snapshot, and the ``id`` of the globals there.
Key = tuple[str, int, int]

#: A worker keeps what this many snapshots have sent, because each result with a function in it is a snapshot, too. Of
#: the others, it keeps only what a function that is alive uses.
_MAX_SNAPSHOTS = 64
#: A worker keeps this many functions and modules of one snapshot. It loads the others anew when they arrive again.
_MAX_FUNCTIONS = 4096
#: A namespace that was received is held by its own globals under this name, and thus by each function that uses them.
OWN_MODULE = "__handout_module__"
_namespaces: weakref.WeakValueDictionary[Key, types.ModuleType] = weakref.WeakValueDictionary()
#: Modules that this process made at run time and has sent, by the ``id`` of their globals.
_homes: weakref.WeakValueDictionary[int, types.ModuleType] = weakref.WeakValueDictionary()
_names: weakref.WeakKeyDictionary[types.CodeType, Names] = weakref.WeakKeyDictionary()
#: In a worker: the module that was ``__main__`` before any was received. None in other processes.
_own_main: types.ModuleType | None = None
#: The instructions that may read or write a global. Annotations and bounds inside a class use the last one, since
#: Python 3.12.
_GLOBAL = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


# ---- code ------------------------------------------------------------------------------------------------


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield `code` and the code of everything that is defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def instructions_of(code: types.CodeType) -> Iterator[dis.Instruction]:
    """Yield the instructions of a code object, without the prefixes that extend the argument of the next one."""
    return (each for each in dis.get_instructions(code) if each.opname != "EXTENDED_ARG")


def is_relative(instructions: list[dis.Instruction], at: int) -> bool:
    """Return True if the import at a place among `instructions_of` some code is a relative import."""
    # The instruction two places before puts the import's level on the stack. The level of a relative import is above 0.
    return bool(instructions[at - 2].argval != 0)


class Names(NamedTuple):
    """The names that code uses when it runs, with those of nested code, in the order of their first appearance.

    Attributes:
        used: Globals that the code reads or writes. A relative import reads ``__package__``.
        imported: Modules that the code imports, as written, and those that its texts seem to name.
    """

    used: tuple[str, ...]
    imported: tuple[str, ...]


def names_in(code: types.CodeType) -> Names:
    """Return the globals and the modules that `code` names."""
    found = _names.get(code)
    if found is None:
        used: dict[str, None] = {}
        imported: dict[str, None] = {}
        for part in codes(code):
            instructions = list(instructions_of(part))
            for at, instruction in enumerate(instructions):
                if instruction.opname in _GLOBAL:
                    used[instruction.argval] = None
                elif instruction.opname == "IMPORT_NAME" and is_relative(instructions, at):
                    used["__package__"] = None
                elif instruction.opname == "IMPORT_NAME":
                    imported[instruction.argval] = None
            imported.update(dict.fromkeys(modules_in_code(part)))
        found = _names[code] = Names(tuple(used), tuple(imported))
    return found


def imported_by(fn: Function) -> Iterator[str]:
    """Yield the modules that a function imports when it runs. For relative imports, yield the package."""
    used, imported = names_in(fn.__code__)
    yield from imported
    package = fn.__globals__.get("__package__") if "__package__" in used else None
    if isinstance(package, str) and package:
        yield package


def marshalled(code: types.CodeType) -> tuple[Any, ...]:
    """Return the arguments of `make_code`.

    Version 2 of marshal's format is used because the bytes of later versions depend on reference counts, and equal
    functions must have equal digests.
    """
    return MAGIC, PYTHON, code.co_name, marshal.dumps(code, 2)


def make_code(magic: bytes, python: str, name: str, data: bytes) -> types.CodeType:
    """Return the code object that `marshalled` took apart.

    Raises:
        PythonMismatchError: Another version of Python made the bytes.
    """
    check_python(magic, python, name)
    code = marshal.loads(data)
    assert isinstance(code, types.CodeType)
    return code


class PythonMismatchError(RuntimeError):
    """Code that was sent by value arrived at another version of Python."""


def check_python(magic: bytes, python: str, name: str) -> None:
    """Raise `PythonMismatchError` for code of another version of Python, which could crash the interpreter."""
    if magic != MAGIC:
        raise PythonMismatchError(
            f"{name!r} travels by value (defined in __main__, a lambda or a closure) and was made by Python "
            f"{python}; this is Python {PYTHON}. Move it into a module, or use hosts with Python {python}."
        )


# ---- namespaces ------------------------------------------------------------------------------------------


def become_worker() -> None:
    """Use the namespace of the caller's ``__main__`` as ``__main__`` of this process, because this is a worker.

    Functions that look for names in ``sys.modules["__main__"]``, such as ``typing.get_type_hints``, then find them.
    """
    global _own_main
    _own_main = sys.modules["__main__"]


def own_module(module: types.ModuleType) -> None:
    """Remember that `module` was made in this process, so that its functions map back to it."""
    _homes[id(module.__dict__)] = module


def namespace(key: Key | int, name: str) -> types.ModuleType:
    """Return the namespace for a key. Bytes of definitions name a key by its number in `tokens.loading`."""
    with tokens.lock:
        full: Key = tokens.loading.keys[key] if isinstance(key, int) else key
        found = _namespaces.get(full)
        if found is None:
            found = _homes.get(full[2]) if full[0] == tokens.origin() else None
            if found is None:
                found = types.ModuleType(name)
                found.__dict__.update({"__builtins__": builtins, OWN_MODULE: found})
            _namespaces[full] = found
        if isinstance(key, int):
            tokens.loading.namespaces.append(found)
        kept = keep(full)
        if kept is not None and found not in kept.namespaces:
            kept.namespaces.append(found)
            if name == "__main__" and kept.main is None:
                kept.main = sys.modules["__main__"] = found
        return found


def keys_of(module: types.ModuleType) -> list[Key]:
    """Return the keys for which a module is the namespace."""
    return [key for key, each in list(_namespaces.items()) if each is module]


def add_namespace(key: Key, module: types.ModuleType) -> None:
    """Use a module as the namespace for a key."""
    _namespaces[key] = module


def name_of(fn: Function) -> str:
    """Return the name of the module whose globals `fn` uses."""
    return str(fn.__globals__.get("__name__", "__main__"))


def main_of(fn: Function) -> types.ModuleType | None:
    """Return the received namespace of ``__main__`` that has the globals of `fn`; None if there is none."""
    return fn.__globals__.get(OWN_MODULE) if name_of(fn) == "__main__" else None


# ---- what a worker keeps ---------------------------------------------------------------------------------


class Kept:
    """What a worker keeps of one snapshot, because later tasks of the same run need it.

    A run is over for a worker when the worker has forgotten the functions whose tasks have loaded something of it.

    Attributes:
        users: The numbers of these functions; see `use`.
        namespaces: The namespaces. They stay even while no function is alive, because tasks may keep data in them.
        functions: The functions and modules, the oldest first.
        main: The namespace of ``__main__``.
    """

    def __init__(self) -> None:
        self.users: set[int] = set()
        self.namespaces: list[types.ModuleType] = []
        self.functions: collections.deque[Any] = collections.deque(maxlen=_MAX_FUNCTIONS)
        self.main: types.ModuleType | None = None


#: In a worker: what it keeps, by the origin and the serial of the snapshot. The snapshot that was used last comes last.
_kept: collections.OrderedDict[tuple[str, int], Kept] = collections.OrderedDict()
#: In a worker: of the snapshots beyond `_MAX_SNAPSHOTS`, those that still have modules in ``sys.modules``. The tasks of
#: their functions may still import these modules.
_listed: dict[tuple[str, int], Kept] = {}
_user = 0


def use(number: int) -> None:
    """In a worker, load from now on what tasks of the function with this number need."""
    global _user
    _user = number


def keep(key: Key) -> Kept | None:
    """In a worker, return what the worker keeps of the snapshot that has a key, and use its ``__main__``."""
    if _own_main is None:
        return None
    kept = _kept.setdefault(key[:2], _listed.pop(key[:2], Kept()))
    _kept.move_to_end(key[:2])
    kept.users.add(_user)
    if kept.main is not None:
        sys.modules["__main__"] = kept.main
    if len(_kept) > _MAX_SNAPSHOTS:
        snapshot, oldest = _kept.popitem(last=False)
        oldest.functions.clear()
        oldest.namespaces = [each for each in oldest.namespaces if sys.modules.get(each.__name__) is each]
        oldest.main = oldest.main if oldest.main in oldest.namespaces else None
        if oldest.namespaces:
            _listed[snapshot] = oldest
    return kept


def forget(numbers: Iterable[int]) -> list[Any]:
    """In a worker, drop and return the namespaces and functions that were loaded only for tasks of these functions.

    The namespaces are not found any more. They may be in circles, and then live until the next garbage collection.
    """
    with tokens.lock:
        gone: dict[tuple[str, int], Kept] = {}
        for snapshots in (_listed, _kept):
            for snapshot, kept in list(snapshots.items()):
                kept.users.difference_update(numbers)
                if not kept.users:
                    gone[snapshot] = snapshots.pop(snapshot)
        for key in [key for key in list(_namespaces) if key[:2] in gone]:
            _namespaces.pop(key, None)
        left: dict[str, types.ModuleType | None] = {"__main__": _own_main}
        for kept in (*_listed.values(), *_kept.values()):
            left.update((each.__name__, each) for each in kept.namespaces)
        for module in [each for kept in gone.values() for each in kept.namespaces]:
            if sys.modules.get(module.__name__) is module:  # another run may have sent a module of that name, too
                other = left.get(module.__name__)
                if other is None:
                    del sys.modules[module.__name__]
                else:
                    sys.modules[module.__name__] = other
    return [each for kept in gone.values() for each in (*kept.namespaces, *kept.functions)]


def is_known(key: Key) -> bool:
    """Return True if this process has the namespace for a key."""
    return key in _namespaces


# ---- functions -------------------------------------------------------------------------------------------


class FunctionParts(NamedTuple):
    """What fills a bare function.

    Attributes:
        attributes: The attributes of the function, apart from its code.
        names: The globals that it uses, in the order in which its module defined them.
        cells: The cells of its closure that are not empty, with their contents.
        modules: The modules that it finds through other modules, by name. For one that the receiver can import, the
            value is None.
    """

    attributes: dict[str, Any]
    names: dict[str, Any]
    cells: list[tuple[Any, Any]]
    modules: dict[str, Any]


def parts(fn: Function) -> FunctionParts:
    """Take a function apart."""
    attributes = {
        "__qualname__": fn.__qualname__, "__module__": fn.__module__, "__doc__": fn.__doc__,
        "__defaults__": fn.__defaults__, "__kwdefaults__": fn.__kwdefaults__, "__annotations__": fn.__annotations__,
        "__type_params__": getattr(fn, "__type_params__", ()),  # since Python 3.12
    }  # fmt: skip
    kept = {name: value for name, value in attributes.items() if value or name == "__module__"}
    kept.update((name, value) for name, value in list(fn.__dict__.items()) if not name.startswith("__handout"))
    if fn.__defaults__:
        kept["__defaults__"] = tuple(map(own_objects.by_name, fn.__defaults__))
    if fn.__kwdefaults__:
        kept["__kwdefaults__"] = {name: own_objects.by_name(value) for name, value in fn.__kwdefaults__.items()}
    cells = [(cell, own_objects.by_name(value)) for cell, value in _contents(fn)]
    return FunctionParts(kept, _globals(fn), cells, _modules(fn, [value for _, value in cells]))


def annotated(annotations: Iterable[Any]) -> Iterator[str]:
    """Yield the names in annotations that are or have texts, because ``typing.get_type_hints`` looks them up."""
    for each in annotations:
        if isinstance(each, typing.ForwardRef):  # a text in `typing.List` or in a `TypedDict`
            yield from _names_in_text(each.__forward_arg__)
        elif isinstance(each, str):
            yield from _names_in_text(each)
        elif not isinstance(each, type) and typing.get_origin(each) is not typing.Literal:
            yield from annotated(each if isinstance(each, list) else getattr(each, "__args__", ()))


@functools.lru_cache(maxsize=4096)
def _names_in_text(text: str) -> tuple[str, ...]:
    try:
        inside: list[Any] = [ast.parse(text.strip(), mode="eval")]
    except (SyntaxError, ValueError, RecursionError):  # not an annotation in Python's syntax
        return ()
    found: list[str] = []
    while inside:
        node = inside.pop()
        if isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # a text inside a text
            found.extend(_names_in_text(node.value))
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal"):
            inside.append(node.value)  # what follows are values, and not names
        else:
            inside.extend(ast.iter_child_nodes(node))
    return tuple(found)


def uses_itself(fn: Function, known: Uses) -> bool:
    """Return True if a function is a global of a module or in one, and a separate blob that it needs uses this global.

    A function with a closure is written in place, and so are such functions that it leads to. They refer to one copy.
    But functions without a closure, and classes, are written as separate blobs, which would bring a second copy.

    Only for a function that wraps another one, a class leads to its methods, and a container to its items. Other
    functions in a class or container often share a variable, and must then be written in one place.

    Args:
        fn: The function. It has a closure.
        known: What earlier calls for the same snapshot have found. This call adds to it.
    """
    found = known.answers.get(id(fn))
    if found is None:
        inside = _inside if "__wrapped__" in fn.__dict__ else _itself
        found = known.answers[id(fn)] = fn, _is_held(fn, known) and _blobs_lead_to(fn, inside)
    return found[1]


class Uses:
    """What `uses_itself` has found for one snapshot."""

    def __init__(self) -> None:
        #: The function, which thus stays alive, and the answer, by the ``id`` of the function.
        self.answers: dict[int, tuple[Function, bool]] = {}
        #: The globals, and the ``id`` of each function that is one of them or in one, by the ``id`` of the globals.
        self.held: dict[int, tuple[dict[str, Any], set[int]]] = {}

    def held_in(self, space: dict[str, Any]) -> set[int]:
        """Return the ``id`` of each function that is one of these globals or in one of them."""
        if id(space) not in self.held:
            inside = (inner for value in list(space.values()) for inner in _inside(value))
            self.held[id(space)] = space, {id(inner) for inner in inside if type(inner) is Function}
        return self.held[id(space)][1]


def _is_held(fn: Function, known: Uses) -> bool:
    """Return True if a function is in a global of itself or of a function that it brings in any case."""
    queue, seen = [fn], {id(fn)}
    while queue:
        each = queue.pop()
        if id(fn) in known.held_in(each.__globals__):
            return True
        found = [value for value in _functions_beside(each) if type(value) is Function and id(value) not in seen]
        seen.update(map(id, found))
        queue += found
    return False


def _blobs_lead_to(fn: Function, inside: Callable[[Any], Iterator[Any]]) -> bool:
    #: Functions to read, each with True if it is in a separate blob.
    queue, seen, read = [(fn, False)], set[tuple[int, bool]](), set[tuple[int, bool]]()
    while queue:
        each, is_apart = queue.pop()
        is_apart = is_apart or not each.__closure__
        space = each.__globals__
        for value in [*(space.get(name) for name in names_in(each.__code__).used), *_functions_beside(each)]:
            apart = is_apart or (issubclass(type(value), type) and importable_name(value) is None)
            if (id(value), apart) in read:
                continue
            read.add((id(value), apart))
            for inner in inside(value):
                if inner is fn and apart:
                    return True
                if type(inner) is Function and (id(inner), apart) not in seen and importable_name(inner) is None:
                    seen.add((id(inner), apart))
                    queue.append((inner, apart))
    return False


def _functions_beside(fn: Function) -> Iterator[Any]:
    """Yield what a function calls without a global: the contents of its cells, and the function that it wraps."""
    for _, value in _contents(fn):
        yield from _inside(value)
    yield fn.__dict__.get("__wrapped__")


def _itself(value: Any) -> Iterator[Any]:
    yield value


def _inside(value: Any) -> Iterator[Any]:
    """Yield a value, and what it holds if it is a method, a class that is sent by value, or a short container."""
    yield value
    kind = type(value)
    if kind is types.MethodType or kind is classmethod or kind is staticmethod:
        yield value.__func__
    elif kind is functools.partial:
        yield value.func
    elif kind is property:
        yield from (value.fget, value.fset, value.fdel)
    elif issubclass(kind, type):
        if importable_name(value) is None:
            for attribute in list(vars(value).values()):
                if not issubclass(type(attribute), type):
                    yield from _inside(attribute)
    elif kind in CONTAINERS and len(value) <= _MOST_ITEMS:
        yield from list(value.values() if kind is dict else value)


def _globals(fn: Function) -> dict[str, Any]:
    space = fn.__globals__
    used = {name for name in (*names_in(fn.__code__).used, *annotated(fn.__annotations__.values())) if name in space}
    ordered = [name for name in list(space) if name in used] if len(used) > 1 else used
    return {name: own_objects.by_name(space[name]) for name in ordered}


def _contents(fn: Function) -> Iterator[tuple[Any, Any]]:
    for cell in fn.__closure__ or ():
        try:
            yield cell, cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue


def _modules(fn: Function, enclosed: list[Any]) -> dict[str, Any]:
    """Return the modules that a function reaches by dotted names, and the run-time modules that it imports."""
    names = {name for code in codes(fn.__code__) for name in code.co_names}
    held = [*(fn.__globals__.get(name) for name in names), *enclosed]
    packages = [
        each.__name__ for each in held if issubclass(type(each), types.ModuleType) and hasattr(each, "__path__")
    ]
    found: dict[str, types.ModuleType] = {}
    for package in packages:  # it grows while it is read
        inside = [f"{package}.{name}" for name in names if f"{package}.{name}" in sys.modules]
        packages += [each for each in inside if each not in found]
        found.update((each, sys.modules[each]) for each in inside)
    modules = {name: None if is_importable(found[name]) else found[name] for name in sorted(found)}
    for name in names_in(fn.__code__).imported:
        steps = name.split(".")
        for end in range(1, len(steps) + 1):  # `import a.b` looks for a, too
            part = ".".join(steps[:end])
            module = sys.modules.get(part)
            if module is not None and part != "__main__" and not is_importable(module):
                modules[part] = module
    return modules


def make_function(code: Any, place: tuple[Any, str], name: str, cells: Any) -> Function:
    """Return a bare function. `place` is the key of its namespace, and the name of that module."""
    return Function(make_code(*code), namespace(*place).__dict__, name, None, cells)


def fill_closure(fn: Function, state: tuple[Any, ...]) -> None:
    """Fill a function that was written in place."""
    attributes, names, cells, modules = state
    fill_modules(None, modules)
    fill_names(fn.__globals__, names)
    fill_attributes(fn, attributes)
    for cell, value in cells:
        cell.cell_contents = value


def fill_attributes(target: Any, values: dict[str, Any]) -> None:
    """Set the attributes of a function, the contents of a cell, or the class of a module."""
    for name, value in values.items():
        object.__setattr__(target, name, value)  # the class of a module may define another one


def fill_names(space: dict[str, Any], values: dict[str, Any]) -> None:
    """Add globals to a namespace. Those that another function of the snapshot brought stay as they are."""
    for name, value in values.items():
        space.setdefault(name, value)
        if name in ("__doc__", "__package__"):  # a new module has them already, and they are None
            space[name] = value


def fill_modules(_target: None, values: dict[str, Any]) -> None:
    """Import the modules that a function finds through other modules."""
    for name, made in values.items():
        if made is None:
            importlib.import_module(name)


def make_module(key: Any, name: str, listed: bool) -> types.ModuleType:
    """Return a bare module for one that was made at run time. `listed` tells that an import found the module."""
    module = namespace(key, name)
    if not listed:
        return module
    before = sys.modules.get(name)
    if any(before is each for each in _namespaces.values()):  # an earlier run brought it
        sys.modules[name] = module
    return sys.modules.setdefault(name, module)


# ---- singledispatch --------------------------------------------------------------------------------------

_singledispatch: Any = functools.singledispatch
_DISPATCH = _singledispatch(len).__code__
_DISPATCH_MADE = frozenset({"register", "dispatch", "registry", "_clear_cache", "__wrapped__"})


def is_dispatch(fn: Any) -> bool:
    """Return True if `functools.singledispatch` made a function. It closes over a cache of weak references."""
    return fn.__code__ is _DISPATCH


def reduce_dispatch(fn: Any) -> Any:
    """Return the tuple from which pickle writes a function that `is_dispatch`. Return None for another function."""
    if not is_dispatch(fn):
        return None
    own = {name: value for name, value in list(vars(fn).items()) if name not in _DISPATCH_MADE}
    own.update(__name__=fn.__name__, __qualname__=fn.__qualname__, __module__=fn.__module__)
    return _new_dispatch, (), (dict(fn.registry), own), None, None, _fill_dispatch


def _new_dispatch() -> Any:
    return _singledispatch(_new_dispatch)


def _fill_dispatch(fn: Any, state: tuple[Any, ...]) -> None:
    registry, attributes = state
    for kind, implementation in registry.items():
        fn.register(kind, implementation)
    fill_attributes(fn, attributes)
    fn.__wrapped__ = registry[object]
