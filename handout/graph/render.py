"""Writes a graph as text for Mermaid and Graphviz."""

from __future__ import annotations

from collections.abc import Iterator

from handout.graph.naming import name_of
from handout.graph.nodes import Nodes
from handout.graph.wiring import Wiring
from handout.serialization.calls import path_text
from handout.slices import at_once

__all__ = ["to_dot", "to_mermaid"]


def _edges(wiring: Wiring) -> Iterator[tuple[int, int, str]]:
    """Yield each edge once as (producer, consumer, label).

    The label is the path to the element that the consumer takes, or "" if it takes the whole result.
    """
    for node, refs in enumerate(wiring.refs):
        seen = dict.fromkeys((wiring.node_of(output), path_text(output._path)) for output in map(wiring.base, refs))
        for producer, label in seen:
            yield producer, node, label


def _label(wiring: Wiring, node: int) -> str:
    """Return the id of a node, followed by the function's name if the id was not generated from that name."""
    id_, fn = wiring.id_of(node), wiring.fns[node]
    name = "" if fn is None or node >= wiring.count else name_of(fn)
    generated = id_ == name or id_.removeprefix(name).removeprefix("-").isdecimal()
    return id_ if not name or generated else f"{id_}\n{name}"


def to_mermaid(nodes: Nodes) -> str:
    """Return a Mermaid flowchart. Boxes of values are round. Boxes of inline functions and of dumps are dashed.

    A dump is the function that an `Arg` names as its ``dump``.
    """
    wiring = Wiring(nodes)
    at_once(wiring.scan())
    lines = ["flowchart TD"]
    for node, fn in enumerate(wiring.fns):
        label = _mermaid(_label(wiring, node))
        lines.append(f'    n{node}(["{label}"])' if fn is None else f'    n{node}["{label}"]')
    for producer, node, path in _edges(wiring):
        arrow = f'-- "{_mermaid(path)}" -->' if path else "-->"
        lines.append(f"    n{producer} {arrow} n{node}")
    dashed = _dashed(wiring)
    if dashed:
        lines.append("    classDef inside stroke-dasharray: 4 3")
        lines.append(f"    class {','.join(f'n{node}' for node in dashed)} inside")
    return "\n".join(lines) + "\n"


def _mermaid(text: str) -> str:
    # The hash sign is replaced first, because the escapes of the other signs contain a hash sign.
    for sign, escape in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;"), ("\n", "<br/>")):
        text = text.replace(sign, escape)
    return text


def to_dot(nodes: Nodes) -> str:
    """Return a Graphviz digraph. Round and dashed boxes mean the same as in `to_mermaid`."""
    wiring = Wiring(nodes)
    at_once(wiring.scan())
    dashed = set(_dashed(wiring))
    lines = ["digraph {", "    node [shape=box]"]
    for node, fn in enumerate(wiring.fns):
        style = ", shape=oval" if fn is None else ", style=dashed" if node in dashed else ""
        lines.append(f"    n{node} [label={_dot(_label(wiring, node))}{style}]")
    for producer, node, path in _edges(wiring):
        lines.append(f"    n{producer} -> n{node}" + (f" [label={_dot(path)}]" if path else ""))
    return "\n".join([*lines, "}"]) + "\n"


def _dot(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _dashed(wiring: Wiring) -> list[int]:
    return [node for node in range(len(wiring.fns)) if node in wiring.inline or node >= wiring.count]
