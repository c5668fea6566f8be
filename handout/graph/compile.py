"""Compiles a graph to a `Plan`, and finds mistakes in the graph before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from handout.errors import GraphError
from handout.graph.arg import Arg
from handout.graph.collocate import collocate
from handout.graph.function_options import PLAIN
from handout.graph.given_values import GivenValues, Replacements
from handout.graph.nodes import Nodes
from handout.graph.objects import ObjectNumbers
from handout.graph.output import Input, Output
from handout.graph.plan import Plan
from handout.graph.signature import Signatures
from handout.graph.warm import Warm, check_event_loop
from handout.graph.wiring import Wiring
from handout.serialization.user_objects import brief, is_coroutine_function
from handout.slices import Slices, column, empty, is_slice_end

__all__ = ["GivenValues", "Outs", "compile_nodes"]

Outs = Iterable[Output[Any]] | None
"""Outputs that the caller wants. None: all results that no function of the graph takes."""

_NO_KWARGS: dict[str, Any] = {}


def compile_nodes(
    nodes: Nodes, signatures: Signatures, *, outputs: Outs, given: GivenValues | None, keep: Outs = None
) -> Slices[Plan]:
    """Return the plan of one run; see `Graph.compile`."""
    wiring = Wiring(nodes)
    yield from wiring.scan()
    yield from _check_calls(wiring, signatures)
    order = yield from wiring.order()
    consumed = yield from _consumed(wiring)
    _check_inline(wiring, consumed)
    replaced = yield from Replacements.of(wiring, given)
    kept = yield from _listed(wiring, () if keep is None else keep, "keep")
    wanted = yield from (_sinks(wiring, consumed, kept) if outputs is None else _listed(wiring, outputs, "outputs"))
    yield from replaced.check_elements(wiring, [*wanted, *kept])
    everything = outputs is None and not replaced
    needed = None if everything else (yield from _needed(wiring, order, replaced, [*wanted, *kept]))
    task_nodes, task_of = yield from _tasks(wiring, order, needed, replaced)
    objects = ObjectNumbers(wiring, replaced, task_of, len(task_nodes))
    inputs = yield from _inputs(wiring, order, needed, task_of, objects)
    wanted_numbers = yield from _numbers(objects, wanted, "outputs")
    kept_numbers = yield from _numbers(objects, kept, "keep")
    ids = yield from _ids(wiring, task_nodes)
    # A dump node has no entry in ``nodes.options`` and ``nodes.kwargs``, unless the graph has got a node with the same
    # number since the wiring was made.
    count, options_of, kwargs_of = wiring.count, nodes.options, nodes.kwargs
    options = yield from column(lambda node: options_of.get(node, PLAIN) if node < count else PLAIN, task_nodes)
    kwargs = yield from column(lambda node: kwargs_of.get(node, _NO_KWARGS) if node < count else _NO_KWARGS, task_nodes)
    groups = yield from collocate(wiring, task_of, options, ids)
    fns = yield from column(wiring.function, task_nodes)
    args = yield from column(wiring.args.__getitem__, task_nodes)
    # These lists take much memory in a large graph, and no later code reads them.
    yield from empty(wiring.refs)
    yield from empty(wanted)
    return Plan(
        ids=ids,
        fns=fns,
        args=args,
        kwargs=kwargs,
        options=options,
        inputs=inputs,
        groups=groups,
        extras=objects.extras,
        outputs=wanted_numbers,
        keep=_made(objects, kept, kept_numbers),
        objects=objects,
        wiring=wiring,
    )


def _tasks(
    wiring: Wiring, order: Sequence[int], needed: bytearray | None, replaced: Replacements
) -> Slices[tuple[list[int], list[int]]]:
    """Return the node of each task, and the task of each node. A node without a task has -1."""
    fns, inline = wiring.fns, wiring.inline
    task_nodes: list[int] = []
    task_of = [-1] * len(fns)
    for place, node in enumerate(order):
        if is_slice_end(place):
            yield
        if (
            fns[node] is not None
            and (needed is None or needed[node])
            and node not in inline
            and not (replaced and replaced.find(node, ()) is not None)
        ):
            task_of[node] = len(task_nodes)
            task_nodes.append(node)
    return task_nodes, task_of


def _ids(wiring: Wiring, task_nodes: list[int]) -> Slices[list[str]]:
    nodes, count = wiring.nodes, wiring.count
    yield from nodes.names.extend_in_slices(nodes.fns, count)
    known = nodes.names.ids
    return (yield from column(lambda node: known[node] if node < count else wiring.id_of(node), task_nodes))


def _check_calls(wiring: Wiring, signatures: Signatures) -> Slices[None]:
    """Raise `GraphError` if a conversion of an `Arg` cannot be called with one argument, or a `Warm` needs a coroutine.

    The calls of the graph's own functions were checked when they were added.
    """
    for node, refs in enumerate(wiring.refs):
        if is_slice_end(node):
            yield
        if node in wiring.dumped:
            signatures.check(wiring.function(node), 1, (), wiring.id_of(node))
        for ref in refs:
            if type(ref) is Output:
                continue
            if isinstance(ref, Arg):
                _check_load(wiring, node, ref, signatures)
                ref = _source_of(ref)
            if isinstance(ref, Warm) and node not in wiring.warm:
                check_event_loop(ref, wiring.function(node), wiring.id_of(node))


def _source_of(arg: Arg[Any]) -> Input[Any]:
    """Return the output or the `Warm` that an `Arg` converts."""
    found: Input[Any] = arg
    while isinstance(found, Arg):
        found = found.producer
    return found


def _check_load(wiring: Wiring, node: int, arg: Arg[Any], signatures: Signatures) -> None:
    if arg.load is not None:
        signatures.check(arg.load, 1, (), f"{wiring.id_of(node)} (load of its Arg)")
    for name, convert in (("load", arg.load), ("dump", arg.dump)):
        inside = name == "load" or wiring.dump_output(arg) is None
        if convert is not None and inside and is_coroutine_function(convert):
            raise GraphError(
                f"{name} of an Arg of function {wiring.id_of(node)!r} is a coroutine function.",
                remedy="Write it with def instead of async def, because it runs while the arguments are unpacked.",
            )


def _consumed(wiring: Wiring) -> Slices[bytearray]:
    """Return an array with one entry for each node: 1 if a function takes the node's result, 0 if none does."""
    consumed = bytearray(len(wiring.fns))
    producers = wiring.producers
    for node, refs in enumerate(wiring.refs):
        if is_slice_end(node):
            yield
        if refs:
            for producer in producers(node):
                consumed[producer] = 1
    return consumed


