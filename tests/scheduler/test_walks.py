"""Long random walks, each from a seed: graphs of up to 30 tasks, on hosts that connect, are lost or fall silent.

The property test in `test_chaos` finds errors that need few steps. These walks find errors that need hundreds of steps.
"""

from __future__ import annotations

from random import Random

import pytest

from handout.errors import AllocatorError
from handout.scheduler import RunSpec
from handout.scheduler import events as ev
from tests.scheduler.model import Cluster
from tests.scheduler.test_chaos import HASTY, PROFILES, Chaos

HOSTS = ["h1", "h2", "h3", "h4"]
DISTURBANCES = [
    "join",
    "join",
    "lose",
    "fail",
    "fail",
    "cancel",
    "close",
    "suspect",
    "recover",
    "recover",
    "wait",
    "drain",
    "change",
]


def random_spec(rng: Random) -> RunSpec:
    count = rng.randint(1, 30)
    reach = rng.choice([1, 3, 30])
    inputs: list[tuple[int, ...]] = []
    for t in range(count):
        before = range(max(0, t - reach), t)
        inputs.append(tuple(sorted(rng.sample(before, min(len(before), rng.choice([0, 1, 1, 2, 3]))))))
    producer = list(range(count))
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            o = len(producer)
            producer.append(rng.choice([-1, 0, rng.randrange(count)]))
            inputs = [(*ins, o) if rng.random() < 0.3 and t > producer[o] else ins for t, ins in enumerate(inputs)]
    plain = rng.random() < 0.5
    profiles = [0 if plain else rng.randrange(len(PROFILES)) for _ in range(count)]
    return RunSpec(
        count=count,
        profiles=PROFILES,
        profile=profiles,
        fn=profiles,
        inputs=inputs,
        producer=producer,
        nbytes=[-1] * len(producer),
        outputs=sorted({count - 1, *rng.sample(range(count), min(count, rng.randint(0, 4)))}),
        keep=sorted(rng.sample(range(count), min(count, rng.choice([0, 0, 2])))),
        group=[rng.randint(-1, 2) for _ in range(count)] if rng.random() < 0.3 else None,
        priority=[rng.choice([0.0, 1.0]) for _ in range(count)] if rng.random() < 0.3 else None,
        on_failure=rng.choice(["fail_fast", "continue"]),
        max_concurrency=rng.choice([None, None, 1, 3]),
        allocator=rng.choice(["locality", "locality", "load_balanced", "first_available", None]),
        speculation=rng.choice([None, HASTY]),
    )


