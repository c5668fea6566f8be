"""Allocators without a cluster: each test makes its tasks and its view of the cluster itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from handout.allocators import (
    Allocator,
    ClusterView,
    HostState,
    HostView,
    InputView,
    Link,
    Task,
    builtin_name,
    first_available,
    load_balanced,
    locality,
)
from handout.errors import AllocatorError
from handout.resources import Capabilities, Cost, Host
from handout.scheduler.placing.strategies import STRATEGIES


def test_a_task_shows_the_very_cost_that_it_was_given() -> None:
    class Scored(Cost):
        score: int = 3

    cost = Scored(cpu=2)
    assert Task("t", cost=cost).cost[0] is cost
    assert len(Task("t", cost=[{"gpu": 1}, {"cpu": 4}]).cost) == 2
    assert Task("t").cost[0].amounts["cpu"] == 1


def test_a_draft_is_a_mapping_that_equals_a_dict() -> None:
    view = ClusterView([Host("a", capabilities={"cpu": 1})])
    draft = view.draft()
    task = Task("t")
    draft.place(task, "a")
    assert draft == {"t": "a"}
    assert (list(draft), len(draft), draft["t"]) == (["t"], 1, "a")


def test_a_draft_does_the_arithmetic() -> None:
    view = ClusterView([HostView("a", {"cpu": 4, "memory": "8 GB"}, free={"cpu": 2, "memory": "3 GB"})])
    draft = view.draft()
    first, second = Task("1", cost={"memory": "2 GB"}), Task("2", cost={"memory": "2 GB"})
    assert draft.fits(first, "a")
    draft.place(first, "a")
    assert not draft.fits(second, "a")
    assert view.draft().fits(second, "a")


def test_a_draft_knows_devices_variants_and_what_is_shared() -> None:
    view = ClusterView([HostView("a", {"cpu": 8, "gpu": 1})], shared={"licence": 1})
    draft = view.draft()
    either = [Task(str(i), cost=[{"gpu": 1}, {"cpu": 6}]) for i in range(3)]
    draft.place(either[0], "a")
    draft.place(either[1], "a")
    assert not draft.fits(either[2], "a")
    seats = [Task(f"s{i}", cost={"cpu": 0, "licence": 1}) for i in range(2)]
    draft.place(seats[0], "a")
    assert not draft.fits(seats[1], "a")


STATES: Sequence[HostState] = ("starting", "ready", "suspected", "lost", "quarantined", "draining")


@pytest.mark.parametrize("state", STATES)
def test_a_host_fits_only_if_it_is_ready_or_if_the_task_may_wait_for_it(state: HostState) -> None:
    view = ClusterView([HostView("a", {"cpu": 1}, state=state)])
    draft = view.draft()
    assert view.hosts["a"].state == state
    assert draft.fits(Task("t"), "a") is (state == "ready")
    assert draft.fits(Task("t"), "a", wait=True) is (state != "draining")


def test_no_task_waits_for_a_host_that_was_given_up() -> None:
    draft = ClusterView([HostView("a", {"cpu": 1}, state="lost", given_up=True)]).draft()
    assert not draft.fits(Task("t"), "a", wait=True)


def test_a_host_without_an_agent_is_judged_by_what_is_known_of_it() -> None:
    """What the agent will probe is not known. It is no reason against the host, and nothing is counted of it."""
    draft = ClusterView([HostView("a", {"licence": 1, "memory": "2 GB"}, state="starting")]).draft()
    big, small = Task("big", cost={"memory": "3 GB"}), Task("small", cost={"cpu": 64, "memory": "2 GB", "licence": 1})
    assert not draft.fits(big, "a", wait=True)
    assert not draft.fits(Task("other", cost={"camera": True}), "a", wait=True)
    assert draft.fits(small, "a", wait=True)
    draft.place(small, "a")
    assert not draft.fits(Task("more", cost={"memory": "1 GB"}), "a", wait=True)
    assert draft.fits(Task("more", cost={"cpu": 64}), "a", wait=True)
    known = ClusterView([HostView("a", {"licence": 1, "memory": "2 GB"}, state="suspected")]).draft()
    assert not known.fits(small, "a", wait=True)


@pytest.mark.parametrize("allocator", [first_available, load_balanced, locality])
async def test_a_built_in_allocator_called_for_some_tasks_takes_a_host_that_is_ready(allocator: Allocator) -> None:
    view = ClusterView([HostView("a", {"cpu": 8}, state="lost"), HostView("b", {"cpu": 8})])
    assert await allocator([Task("t")], view) == {"t": "b"}


def test_a_task_that_is_placed_again_gives_its_first_place_back() -> None:
    view = ClusterView([Host("a", capabilities={"cpu": 1}), Host("b", capabilities={"cpu": 1})], shared={"licence": 1})
    draft = view.draft()
    moved, other = (Task(id, cost={"cpu": 1, "licence": 1}) for id in ("moved", "other"))
    draft.place(moved, "a")
    assert not draft.fits(other, "b")
    with pytest.raises(AllocatorError):
        draft.place(moved, "c")
    assert not draft.fits(other, "b")
    draft.place(moved, "b")
    assert draft == {"moved": "b"}
    assert not draft.fits(other, "a")
    draft.place(Task("moved", cost={"cpu": 1}), "b")
    assert draft.fits(other, "a")


def test_what_a_host_does_not_have_does_not_fit() -> None:
    view = ClusterView([Host("a", capabilities={"cpu": 8, "has_cuda": False})])
    assert not view.draft().fits(Task("t", cost={"has_cuda": True}), "a")


def test_a_host_that_the_view_does_not_have_is_named() -> None:
    view = ClusterView([Host("node1", capabilities={"cpu": 1})])
    with pytest.raises(AllocatorError, match=r"'nod1'.*Did you mean 'node1'"):
        view.draft().place(Task("t"), "nod1")


def test_the_soonest_time_to_be_asked_again_counts() -> None:
    draft = ClusterView([]).draft()
    assert draft.ask_again_s is None
    draft.ask_again(5.0)
    draft.ask_again(in_s=2.0)
    draft.ask_again(in_s=9.0)
    assert draft.ask_again_s == 2.0


def test_missing_bytes_count_what_is_elsewhere() -> None:
    view = ClusterView([Host("a"), Host("b")])
    inputs = [InputView("x", nbytes=10, hosts={"b"}), InputView("y", nbytes=5, hosts=["a", "b"]), InputView("z")]
    task = Task("t", inputs=inputs)
    assert (view.missing_bytes(task, "a"), view.missing_bytes(task, "b")) == (10, 0)


def test_links_pass_through_the_controller() -> None:
    view = ClusterView([Host("a"), Host("b")])
    assert view.link("a", "b").bytes_per_s < view.link("", "b").bytes_per_s
    assert view.link("a", "a") == Link(float("inf"), 0.0)


def test_a_view_tells_total_free_and_shared() -> None:
    view = ClusterView([HostView("a", {"cpu": 4}, free={"cpu": 1}, running=3)], now_s=7.0, shared={"licence": 2})
    host = view.hosts["a"]
    assert host.total.amounts["cpu"] == 4
    assert host.free.amounts["cpu"] == 1
    assert (host.running, view.now_s) == (3, 7.0)
    assert isinstance(view.shared, Capabilities)
    assert view.shared.amounts == {"licence": 2}


async def test_first_available_takes_the_order_of_the_view() -> None:
    view = ClusterView([HostView("b", {"cpu": 1}), HostView("a", {"cpu": 2})])
    tasks = [Task(str(i)) for i in range(4)]
    assert await first_available(tasks, view) == {"0": "b", "1": "a", "2": "a"}


async def test_load_balanced_counts_tasks_a_core() -> None:
    view = ClusterView([HostView("a", {"cpu": 2}), HostView("b", {"cpu": 4})])
    placed = await load_balanced([Task(str(i)) for i in range(6)], view)
    assert sorted(placed.values()) == ["a", "a", "b", "b", "b", "b"]


async def test_locality_follows_the_bytes_and_then_the_load() -> None:
    view = ClusterView([HostView("a", {"cpu": 4}), HostView("b", {"cpu": 4})])
    near = Task("near", inputs=[InputView("x", nbytes=10**6, hosts={"b"})])
    assert await locality([near, Task("other")], view) == {"near": "b", "other": "a"}


async def test_where_it_has_failed_comes_last() -> None:
    view = ClusterView([HostView("a", {"cpu": 1}), HostView("b", {"cpu": 1})])
    assert await first_available([Task("t", not_on={"a"})], view) == {"t": "b"}
    assert await first_available([Task("t", not_on={"a", "b"})], view) == {"t": "a"}


@pytest.mark.parametrize("allocator", [first_available, load_balanced, locality])
def test_the_core_has_each_built_in_allocator_under_its_name(allocator: Allocator) -> None:
    assert builtin_name(allocator) in STRATEGIES


def test_an_allocator_of_one_s_own_has_no_name_in_the_core() -> None:
    class Mine:
        async def __call__(self, frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
            return {}

    mine: Allocator = Mine()
    assert builtin_name(mine) is None
    assert builtin_name(None) == "locality"


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 10**400, "soon", None])
def test_a_time_to_be_asked_again_is_a_finite_number(seconds: Any) -> None:
    with pytest.raises(AllocatorError, match="is no finite number of seconds"):
        ClusterView([]).draft().ask_again(in_s=seconds)


def test_a_number_of_numpy_is_a_number() -> None:
    draft = ClusterView([]).draft()
    draft.ask_again(in_s=np.float32(0.5))  # type: ignore[arg-type]
    assert draft.ask_again_s == 0.5


@pytest.mark.parametrize("host", [["a"], {"a": 1}, 3])
def test_a_host_that_is_no_name_is_refused_by_its_type(host: Any) -> None:
    with pytest.raises(AllocatorError, match=f"an object of type {type(host).__name__} as a host"):
        ClusterView([HostView("a", {"cpu": 1})]).draft().fits(Task("t"), host)