def _check_inline(wiring: Wiring, consumed: bytearray) -> None:
    for node in sorted(wiring.inline):
        if not consumed[node]:
            raise GraphError(
                f"function {wiring.id_of(node)!r} is inline, but no function takes its result.",
                remedy="Leave out inline=True, because an inline function runs only inside functions that take its "
                "result.",
            )
        if node not in wiring.warm and is_coroutine_function(wiring.fns[node]):
            raise GraphError(
                f"function {wiring.id_of(node)!r} is inline, but it is a coroutine function.",
                remedy="Leave out inline=True, or write the function with def instead of async def.",
            )


def _sinks(wiring: Wiring, consumed: bytearray, kept: list[Output[Any]]) -> Slices[list[Output[Any]]]:
    """Return the default of ``outputs``: the results that no function of the graph takes, and that are not kept."""
    stay = {wiring.node_of(output) for output in kept}
    found: list[Output[Any]] = []
    for node in range(wiring.count):
        if is_slice_end(node):
            yield
        if not consumed[node] and wiring.fns[node] is not None and node not in stay:
            found.append(Output(wiring.nodes, node))
    return found


def _listed(wiring: Wiring, outputs: Any, option: str) -> Slices[list[Output[Any]]]:
    if isinstance(outputs, Input | str):
        raise GraphError(f"{option}={brief(outputs)} is not a list.", remedy=f"Write {option}=[...].")
    found: list[Output[Any]] = []
    for each in outputs:
        if is_slice_end(len(found)):
            yield
        output = each
        if isinstance(each, str):
            node = wiring.nodes.find(each)
            if node is None:
                remedy = wiring.nodes.did_you_mean(each)
                raise GraphError(f"{option}= names {each!r}, which does not exist.", remedy=remedy)
            output = Output(wiring.nodes, node)
        if not isinstance(output, Output):
            remedy = "Give outputs of this graph."
            if isinstance(each, list | tuple):
                remedy = f"For a list of outputs, write {option}=parts, or {option}=[*parts, other]."
            raise GraphError(f"{option}= holds {brief(each)}, which is not an output.", remedy=remedy)
        wiring.node_of(output)  # raises `GraphError` if the output belongs to another graph
        found.append(output)
    return found


