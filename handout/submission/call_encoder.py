"""Turns any call into bytes, such as one with keyword arguments or with a list."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, cast

from handout.errors import GraphError, UnserializableError
from handout.graph.options_decorator import mark_of
from handout.graph.output import Input
from handout.graph.scan import Scanner
from handout.graph.stored import Home, Stored, StoredElement
from handout.graph.warm import Warm
from handout.serialization import calls as calls_
from handout.serialization import diagnosis
from handout.serialization.calls import Path, Placeholder, Slot, Taken, Warmed
from handout.serialization.pickling import Segment
from handout.serialization.user_objects import is_interruption
from handout.submission.function_identity import SIZE, TimelessSnapshot, digest
from handout.submission.refusals import refused
from handout.submission.supplied_values import LARGE, SuppliedValues, size_of

__all__ = ["CallEncoder"]

#: Seconds that the function of a warm value may take, if it has no option ``timeout_s``.
_WARMING_TIMEOUT_S = 600.0


class CallEncoder:
    """Encodes any call, such as one with keyword arguments or with a list.

    Args:
        supplied: The objects of the run. Large arguments of the call are added to them.
        id: The id of the task.
        inputs: The numbers of the objects that the task takes.
        make_slot_of: Returns the function that returns the placeholder of an output.
        paths: Paths of the elements of the task's result that become separate objects.
    """

    def __init__(
        self,
        supplied: SuppliedValues,
        id: str,
        inputs: Sequence[int] = (),
        make_slot_of: Callable[[], Callable[[Input[Any]], Placeholder]] | None = None,
        paths: Sequence[Path] = (),
    ) -> None:
        self.supplied = supplied
        self.id = id
        self.paths = paths
        self.inputs: list[int] = list(inputs)
        self.make_slot_of = make_slot_of
        #: The function that returns the placeholder of an output. It is made when the first output is met, because many
        #: calls contain none.
        self.slot_of: Callable[[Input[Any]], Placeholder] | None = None
        #: How many outputs `resolve` has met since this number was last set to 0.
        self.outputs_seen = 0
        #: The warm values of a call that belongs to no graph.
        self.warm: list[Warm[Any]] = []
        #: Their identities in hexadecimal, by the numbers of their recipes.
        self.identities: dict[int, str] = {}
        #: The blob without the paths of the elements that are taken from the task's result.
        self.pathless = b""

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Turn large arguments into objects, add these objects to `inputs`, and return the blob of the call."""
        try:
            held, named = self._known_large(args, kwargs)
            segments = self._dump(held, named)
            if size_of(segments) > LARGE:
                held = tuple(self._shrink(arg) for arg in held)
                named = {name: self._shrink(arg) for name, arg in named.items()}
                segments = self._dump(held, named)
            blob = b"".join(segments)
            paths, self.paths = self.paths, ()
            self.pathless = b"".join(self._dump(held, named)) if paths else blob
            return blob
        except GraphError:
            raise
        except BaseException as error:  # a __reduce__ may raise anything, also SystemExit
            if is_interruption(error):
                raise
            raise self._culprit(args, kwargs) from error

    def _dump(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Segment]:
        return calls_.dumps_call(args, kwargs, self.paths, self.resolve, self.supplied.snapshot)

    def identity_of(self, warm: Warm[Any]) -> bytes:
        """Return the identity of a warm value; see `Warmed`. It is random if its arguments cannot be pickled twice."""
        if not warm.identity:
            self.outputs_seen = 0
            try:
                call = (warm.make, *warm.args), warm.kwargs
                made = digest(*calls_.dumps_call(*call, (), self.resolve, TimelessSnapshot()))
            except BaseException as error:  # see `encode`
                if is_interruption(error):
                    raise
                return os.urandom(SIZE)
            if self.outputs_seen:
                return made  # another run may replace an output by something else
            warm.identity = made
        return warm.identity

    def encode_recipe(self, warm: Warm[Any]) -> Sequence[Segment]:
        """Return the recipe of a warm value; see `Warmed`."""
        try:
            timeout_s = (mark_of(warm.make) or {}).get("timeout_s", _WARMING_TIMEOUT_S)
            return self._dump((repr(warm), timeout_s, warm.make, *warm.args), warm.kwargs)
        except GraphError:
            raise
        except BaseException as error:  # see `encode`
            if is_interruption(error):
                raise
            raise self._culprit(warm.args, {"make": warm.make, **warm.kwargs}) from error

    def _culprit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> UnserializableError:
        names = [*((f"args[{i}]", arg) for i, arg in enumerate(args)), *kwargs.items()]
        for name, arg in names:
            try:
                self._attempt(arg)
            except BaseException as error:  # see `encode`
                if is_interruption(error):
                    raise
                return refused(self.id, diagnosis.find_unpicklable(arg, name, self._attempt))
        problem = diagnosis.CannotPickleError("args", "tuple", "pickling failed, but succeeded when tried again")
        return refused(self.id, problem)

    def _attempt(self, part: Any) -> list[Segment]:
        return calls_.dumps_call((part,), {"_": None}, (), self.resolve, self.supplied.snapshot)

    # ---- outputs -------------------------------------------------------------------------------------------

    def resolve(self, obj: Any) -> Any:
        """Return the placeholder of an output, of an `Arg`, or of an argument that became an object.

        Return None for anything else.
        """
        kind = type(obj)  # not `isinstance`, which asks the object for its ``__class__``
        if issubclass(kind, Input):
            self.outputs_seen += 1
            if self.make_slot_of is None and issubclass(kind, Stored | StoredElement):
                slot = self._slot(self.supplied.number_of(cast(Home, obj._origin)))
                return Taken(slot, obj._path) if obj._path else slot
            if self.make_slot_of is None and kind is Warm:
                return self._warmed(obj)
            if self.slot_of is None:
                self.slot_of = _belongs_nowhere if self.make_slot_of is None else self.make_slot_of()
            return self.slot_of(obj)
        return obj if kind is Slot else None

    def _warmed(self, warm: Warm[Any]) -> Warmed:
        numbers, nested = _recipe_numbers(self.supplied, warm)
        for number in sorted(numbers):
            self._slot(number)  # a call takes its objects in the order of their numbers
        recipe, *inputs = [self._slot(number) for number in numbers]
        identity = CallEncoder(self.supplied, repr(warm), numbers[1:]).identity_of(warm)
        self.warm.append(warm)
        self.identities[numbers[0]] = identity.hex()
        return Warmed(identity, recipe, tuple(inputs), nested)

    # ---- large arguments -----------------------------------------------------------------------------------

    def _known_large(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return the arguments, with a `Slot` in place of each argument that is an object already or becomes one here.

        Large texts, bytes and files become objects here, because their sizes are known before anything is pickled.
        """
        is_large = self.supplied.is_large
        for arg in (*args, *kwargs.values()):
            if is_large(arg):
                return tuple(map(self._if_known, args)), {name: self._if_known(arg) for name, arg in kwargs.items()}
        return args, kwargs

    def _if_known(self, arg: Any) -> Any:
        if self.supplied.is_large(arg):
            return self._slot(self.supplied.enlist(arg))
        return arg

    def _slot(self, number: int) -> Slot:
        if number not in self.inputs:
            self.inputs.append(number)
        return Slot(self.inputs.index(number))

    def _shrink(self, arg: Any) -> Any:
        """Return a `Slot` for a large argument. Return any other argument as it is.

        A large container that holds outputs cannot become an object, because objects contain no placeholders. The large
        items of the container become objects instead.
        """
        if issubclass(type(arg), Input | Slot) or type(arg) in _TINY:
            return arg
        if self.supplied.is_large(arg):  # it is an argument twice
            return self._slot(self.supplied.enlist(arg))
        self.outputs_seen = 0
        segments = self._attempt(arg)
        if size_of(segments) <= LARGE:
            return arg
        if not self.outputs_seen:
            return self._slot(self.supplied.enlist(arg))
        kind = type(arg)
        if kind is list or kind is tuple:
            return kind(self._shrink(part) for part in arg)
        if kind is dict:
            return {key: self._shrink(part) for key, part in arg.items()}
        return arg


def _recipe_numbers(supplied: SuppliedValues, warm: Warm[Any]) -> tuple[list[int], int]:
    """Make the recipe of a warm value, and what it refers to, objects.

    Returns:
        Their numbers, and how many of them are other recipes. The recipe comes first, and then the other recipes.
    """
    nested: dict[int, None] = {}
    stored: dict[int, None] = {}
    for ref in Scanner().references(warm.args, warm.kwargs):
        if isinstance(ref, Warm):
            numbers, count = _recipe_numbers(supplied, ref)
            nested.update(dict.fromkeys(numbers[: count + 1]))
            stored.update(dict.fromkeys(numbers[count + 1 :]))
        elif isinstance(ref, Stored | StoredElement):
            stored[supplied.number_of(cast(Home, ref._origin))] = None
        else:
            _belongs_nowhere(ref)
    recipe = CallEncoder(supplied, repr(warm), [*nested, *stored])
    return [supplied.enlist(warm, partial(recipe.encode_recipe, warm)), *nested, *stored], len(nested)


def _belongs_nowhere(promised: Input[Any]) -> NoReturn:
    raise GraphError(
        f"{promised!r} is a promise of a graph, and this call belongs to no graph.",
        remedy="Add the function to the graph of this output: graph.add(f, output).",
    )


_TINY = frozenset({type(None), bool, int, float, complex})
