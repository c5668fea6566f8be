"""Agents and workers that send declared messages with any content: the receiver handles them or refuses them.

A hostile agent must not end the runs of other hosts, and a task that writes to the socket of its worker must not end
the agent.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handout import Graph, Timings
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.run_options import RunOptions
from handout.execution.shell.driver import Driver
from handout.execution.shell.inbound_messages import InboundMessages
from handout.execution.shell.run_submission import make_run
from handout.host.agent.checkpoints import Checkpoints
from handout.host.agent.controller_link import ControllerLink
from handout.host.agent.dispatcher import ExpectedDurations
from handout.host.agent.object_store import ObjectStore
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_exits import TaskExits
from handout.host.agent.task_queue import QUEUED, QueuedTask, TaskClassQueue, TaskQueue
from handout.host.agent.worker_handle import WorkerHandle
from handout.host.agent.worker_reports import WorkerReports
from handout.protocol import codec, frames, messages, numbering
from handout.protocol.frames import Message, Piece, ProtocolError
from handout.protocol.messages import AnyMessage
from handout.protocol.reported_facts import check_progress, from_json
from handout.resources import Offer
from handout.scheduler import events as ev
from handout.slices import at_once
from handout.submission.arguments import encode_plan
from handout.transport.agent_link import AgentLink
from tests.host.doubles import Nothing, new_page
from tests.transport.played import Agent

RUN = 7
#: The attempts of two tasks: the first is handed to the host, the second is not. The run has no third task.
FIRST, SECOND, THIRD = (numbering.attempt_id(RUN, task, 1) for task in range(3))
KEY = numbering.base(RUN)
CHECKPOINT = numbering.checkpoint_key(FIRST, 1)
#: Numbers that mean something to the receiver, or that no honest sender would send.
NUMBERS = [FIRST, SECOND, THIRD, KEY, KEY | 1, CHECKPOINT, 0, 1, 2, -1, 1 << 44, 1 << 60, 1 << 96, 1 << 200]
LEAVES: list[object] = [*NUMBERS, None, True, 0.5, -1e300, float("nan"), "", "1", "\ud800", "raised"]
VALUES = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["loss", "x"]), inner, max_size=2),
    max_leaves=5,
)


def plausible(annotation: str) -> st.SearchStrategy[Any]:
    """Return values of a field's type, so that most messages get past the decoder."""
    number = st.sampled_from(NUMBERS)
    if "Column[Sequence" in annotation:
        return st.lists(st.lists(number, max_size=2), min_size=1, max_size=2)
    if "Column[float" in annotation:
        return st.lists(st.sampled_from([0.5, None, 2.0, -1.0, "x"]), min_size=1, max_size=2)
    if "Column[Mapping" in annotation:
        return st.lists(st.dictionaries(st.sampled_from(["loss", "x"]), VALUES, max_size=2), min_size=1, max_size=2)
    if "Column" in annotation or "Sequence" in annotation:
        return st.lists(number, min_size=1, max_size=2)
    if "Mapping" in annotation:
        return st.dictionaries(st.sampled_from(["loss", "x"]), VALUES, max_size=2)
    if "str" in annotation:
        return st.sampled_from(["", "raised", "died", "memory", "disk", "x"])
    if "float" in annotation:
        return st.sampled_from([0.5, 1, -1e300, None])
    return number


#: Messages as honest agents and workers send them. Each test changes some of their fields.
OF_AGENTS: list[AnyMessage] = [
    messages.Finished([FIRST], [5], [[1]], [[1]]),
    messages.Finished([FIRST], [5], [[70_000]], [[-1]]),
    messages.Failed(FIRST, "raised", type="ValueError", message="no", text="Traceback", stderr=["a line"]),
    messages.Failed(FIRST, "died", signal=9, oom=True),
    messages.Failed(FIRST, "disk", need=7, free=1, path="/x"),
    messages.Recalled([FIRST]),
    messages.Started([FIRST]),
    messages.ProgressReports([FIRST], [0.5], [{"loss": 0.1, "best": ["inf"]}]),
    messages.Checkpointed(FIRST, CHECKPOINT, 1),
    messages.Checkpointed(FIRST, numbering.checkpoint_key(FIRST, 2), 70_000),
    messages.Arrived([KEY], [4]),
    messages.StreamObject(1, CHECKPOINT, 1),
    messages.StreamObject(1, KEY, 70_000),
    messages.Missing(CHECKPOINT),
    messages.Missing(KEY),
    messages.Vanished([KEY, CHECKPOINT]),
    messages.Log(FIRST, 1, 0),
    messages.ProgramEnded(1, 0),
    messages.Holdings([FIRST], [KEY], [4], 0),
]
OF_WORKERS: list[AnyMessage] = [
    messages.BatchReport([1], [5], [[1]], [[1]]),
    messages.BatchReport([1, 2], [5, 5], [[1], [70_000]], [[1], [-1]]),
    messages.ProgressReport(1, 0.5, {"loss": 0.1}),
    messages.Checkpoint(1, 1),
    messages.Checkpoint(1, 70_000, 1),
    messages.TaskRaised(1, "ValueError"),
    messages.TaskFailure(1, 5, "raised", type="ValueError", message="no", text="Traceback"),
]


