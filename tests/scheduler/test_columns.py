"""Only `scheduler.state` writes the columns of runs and host records; other modules call its methods."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from handout.scheduler import core
from handout.scheduler.state.allocator_requests import AllocatorRequests
from handout.scheduler.state.durations import Durations
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.object_table import ObjectTable
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.stragglers import Stragglers

ROOM = Path(core.__file__).parent
MODULES = sorted(path for path in ROOM.rglob("*.py") if path.parent.name != "state")

RECORDS = (AllocatorRequests, Durations, HostRecord, ObjectTable, ReadyQueue, Run, Stragglers)
COLUMNS = {name for record in RECORDS for name in record.__slots__}
#: Methods that change a list, a set, a dict or a deque.
CHANGES = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft"),
    *("remove", "reverse", "rotate", "setdefault", "sort", "update", "difference_update", "intersection_update"),
}
HEAP_CHANGES = {"heapify", "heappop", "heappush", "heapreplace"}


def is_column(node: ast.AST, aliases: set[str]) -> bool:
    """Return True if an expression is a column of a record, or a local name for a column."""
    match node:
        case ast.Name(id=name):
            return name in aliases
        case ast.Attribute(value=ast.Name(id="self" | "world")):
            return False  # an attribute of a class in the module, or a set of the world
        case ast.Attribute(attr=attr):
            return attr in COLUMNS
    return False


def aliases_in(tree: ast.AST) -> set[str]:
    """Return local names for columns, such as ``state`` after ``state = run.state`` or ``a, state = 1, run.state``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                found |= {left.id for left, right in pairs if isinstance(left, ast.Name) and is_column(right, set())}
    return found


def writes_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield each statement that writes a column, as the number of its line and its text."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        aliases = aliases_in(function)
        for node in ast.walk(function):
            match node:
                case ast.Attribute(ctx=ast.Store() | ast.Del()) if is_column(node, set()):
                    yield node.lineno, ast.unparse(node)
                case ast.Subscript(ctx=ast.Store() | ast.Del(), value=value) if is_column(value, aliases):
                    yield node.lineno, ast.unparse(node)
                case ast.AugAssign(target=ast.Name() as target) if is_column(target, aliases):
                    yield node.lineno, ast.unparse(node)
                case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in CHANGES:
                    if is_column(value, aliases):
                        yield node.lineno, ast.unparse(node)
                case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in HEAP_CHANGES:
                    if is_column(first, aliases):
                        yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOM)))
def test_no_module_outside_state_writes_a_column(path: Path) -> None:
    found = [f"{path.name}:{line} {text}" for line, text in writes_in(ast.parse(path.read_text(encoding="utf-8")))]
    assert not found, "give the record a method in scheduler/state/ and call that"


@pytest.mark.parametrize(
    "statement",
    [
        "run.state[t] = 4",
        "run.active += 1",
        "del run.objects.copying[o, 0]",
        "run.started[t] = 1.0",
        "host.ahead.popleft()",
        "state = run.state; state[t] = 4",
        "a, state = 1, run.state; state[t] = 4",
        "heappush(queue.heap, 1)",
    ],
)
def test_a_write_is_noticed(statement: str) -> None:
    assert list(writes_in(ast.parse(f"def f(run, host, queue, t, o):\n    {statement}")))
