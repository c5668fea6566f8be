"""Measure the time that the scheduler's core takes for a task.

``python -m benchmarks.core`` prints the microseconds for each task, for graphs of several shapes. The benchmark passes
events to `Core.handle`, and simulates the hosts. Only the time inside `Core.handle` counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from dataclasses import dataclass

from handout.resources import Cost, compile_capabilities, compile_cost
from handout.scheduler import Core, Profile, RunSpec
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev

#: A simulated host reports the end of at most this many tasks in one event.
BATCH = 100
#: A simulated host reports that each task took this many seconds.
TASK_S = 20e-6


@dataclass(frozen=True)
class Shape:
    """The shape of a graph to run."""

    name: str
    #: For each task, the numbers of the tasks whose results it takes.
    inputs: list[tuple[int, ...]]


def independent(count: int) -> Shape:
    return Shape(f"{count} independent", [()] * count)


def chain(count: int) -> Shape:
    return Shape(f"chain of {count}", [()] + [(t,) for t in range(count - 1)])


def diamond(width: int) -> Shape:
    inputs: list[tuple[int, ...]] = [(), *[(0,)] * width]
    level = list(range(1, width + 1))
    while len(level) > 1:
        parts = [tuple(level[i : i + 16]) for i in range(0, len(level), 16)]
        level = list(range(len(inputs), len(inputs) + len(parts)))
        inputs.extend(parts)
    return Shape(f"diamond of {width}", inputs)


def spec_of(shape: Shape) -> RunSpec:
    count = len(shape.inputs)
    users = {o for ins in shape.inputs for o in ins}
    return RunSpec(
        count=count,
        profiles=[Profile((compile_cost(Cost()),), fn_name="noop")],
        profile=[0] * count,
        fn=[0] * count,
        inputs=shape.inputs,
        producer=list(range(count)),
        nbytes=[-1] * count,
        outputs=[t for t in range(count) if t not in users],
    )


def measure(shape: Shape, hosts: int, cores: int) -> dict[str, float | str | int]:
    """Run a graph on simulated hosts, and return the time that the scheduler's core took.

    Every host offers ``cores`` CPU cores. In each step, a host finishes up to ``BATCH`` tasks whose inputs it has.
    """
    core = Core()
    offer = compile_capabilities({"cpu": cores})
    spec = spec_of(shape)
    calls = 0
    spent = 0.0
    pending: list[ev.Event] = [ev.HostConnected(f"h{i}", offer, "3.11.5", 0.0005) for i in range(hosts)]
    pending.append(ev.RunSubmitted(1, spec))
    queues: dict[str, deque[tuple[int, int]]] = {f"h{i}": deque() for i in range(hosts)}
    stored: dict[str, set[int]] = {name: set() for name in queues}
    clock = 0.0
    while True:
        clock += 0.001
        began = time.perf_counter()
        commands = core.handle(pending, clock)
        spent += time.perf_counter() - began
        calls += 1
        pending = []
        for command in commands:
            match command:
                case cmd.StartTasks():
                    queues[command.host].extend(zip(command.tasks, command.attempts, strict=True))
                case cmd.CopyObjects():
                    stored[command.host].update(command.objects)
                    pending.append(ev.ObjectsStored(command.host, 1, command.objects, [8] * len(command.objects)))
                case cmd.RecallTasks():
                    back = set(command.tasks) & {t for t, _ in queues[command.host]}
                    if back:
                        gone = [(t, a) for t, a in queues[command.host] if t in back]
                        queues[command.host] = deque(e for e in queues[command.host] if e[0] not in back)
                        pending.append(ev.TasksRecalled(command.host, 1, *map(list, zip(*gone, strict=True))))
                case cmd.AnnounceRunEnded():
                    return {
                        "shape": shape.name,
                        "tasks": spec.count,
                        "hosts": hosts,
                        "calls": calls,
                        "us_per_task": round(spent / spec.count * 1e6, 2),
                    }
                case _:
                    pass
        for name, queue in queues.items():
            done: list[tuple[int, int]] = []
            for _ in range(len(queue)):
                if len(done) == BATCH:
                    break
                t, attempt = queue.popleft()
                if all(o in stored[name] for o in spec.inputs[t]):
                    done.append((t, attempt))
                    stored[name].add(t)
                else:
                    queue.append((t, attempt))
            if done:
                tasks, attempts = map(list, zip(*done, strict=True))
                n = len(tasks)
                pending.append(ev.TasksFinished(name, 1, tasks, attempts, [TASK_S] * n, [(8,)] * n, [True] * n))
        if not pending:
            deadline = core.next_deadline
            if deadline is None:
                raise RuntimeError(
                    f"The run of the graph '{shape.name}' has stopped before its end: no event and no timer is left. "
                    f"Number of tasks in each state: {core.counts(1)}"
                )
            clock = max(clock, deadline)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repeat", type=int, default=5, help="take the best of this many measurements")
    arguments = parser.parse_args()
    cases = [(independent(10_000), 2), (independent(100_000), 2), (chain(1_000), 2), (diamond(5_000), 2)]
    cases.append((independent(10_000), 100))
    rows = []
    for shape, hosts in cases:
        rows.append(min((measure(shape, hosts, 4) for _ in range(arguments.repeat)), key=lambda r: r["us_per_task"]))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(
            f"{row['shape']:>22} on {row['hosts']:>3} hosts: {row['us_per_task']:6.2f} us a task, {row['calls']} calls"
        )


if __name__ == "__main__":
    main()
