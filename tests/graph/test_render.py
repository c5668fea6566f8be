"""A graph is written as Mermaid or DOT text, which other programs draw."""

from __future__ import annotations

from handout.graph import Arg, Graph


def load(path: str) -> dict[str, int]:
    return {}


def train(*parts: object) -> int:
    return 0


def drawn() -> Graph:
    graph = Graph()
    raw = graph.add(load, "x")
    seed = graph.value(1, id='a "seed" #1')
    inner = graph.add(train, raw["k"], raw["k"], inline=True)
    graph.add(train, inner, seed, raw, Arg(raw, dump=len), id="final")
    return graph


def test_mermaid() -> None:
    assert (
        drawn().to_mermaid()
        == """\
flowchart TD
    n0["load"]
    n1(["a #quot;seed#quot; #35;1"])
    n2["train"]
    n3["final<br/>train"]
    n4["len(load)"]
    n0 -- "['k']" --> n2
    n2 --> n3
    n1 --> n3
    n0 --> n3
    n4 --> n3
    n0 --> n4
    classDef inside stroke-dasharray: 4 3
    class n2,n4 inside
"""
    )


def test_dot() -> None:
    assert (
        drawn().to_dot()
        == """\
digraph {
    node [shape=box]
    n0 [label="load"]
    n1 [label="a \\"seed\\" #1", shape=oval]
    n2 [label="train", style=dashed]
    n3 [label="final\\ntrain"]
    n4 [label="len(load)", style=dashed]
    n0 -> n2 [label="['k']"]
    n2 -> n3
    n1 -> n3
    n0 -> n3
    n4 -> n3
    n0 -> n4
}
"""
    )


def test_an_empty_graph_is_drawn() -> None:
    assert Graph().to_mermaid() == "flowchart TD\n"
