"""An allocator and a health endpoint that look at hosts which are not there yet."""
from __future__ import annotations
from collections.abc import Mapping, Sequence
from typing import assert_never
from handout import Cluster, ClusterView, HostState, HostView, Task

def usable(host: HostView) -> bool:
    match host.state:
        case "ready":
            return True
        case "starting" | "suspected" | "lost" | "quarantined":
            return not host.given_up
        case "draining":
            return False
        case _:
            assert_never(host.state)

async def wait_for_gpu(frontier: Sequence[Task], view: ClusterView) -> Mapping[str, str]:
    draft = view.draft()
    for task in frontier:
        if host := next((name for name in view.hosts if draft.fits(task, name, wait=True)), None):
            draft.place(task, host)
    return draft

def health(cluster: Cluster) -> dict[str, str]:
    return {name: f"{host.state} {cluster.unavailable.get(name, '')}" for name, host in cluster.view.hosts.items()}

def hosts_in(state: HostState, cluster: Cluster) -> list[str]:
    return [name for name, host in cluster.view.hosts.items() if host.state == state]

lost = HostView("a", {"cpu": 1}, state="lost", given_up=True)
