"""Streams of objects between the controller and the store of this host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable

from handout.host.agent.controller_link import ControllerLink
from handout.host.agent.object_store import Incoming, ObjectStore, StoreFullError
from handout.protocol import frames, messages


class Transfers:
    """Receives objects into the store, and sends objects from it.

    Args:
        store: The store of this host.
        on_stored: Called with the key of each object that has arrived.
        on_refused: Called with the key of each object that the store has no room for, and the store's error.
    """

    def __init__(
        self,
        store: ObjectStore,
        on_stored: Callable[[int], None],
        on_refused: Callable[[int, StoreFullError], None],
    ) -> None:
        self._store = store
        self._on_stored = on_stored
        self._on_refused = on_refused
        self._link: ControllerLink | None = None
        #: By number of a stream: the object that arrives, or None if the rest of the stream is received and dropped.
        self._incoming: dict[int, Incoming | None] = {}
        self._last_stream = 0

    def use(self, link: ControllerLink) -> None:
        """Set the link to the controller."""
        self._link = link

    def announce(self, message: messages.StreamObject) -> None:
        """Prepare to receive an object."""
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
        # The controller sends the bytes in any case. They are received and dropped.
        self._incoming[stream] = None
        self._on_refused(key, error)

    def receive(self, piece: frames.Piece) -> None:
        """Write a piece of a stream to its object."""
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
        """Give up an object, because the rest of its stream will not come."""
        incoming = self._incoming.pop(stream, None)
        if incoming is not None:
            incoming.give_up()

    def drop(self, keys: Iterable[int]) -> None:
        """Give up objects that no task needs any more. The rest of their streams is received and dropped."""
        dropped = set(keys)
        for stream, incoming in self._incoming.items():
            if incoming is not None and incoming.key in dropped:
                incoming.give_up()
                self._incoming[stream] = None

    def fetch(self, key: int) -> None:
        """Stream an object to the controller, or answer that the store does not have it."""
        link = self._link
        assert link is not None
        try:
            source = self._store.open(key)
        except KeyError:
            link.send(messages.Missing(key))
            return
        # Each side numbers the streams that it sends.
        self._last_stream += 1
        link.send(messages.StreamObject(self._last_stream, key, source.size))
        link.session.send_stream(self._last_stream, source)
        link.schedule()

    def close(self) -> None:
        """Give up all objects that have not arrived."""
        for incoming in self._incoming.values():
            if incoming is not None:
                incoming.give_up()
        self._incoming.clear()
