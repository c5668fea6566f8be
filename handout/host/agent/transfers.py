"""Streams objects from the controller into the store of this host, and from the store to the controller.

A stream carries the bytes of one object in pieces.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import resource
from collections.abc import Iterable, Sequence
from typing import Callable

from handout.host.agent.controller_link import ControllerLink
from handout.host.agent.object_store import Incoming, ObjectStore, Outgoing, StoreFullError
from handout.protocol import frames, messages

#: The agent opens at most this many files for streams to the controller, and at most an eighth of its limit.
_MAX_FILES = 64
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})


class Transfers:
    """Writes objects that arrive as streams into the store, and streams objects of the store to the controller.

    Args:
        store: The store of this host.
        on_stored: Called with the key of each announced object once the store has the whole object.
        on_refused: Called with the key of each object that the store has no room for, and with the store's error.
        on_vanished: Called with the keys of objects whose files another program has removed.
    """

    def __init__(
        self,
        store: ObjectStore,
        on_stored: Callable[[int], None],
        on_refused: Callable[[int, StoreFullError], None],
        on_vanished: Callable[[Sequence[int]], None],
    ) -> None:
        self._store = store
        self._on_stored = on_stored
        self._on_refused = on_refused
        self._on_vanished = on_vanished
        #: Called with the key of each object that the controller has requested, when the agent begins to send it or has
        #: sent `Missing`. The store may drop the object then.
        self.on_taken: Callable[[int], None] = lambda key: None
        self._link: ControllerLink | None = None
        #: Maps the number of each arriving stream to the object to which the agent writes the bytes of the stream, or
        #: to None if the agent discards the bytes.
        self._incoming: dict[int, Incoming | None] = {}
        self._last_stream = 0
        #: How many files are open for streams to the controller, and the keys of requested objects that wait for one.
        self._open_files = 0
        self._max_files = min(_MAX_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8 or 1)
        self._waiting: collections.deque[int] = collections.deque()

    def use(self, link: ControllerLink) -> None:
        """Set the link to the controller. The agent calls this method before the first transfer."""
        self._link = link

    def announce(self, message: messages.StreamObject) -> None:
        """Prepare to receive an object that the controller will stream."""
        stream, key, size = message
        try:
            if key in self._store:
                self._incoming[stream] = None
                self._on_stored(key)
            else:
                self._incoming[stream] = Incoming(self._store, key, size)
        except StoreFullError as error:
            self._refuse(stream, key, error)

    def _refuse(self, stream: int, key: int, error: StoreFullError) -> None:
        # The controller sends the bytes in any case, and the agent discards them.
        self._incoming[stream] = None
        self._on_refused(key, error)

    def receive(self, piece: frames.Piece) -> None:
        """Write a piece of a stream to the object that the stream carries."""
        incoming = self._incoming.get(piece.stream)
        if incoming is not None:
            try:
                incoming.write(piece.data)
                if piece.last:
                    incoming.finish()
            except StoreFullError as error:
                self._refuse(piece.stream, incoming.key, error)
                incoming = None
        if not piece.last:
            return
        known = self._incoming.pop(piece.stream, None)
        if known is not None:
            self._on_stored(known.key)

    def stop(self, stream: int) -> None:
        """Discard the object that a stream carries, because the rest of the stream will not come."""
        incoming = self._incoming.pop(stream, None)
        if incoming is not None:
            incoming.give_up()

    def drop(self, keys: Iterable[int]) -> None:
        """Discard objects that are still arriving, and the rest of their streams, because no task needs them now."""
        dropped = set(keys)
        for stream, incoming in self._incoming.items():
            if incoming is not None and incoming.key in dropped:
                incoming.give_up()
                self._incoming[stream] = None

    def fetch(self, key: int) -> None:
        """Stream an object to the controller. If the store cannot give the object, send `Missing`.

        An object in a file waits while the agent has as many open files as it may, because a process may open only so
        many files. If the agent drops the object meanwhile, the controller does not need it any more, and gets
        `Missing`.
        """
        if self._open_files >= self._max_files and self._store.is_file(key):
            self._waiting.append(key)
        else:
            self._fetch(key)

    def _fetch(self, key: int) -> None:
        link = self._link
        assert link is not None
        is_file = self._store.is_file(key)
        try:
            source = self._store.open(key)
        except (KeyError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR and self._open_files:
                self._waiting.append(key)  # its turn comes when a file is closed
                return
            link.send(messages.Missing(key))
            if key in self._store and not self._store.is_whole(key):
                self._on_vanished([key])
            self.on_taken(key)
            return
        if is_file:
            self._open_files += 1
            source.on_closed = self._file_closed
        self.on_taken(key)
        self._send_checked(key, source)

    def _file_closed(self) -> None:
        self._open_files -= 1
        if self._waiting:
            # In a later turn, because the session that has closed the file is not done with its stream.
            asyncio.get_running_loop().call_soon(self._fetch_waiting)

    def _fetch_waiting(self) -> None:
        for _ in range(len(self._waiting)):  # an object that needs no file, or is missing, makes way for the next one
            if self._open_files >= self._max_files:
                return
            self._fetch(self._waiting.popleft())

    def _send_checked(self, key: int, source: Outgoing) -> None:
        """Send an object once its file has been checked. If the file is damaged, the object has vanished."""
        link = self._link
        assert link is not None
        if not source.is_checked:
            if _is_sound_so_far(source):
                asyncio.get_running_loop().call_soon(self._send_checked, key, source)
                return
            source.close()
            link.send(messages.Missing(key))
            if key in self._store:
                self._on_vanished([key])
            return
        # The agent counts only the streams that it sends itself. The controller counts its own streams.
        self._last_stream += 1
        link.send(messages.StreamObject(self._last_stream, key, source.size))
        link.session.send_stream(self._last_stream, source)
        link.schedule()

    def close(self) -> None:
        """Discard all objects that have not arrived completely, and all requests that wait."""
        self._waiting.clear()
        for incoming in self._incoming.values():
            if incoming is not None:
                incoming.give_up()
        self._incoming.clear()


def _is_sound_so_far(source: Outgoing) -> bool:
    try:
        return source.check()
    except OSError:  # the disk cannot read the file
        return False
