"""A stateful property test: whatever is lost, repeated or late, every task ends exactly once and nothing leaks."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handout.allocators.host_view import offer_of
from handout.allocators.task import requirements_of
from handout.scheduler import Profile, RunSpec
from handout.scheduler import events as ev
from handout.scheduler.run_spec import Speculation
from tests.scheduler.model import Cluster, Ticket
from tests.scheduler.rig import profile

HOSTS = ["h1", "h2", "h3"]
PROFILES: list[Profile] = [
    profile(),
    profile(retries=2, backoff_s=0.5),
    profile({"cpu": 2}),
    profile({"cpu": 0}),
    profile({"seat": 1}),
    profile([{"cpu": 2}, {"cpu": 1}], retries=1),
    profile(idempotent=False),
]
#: The index of the profile whose tasks must not run twice.
ONCE = 6
#: One finished task of a profile is enough: each task of the profile that runs longer than the finished ones is slow.
HASTY = Speculation(peers=1, factor=1.0, least_s=0.0)


MOVES = ["receive", "receive", "start", "start", "finish", "deliver", "deliver", "copy"]


@st.composite
def specs(draw: st.DrawFn) -> RunSpec:
    count = draw(st.integers(1, 8))
    inputs: list[tuple[int, ...]] = []
    producer = list(range(count))
    for t in range(count):
        inputs.append(tuple(sorted(draw(st.sets(st.integers(0, t - 1), max_size=3)))) if t else ())
    if draw(st.booleans()):
        # A value that some tasks take, and an element of the first task's result.
        value, element = count, count + 1
        producer += [-1, 0]
        inputs = [(*ins, value) if draw(st.booleans()) else ins for ins in inputs]
        inputs = [(*ins, element) if t and draw(st.booleans()) else ins for t, ins in enumerate(inputs)]
    objects = st.sets(st.integers(0, count - 1), max_size=3)
    picked = st.lists(st.integers(0, len(PROFILES) - 1), min_size=count, max_size=count)
    profiles = draw(picked)
    return RunSpec(
        count=count,
        profiles=PROFILES,
        profile=profiles,
        fn=profiles,
        inputs=inputs,
        producer=producer,
        nbytes=[-1] * len(producer),
        outputs=sorted({count - 1} | draw(objects)),
        keep=sorted(draw(objects)),
        group=draw(st.none() | st.lists(st.integers(-1, 1), min_size=count, max_size=count)),
        priority=draw(st.none() | st.lists(st.sampled_from([0.0, 1.0]), min_size=count, max_size=count)),
        on_failure=draw(st.sampled_from(["fail_fast", "continue"])),
        speculation=draw(st.none() | st.just(HASTY)),
        max_concurrency=draw(st.none() | st.integers(1, 3)),
        allocator=draw(st.sampled_from(["locality", "load_balanced", "first_available", None])),
    )


class Chaos(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()

    def pick(self, data: st.DataObject, options: list[Any]) -> Any:
        return options[data.draw(st.integers(0, len(options) - 1))]

    def running(self) -> list[tuple[str, Ticket]]:
        return [(name, ticket) for name, agent in self.cluster.agents.items() for ticket in agent.running]

    def open_runs(self) -> list[int]:
        return [run for run in self.cluster.specs if run in self.cluster.core.world.runs]

    @initialize(seats=st.integers(1, 2))
    def begin(self, seats: int) -> None:
        self.cluster.tell(ev.SharedChanged({"seat": seats * 10_000}), *(ev.HostExpected(name) for name in HOSTS))
        self.cluster.join("h1", cores=2)

    @rule(spec=specs())
    @precondition(lambda self: len(self.cluster.specs) < 4)
    def submit(self, spec: RunSpec) -> None:
        self.cluster.submit(spec)

    @rule(name=st.sampled_from(HOSTS), cores=st.integers(1, 3), slow=st.booleans())
    def join(self, name: str, cores: int, slow: bool) -> None:
        if name not in self.cluster.agents:
            self.cluster.join(name, cores=cores, rtt_s=0.1 if slow else 0.001)

    @rule(data=st.data())
    @precondition(lambda self: self.cluster.agents)
    def lose_host(self, data: st.DataObject) -> None:
        name = self.pick(data, list(self.cluster.agents))
        self.cluster.tell(ev.HostExpected(name))
        self.cluster.lose(name)
        self.cluster.tell(ev.HostExpected(name))

    @rule(moves=st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 5), st.booleans()), min_size=4, max_size=30))
    def go_on(self, moves: list[tuple[str, int, bool]]) -> None:
        for move, number, flag in moves:
            getattr(self, "_" + move)(number, flag)

    def _receive(self, number: int, flag: bool) -> None:
        if names := [name for name, agent in self.cluster.agents.items() if agent.inbox]:
            self.cluster.receive(names[number % len(names)])

    def _deliver(self, number: int, flag: bool) -> None:
        if names := [name for name, agent in self.cluster.agents.items() if agent.outbox]:
            self.cluster.deliver(names[number % len(names)], again=flag)

    def _start(self, number: int, flag: bool) -> None:
        if options := [(n, ticket) for n in self.cluster.agents for ticket in self.cluster.startable(n)]:
            self.cluster.start(*options[number % len(options)], say=flag)

    def _finish(self, number: int, flag: bool) -> None:
        if options := self.running():
            self.cluster.finish(*options[number % len(options)], small=number < 3, took_s=1e-5 if flag else 5.0)

    def _copy(self, number: int, flag: bool) -> None:
        if self.cluster.copies:
            self.cluster.copy(number % len(self.cluster.copies))

    @rule(data=st.data(), kind=st.sampled_from(["raised", "died", "disk", "timeout"]), retryable=st.booleans())
    def fail(self, data: st.DataObject, kind: ev.FailureKind, retryable: bool) -> None:
        if options := self.running():
            name, ticket = self.pick(data, options)
            self.cluster.end(name, ticket, kind, retryable=retryable)

    @rule(data=st.data(), some=st.sets(st.integers(0, 7), min_size=1, max_size=2), whole=st.booleans())
    def cancel(self, data: st.DataObject, some: set[int], whole: bool) -> None:
        if runs := self.open_runs():
            run = self.pick(data, runs)
            tasks = [t for t in sorted(some) if t < self.cluster.specs[run].count]
            self.cluster.tell(ev.CancelRequested(run, None if whole else tasks))

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if runs := [run for run in self.open_runs() if run in self.cluster.over]:
            self.cluster.tell(ev.RunClosed(self.pick(data, runs)))

    @rule(data=st.data(), recovers=st.booleans())
    def suspect(self, data: st.DataObject, recovers: bool) -> None:
        if self.cluster.agents:
            name = self.pick(data, list(self.cluster.agents))
            self.cluster.tell(ev.HostRecovered(name) if recovers else ev.HostSuspected(name))

    @rule()
    def wait(self) -> None:
        deadline = self.cluster.core.next_deadline
        if deadline is not None:
            self.cluster.now = max(self.cluster.now, deadline)
        self.cluster.tell()

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        if self.cluster.asked:
            self.answer_one(data.draw(st.integers(0, 2)))

    def answer_one(self, number: int) -> None:
        """Answer a request: place each task on one chosen host, or on the first host that covers the task's cost.

        The host need not be ready, but it is none that was given up.
        """
        request = self.cluster.asked.popleft()
        names = [name for name, host in request.view.hosts.items() if not host.given_up]
        placements = {task.id: names[number % len(names)] for task in request.frontier}
        draft = request.view.draft()
        placements = {
            id: next((n for n in [name, *names] if self.covers(request.view, task, n)), "")
            for task, (id, name) in zip(request.frontier, placements.items(), strict=True)
        }
        del draft
        answer = {id: name for id, name in placements.items() if name}
        self.cluster.tell(ev.PlacementsProposed(request.run, request.request, answer, 1.0))

    @staticmethod
    def covers(view: Any, task: Any, host: str) -> bool:
        return any(not need.lacks(offer_of(view.hosts[host]), view._shared_total) for need in requirements_of(task))

    @invariant()
    def nothing_is_over_committed(self) -> None:
        for agent in self.cluster.agents.values():
            assert all(parts >= 0 for parts in agent.ledger.free.values())

    def teardown(self) -> None:
        """Connect all hosts, let everything end without further faults, and check that nothing is left over."""
        cluster = self.cluster
        for name in list(cluster.agents):
            cluster.tell(ev.HostRecovered(name))
        for name in HOSTS:
            if name not in cluster.agents:
                cluster.join(name, cores=4)
        cluster.tell(*(ev.HostLost(name) for name in sorted(cluster.core.world.fleet.expected)))
        for _ in range(2000):
            if cluster.all_over():
                break
            while cluster.asked:
                self.answer_one(0)
            if cluster.step() or cluster.asked:
                continue
            deadline = cluster.core.next_deadline
            assert deadline is not None, f"no timer is set: {[cluster.core.counts(run) for run in self.open_runs()]}"
            cluster.now = max(cluster.now, deadline)
            cluster.tell()
        assert cluster.all_over(), "a run has not ended"
        for run in self.open_runs():
            cluster.tell(ev.RunClosed(run))
        cluster.asked.clear()
        while cluster.step():
            pass
        fleet = cluster.core.world.fleet
        assert fleet.shared.used == {}
        for host in fleet.by_name.values():
            assert (host.handed, host.ahead_n, host.ledger.used, host.lingering) == (0, 0, {}, {})
        for agent in cluster.agents.values():
            assert not agent.running
            assert not agent.queue
            assert not agent.store, f"{agent.store} was left on {agent.name}"
        for (run, t), times in cluster.executed.items():
            assert times <= 1 or cluster.specs[run].profile[t] != ONCE, f"task {t} ran {times} times"


Chaos.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestChaos = Chaos.TestCase
