"""Random tasks, cancellations, recalls, killed workers and dropped connections, all at once.

Each task ends exactly once, which the rig asserts. In the end, a task still waits only if one of its inputs was never
made, and the ledger has as much free as in the beginning.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from handout.protocol import messages
from handout.protocol.resource_ledger import PARTS
from tests.host.rig import Rig

STEPS = 250


def make_functions() -> dict[int, Callable[..., object]]:
    """Return the function of each task class. They travel by value, because they are made in a function."""

    def work(*args: object) -> object:
        import random
        import time

        luck = random.random()
        if luck < 0.003:
            time.sleep(0.05)
        elif luck < 0.005:
            raise ValueError
        elif luck < 0.006:
            os._exit(1)
        elif luck < 0.01:
            print("hello")
        elif luck < 0.015:
            return bytearray(100_000)
        return len(args)

    async def wait(*args: object) -> int:
        import asyncio
        import random

        await asyncio.sleep(random.random() * 0.02)
        return 1

    def linger(*args: object) -> None:
        import time

        time.sleep(0.3)

    return {1: work, 2: work, 3: wait, 4: work, 5: linger}


class Storm:
    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.random = random.Random(seed)
        self.inputs: dict[int, list[int]] = {}
        self.functions = {cls: rig.function(fn) for cls, fn in make_functions().items()}
        self.blobs = [rig.call(inputs=n) for n in range(4)]
        rig.task_class(2, need={"cpu": 2 * PARTS})
        rig.task_class(3, need={}, shared_loop=True)
        rig.task_class(4, alone=True)
        rig.task_class(5, timeout_s=0.1)

    def live(self) -> list[int]:
        recent = list(self.inputs)[-2000:]
        return [t for t in recent if t not in self.rig.ended]

    def step(self) -> None:
        luck = self.random.random()
        if luck < 0.5 and len(self.inputs) - len(self.rig.ended) < 2000:
            self.submit()
        elif luck < 0.55:
            self.rig.send(messages.Cancel(self.some(), self.random.choice([0, 0.05])))
        elif luck < 0.6:
            self.rig.send(messages.Recall(self.some()))
        elif luck < 0.62:
            self.kill_a_worker()
        elif luck < 0.64:
            self.rig.connect()
        elif luck < 0.66:
            self.limit(self.random.choice([2, 3, 4]))
        self.rig.pump(0.002)

    def some(self) -> list[int]:
        live = self.live()
        return self.random.sample(live, min(len(live), self.random.choice([1, 3, 30])))

    def submit(self) -> None:
        cls = self.random.choice([1, 1, 1, 1, 1, 2, 3, 4, 5])
        first = len(self.inputs) + 1
        # A task of class 5 runs until its timeout, so there are only three of them at a time.
        attempt_ids = range(first, first + (3 if cls == 5 else self.random.choice([1, 5, 50, 200])))
        width = self.random.choice([0, 0, 1, 1, 2, 3])
        reach = self.random.choice([1, 2, 20, 200])
        chosen = [
            sorted({self.random.randrange(max(1, t - reach), t) for _ in range(width if t > 1 else 0)})
            for t in attempt_ids
        ]
        self.inputs.update(zip(attempt_ids, chosen, strict=True))
        blobs = [self.blobs[len(inputs)] for inputs in chosen]
        self.rig.submit(attempt_ids, self.functions[cls], blobs, cls=cls, inputs=chosen)

    def kill_a_worker(self) -> None:
        workers = [p for p in self.rig.processes() if p not in (self.rig.pid, self.rig.agent_pid())]
        if workers:
            try:
                os.kill(self.random.choice(workers), 9)
            except ProcessLookupError:
                pass

    def limit(self, cpu: int) -> None:
        self.rig.send(messages.Limits({"cpu": cpu * PARTS}, []))

    def lacks_an_input(self, attempt_id: int) -> bool:
        ended = self.rig.ended
        return any(i not in ended or ended[i].fields["name"] != "finished" for i in self.inputs[attempt_id])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_every_task_ends_once_and_nothing_is_left_of_it(rig: Rig, seed: int) -> None:
    storm = Storm(rig, seed)
    for _ in range(STEPS):
        storm.step()
    storm.limit(3)
    # A task that still waits when no task runs any more waits for an input that no task will make.
    rig.wait(lambda: all(storm.lacks_an_input(t) for t in storm.inputs if t not in rig.ended), 60)
    rig.send(messages.Cancel([t for t in storm.inputs if t not in rig.ended], 0))
    rig.wait_for(*storm.inputs)
    rig.task_class(9, need={"cpu": 3 * PARTS})
    rig.run(lambda: "whole", attempt_id=10**9, cls=9)
    assert rig.result(10**9) == "whole"
