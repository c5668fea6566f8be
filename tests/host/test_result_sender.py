"""The results of tasks on their way to the controller."""

from __future__ import annotations

import asyncio
from typing import cast

from handout.host.agent.controller_link import ControllerLink
from handout.host.agent.output_capture import Logs
from handout.host.agent.result_sender import ResultSender
from handout.protocol.frames import MAX_PAYLOAD
from handout.protocol.messages import INLINE
from tests.host.doubles import Wire


def test_no_message_is_over_the_limit_when_many_that_printed_end_at_once() -> None:
    async def main() -> None:
        wire, open_ = Wire(), False
        logs = Logs(lambda *_: None, lambda: open_)
        answers = ResultSender(cast(ControllerLink, wire), logs)
        data = memoryview(bytes(INLINE))
        for attempt_id in range(MAX_PAYLOAD // INLINE + 10):
            logs.add(attempt_id, 1, b"x\n")
            answers.done(attempt_id, 1, [INLINE], [INLINE], data)
        open_ = True
        answers.send_printed()
        assert max(size for _, size in wire.bulk) < MAX_PAYLOAD // 4
        attempt_ids = [t for message, _ in wire.bulk for t in message.attempt_ids]
        assert attempt_ids == list(range(MAX_PAYLOAD // INLINE + 10))

    asyncio.run(main())
