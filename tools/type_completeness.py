"""Fail unless all public names have complete types. Pyright's ``--verifytypes`` finds the types that are incomplete.

Pyright reports on all modules. This tool looks only at the names that users see: those in ``handout.__all__``, and the
members of those classes. It skips a report that a type is "partially unknown", because pyright also reports the cause
where the type is defined.
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
    """Return the public name of each public class and function, by the full name of the definition.

    Aliases of types are left out, because they have no such full name.
    """
    names = {}
    for name in handout.__all__:
        thing = getattr(handout, name)
        module, qualified = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
        if isinstance(module, str) and isinstance(qualified, str) and module.startswith("handout"):
            names[f"{module}.{qualified}"] = f"handout.{name}"
    return names


def verified() -> list[dict[str, Any]]:
    """Return pyright's report on each symbol of the package.

    Raises:
        SystemExit: Pyright failed, or did not find the package.
    """
    command = [sys.executable, "-m", "pyright", "--ignoreexternal", "--outputjson", "--verifytypes", "handout"]
    # Pyright asks the first `python` on PATH where packages are. So the folder of this interpreter comes first on PATH.
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
    """Print each public name whose type is not fully known, with the line to fix.

    Raises:
        SystemExit: A type is not fully known, or pyright looked at another package.
    """
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
        raise SystemExit(
            "pyright reported on less than half of the public names, so it looked at another package named handout. "
            "Install this checkout into the environment of this Python."
        )


if __name__ == "__main__":
    main()
