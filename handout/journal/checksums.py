"""Computes the checksums by which a journal notices that a row or an object is not as it was written.

SQLite has checksums only in its write-ahead log. Without the checksums here, a bit that flips on the disk would become
a part of a result.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

__all__ = ["Segments", "new_digest", "of_data", "of_object", "of_row"]

#: The bytes of one object, in pieces.
Segments = Sequence[bytes | bytearray | memoryview]


def new_digest() -> hashlib.blake2b:
    """Return the digest of a large object that has no bytes yet. The caller adds the bytes with ``update``."""
    return hashlib.blake2b(digest_size=20)


def of_object(segments: Segments) -> str:
    """Return the digest of a large object, in hexadecimal."""
    made = new_digest()
    for segment in segments:
        made.update(segment)
    return made.hexdigest()


def of_data(data: bytes) -> int:
    """Return the checksum of a small object.

    A CRC notices every flipped bit. It costs a tenth of a digest, and a run may commit millions of small objects.
    """
    return zlib.crc32(data)


def of_row(values: Sequence[Any]) -> bytes:
    """Return the checksum of a row. Each value is an int, a str, bytes or None."""
    made = hashlib.blake2b(digest_size=8)
    for value in values:
        data = value if type(value) is bytes else repr(value).encode("utf-8", "surrogatepass")
        made.update(f"{type(value).__name__}{len(data)}:".encode())
        made.update(data)
    return made.digest()
