"""The relay: a program on the host that copies bytes between its standard streams and the agent's socket.

The controller starts the relay over SSH if the SSH server forbids the forwarding of sockets.
"""

from __future__ import annotations

import os
import select
import socket
import sys

_CHUNK_BYTES = 1 << 18


def main(path: str, marker: str) -> None:
    """Connect to the agent, print the marker, and copy bytes until the controller or the agent ends the connection.

    Args:
        path: The path of the agent's socket.
        marker: The text to print on a line of its own. The agent's bytes begin after that line.
    """
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    agent.connect(path)
    os.write(1, f"\n{marker}\n".encode())
    pump({0: agent.fileno(), agent.fileno(): 1})


def pump(routes: dict[int, int]) -> None:
    """Copy bytes between descriptors until a read or a write finds that the peer has closed the connection.

    The routes do not wait for each other: if a target accepts no bytes at the moment, only its own route stops.

    Args:
        routes: For each descriptor to read from, the target: the descriptor to which the bytes are written.
    """
    pending = dict.fromkeys(routes.values(), b"")
    for fd in {*routes, *routes.values()}:
        os.set_blocking(fd, False)
    while True:
        readers = [source for source, target in routes.items() if not pending[target]]
        writers = [target for target, data in pending.items() if data]
        readable, writable, _ = select.select(readers, writers, [])
        try:
            for source in readable:
                data = os.read(source, _CHUNK_BYTES)
                if not data:
                    return
                pending[routes[source]] = data
            for target in {*writable, *(routes[source] for source in readable)}:
                try:
                    pending[target] = pending[target][os.write(target, pending[target]) :]
                except BlockingIOError:
                    pass
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