def _made(objects: ObjectNumbers, kept: list[Output[Any]], numbers: list[int]) -> list[int]:
    """Check that functions of this run make all outputs that stay on hosts."""
    for output, number in zip(kept, numbers, strict=False):
        if not objects.is_made(number):
            raise GraphError(
                f"keep= holds {output.id!r}, which is a value, and which no function of this run makes.",
                remedy="To keep a value on hosts, write `await cluster.put(value)`.",
            )
    return numbers


def _numbers(objects: ObjectNumbers, outputs: list[Output[Any]], option: str) -> Slices[list[int]]:
    numbers: dict[int, None] = {}
    for place, output in enumerate(outputs):
        if is_slice_end(place):
            yield
        number = objects.number(output)
        if number is None:
            raise GraphError(
                f"{option}= holds {output.id!r}, which is inline, so it exists only inside the functions that take it.",
                remedy="Leave out inline=True.",
            )
        numbers[number] = None
    return list(numbers)


def _needed(
    wiring: Wiring, order: Sequence[int], replaced: Replacements, roots: list[Output[Any]]
) -> Slices[bytearray]:
    """Return an array with one entry for each node: 1 if this run needs the node's result, 0 if not.

    The run needs a result if a wanted output names the result or an element of it, or if a node whose own result is
    needed takes one of these. An output for which the caller gave a value makes no result needed.
    """
    needed = bytearray(len(wiring.fns))
    for place, output in enumerate(roots):
        if is_slice_end(place):
            yield
        node = wiring.node_of(output)
        needed[node] = replaced.find(node, output._path) is None
    for place, node in enumerate(reversed(order)):
        if is_slice_end(place):
            yield
        if needed[node]:
            for seen, ref in enumerate(wiring.refs[node]):
                if is_slice_end(seen):
                    yield
                output = wiring.base(ref)
                producer = wiring.node_of(output)
                if replaced.find(producer, output._path) is None:
                    needed[producer] = 1
    return needed


def _inputs(
    wiring: Wiring,
    order: Sequence[int],
    needed: bytearray | None,
    task_of: list[int],
    objects: ObjectNumbers,
) -> Slices[list[tuple[int, ...]]]:
    """Return one tuple for each task, with the numbers of the objects that the task takes.

    These include the objects that the task takes through the inline functions that it calls.
    """
    columns: list[tuple[int, ...]] = []
    inlined: dict[int, tuple[int, ...]] = {}
    number, inline, base = objects.number, wiring.inline, wiring.base
    for place, node in enumerate(order):
        if is_slice_end(place):
            yield
        if (needed is not None and not needed[node]) or (task_of[node] < 0 and node not in inline):
            continue
        mine: dict[int, None] = {}
        for seen, ref in enumerate(wiring.refs[node]):
            if is_slice_end(seen):
                yield
            output = ref if isinstance(ref, Output) else base(ref)
            found = number(output)
            if found is None:
                mine.update(dict.fromkeys(inlined[wiring.node_of(output)]))
            else:
                mine[found] = None
        if node in wiring.warm:
            inlined[node] = objects.add_recipe(node, list(mine)), *mine
        elif task_of[node] < 0:
            inlined[node] = tuple(mine)
        else:
            columns.append(tuple(mine))
    return columns
