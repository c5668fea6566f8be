"""Turns the result of a task into bytes for the report, and into files in the store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Callable

from handout.host.system import cgroups, shared_page
from handout.host.worker.lent_state import LentState
from handout.host.worker.objects import DiskFullError, OversizedResultError, StoreAccessError, WorkerObjects
from handout.host.worker.report import EncodedResult
from handout.protocol import frames
from handout.protocol.messages import INLINE
from handout.serialization import calls, diagnosis

#: A worker sends at most this many bytes of one result in a report. Further objects of the result become files.
_MAX_INLINE = 4 << 20
#: If a worker cannot write into the store, it sends large objects of at most this many bytes together in the report.
_MAX_SENT = frames.MAX_PAYLOAD // 4


class ResultEncoder:
    """Encodes the results of a worker's tasks.

    Args:
        objects: Writes the large objects.
        page: The page of memory that the worker shares with the agent; see `shared_page`.
        lent: The state that the worker lends to its tasks.
        take_back: Puts this state back. A large object could not be written, and a change of the state may be why.
        max_result: The largest size that an object of a result may have, in bytes.
        group: The control group that limits the memory of the worker. None if there is no limit, or no such group.
    """

    def __init__(
        self,
        objects: WorkerObjects,
        page: memoryview,
        lent: LentState,
        take_back: Callable[[], object],
        max_result: int,
        group: cgroups.MemoryGroup | None,
    ) -> None:
        self._objects = objects
        self._page = page
        self._lent = lent
        self._take_back = take_back
        self._max_result = max_result
        self._group = group

    def encode(self, value: Any, paths: Sequence[calls.Path], outputs: Sequence[int]) -> EncodedResult:
        """Pickle the objects of a result. Write the large objects into the store.

        Args:
            value: The value that the function returned.
            paths: Paths of elements in the value. The first object of the result is the whole value. The other objects
                are these elements.
            outputs: Keys of the objects; -1 for an object that is not needed.

        Raises:
            DiskFullError: The store has no room.
            StoreAccessError: The worker cannot write into the store.
            BaseException: User code runs while a value is pickled, and may raise anything.
        """
        try:
            return self._encode(value, paths, outputs)
        except BaseException:
            # Some files of the result may exist already, but the worker will not report them.
            self._objects.forget(outputs)
            raise

    def _encode(self, value: Any, paths: Sequence[calls.Path], outputs: Sequence[int]) -> EncodedResult:
        sizes: list[int] = []
        inline_sizes: list[int] = []
        folders: list[int] = []
        payload: list[frames.Buffer] = []
        inline_left = _MAX_INLINE
        sent_left = _MAX_SENT
        for index, key in enumerate(outputs):
            if key == -1:
                sizes.append(-1)
                inline_sizes.append(-1)
                folders.append(0)
                continue
            part = value if index == 0 else calls.apply_path(value, paths[index - 1])
            segments = diagnosis.dumps_or_diagnose(part, "result")
            size = len(segments[0]) if len(segments) == 1 else sum(memoryview(s).nbytes for s in segments)
            if size > self._max_result:
                raise OversizedResultError(size, self._max_result)
            sizes.append(size)
            if size <= INLINE and size <= inline_left:
                inline_left -= size
                data = segments[0] if len(segments) == 1 else b"".join(segments)
                payload.append(data)
                self._objects.remember(key, data)
                inline_sizes.append(size)
                folders.append(0)
                continue
            folder = self._store(key, segments, size, sent_left)
            if folder is None:
                sent_left -= size
                payload.append(b"".join(segments))
            inline_sizes.append(size if folder is None else -1)
            folders.append(folder or 0)
        return EncodedResult(sizes, inline_sizes, folders, payload)

    def _store(self, key: int, segments: list[Any], size: int, most: int) -> int | None:
        """Write a large object into the store.

        Args:
            key: Key of the object.
            segments: The pieces of which the object consists.
            size: Bytes of the object.
            most: If the worker cannot write into the store, an object of at most this many bytes is sent in the report.

        Returns:
            The index of the folder. None if the object must be sent in the report.
        """
        if self._group is not None:
            self._group.make_room(size)
        try:
            return self._write(key, segments)
        except (OSError, DiskFullError) as first:
            error: OSError | DiskFullError = first
        before = self._lent.changes
        self._take_back()
        if self._lent.changes > before:
            try:
                return self._write(key, segments)
            except (OSError, DiskFullError) as second:
                error = second
        if isinstance(error, DiskFullError) and not self._lent.lost:
            raise error
        if size <= most:
            return None
        raise StoreAccessError(self._describe(size, error))

    def _write(self, key: int, segments: list[Any]) -> int:
        # With the umask of the function, other processes of this user might not be able to read the file.
        mask = os.umask(0o077)
        try:
            return self._objects.write(key, segments, bool(self._page[shared_page.SPILL]))
        finally:
            os.umask(mask)

    def _describe(self, size: int, error: Exception) -> str:
        text = f"the worker could not write the result of {size} bytes into the store: {error}"
        if not self._lent.lost:
            return text
        lost = ", ".join(self._lent.lost)
        return f"{text}; the function has changed these parts of the worker's process for good: {lost}"
