"""What is the same for every socket of this folder."""

from __future__ import annotations

import socket

_BUFFER = 1 << 20


def enlarge_buffers(end: socket.socket) -> None:
    """Ask for buffers that hold a batch, where the system gives them."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        try:
            end.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        except OSError:
            pass
