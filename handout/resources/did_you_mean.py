"""Finds the known name that is most similar to a mistyped name, and suggests it in the remedy of an error."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Final

__all__ = ["nearest_name", "suggestion"]

#: Largest number of known names that are compared with the mistyped name. The number is limited because difflib takes
#: microseconds for each name, and a graph may have a million ids.
_COMPARED: Final = 10_000
#: A name with a similar spelling is suggested only if `difflib.SequenceMatcher.ratio`, from 0 to 1, is at least this.
_SIMILAR: Final = 0.7
#: Largest number of names that a remedy lists.
_LISTED: Final = 8
#: Names from other tools, each with the name that Handout uses for the same thing.
_ALIASES: Final = {
    "cpus": "cpu",
    "cores": "cpu",
    "ncpus": "cpu",
    "num_cpus": "cpu",
    "mem": "memory",
    "ram": "memory",
    "gpus": "gpu",
    "num_gpus": "gpu",
    "vram": "gpu_memory",
    "gpu_mem": "gpu_memory",
    "python_version": "python",
    "retry": "retries",
    "max_retries": "retries",
    "hosts": "inventory",
    "nodes": "inventory",
    "max_workers": "max_concurrency",
    "num_workers": "max_concurrency",
    "n_jobs": "max_concurrency",
    "user": "username",
    "login": "username",
    "hostname": "address",
    "identity_file": "client_keys",
    "identityfile": "client_keys",
    "key_filename": "client_keys",
    "key_file": "client_keys",
}


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most similar to ``name``, or "" if none is similar.

    A name that differs only in case, or in hyphens, spaces and underscores, comes first. The name that `_ALIASES` gives
    comes next, and a name with a similar spelling comes last.
    """
    choices = sorted(set(islice(known, _COMPARED)) - {name})
    shape = _shape(name)
    shapes: dict[str, str] = {}
    for choice in choices:
        shapes.setdefault(_shape(choice), choice)
    if shape in shapes:
        return shapes[shape]
    if (alias := _ALIASES.get(shape, "")) in choices:
        return alias
    close = get_close_matches(shape, shapes, n=1, cutoff=_SIMILAR)
    return shapes[close[0]] if close else ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a sentence for an error about an unknown name. It suggests a similar known name, or lists known names."""
    names = sorted(islice(known, _COMPARED))
    if nearest := nearest_name(name, names):
        return f"Did you mean {nearest!r}?"
    if not names:
        return "There are no names to choose from."
    more = "" if len(names) <= _LISTED else f" and {len(names) - _LISTED} more"
    return f"Known names are: {', '.join(names[:_LISTED])}{more}."


def _shape(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")
