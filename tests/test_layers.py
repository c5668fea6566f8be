"""The rules for imports in the package, which is called the house here.

The files and folders at the top of the house are its rooms; see ``docs/design.md``. The tests check which rooms a room
may import, what code that travels to hosts may use, and what the core must not use.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import handout

HOUSE = Path(handout.__file__).parent

#: The rooms of the house, lowest first. The set of each room has the rooms, or single modules, that it may import.
ARROWS: dict[str, set[str]] = {
    # Rooms that travel to hosts.
    "protocol": set(),
    "serialization": set(),
    "host": {"protocol", "serialization"},
    "slices": set(),
    "errors": {"serialization"},  # `printable`, because a message may quote a host
    # The failures of tasks, and the events that a run sends to its watchers.
    "failures": {"errors", "serialization"},
    "events": {"errors", "failures"},
    # Hosts, modules and graphs, which the user describes, and the decisions about their tasks.
    "resources": {"errors", "serialization"},
    "project": {"slices", "serialization"},
    "graph": {"errors", "slices", "project", "resources", "serialization"},
    "allocators": {"errors", "resources", "protocol"},
    "scheduler": {"errors", "slices", "resources", "allocators", "protocol"},
    # The other parts of the controller, and the simulator.
    "submission": {
        "errors",
        "slices",
        "resources",
        "project",
        "graph",
        "allocators",
        "scheduler",
        "protocol",
        "serialization",
    },
    "transport": {"errors", "resources", "protocol", "serialization"},
    "journal": {"errors", "slices", "project", "graph", "serialization"},
    "execution": {
        "errors",
        "slices",
        "failures",
        "events",
        "protocol",
        "serialization",
        "host.task_context",  # `evaluate` runs tasks in the caller's process
        "host.thread_frames",
        "host.warm_values",
        "resources",
        "project",
        "graph",
        "allocators",
        "scheduler",
        "submission",
        "transport",
        "journal",
    },
    # A door: a module with the name of the library whose users look for it.
    "joblib": {"errors", "graph", "submission", "execution"},
    # The faults that users plan in their tests.
    "testing": {"errors", "graph", "resources", "serialization", "execution"},
    "sim": {
        "errors",
        "slices",
        "protocol",
        "resources",
        "graph",
        "allocators",
        "scheduler",
        "submission",
        "transport",
        "journal",
        "execution",
    },
}

#: The rooms that travel to hosts.
TRAVELS = ("protocol", "serialization", "host")

#: Modules that the core must not import, because its decisions may depend only on its arguments.
IMPURE = {
    "asyncio",
    "anyio",
    "asyncssh",
    "datetime",
    "logging",
    "os",
    "random",
    "socket",
    "subprocess",
    "threading",
    "time",
}

#: Packages that travel in the same bundle. Modules that travel may import these packages, but only inside functions.
CARRIED = {"dill"}

MODULES = sorted(HOUSE.rglob("*.py"))


def part_of(path: Path) -> str:
    """Return the room of a module: the folder at the top of the house, or the file itself if it lies at the top."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Yield the absolute dotted name and the line of each import, with True if the import is at module level."""
    package = ["handout", *path.relative_to(HOUSE).parts[:-1]]
    tree = parsed(path)
    top_level = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield alias.name, node.lineno, id(node) in top_level
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package[: len(package) - level + 1] if level else []
                stem = ".".join([*base, *([module] if module else [])])
                for alias in names:
                    yield f"{stem}.{alias.name}", node.lineno, id(node) in top_level


def named(path: Path) -> str:
    return str(path.relative_to(HOUSE))


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) != "__init__"], ids=named)
def test_imports_follow_the_arrows(path: Path) -> None:
    mine = part_of(path)
    assert mine in ARROWS, f"{mine} is missing: add it to ARROWS and to docs/design.md"
    for name, line, _ in imports_of(path):
        parts = name.split(".")
        if parts[0] != "handout":
            continue
        where = f"{named(path)}:{line} imports {name}"
        assert len(parts) > 1, f"{where}: import from the module that defines it"
        assert parts[1] in ARROWS, f"{where}: import from the module that defines it"
        allowed = parts[1] == mine or parts[1] in ARROWS[mine] or ".".join(parts[1:3]) in ARROWS[mine]
        assert allowed, f"{where}: {mine} may import only {sorted(ARROWS[mine])}"


