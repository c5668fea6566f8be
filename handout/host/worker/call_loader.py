"""Loads what the call of a task needs: the function, the user's modules, and the arguments with their inputs."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Callable, NamedTuple

from handout.host.system import cgroups
from handout.host.warm_values import Key
from handout.host.worker import importer, main_module
from handout.host.worker.batch import WorkerTask
from handout.host.worker.lent_state import LentState
from handout.host.worker.objects import (
    DiskFullError,
    MissingInputError,
    StoreAccessError,
    WorkerObjects,
    free_bytes,
    why_refused,
)
from handout.host.worker.released_code import ReleasedCode
from handout.protocol import frames, messages
from handout.protocol.messages import INLINE
from handout.serialization import calls, definitions, exceptions, functions_by_value, pickling

__all__ = ["CallLoader", "LoadedRecipe", "MissingBundleError", "NotWarmError"]


class MissingBundleError(pickling.LoadError):
    """Another program has removed or damaged the file of the source bundle."""


class NotWarmError(BaseException):
    """A task takes a warm value that this process has not made yet.

    It is no `Exception`, because `load_call` would raise another error instead.

    Attributes:
        key: The key of the value.
        recipe: Key of the object that is the recipe.
        inputs: Keys of the objects that the recipe takes.
        sent: The small objects that came with the batch of the task, by key.
    """

    def __init__(self, key: Key, recipe: int, inputs: Sequence[int], sent: dict[int, frames.Buffer]) -> None:
        self.key, self.recipe, self.inputs, self.sent = key, recipe, inputs, sent


class LoadedRecipe(NamedTuple):
    """A function that makes a warm value."""

    #: How messages call the value, such as ``Warm(load_model)``.
    name: str
    #: Seconds that the function may take.
    timeout_s: float
    make: Callable[[], Any]


class CallLoader:
    """Loads functions and arguments for one worker. User code runs while they are loaded.

    Args:
        message: What the agent has told the worker about its bundle and its folders.
        objects: The objects that the worker reads and writes.
        lent: What the worker lends to its tasks.
        group: The control group that limits the worker's memory, if there is one.
    """

    def __init__(
        self, message: messages.SetUp, objects: WorkerObjects, lent: LentState, group: cgroups.MemoryGroup | None
    ) -> None:
        self._objects = objects
        self._lent = lent
        self._group = group
        self._scratch = message.scratch
        #: The source bundle, until it is installed.
        self._bundle_path = message.bundle_path
        self._modules_folder = message.modules_folder
        #: The pickled functions that are not loaded yet, by number.
        self._blobs: dict[int, bytes] = {}
        self._functions: dict[int, Callable[..., Any]] = {}
        #: For some functions, classes that must stay as long as the function; see `calls.Accompanied`.
        self._companions: dict[int, tuple[type, ...]] = {}
        #: Keys of the inputs that must be read with `untrusted.reader`, which accepts only data.
        self._distrusted: set[int] = set()
        self._released = ReleasedCode()
        #: The warm values of this process.
        self.warm: Mapping[Key, Any] = {}

    def learn(self, batch: messages.Batch, functions: dict[int, bytes]) -> None:
        """Note the functions that came with a batch, and the inputs of the batch that are untrusted."""
        self._blobs.update(functions)
        if batch.distrusted:
            from handout.serialization.untrusted import reader  # few workers need this module

            self._distrusted.update(batch.distrusted)
            reader.allow(batch.types)

    def forget(self, numbers: Iterable[int]) -> None:
        """Forget functions that the agent will not name any more, and what was loaded for their tasks."""
        numbers = list(numbers)
        dropped = definitions.forget(numbers)
        if dropped:
            dropped += [self._functions.get(number) for number in numbers]
        for number in numbers:
            self._blobs.pop(number, None)
            self._functions.pop(number, None)
            self._companions.pop(number, None)
        self._released.free(dropped)

    def function(self, number: int) -> Callable[..., Any]:
        """Return the function with the given number. The first call with this number unpickles the function.

        Raises:
            LoadError: This host cannot unpickle the function.
        """
        functions_by_value.use(number)
        fn = self._functions.get(number)
        if fn is None:
            fn = self._functions[number] = self._unpickle_function(number)
            del self._blobs[number]
        main_module.lend(fn, self._scratch)
        return fn

    def arguments(self, task: WorkerTask) -> tuple[tuple[Any, ...], dict[str, Any], Sequence[calls.Path]]:
        """Return a task's positional and keyword arguments, and the paths of elements to take from its result.

        Raises:
            MissingInputError: An input is not on this host.
            LoadError: This host cannot unpickle the arguments.
            NotWarmError: A warm value among them must be made first.
        """
        return self._load_call(task.call, task.inputs, task.sent)

    def recipe(self, lacking: NotWarmError) -> LoadedRecipe:
        """Return the function that makes a warm value.

        Raises:
            MissingInputError: An input is not on this host.
            LoadError: This host cannot unpickle the function or its arguments.
            NotWarmError: A warm value among its arguments must be made first.
        """
        recipe = self._read(lacking.recipe, lacking.sent)
        (name, timeout_s, make, *args), kwargs, _ = self._load_call(recipe, lacking.inputs, lacking.sent)
        return LoadedRecipe(name, timeout_s, partial(make, *args, **kwargs))

    def _load_call(
        self, call: frames.Buffer, inputs: Sequence[int], sent: dict[int, frames.Buffer]
    ) -> tuple[tuple[Any, ...], dict[str, Any], Sequence[calls.Path]]:
        def warm(identity: bytes, recipe: int, taken: Sequence[int], nested: int) -> Any:
            keys = tuple([inputs[index] for index in taken])
            key = identity, keys[nested:]
            if key not in self.warm:
                raise NotWarmError(key, inputs[recipe], keys, sent)
            return self.warm[key]

        try:
            return calls.load_call(call, lambda index: self._load_input(inputs[index], sent), warm)
        except pickling.LoadError as error:
            if isinstance(error.__cause__, (MissingInputError, StoreAccessError)):
                raise error.__cause__ from None
            raise

    def checkpoint(self, task: WorkerTask) -> Any:
        """Return the checkpoint that an earlier attempt of a task has left.

        Raises:
            MissingInputError: The checkpoint is not on this host.
            Exception: The checkpoint cannot be read, or unpickling raised it.
        """
        return self._load_input(task.checkpoint, task.sent)

    def _read(self, key: int, sent: dict[int, frames.Buffer]) -> frames.Buffer:
        try:
            return self._objects.get(key, sent)
        except OSError as error:
            raise StoreAccessError(f"the worker cannot read input {key:x} from the store: {error}") from None

    def _load_input(self, key: int, sent: dict[int, frames.Buffer]) -> Any:
        data = self._read(key, sent)
        if self._group is not None and len(data) > INLINE:
            self._group.make_room(len(data))
        if key in self._distrusted:
            from handout.serialization.untrusted import reader  # few workers need this module

            return reader.loads(data)
        return pickling.loads(data)

    def _unpickle_function(self, number: int) -> Callable[..., Any]:
        try:
            if self._bundle_path is not None:
                # The constructor does not do this, because an error there would not become the failure of a task.
                with self._lent.keep_changes():
                    self._install(self._bundle_path)
                self._bundle_path = None
            loaded: Any = pickling.loads(self._blobs[number])
            if type(loaded) is calls.Accompanied:
                loaded, self._companions[number] = loaded
            fn: Callable[..., Any] = loaded
            return fn
        except (pickling.LoadError, DiskFullError):
            raise
        except Exception as error:
            raise pickling.LoadError(
                f"the function could not be loaded: {type(error).__name__}: {exceptions.message(error)}"
            ) from error

    def _install(self, bundle_path: str) -> None:
        """Make the modules of the source bundle importable.

        Raises:
            DiskFullError: There is no room for the unpacked bundle.
            MissingBundleError: The file of the bundle has vanished, or is damaged.
        """
        folder = self._modules_folder
        try:
            importer.install(bundle_path, folder)
        except (FileNotFoundError, zipfile.BadZipFile, zlib.error) as error:
            raise MissingBundleError(f"the file with the user's modules cannot be read: {error}") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            parent, size, what = os.path.dirname(folder), os.path.getsize(bundle_path), "the user's modules and files"
            raise DiskFullError(parent, size, free_bytes(parent), why_refused(parent, error), what) from error
