"""Make the views of the core's state that custom allocators get: one of the cluster, and one of each ready task."""

from __future__ import annotations

from handout.allocators import ClusterView, HostView, InputView, Task, task_of_core, view_of_core, view_of_ledger
from handout.protocol.resource_ledger import Ledger
from handout.scheduler.state.absent_hosts import AbsentHost
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World

__all__ = ["cluster_view", "task_view"]


def cluster_view(world: World) -> ClusterView:
    """Return a view of all hosts of the inventory. The hosts that are ready come first."""
    here = list(world.fleet.by_name.values())
    ready = [host for host in here if host.open]
    others = [host for host in here if not host.open]
    absent = [_absent_view(host, world.now) for host in world.fleet.absent.values()]
    rtt_s = {host.name: host.rtt_s for host in here}
    return view_of_core([*map(_host_view, (*ready, *others)), *absent], world.now, world.fleet.shared, rtt_s)


def _host_view(host: HostRecord) -> HostView:
    return view_of_ledger(
        host.name,
        host.offer,
        host.ledger,
        price_per_hour=host.price_per_hour,
        running=host.handed - host.ahead_n,
        backlog_s=host.ahead_s / host.slots,
        state=host.state,
        given_up=host.draining,
    )


def _absent_view(host: AbsentHost, now: float) -> HostView:
    offer = host.declared.offer
    return view_of_ledger(
        host.name,
        offer,
        Ledger(offer.amounts, offer.devices),
        price_per_hour=host.declared.price_per_hour,
        running=0,
        backlog_s=0.0,
        state=host.state,
        given_up=not host.is_awaited(now),
    )


def task_view(world: World, run: Run, t: int, waiting_s: float) -> Task:
    """Return a view of one ready task."""
    spec = run.spec
    expected_s = run.durations.expected_s[spec.fn[t]]
    names, profile = world.fleet.names, spec.profiles[spec.profile[t]]
    paused = [host.name for host in world.pausing if host.is_paused(profile, world.now)]
    return task_of_core(
        run.name_of(t),
        profile.requirements,
        inputs=[_input_view(world, run, o) for o in spec.inputs[t]],
        priority=run.priority_of(t),
        rank=run.rank[t] if run.rank else 0,
        expected_s=None if expected_s < 0.0 else expected_s,
        waiting_s=waiting_s,
        labels={} if spec.labels is None else spec.labels[t],
        not_on=[*(names[index] for index in run.avoid.get(t, ())), *paused],
    )


def _input_view(world: World, run: Run, o: int) -> InputView:
    producer, replicas, nbytes = run.spec.producer[o], run.objects.replicas[o], run.objects.nbytes[o]
    value = run.spec.warm.get(o)
    if value is not None:
        warm = [world.fleet.names[index] for index in world.warm.of(value)]
        return InputView(f"value-{o}", nbytes=nbytes, hosts=warm, warming_s=world.warm.seconds(value))
    name = run.name_of(producer) if producer >= 0 else f"value-{o}"
    hosts = [world.fleet.names[index] for index in replicas if index]
    return InputView(name, nbytes=nbytes if replicas and nbytes >= 0 else None, hosts=hosts)
