"""Sends a list of texts and bytes over a socket, between the writing and the reading process of a case."""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

_HEAD = struct.Struct("<Q")


def transmit(link: socket.socket, parts: list[Any]) -> None:
    """Send the parts."""
    data = pickle.dumps(parts)
    link.sendall(_HEAD.pack(len(data)) + data)


def receive(link: socket.socket) -> list[Any] | None:
    """Return the parts that the other process sent, or None if it closed the connection."""
    head = _exactly(link, _HEAD.size)
    data = None if head is None else _exactly(link, _HEAD.unpack(head)[0])
    return None if data is None else pickle.loads(data)


def _exactly(link: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = link.recv(size - len(data))
        if not part:
            return None
        data += part
    return data