class Walk(Chaos):
    """The cluster of the property test, with steps that are drawn from a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = Random(seed)
        self.calm = self.rng.choice([1.0, 0.3, 0.05])

    def go(self, steps: int) -> None:
        rng, cluster = self.rng, self.cluster
        cluster.tell(ev.SharedChanged({"seat": rng.randint(1, 2) * 10_000}), *map(ev.HostExpected, HOSTS))
        self.add("h1")
        for _ in range(steps):
            if rng.random() < 0.02 * self.calm or not cluster.specs:
                cluster.submit(self.spec())
            elif rng.random() < 0.15 * self.calm:
                self.disturb()
            else:
                self.move()
        self.teardown()

    def spec(self) -> RunSpec:
        return random_spec(self.rng)

    def add(self, name: str) -> None:
        self.cluster.join(name, cores=self.rng.randint(1, 3), rtt_s=self.rng.choice([0.001, 0.1]))

    def move(self) -> None:
        rng = self.rng
        getattr(
            self, "_" + rng.choice(["receive", "receive", "start", "start", "finish", "deliver", "deliver", "copy"])
        )(rng.randrange(6), rng.random() < 0.2)
        if self.cluster.asked and rng.random() < 0.3:
            self.answer_one(rng.randrange(3))

    def disturb(self) -> None:
        rng, cluster = self.rng, self.cluster
        kind = rng.choice(DISTURBANCES)
        names = list(cluster.agents)
        if kind == "join":
            absent = [name for name in HOSTS if name not in cluster.agents]
            if absent:
                self.add(rng.choice(absent))
        elif kind == "lose" and names:
            name = rng.choice(names)
            cluster.tell(ev.HostExpected("h9"))
            cluster.lose(name)
            cluster.tell(ev.HostExpected(name))
        elif kind == "fail" and (running := self.running()):
            how: ev.FailureKind = rng.choice(["raised", "died", "disk", "input"])
            recurs = how == "input" and rng.random() < 0.5
            cluster.end(*rng.choice(running), how, retryable=rng.random() < 0.7, recurs=recurs)
        elif kind == "cancel" and (runs := self.open_runs()):
            run = rng.choice(runs)
            some = [rng.randrange(cluster.specs[run].count) for _ in range(2)]
            cluster.tell(ev.CancelRequested(run, None if rng.random() < 0.2 else some))
        elif kind == "close" and (runs := self.open_runs()):
            if rng.random() < 0.2 or runs[0] in cluster.over:
                self.close_run(runs[0])
        elif kind in ("suspect", "recover") and names:
            name = rng.choice(names)
            cluster.tell(ev.HostRecovered(name) if kind == "recover" else ev.HostSuspected(name))
        elif kind == "drain" and len(names) > 1:
            cluster.tell(ev.HostDrained(rng.choice(names)))
        elif kind == "change" and names:
            cluster.change(rng.choice(names), cores=rng.randint(1, 3))
        elif kind == "wait":
            cluster.now += rng.choice([0.01, 1.0, 40.0])
            cluster.tell()

    def close_run(self, run: int) -> None:
        if run not in self.cluster.over:
            self.cluster.forgotten.add(run)
        self.cluster.tell(ev.RunClosed(run))


@pytest.mark.parametrize("seed", range(60))
def test_every_walk_comes_to_its_end(seed: int) -> None:
    walk = Walk(seed)
    walk.go(400)
    for ended in walk.cluster.over.values():
        assert not isinstance(ended.error, AllocatorError) or "answer within" in str(ended.error)


def test_a_cluster_that_nothing_happens_to_runs_everything_once() -> None:
    rng = Random(7)
    for _ in range(30):
        cluster = Cluster()
        cluster.tell(ev.SharedChanged({"seat": 10_000}))
        for name in HOSTS:
            cluster.join(name, cores=2)
        spec = random_spec(rng)
        if spec.allocator is None:
            continue
        run = cluster.submit(spec)
        cluster.settle()
        assert cluster.over[run].error is None
        assert set(cluster.executed.values()) == {1}


class Stragglers(Walk):
    """Few tasks on hosts with much room: slow tasks get second attempts, and lose one attempt or both."""

    def go(self, steps: int) -> None:
        for name in HOSTS[1:]:
            self.cluster.join(name, cores=3)
        super().go(steps)

    def move(self) -> None:
        rng = self.rng
        what = rng.choice(["receive", "receive", "receive", "start", "start", "deliver", "deliver", "copy", "finish"])
        getattr(self, f"_{what}")(rng.randrange(6), what == "start" or rng.random() < 0.1)
        if self.cluster.asked:
            self.answer_one(rng.randrange(3))
        if rng.random() < 0.1:
            self.cluster.now += 6.0
            self.cluster.tell()

    def spec(self) -> RunSpec:
        rng, width = self.rng, self.rng.randint(3, 6)
        last = 2 * width
        profiles = [rng.choice([0, 0, 1, 4, 5, 6])] * last + [0]
        return RunSpec(
            count=last + 1,
            profiles=PROFILES,
            profile=profiles,
            fn=profiles,
            inputs=[()] * width + [(t,) for t in range(width)] + [tuple(range(last - 2, last))],
            producer=list(range(last + 1)),
            nbytes=[-1] * (last + 1),
            outputs=[last, width],
            keep=[0],
            on_failure=rng.choice(["fail_fast", "continue"]),
            allocator=rng.choice(["locality", "load_balanced", None]),
            speculation=HASTY,
        )


def test_second_attempts_survive_whatever_happens_to_either() -> None:
    seconds = 0
    for seed in range(30):
        walk = Stragglers(seed)
        walk.go(250)
        seconds += walk.cluster.seconds
    assert seconds > 40
