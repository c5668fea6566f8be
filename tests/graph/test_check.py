"""`Graph.check` compares the costs of functions with the capabilities that hosts declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from handout.errors import GraphError, PlacementError
from handout.graph import Graph
from handout.resources import Host, Inventory, LiveHost


def test_what_no_host_can_cover_is_refused(graph: Graph) -> None:
    graph.add(len, "abc", cost={"memory": "64 GB"}, id="big")
    graph.check([Host("a", capabilities={"memory": "4 GB"}), Host("b", capabilities={"memory": "65 GB"})])
    with pytest.raises(PlacementError, match=r"'big' cannot be placed.*memory"):
        graph.check([Host("a", capabilities={"memory": "4 GB"})])


def test_what_is_probed_on_the_host_is_not_missing(graph: Graph) -> None:
    graph.add(len, "abc", cost={"memory": "64 GB", "gpu": 2})
    graph.check()
    graph.check(["a", "user@b:22"])


def test_a_name_of_the_users_own_must_be_declared(graph: Graph) -> None:
    graph.add(len, "abc", cost={"camera": True})
    with pytest.raises(PlacementError, match="camera"):
        graph.check([Host("a")])


def test_a_tracker_may_still_tell(graph: Graph) -> None:
    async def tracker(host: LiveHost) -> Mapping[str, Any]:
        return {"camera": True}

    graph.add(len, "abc", cost={"camera": True})
    graph.check(Inventory([Host("a")], tracker=tracker))
    with pytest.raises(PlacementError, match="camera"):
        graph.check(Inventory([Host("a", capabilities={"camera": False})], tracker=tracker))


def test_any_variant_will_do(graph: Graph) -> None:
    graph.add(len, "abc", cost=[{"camera": True}, {"cpu": 1}])
    graph.check([Host("a", capabilities={"cpu": 2})])


def test_shared_amounts_count(graph: Graph) -> None:
    graph.add(len, "abc", cost={"licence": 6})
    graph.check(Inventory([Host("a")], shared={"licence": 6}))
    with pytest.raises(PlacementError, match="licence"):
        graph.check(Inventory([Host("a")], shared={"licence": 5}))


def test_the_remedy_helps_a_function_that_is_pinned_or_takes_too_much_of_a_shared_amount(graph: Graph) -> None:
    graph.add(len, "x", cost={"licence": 6})
    with pytest.raises(PlacementError, match="raise the shared amounts of the inventory"):
        graph.check(Inventory([Host("a")], shared={"licence": 5}))
    pinned = Graph()
    pinned.add(len, "x", host="a", cost={"has_cuda": True})
    hosts = [Host("a", capabilities={"has_cuda": False}), Host("b", capabilities={"has_cuda": True})]
    with pytest.raises(PlacementError, match=r"'len' is pinned to one host.*'a'.*leave out its host="):
        pinned.check(hosts)


def test_a_pinned_function_needs_its_host(graph: Graph) -> None:
    graph.add(len, "abc", host="gpu1", cost={"cpu": 8})
    with pytest.raises(PlacementError, match=r"pinned to host 'gpu1'.*Did you mean 'gpu2'\?"):
        graph.check([Host("gpu2")])
    with pytest.raises(PlacementError, match="cpu"):
        graph.check([Host("gpu1", capabilities={"cpu": 1}), Host("gpu2", capabilities={"cpu": 16})])


def test_a_group_needs_one_host_for_all(graph: Graph) -> None:
    a = graph.add(len, "abc", cost={"camera": True}, id="a")
    graph.add(len, "abc", cost={"matlab": True}, id="b", collocate_with=a)
    hosts = [Host("x", capabilities={"camera": True}), Host("y", capabilities={"matlab": True})]
    with pytest.raises(PlacementError, match="'a' and 'b' must share one host"):
        graph.check(hosts)
    graph.check([*hosts, Host("z", capabilities={"camera": True, "matlab": True})])


def test_a_wrong_graph_is_told_first(graph: Graph) -> None:
    graph.add(len, {graph.add(int)})
    with pytest.raises(GraphError, match="an output is inside a set"):
        graph.check([])


def test_no_host_at_all(graph: Graph) -> None:
    graph.add(len, "abc")
    with pytest.raises(PlacementError, match="there is no host"):
        graph.check([])
