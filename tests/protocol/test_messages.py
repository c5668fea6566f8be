"""The declared messages: each end handles all messages that it may get, and refuses bytes that are no such message."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

import handout
from handout.execution.shell.driver import Driver
from handout.execution.shell.inbound_messages import InboundMessages
from handout.host import supervisor
from handout.host.agent import agent
from handout.host.worker import worker
from handout.protocol import codec, messages
from handout.protocol.frames import ProtocolError
from handout.protocol.messages import AnyMessage

DIRECTIONS: dict[str, Mapping[str, type[Any]]] = {
    "to agent": messages.TO_AGENT,
    "to controller": messages.TO_CONTROLLER,
    "to worker": messages.TO_WORKER,
    "from worker": messages.FROM_WORKER,
    "to supervisor": messages.TO_SUPERVISOR,
    "from supervisor": messages.FROM_SUPERVISOR,
}
ALL = {kind for direction in DIRECTIONS.values() for kind in direction.values()}
KINDS = st.sampled_from([(direction, name) for direction, kinds in DIRECTIONS.items() for name in kinds])
JSON = st.recursive(
    st.sampled_from([None, True, 0, -1, 7, 0.5, "", "1", 2**70]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["cpu", "x"]), inner, max_size=2),
    max_leaves=4,
)


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def filled(kind: type[Any], rows: int) -> AnyMessage:
    """Return a message with a value of the right type in every field, and ``rows`` entries in every column."""
    values = {"int": 3, "float": 0.5, "str": "s", "bool": True, "Mapping": {"cpu": 1}, "Sequence": [1]}
    values["WorkerOptions"] = messages.WorkerOptions(1, 2)
    made: dict[str, Any] = {}
    for field, annotation in kind.__annotations__.items():
        text = str(getattr(annotation, "__forward_arg__", annotation))
        base = re.split(r"\W", text)[0]
        inner = [1] if "Column[Sequence" in text else "s" if "Column[str" in text else 1
        made[field] = [inner] * rows if base == "Column" else values[base]
    return kind(**made)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_message_is_called_like_its_class(direction: str) -> None:
    for name, kind in DIRECTIONS[direction].items():
        assert name == snake(kind.__name__) == codec.name_of(kind)


def test_every_declared_message_has_a_direction() -> None:
    declared = {each for each in vars(messages).values() if isinstance(each, type) and issubclass(each, tuple)} - {
        NamedTuple,
        tuple,
    }
    assert declared - {messages.Greeting, messages.Welcome, messages.Progress, messages.WorkerOptions} == ALL


async def test_every_end_handles_every_message_that_it_may_get() -> None:
    driver = Driver(lambda coroutine: coroutine.close())
    try:
        assert InboundMessages(driver)._handlers.keys() == messages.TO_CONTROLLER.keys()
    finally:
        driver.close()
    assert agent._HANDLERS.keys() == messages.TO_AGENT.keys()
    assert worker._HANDLERS.keys() == messages.TO_WORKER.keys()
    assert supervisor._HANDLERS.keys() == messages.TO_SUPERVISOR.keys()


@pytest.mark.parametrize(
    ("table", "handlers"),
    [(messages.ToAgent, agent._HANDLERS), (messages.ToWorker, worker._HANDLERS)],
    ids=["agent", "worker"],
)
def test_handlers_are_declared_to_take_their_own_message(table: type, handlers: Mapping[str, Any]) -> None:
    for name, hint in get_type_hints(table).items():
        assert handlers[name].__annotations__["message"].endswith(get_args(hint)[0][1].__name__)


def test_no_message_is_written_down_outside_its_module() -> None:
    house = Path(handout.__file__).parent
    spelt = [
        path.name for path in house.rglob("*.py") if re.search(r"""\{"(m|op)":|\["(m|op)"\]""", path.read_text("utf-8"))
    ]
    assert spelt == []


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("kind", sorted(ALL, key=lambda kind: str(kind.__name__)), ids=lambda kind: str(kind.__name__))
def test_a_message_comes_back_as_it_was(kind: type[Any], rows: int) -> None:
    name = codec.name_of(kind)
    message = filled(kind, rows)
    header = json.loads(json.dumps(codec.encode(message)))
    assert codec.decode({name: kind}, header) == (name, message)


def test_equal_entries_of_a_column_are_sent_once_and_different_ones_each() -> None:
    message = messages.Finished([1, 2, 3], [5, 5, 5], [[4], [4], [4]], [[4], [-1], [4]])
    header = codec.encode(message)
    assert (header["attempt_ids"], header["elapsed_us"], header["sizes"]) == ([1, 2, 3], [5], [[4]])
    assert header["inline_sizes"] == [[4], [-1], [4]]
    assert codec.decode(messages.TO_CONTROLLER, header)[1] == message


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({}, "no message None"),
        ({"m": "no_such"}, "no message 'no_such'"),
        ({"m": ["fetch"]}, "no message"),
        ({"m": "fetch"}, "'fetch' lacks its field 'key'"),
        ({"m": "fetch", "key": "7"}, "'fetch' has the bad value '7' in its field 'key'"),
        ({"m": "fetch", "key": 7, "more": 1}, "'fetch' has the unknown field 'more'"),
        ({"m": "functions", "numbers": [1, 2, 3], "sizes": [1, 2]}, "2 rows in 'sizes', and 3 in 'numbers'"),
        ({"m": "started", "attempt_ids": [1]}, "no message 'started'"),
    ],
)
def test_what_is_not_declared_is_refused_by_name(header: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(said)):
        codec.decode(messages.TO_AGENT, header)


@given(KINDS, st.data())
def test_fields_of_any_shape_are_taken_or_refused(which: tuple[str, str], data: st.DataObject) -> None:
    direction, name = which
    kinds = DIRECTIONS[direction]
    names = st.sampled_from([*kinds[name].__annotations__, "x"])
    fields = data.draw(st.dictionaries(names, JSON | st.lists(JSON, max_size=3)))
    whole = json.loads(json.dumps(codec.encode(filled(kinds[name], 2))))
    for header in ({**fields, "m": name}, {**whole, **fields}):
        try:
            assert isinstance(codec.decode(kinds, header)[1], kinds[name])
        except ProtocolError:
            pass


@given(st.binary(max_size=20), st.lists(st.integers(-3, 12), max_size=4))
def test_parts_of_a_payload_are_whole_or_refused(payload: bytes, sizes: list[int]) -> None:
    try:
        parts = list(codec.parts(memoryview(payload), sizes))
    except ProtocolError:
        assert min(sizes) < 0 or sum(sizes) > len(payload)
    else:
        assert b"".join(parts) == payload[: sum(sizes)]