@st.composite
def headers(draw: st.DrawFn, honest: list[AnyMessage]) -> dict[str, Any]:
    """Return the header of a message of which up to two fields were changed."""
    message = draw(st.sampled_from(honest))
    header = codec.encode(message)
    fields = list(type(message).__annotations__.items())
    for _ in range(draw(st.integers(0, 2))):
        field, annotation = draw(st.sampled_from(fields))
        text = str(getattr(annotation, "__forward_arg__", annotation))
        header[field] = draw(VALUES if draw(st.integers(0, 2)) == 0 else plausible(text))
    return cast(dict[str, Any], json.loads(json.dumps(header)))


#: What an agent sends: the header and the payload of a message, or None and the last bytes of a stream.
Said = tuple[dict[str, Any] | None, bytes]
PAYLOADS = st.sampled_from([b"", b"x", b"a" * 70_000])


async def hear(said: list[Said], *, trusted: bool) -> None:
    driver = Driver(lambda coroutine: coroutine.close())
    graph = Graph()
    graph.add(int, id="first", host="far")
    graph.add(int, id="second", host="other")
    plan = graph.compile()
    run = at_once(make_run(plan, at_once(encode_plan(plan)), RunOptions(), RUN, None))
    run.watch(lambda events: None)
    link = AgentLink("far", None, Agent(), Timings(), lambda frames: None, lambda suspected: None)
    agent = AgentProxy("far", link, trusted=trusted)
    driver.post(ev.HostExpected("other", Offer({}), 0.0, 60.0))
    driver.join(agent, ev.HostConnected("far", Offer({"cpu": 10_000}), "3.11", 0.001, 1, 0.0))
    driver.submit(run)
    await asyncio.sleep(0)
    assert run.hosts[0] == "far"
    inbound = InboundMessages(driver)
    try:
        for header, payload in said:
            try:
                inbound.heard(
                    agent, [Piece(1, 0, payload, 1 << 16, True) if header is None else Message(1, header, payload)]
                )
            except ProtocolError:
                break  # the link to the agent ends with an error that names the host
            await asyncio.sleep(0)
        driver.leave(agent, "the test is over")
        await asyncio.sleep(0)
        assert driver.broken is None, driver.broken
    finally:
        if agent.answers is not None:
            agent.answers.close()
        driver.close()


@pytest.mark.parametrize("trusted", [True, False])
@settings(max_examples=250, deadline=None)
@given(said=st.lists(st.tuples(st.none() | headers(OF_AGENTS), PAYLOADS), min_size=1, max_size=5))
def test_no_message_of_an_agent_breaks_the_controller(said: list[Said], trusted: bool) -> None:
    asyncio.run(hear(said, trusted=trusted))


class AgentParts:
    """The parts of an agent that handle the messages of one worker, which runs one task and has another one queued."""

    def __init__(self, folder: str) -> None:
        self.store = ObjectStore(None, folder)
        link = cast(ControllerLink, Nothing())
        queue = TaskQueue(self.store.__contains__)
        dispatcher = cast(Any, Nothing())
        dispatcher.durations = ExpectedDurations()
        sender = cast(ResultSender, Nothing())
        exits = TaskExits(sender, queue, self.store, dispatcher)
        self.reports = WorkerReports(exits, sender, queue, self.store, dispatcher)
        checkpoints = Checkpoints(self.store, link, lambda keys: [self.store.drop(key) for key in keys])  # type: ignore[arg-type, func-returns-value]
        self.relayed: list[messages.ProgressReport] = []
        self.reports.on_progress = lambda task, message: self.relayed.append(message)
        self.reports.on_checkpoint = checkpoints.take
        self.worker = WorkerHandle(1, cast(Any, Nothing()), new_page(), b"")
        task_class = TaskClassQueue(messages.NewTaskClass(1, {}))
        for number, attempt_id in ((1, FIRST), (2, SECOND)):
            task = QueuedTask(attempt_id, 1, task_class, b"", [], [KEY | number - 1], 1, "t", 1, 0)
            queue.add(task)
            task.state, task.worker, task.number_on_worker = QUEUED, self.worker, number
            self.worker.queued[number] = task


async def report(said: list[tuple[dict[str, Any], bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = AgentParts(folder)
        for header, payload in said:
            try:
                parts.reports.on_message(parts.worker, frames.Message(1, header, payload))
            except (ProtocolError, KeyError, TypeError, ValueError, IndexError):
                break  # for these, the pool ends the worker
            await asyncio.sleep(0)
        for each in parts.relayed:  # the controller would give up an agent that sends other reports
            check_progress(each.progress)
            from_json(each.facts)


@settings(max_examples=250, deadline=None)
@given(said=st.lists(st.tuples(headers(OF_WORKERS), PAYLOADS), min_size=1, max_size=4))
def test_no_message_of_a_worker_breaks_the_agent(said: list[tuple[dict[str, Any], bytes]]) -> None:
    asyncio.run(report(said))
