"""Names objects that are sent by value, so that each process has one copy of each, and originals stay what they are.

A token is such a name. It consists of the origin, which names the process that made the object, and of a number. If an
object arrives under a token that this process knows, the known object is used: the original as it is, and a copy after
it was brought up to date. Classes have tokens, and so have objects that pickle would write as names that only this
process knows, such as a ``NewType`` of ``__main__``.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Callable

#: ``(origin, number)``.
Token = tuple[str, int]

#: A thread that loads or names definitions holds this lock, so that no other thread sees half a definition.
lock = threading.RLock()
_origin: str = os.urandom(8).hex()
_count: int = 0
#: By ``id``: the token and the reference of an object. The reference removes the entry when the object is freed.
_by_id: dict[int, tuple[Token, Callable[[], Any]]] = {}
_by_token: dict[Token, Callable[[], Any]] = {}
#: The bytes as which a copy arrived; see `definitions`.
_arrived: dict[Token, Any] = {}
#: For each copy of another process's object, the version of the bytes that filled it. Originals have no entry.
_versions: dict[Token, int] = {}
#: For each copy of a class, the names of the attributes that its definition had.
_names: dict[Token, tuple[str, ...]] = {}


def _after_fork() -> None:
    """Give a forked worker an origin of its own, because two workers with one origin would use equal tokens.

    Another thread of the parent may have held the lock, so the worker needs a new one.
    """
    global _origin, lock
    _origin = os.urandom(8).hex()
    lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def origin() -> str:
    """Return the name of this process in tokens."""
    return _origin


def token_of(obj: Any) -> Token:
    """Return the token of an object, which is the same for the original and for its copies."""
    global _count
    with lock:
        known = _by_id.get(id(obj))
        if known is not None:
            return known[0]
        _count += 1
        return _enter(obj, (_origin, _count))


def known(token: Token) -> Any:
    """Return the object that has a token in this process, or None."""
    found = _by_token.get(token)
    return None if found is None else found()


def track(obj: Any, token: Token, version: int) -> Any:
    """Use `obj` as this process's copy of another process's object, and return it."""
    _enter(obj, token)
    _versions[token] = version
    return obj


def _enter(obj: Any, token: Token) -> Token:
    # When the interpreter exits, an object may be freed after the globals of this module.
    address, by_id, by_token, others = id(obj), _by_id, _by_token, (_versions, _arrived, _names)

    def forget(gone: Any) -> None:
        by_id.pop(address, None)
        if by_token.get(token) is gone:  # otherwise another object has the token by now; see `adopt`
            del by_token[token]
            for table in others:
                table.pop(token, None)

    try:
        reference: Callable[[], Any] = weakref.ref(obj, forget)
    except TypeError:  # a type without weak references, such as ContextVar: such objects live as long as the process
        reference = _Strong(obj)
    _by_id[address] = token, reference
    _by_token[token] = reference
    return token


class _Strong:
    """Takes the place of a weak reference."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj

    def __call__(self) -> Any:
        return self.obj


def is_tracked(obj: Any) -> bool:
    """Return True if an object has a token."""
    return id(obj) in _by_id


def version_of(obj: Any, serial: int) -> int:
    """Return the version of an object's definition: a copy keeps its own, and an original has the snapshot's."""
    return _versions.get(token_of(obj), serial)


def is_current(token: Token, version: int) -> bool:
    """Return True if the known object is an original, or a copy at least as new as `version`."""
    return _versions.get(token, version) >= version


def set_version(token: Token, version: int) -> None:
    """Note which bytes fill a copy. With the version -1, the next bytes that arrive fill the copy anew."""
    _versions[token] = version


def replace_names(token: Token, names: tuple[str, ...]) -> set[str]:
    """Note the names of the attributes of a class. Return those that only the definition before had."""
    before, _names[token] = _names.get(token, ()), names
    return set(before).difference(names)


def keep(token: Token, bytes_: Any) -> None:
    """Keep the bytes as which a copy arrived, as long as the copy lives."""
    if token in _versions:  # else an object of this process has the token, too; see `alias`
        _arrived[token] = bytes_


def kept(obj: Any) -> Any:
    """Return the bytes as which an object arrived, or None."""
    known = _by_id.get(id(obj))
    return None if known is None else _arrived.get(known[0])


def known_class(token: Token, version: int) -> type | None:
    """Return the class that has a token in this process, unless the class is older than `version`."""
    cls = known(token)
    return cls if isinstance(cls, type) and is_current(token, version) else None


def own_classes() -> list[tuple[Token, str, str]]:
    """Return the token, the module and the qualified name of each class of this process that has a token."""
    found = ((token, reference()) for token, reference in list(_by_id.values()) if token not in _versions)
    return [(token, cls.__module__, cls.__qualname__) for token, cls in found if isinstance(cls, type)]


def adopt(token: Token, cls: type) -> None:
    """Use `cls` for the objects that an earlier process pickled with a class of that token.

    The class is pickled under that token from now on. Otherwise a worker that gets such an object, and a function that
    uses `cls`, would make two classes. Objects that this process pickled with the class before still map back to it. If
    another class of this process has the token, and is alive, it keeps the token.
    """
    with lock:
        before = known(token)
        if token[0] == _origin and before is not None and before is not cls:
            return
        _versions.pop(token, None)
        _arrived.pop(token, None)
        _enter(cls, token)


def alias(token: Token, cls: type) -> None:
    """Use `cls`, which keeps its own token, also for the objects that another process pickles with that token."""
    _by_token.setdefault(token, weakref.ref(cls))


class Loading:
    """The definition that this process is loading. Its bytes name namespaces and classes by numbers.

    Attributes:
        keys: The keys of the namespaces.
        versions: The versions of the classes, and of objects of which each process has one copy.
        fresh: The tokens of the classes that the definition fills, by ``id`` of the class.
        namespaces: The namespaces that the definition fills. No function may hold them yet.
    """

    def __init__(self, keys: tuple[Any, ...] = (), versions: tuple[int, ...] = ()) -> None:
        self.keys, self.versions = keys, versions
        self.fresh: dict[int, Token] = {}
        self.namespaces: list[Any] = []

    def version(self, number: int) -> int:
        """Return the version that has a number in the definition. Outside of a definition, bytes hold versions.

        A version is a time in nanoseconds, and so never as small as a number.
        """
        return self.versions[number] if number < len(self.versions) else number


#: Protected by `lock`.
loading = Loading()
