"""Values, calls and exceptions as bytes and back: what both ends of a link agree on.

The front of the folder's serialization: `pickling` (values and code), `byvalue` (functions and classes that no
import finds), `calls`, `raised` (exceptions) and `culprit` (what cannot travel, and where it is). Standard
library only, Python 3.9 or newer.
"""

from __future__ import annotations

from .byvalue import PYTHON, PythonMismatchError, importable_name, main_name, names_in
from .calls import PLAIN, Inline, Loaded, Path, Slot, Taken, apply_path, dumps_call, load_call
from .classcopy import adopt, own_classes
from .culprit import UnserializableError, dumps_or_name, find
from .pickling import LoadError, Segment, Snapshot, dumps, loads, warm
from .raised import dump_exception, load_exception, message, traceback_text, type_name

__all__ = [
    "PLAIN",
    "PYTHON",
    "Inline",
    "LoadError",
    "Loaded",
    "Path",
    "PythonMismatchError",
    "Segment",
    "Slot",
    "Snapshot",
    "Taken",
    "UnserializableError",
    "adopt",
    "apply_path",
    "dump_exception",
    "dumps",
    "dumps_call",
    "dumps_or_name",
    "find",
    "importable_name",
    "load_call",
    "load_exception",
    "loads",
    "main_name",
    "message",
    "names_in",
    "own_classes",
    "traceback_text",
    "type_name",
    "warm",
]
