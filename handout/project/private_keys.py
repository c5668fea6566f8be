"""Recognizes private keys among the files of a project.

Private keys do not travel, because a host with ``trust="data"`` gets the project's files as well.
"""

from __future__ import annotations

import re

__all__ = ["is_private_key"]

#: What stands in each text that has a private key, for the programs that read the key. A page that only names these
#: marks, as that of Handout about modules does, is no key.
_PRIVATE_KEY = re.compile(rb"----[- ]BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File-\d+:|AGE-SECRET-KEY-1")
#: A private key is searched for in this many bytes at the beginning of a file.
_SEARCHED = 64 << 10
#: The names of files that hold keys, private or public, or certificates. Such a file counts as a private key if it is
#: no text, or if it is only one long word, such as a key of WireGuard or Fernet, or the master key of Rails.
_KEYS = re.compile(r"id_(rsa|dsa|ecdsa|ed25519)(_sk)?|.*\.(pem|key)")
#: Bytes that no text has. The binary form of a key (DER) has them in the tags of its numbers.
_NO_TEXT = re.compile(rb"[\0-\6]")
_ONE_WORD = re.compile(rb"\s*\S{24,}\s*")
#: The ends of the names of files that store keys and passwords in other forms than text.
_STORES = (".p12", ".pfx", ".jks", ".keystore", ".kdbx")


def is_private_key(name: str, data: bytes) -> bool:
    """Return True if a file has a private key in its contents, or is a store of keys by its name.

    Args:
        name: The name of the file, without its folder.
        data: The contents of the file.
    """
    name = name.lower()
    is_named_as_key = _KEYS.fullmatch(name) is not None
    # A *.pem file may have its key behind any number of certificates.
    searched = data if is_named_as_key else data[:_SEARCHED]
    if name.endswith(_STORES) or _PRIVATE_KEY.search(searched):
        return True
    return is_named_as_key and (_NO_TEXT.search(data) or _ONE_WORD.fullmatch(data)) is not None
