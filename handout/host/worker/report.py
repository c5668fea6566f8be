"""What a worker has to tell the agent: outcomes gathered into columns, sent together."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from handout.protocol import frames

#: Outcomes that wait at most; bytes of theirs that do.
_MAX_COUNT = 64
_MAX_BYTES = 256 << 10


class WorkerReport:
    """Outcomes that have not been sent yet."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._numbers: list[int] = []
        self._us: list[int] = []
        self._sizes: list[Any] = []
        self._inline: list[Any] = []
        self._where: list[Any] = []
        self._payload: list[frames.Buffer] = []
        #: Whether some result does not ride along: then it is said which, and where they are.
        self._large = False
        self._bytes = 0
        self._skipped: list[int] = []
        self._missing: list[int] = []

    @property
    def pending(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._numbers or self._skipped or self._missing)

    @property
    def full(self) -> bool:
        """Whether it is time to send."""
        return len(self._numbers) >= _MAX_COUNT or self._bytes > _MAX_BYTES

    def done(
        self,
        number: int,
        us: int,
        sizes: Sequence[int],
        inline: Sequence[int],
        where: Sequence[int],
        payload: Sequence[frames.Buffer],
    ) -> None:
        """A task returned; columns are one entry an object."""
        self._numbers.append(number)
        self._us.append(us)
        self._sizes.append(sizes)
        self._inline.append(inline)
        self._where.append(where)
        self._large |= len(payload) < len(sizes)
        for data in payload:
            self._payload.append(data)
            self._bytes += len(data)

    def skipped(self, number: int) -> None:
        """A task was revoked before it started."""
        self._skipped.append(number)

    def missing(self, number: int) -> None:
        """A task's inputs are not here: what it follows failed, or was forgotten."""
        self._missing.append(number)

    def failed(self, fields: dict[str, Any], payload: Sequence[frames.Buffer]) -> None:
        """A task failed; sent at once, after what came before it."""
        self.flush()
        self._send({"m": "failed", **fields}, payload)

    def flush(self, bye: bool = False) -> None:
        """Send what there is.

        Args:
            bye: The worker takes no more tasks, and ends.
        """
        if not (self.pending or bye):
            return
        fields: dict[str, Any] = {"m": "done", "s": self._numbers, "us": self._us, "size": self._sizes}
        if self._large:
            fields["inline"], fields["where"] = self._inline, self._where
        if self._skipped:
            fields["skipped"] = self._skipped
        if self._missing:
            fields["missing"] = self._missing
        if bye:
            fields["bye"] = 1
        payload = self._payload
        self._numbers, self._us, self._sizes, self._inline, self._where = [], [], [], [], []
        self._payload, self._bytes, self._skipped, self._missing, self._large = [], 0, [], [], False
        self._send(fields, payload)

    def _send(self, fields: dict[str, Any], payload: Sequence[frames.Buffer]) -> None:
        self._link.sendall(b"".join(frames.encode_message(0, fields, payload)))
