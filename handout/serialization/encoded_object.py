"""The bytes of an encoded object, and how a process reads them.

Large buffers, such as the contents of arrays, are kept out of the pickle. They are called out-of-band buffers. Without
them, an encoded object is a plain pickle. With them, an encoded object consists of these parts::

    "HBUF" | u32 number of buffers | u64 length of the pickle | u64 length of each buffer | pickle | buffers

Within the object, each buffer begins at a multiple of 64 bytes.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import Any, Union

__all__ = ["ALIGN", "LoadError", "Segment", "lay_out", "loads", "split"]

Segment = Union[bytes, bytearray, memoryview]

ALIGN = 64
_MAGIC = b"HBUF"
_HEAD = struct.Struct("<4sIQ")
#: The most bytes that are read or copied at once. The interpreter lets no other thread run meanwhile. Without this
#: limit, the controller would hear no host, and a worker would run no coroutine, while a thread reads a large value.
_PIECE = 1 << 20


class LoadError(Exception):
    """Bytes could not be turned into a value. The message says why."""


def lay_out(pickled: Sequence[Segment], buffers: Sequence[memoryview]) -> list[Segment]:
    """Return an encoded object with out-of-band buffers, as segments.

    Args:
        pickled: The segments of the pickle.
        buffers: The out-of-band buffers.
    """
    nbytes = sum(len(segment) for segment in pickled)
    head = _HEAD.pack(_MAGIC, len(buffers), nbytes) + struct.pack(f"<{len(buffers)}Q", *(b.nbytes for b in buffers))
    out: list[Segment] = [head, *pickled]
    end = len(head) + nbytes
    for buffer in buffers:
        out.append(bytes(-end % ALIGN))
        out.append(buffer)
        end += -end % ALIGN + buffer.nbytes
    return [segment for segment in out if len(segment)]


def loads(data: Segment) -> Any:
    """Return the value that `pickling.dumps` encoded.

    If `data` is writable, such as a private mapping, the buffers of the value are views of `data`. If `data` is
    read-only, the buffers are copies, because the caller may write to the value.

    Raises:
        LoadError: `data` ends before the end of the encoded object.
        Exception: Unpickling raised it.
    """
    stream, buffers = split(data)
    if stream.nbytes <= _PIECE:
        return pickle.loads(stream, buffers=buffers)
    return pickle.Unpickler(_Pieces(stream), buffers=buffers).load()


class _Pieces:
    """Takes the place of an unpickler's file. The unpickler reads 64 KiB at a time, which are a frame of the pickle.

    The methods are code of Python, so that other threads get a turn at each call. `pickle.loads` gives them none.
    """

    __slots__ = ("_rest",)

    def __init__(self, stream: memoryview) -> None:
        self._rest = stream

    def read(self, nbytes: int) -> bytes:
        data, self._rest = self._rest[:nbytes], self._rest[nbytes:]
        return bytes(data)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        data, self._rest = self._rest[: view.nbytes], self._rest[view.nbytes :]
        for at in range(0, data.nbytes, _PIECE):
            view[at : at + _PIECE][: data.nbytes - at] = data[at : at + _PIECE]
        return data.nbytes

    def readline(self) -> bytes:
        line = bytearray()
        while self._rest and not line.endswith(b"\n"):
            line += self.read(1)
        return bytes(line)


def _copied(part: memoryview) -> bytearray:
    """Return a copy. If it is large, other threads get a turn in between."""
    copy = bytearray()
    for at in range(0, part.nbytes, _PIECE):
        copy += part[at : at + _PIECE]
    return copy


def split(data: Segment) -> tuple[memoryview, list[Any]]:
    """Return the pickle stream of an encoded object, and its buffers.

    Raises:
        LoadError: `data` ends before the end of the encoded object.
    """
    view = memoryview(data)
    buffers: list[Any] = []
    if view[:4] != _MAGIC:
        return view, buffers
    try:
        _, count, nbytes = _HEAD.unpack_from(view)
        lengths = struct.unpack_from(f"<{count}Q", view, _HEAD.size)
    except struct.error as error:
        raise LoadError(f"the object of {view.nbytes} bytes ends within its header: {error}") from None
    end = _HEAD.size + 8 * count + nbytes
    stream = view[end - nbytes : end]
    for length in lengths:
        end += -end % ALIGN
        part = view[end : end + length]
        if part.nbytes != length:
            raise LoadError(f"the object of {view.nbytes} bytes ends {length - part.nbytes} bytes early")
        buffers.append(_copied(part) if part.readonly else part)
        end += length
    return stream, buffers
