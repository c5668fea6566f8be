"""Fails unless the type of every public name is known to every checker, as pyright's ``--verifytypes`` sees it.

Pyright counts all modules; what is asked for here is what users touch: the names in ``handout.__all__`` and the
members of those classes. A type that is "partially unknown" only repeats what is reported where it is defined.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import handout


def public() -> dict[str, str]:
    """Where each public class and function is defined, by its public name; aliases of types are left out."""
    names = {}
    for name in handout.__all__:
        thing = getattr(handout, name)
        module, qualified = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
        if isinstance(module, str) and isinstance(qualified, str) and module.startswith("handout"):
            names[f"{module}.{qualified}"] = f"handout.{name}"
    return names


def verified() -> list[dict[str, Any]]:
    """What pyright says of every symbol of the package.

    Raises:
        SystemExit: Pyright did not look at the package.
    """
    command = [sys.executable, "-m", "pyright", "--ignoreexternal", "--outputjson", "--verifytypes", "handout"]
    # Pyright looks for the package where the first `python` on PATH imports from, and finds nothing beside another one.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    if answer.returncode not in (0, 1) or not answer.stdout:
        raise SystemExit(answer.stdout + answer.stderr)
    report = json.loads(answer.stdout)
    symbols: list[dict[str, Any]] = report["typeCompleteness"]["symbols"]
    if not symbols:
        said = "; ".join(found["message"] for found in report["generalDiagnostics"])
        raise SystemExit(f"pyright found no symbol of handout: {said}")
    return symbols


def main() -> None:
    """Print what is not known of public names, with the line to mend."""
    wanted = {*public(), *public().values()}
    total, incomplete = 0, 0
    for symbol in verified():
        name: str = symbol["name"]
        if name not in wanted and name.rpartition(".")[0] not in wanted:
            continue
        total += 1
        causes = [found for found in symbol["diagnostics"] if "partially unknown" not in found["message"]]
        incomplete += bool(causes)
        for found in causes:
            line = found.get("range", {}).get("start", {}).get("line", 0) + 1
            print(f"{name}\n  {found.get('file', '')}:{line}: {found['message']}")
    print(f"{total - incomplete} of {total} public symbols have types that every checker knows")
    if incomplete:
        raise SystemExit(1)
    if total < len(wanted) / 2:
        raise SystemExit("pyright knows less than half of the public names: it looked at another package")


if __name__ == "__main__":
    main()
