"""The walls of the house: which room may import which, what the agent may use, and what the core may not know."""

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

#: The rooms of the house, lowest first, and for each the rooms (or single modules) that it may import.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    # Travel to hosts.
    "protocol": set(),
    "serialization": set(),
    "host": {"protocol", "serialization"},
    # What went wrong with a task, and what a run tells its watchers.
    "failures": {"errors", "serialization"},
    "events": {"errors", "failures"},
    # What the user builds, and decisions about it.
    "resources": {"errors"},
    "graph": {"errors", "resources", "serialization"},
    "allocators": {"errors", "resources", "protocol"},
    "scheduler": {"errors", "resources", "allocators", "protocol"},
    # The controller's own work.
    "submission": {"errors", "resources", "graph", "allocators", "scheduler", "protocol", "serialization"},
    "transport": {"errors", "resources", "protocol", "serialization"},
    "journal": {"errors", "graph", "serialization", "submission"},
    "execution": {
        "errors",
        "failures",
        "events",
        "protocol",
        "serialization",
        "host.task_context",  # `evaluate` runs tasks in the caller's process
        "resources",
        "graph",
        "allocators",
        "scheduler",
        "submission",
        "transport",
        "journal",
    },
    "sim": {
        "errors",
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

#: The rooms that travel.
TRAVELS = ("protocol", "serialization", "host")

#: What a decision must not depend on.
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

#: Travels in the bundle beside them, so its modules may import it, at call time only.
CARRIED = {"dill"}

MODULES = sorted(HOUSE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The folder (or the file, for one that stands alone) of the house that a module belongs to."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Every import of a module as (absolute dotted name, line, whether at module level)."""
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
    assert mine in ARROWS, f"{mine} has no arrows: give it some here and in docs/design.md"
    for name, line, _ in imports_of(path):
        parts = name.split(".")
        if parts[0] != "handout":
            continue
        where = f"{named(path)}:{line} imports {name}"
        assert len(parts) > 1, f"{where}: import from the module that defines it"
        assert parts[1] in ARROWS, f"{where}: import from the module that defines it"
        allowed = parts[1] == mine or parts[1] in ARROWS[mine] or ".".join(parts[1:3]) in ARROWS[mine]
        assert allowed, f"{where}: {mine} may import {sorted(ARROWS[mine])}"


def test_the_arrows_have_no_circle() -> None:
    """The table lists the lowest room first, so each arrow points up the page."""
    rooms = list(ARROWS)
    for room, below in ARROWS.items():
        for each in below:
            assert rooms.index(each.partition(".")[0]) < rooms.index(room)


@functools.cache
def only_for_checkers(path: Path) -> set[int]:
    """The lines below ``if TYPE_CHECKING:``."""
    return {
        line
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
    }


def test_packages_do_not_import_each_other_in_a_ring() -> None:
    """Two folders of one storey may know each other in one direction only; names in annotations do not count."""
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
    """The dotted name of a module of the house."""
    parts = ["handout", *path.relative_to(HOUSE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """The modules of the house that a module names in its imports, also below ``if TYPE_CHECKING:``."""
    found = set()
    for name, _, _ in imports_of(path):
        module = name if name in known else name.rpartition(".")[0]
        if module in known:
            found.add(module)
    return found - {module_of(path)}


def circles() -> set[frozenset[str]]:
    """The groups of modules that import each other, directly or by way of others of the group."""
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
    """Names that are imported for annotations only count, too."""
    assert [sorted(circle) for circle in circles()] == []


TRAVELLING = [p for p in MODULES if part_of(p) in TRAVELS]


@pytest.mark.parametrize("path", TRAVELLING, ids=named)
def test_what_travels_uses_the_standard_library_and_itself(path: Path) -> None:
    for name, line, at_top in imports_of(path):
        parts = name.split(".")
        where = f"{named(path)}:{line} imports {name}"
        if parts[0] == "handout":
            assert parts[1] in TRAVELS, f"{where}: the rest of the house does not travel"
        elif parts[0] in CARRIED:
            assert not at_top, f"{where} at the top: it is bundled, but must cost nothing until it is needed"
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
            f"{named(path)}:{line} imports {name}: a decision takes it as an argument"
        )


def test_importing_handout_does_not_import_asyncssh() -> None:
    """It costs 0.2 s, and a run on this machine never needs it."""
    code = "import sys, handout; print([m for m in ('asyncssh', 'cryptography', 'dill', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
