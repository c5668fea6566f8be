"""Copies bytes between standard input and output and the agent's socket, for SSH servers that forbid forwarding."""

from __future__ import annotations

import os
import select
import socket
import sys

_CHUNK_BYTES = 1 << 18


def main(path: str, marker: str) -> None:
    """Connect to the agent, print the marker, and copy bytes until either side ends.

    Args:
        path: The agent's socket.
        marker: Printed on a line of its own. The agent's bytes begin after it.
    """
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    agent.connect(path)
    os.write(1, f"\n{marker}\n".encode())
    pump({0: agent.fileno(), agent.fileno(): 1})


def pump(routes: dict[int, int]) -> None:
    """Copy bytes from each key to its value until one descriptor ends.

    Each direction has a buffer of its own, so that a side that does not read stops one direction only.

    Args:
        routes: Descriptor to write to, by descriptor to read from.
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