def test_the_arrows_have_no_circle() -> None:
    """The table lists the lowest room first, so a room may import only rooms that stand above it in the table."""
    rooms = list(ARROWS)
    for room, below in ARROWS.items():
        for each in below:
            assert rooms.index(each.partition(".")[0]) < rooms.index(room)


@functools.cache
def only_for_checkers(path: Path) -> set[int]:
    """Return the numbers of the lines inside ``if TYPE_CHECKING:``."""
    return {
        line
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
    }


def test_packages_do_not_import_each_other_in_a_ring() -> None:
    """Two rooms must not import each other. Imports inside ``if TYPE_CHECKING:`` do not count."""
    edges = {
        (part_of(path), name.split(".")[1])
        for path in MODULES
        if part_of(path) in ARROWS
        for name, line, _ in imports_of(path)
        if name.startswith("handout.") and name.split(".")[1] in ARROWS and line not in only_for_checkers(path)
    }
    both_ways = {frozenset(edge) for edge in edges if edge[::-1] in edges and edge[0] != edge[1]}
    assert not both_ways


def module_of(path: Path) -> str:
    """Return the dotted name of a module of the house."""
    parts = ["handout", *path.relative_to(HOUSE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """Return the modules of the house that a module imports, also inside ``if TYPE_CHECKING:``."""
    found = set()
    for name, _, _ in imports_of(path):
        module = name if name in known else name.rpartition(".")[0]
        if module in known:
            found.add(module)
    return found - {module_of(path)}


def circles() -> set[frozenset[str]]:
    """Return the groups of modules that import each other, directly or through other modules of the group."""
    known = {module_of(path) for path in MODULES}
    below = {module_of(path): imported_modules(path, known) for path in MODULES}
    reached: dict[str, set[str]] = {}
    for module in below:
        seen: set[str] = set()
        stack = list(below[module])
        while stack:
            if (each := stack.pop()) not in seen:
                seen.add(each)
                stack.extend(below[each])
        reached[module] = seen
    return {
        frozenset(each for each in reached[module] if module in reached[each])
        for module in below
        if module in reached[module]
    }


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    """Imports inside ``if TYPE_CHECKING:`` count as well."""
    assert [sorted(circle) for circle in circles()] == []


TRAVELLING = [p for p in MODULES if part_of(p) in TRAVELS]


def test_only_the_door_of_a_library_imports_the_library() -> None:
    importers = {named(path) for path in MODULES for name, _, _ in imports_of(path) if name.split(".")[0] == "joblib"}
    assert importers == {"joblib.py"}


@pytest.mark.parametrize("path", TRAVELLING, ids=named)
def test_what_travels_uses_the_standard_library_and_itself(path: Path) -> None:
    for name, line, at_top in imports_of(path):
        parts = name.split(".")
        where = f"{named(path)}:{line} imports {name}"
        if parts[0] == "handout":
            assert parts[1] in TRAVELS, f"{where}: that room does not travel to hosts"
        elif parts[0] in CARRIED:
            assert not at_top, f"{where} at module level: import it in the function that needs it"
        else:
            assert parts[0] in sys.stdlib_module_names, f"{where}, which a bare Python does not have"


@pytest.mark.parametrize("path", TRAVELLING, ids=named)
def test_what_travels_is_written_in_python_3_9(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, str(path), feature_version=(3, 9))
    if any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.AnnAssign)) for node in ast.walk(tree)):
        assert "from __future__ import annotations" in source


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) == "scheduler"], ids=named)
def test_the_scheduler_knows_no_clock_and_no_io(path: Path) -> None:
    for name, line, _ in imports_of(path):
        assert name.split(".")[0] not in IMPURE, (
            f"{named(path)}:{line} imports {name}: the core must take such values as arguments"
        )


def test_importing_handout_does_not_import_asyncssh() -> None:
    """The import of asyncssh takes 0.2 s, and a run on this machine never needs it."""
    code = "import sys, handout; print([m for m in ('asyncssh', 'cryptography', 'dill', 'joblib', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
