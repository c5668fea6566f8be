"""Options of the agent's sockets to the controller and to the workers."""

from __future__ import annotations

import socket

_BUFFER_BYTES = 1 << 20


def enlarge_buffers(end: socket.socket) -> None:
    """Ask the system for socket buffers that hold a whole batch of tasks. Ignore a refusal, which only costs speed."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        try:
            end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        except OSError:
            pass
