"""The order in which a definition's values are written: what a value needs comes first, and is found in few steps."""

from __future__ import annotations

from typing import Any

import pytest

from handout.serialization import classes_by_value, definitions, fill_order, functions_by_value, pickling
from handout.serialization.fill_order import Fill, FillOrder, Group


def early(name: str) -> Fill:
    return Fill(classes_by_value.fill_attributes, None, name)


def late(name: str) -> Fill:
    return Fill(functions_by_value.fill_names, None, name)


def order_of(uses: dict[Any, list[Any]], fills: dict[Any, list[Fill]]) -> FillOrder:
    order = FillOrder()
    for key, used in uses.items():
        order.add_uses(key, used)
    for key, each in fills.items():
        for fill in each:
            order.add_fill(key, fill)
    return order


def begin(fill: Fill, order: FillOrder) -> Fill:
    fill.needs = order.needs(())
    return fill


def begun_for(order: FillOrder, *keys: Any) -> list[Any]:
    """Begin all that a value with these keys needs, and return it."""
    needs, found = order.needs(keys), []
    while (fill := needs.next_fill()) is not None:
        found.append(begin(fill, order).values)
    return found


def test_a_value_needs_what_fills_all_that_its_definitions_use_and_classes_come_first() -> None:
    uses = {"a": ["b"], "b": ["c", "a"], "c": ["d"], "other": ["a"]}
    fills = {key: [late(f"global of {key}"), early(f"attribute of {key}")] for key in ("a", "c", "d", "other")}
    order = order_of(uses, fills)
    assert begun_for(order, "d") == ["attribute of d", "global of d"]
    assert begun_for(order, "b") == ["attribute of a", "attribute of c", "global of a", "global of c"]
    assert begun_for(order, "a", "c", "d") == []
    assert begun_for(order, "other") == ["attribute of other", "global of other"]


def test_definitions_that_are_noted_later_use_earlier_ones() -> None:
    order = order_of({"a": ["b"], "b": ["a"]}, {"b": [late("b")]})
    assert order.needs(["a"]).next_fill() is not None
    order.add_uses("c", ["a"])
    assert begun_for(order, "c") == ["b"]


class Key:
    """A key that counts how often a dictionary looks for a key."""

    looks = 0

    def __hash__(self) -> int:
        Key.looks += 1
        return id(self)


@pytest.mark.parametrize("is_circle", [True, False])
def test_each_use_is_visited_a_few_times_however_many_values_need_it(is_circle: bool) -> None:
    count = 2000
    keys = [Key() for _ in range(count)]
    uses = {key: [keys[number - 1]] if number or is_circle else [] for number, key in enumerate(keys)}
    order = order_of(uses, {key: [early(""), late("")] for key in keys})
    before = Key.looks
    assert len(begun_for(order, keys[-1])) == 2 * count
    for key in keys:
        assert begun_for(order, key) == []
    assert Key.looks - before < 50 * count


class CountedGroup(Group):
    """A group that counts how often its attributes are read."""

    reads = 0

    def __getattribute__(self, name: str) -> Any:
        CountedGroup.reads += 1
        return super().__getattribute__(name)


def reads_of_groups(monkeypatch: pytest.MonkeyPatch, count: int) -> int:
    """Begin what fills the globals of functions of which each one calls the next one and uses a global of its own."""
    uses = {number: [("value", number), number + 1] for number in range(count)}
    with monkeypatch.context() as counting:
        counting.setattr(fill_order, "Group", CountedGroup)
        order = order_of(uses, {("value", number): [late(str(number))] for number in range(count)})
        before = CountedGroup.reads
        assert begun_for(order, 0) == [str(number) for number in range(count)]
        assert begun_for(order, 0, count // 2) == []
        return CountedGroup.reads - before


def test_a_chain_of_twice_as_many_definitions_takes_twice_the_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (reads_of_groups(monkeypatch, count) for count in (100, 200))
    assert few > 100
    assert many < 2.1 * few


def test_a_search_goes_on_where_another_one_has_been_meanwhile() -> None:
    order = order_of({"a": ["b", "c"]}, {"b": [late("b")], "c": [late("c1"), late("c2")]})
    searches = [order.needs("a"), order.needs("a")]
    found = []
    for search in (*searches, *searches):
        fill = search.next_fill()
        found.append(None if fill is None else begin(fill, order).values)
    assert found == ["b", "c1", "c2", None]


SCRIPT = """
class C{number}:
    def method(self): return V{next}, f{next}, C{next}
V{number} = C{number}()
def f{number}(): return V{number}, f{next}, C{number}
"""


def reads_of_fills(monkeypatch: pytest.MonkeyPatch, count: int) -> int:
    """Pickle classes, instances and functions that use each other. Return how often attributes of fills are read."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("".join(SCRIPT.format(number=number, next=(number + 1) % count) for number in range(count)), space)
    reads = 0

    class Counted(Fill):
        def __getattribute__(self, name: str) -> Any:
            nonlocal reads
            reads += 1
            return super().__getattribute__(name)

    with monkeypatch.context() as counting:
        counting.setattr(definitions, "Fill", Counted)
        pickling.dumps(space["f0"])
    return reads


def test_twice_as_many_definitions_that_use_each_other_take_twice_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (reads_of_fills(monkeypatch, count) for count in (30, 60))
    assert few > 30
    assert many < 2.1 * few
