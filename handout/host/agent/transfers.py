"""Objects on their way to and from this host, as bulk streams of the link."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

from handout.host.agent.link import ControllerLink
from handout.host.agent.object_store import Incoming, ObjectStore, StoreFullError
from handout.protocol import frames


class Transfers:
    """Streams in and out of the store.

    Args:
        store: Where objects are.
        on_stored: Called with the key of an object that has arrived whole.
        on_refused: Called with the key of an object that found no room.
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
        self._incoming: dict[int, Incoming | None] = {}
        self._last_stream = 0

    def use(self, link: ControllerLink) -> None:
        """Send over this link."""
        self._link = link

    def announce(self, fields: dict[str, Any]) -> None:
        """A stream is about to arrive."""
        stream, key, size = fields["stream"], fields["key"], fields["size"]
        try:
            if key in self._store:
                self._incoming[stream] = None
                self._on_stored(key)
            else:
                self._incoming[stream] = Incoming(self._store, key, size)
        except StoreFullError as error:
            self._refuse(stream, key, error)

    def _refuse(self, stream: int, key: int, error: StoreFullError) -> None:
        # The bytes are on their way already: they are let through, to nowhere.
        self._incoming[stream] = None
        self._on_refused(key, error)

    def receive(self, piece: frames.Piece) -> None:
        """A piece of a stream came."""
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
        """The rest of a stream will not come."""
        incoming = self._incoming.pop(stream, None)
        if incoming is not None:
            incoming.give_up()

    def drop(self, keys: Iterable[int]) -> None:
        """Nobody needs these any more: what is still to come of them is let through, to nowhere."""
        gone = set(keys)
        for stream, incoming in self._incoming.items():
            if incoming is not None and incoming.key in gone:
                incoming.give_up()
                self._incoming[stream] = None

    def fetch(self, fields: dict[str, Any]) -> None:
        """The controller wants an object."""
        # Streams out of here are numbered here.
        key, self._last_stream = fields["key"], self._last_stream + 1
        stream = self._last_stream
        link = self._link
        assert link is not None
        try:
            source = self._store.open(key)
        except KeyError:
            link.send({"m": "missing", "key": key, "stream": stream})
            return
        link.send({"m": "stream", "stream": stream, "key": key, "size": source.size})
        link.session.send_stream(stream, source)
        link.schedule()

    def close(self) -> None:
        """Give up what is under way."""
        for incoming in self._incoming.values():
            if incoming is not None:
                incoming.give_up()
        self._incoming.clear()
