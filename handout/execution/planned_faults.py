"""The faults that `handout.testing.Faults` has planned for a cluster, and which of them have come to pass.

A fault of tasks is planned for the attempts of certain tasks. The driver asks for each attempt that it hands over, and
hands an attempt with a fault over with another function; see `FaultyFunction`. A fault of a host is brought about by
the controller: it has the agent killed, or drops the connection and refuses new ones.

Everything here runs in the thread of the cluster's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from handout.errors import GraphError
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.shell.run_state import GraphRun, RunState
from handout.graph.naming import innermost
from handout.graph.output import Output
from handout.protocol import numbering
from handout.scheduler.commands import StartTasks
from handout.serialization.faulty import FaultyFunction
from handout.serialization.pickling import Snapshot, dumps
from handout.serialization.user_objects import qualified_name
from handout.submission.code_bundles import FunctionBlob, function_ref

__all__ = ["HostFault", "PlannedFaults", "TaskFault", "Which", "pickled_error"]

#: The tasks of a fault: one task by its id or by an output, or all tasks of a function.
Which = str | Output[Any] | Callable[..., Any]

#: Kills the agent with SIGKILL. The agent is the parent of the programs that it runs.
_KILL_AGENT = ("sh", "-c", "kill -9 $PPID")
_KILL_S = 10.0
#: For each fault of a task: the kind of `FaultyFunction`, and the kind of failure that shows that it came to pass.
_KINDS = {"fail": ("raise", "raised"), "kill": ("die", "died"), "starve": ("hold", "memory")}


@dataclass(eq=False)
class TaskFault:
    """A fault of the next attempts of some tasks."""

    #: What the test has called, for the error that names it.
    call: str
    kind: str
    which: Which
    times: int
    #: The pickled exception of ``fail``.
    error: bytes = b""
    #: The fault of a host that begins when an attempt runs on that host; None for a fault of the attempt itself.
    host_fault: HostFault | None = None
    #: How often the fault came to pass.
    came: int = 0
    #: The ids of the attempts that have the fault and go on.
    under: set[int] = field(default_factory=set)
    #: Why the fault could not come to pass.
    reason: str = ""


@dataclass(eq=False)
class HostFault:
    """The loss of a host, or the silence of its link."""

    call: str
    host: str
    #: Seconds for which the link is silent. None: the host is lost.
    for_s: float | None = None
    begun: bool = False
    came: bool = False


class _Under(NamedTuple):
    """An attempt with a fault goes on on this host."""

    fault: TaskFault
    host: str


class FaultyAttempt(NamedTuple):
    """An attempt that is handed over with a fault."""

    #: Its place in the columns of the command.
    place: int
    function: FunctionBlob
    #: True if the agent must know a memory limit for the task: the memory that its cost states.
    is_limited: bool


class PlannedFaults:
    """The faults of one cluster.

    Args:
        agents: The agents of the cluster by the names of their hosts, as the driver keeps them.
        no_starts: The hosts on which no agent may start; see `RefusingLauncher`.
        no_connections: The hosts to which nothing may connect.
    """

    def __init__(
        self, agents: dict[str, AgentProxy], no_starts: dict[str, str], no_connections: dict[str, str]
    ) -> None:
        self._agents = agents
        self._no_starts = no_starts
        self._no_connections = no_connections
        self._tasks: list[TaskFault] = []
        self._hosts: list[HostFault] = []
        self._attempts: dict[int, _Under] = {}
        #: For each host whose link is cut: ends the cut.
        self._timers: dict[str, asyncio.TimerHandle] = {}
        #: The numbers of the functions that replaced others.
        self._functions: set[int] = set()

    # ---- planning --------------------------------------------------------------------------------------------

    def plan_task(self, fault: TaskFault) -> None:
        """Plan a fault of tasks. Faults that were planned earlier come first."""
        self._tasks.append(fault)

    def plan_host(self, fault: HostFault, during: Which | None) -> None:
        """Plan a fault of a host: now, or when one of the given tasks runs there."""
        self._hosts.append(fault)
        if during is None:
            self._begin(fault)
        else:
            self._tasks.append(TaskFault(fault.call, "during", during, 1, host_fault=fault))

    def missed(self) -> list[str]:
        """Return a text for each fault that has not come to pass as often as it was planned."""
        texts = []
        for fault in self._tasks:
            if fault.host_fault is None and fault.came < fault.times:
                reason = f", because {fault.reason}" if fault.reason else ""
                texts.append(f"{fault.call} came to pass {fault.came} of {fault.times} times{reason}")
        texts += [f"{fault.call} did not come to pass" for fault in self._hosts if not fault.came]
        return texts

    @property
    def begun_on(self) -> set[str]:
        """The names of the hosts that were lost, or whose links were cut."""
        return {fault.host for fault in self._hosts if fault.begun}

    def end(self) -> None:
        """End all faults. Hosts may start and connect again."""
        for timer in self._timers.values():
            timer.cancel()
        self._no_starts.clear()
        self._no_connections.clear()
        for agent in self._agents.values():
            agent.release_code(self._functions, set(), set())

    # ---- attempts --------------------------------------------------------------------------------------------

    def choose(self, run: RunState, command: StartTasks) -> list[FaultyAttempt]:
        """Return the attempts of a command that get a fault, with the functions that replace those of the tasks."""
        chosen = []
        for place, (task, attempt) in enumerate(zip(command.tasks, command.attempts, strict=True)):
            fault = next((each for each in self._tasks if self._fits(each, run, task, command.host)), None)
            if fault is None:
                continue
            attempt_id = numbering.attempt_id(run.number, task, attempt)
            fault.under.add(attempt_id)
            self._attempts[attempt_id] = _Under(fault, command.host)
            chosen.append(FaultyAttempt(place, self._function(run, task, fault), fault.kind == "starve"))
        return chosen

    def _fits(self, fault: TaskFault, run: RunState, task: int, host: str) -> bool:
        if fault.came + len(fault.under) >= fault.times or not _is_which(fault.which, run, task):
            return False
        if fault.host_fault is not None:
            return fault.host_fault.host == host and not fault.host_fault.begun
        if fault.kind == "starve" and not _states_memory(run, task):
            fault.reason = f"the cost of task {run.ids[task]!r} states no memory that the task could exceed"
            return False
        return True

    def _function(self, run: RunState, task: int, fault: TaskFault) -> FunctionBlob:
        own = run.encoded.functions[run.encoded.fn[task]]
        kind = _KINDS[fault.kind][0] if fault.host_fault is None else _kind_during(fault.host_fault)
        found = function_ref(FaultyFunction(kind, own.blob, fault.error))
        self._functions.add(found.number)
        return replace(found, by_value=own.by_value, needs_bundle=own.needs_bundle)

    def started(self, attempt_id: int, agent: AgentProxy) -> None:
        """Bring about the faults that wait for the start of an attempt."""
        under = self._attempts.get(attempt_id)
        if under is None:
            return
        fault = under.fault
        if fault.kind == "starve":
            agent.exceed_memory([attempt_id])
        elif fault.host_fault is not None and not fault.host_fault.begun:
            self._ended(attempt_id, True)
            self._begin(fault.host_fault)

    def failed(self, attempt_id: int, kind: str) -> None:
        """Note that an attempt has failed."""
        under = self._attempts.get(attempt_id)
        if under is not None:
            fault = under.fault
            self._ended(attempt_id, fault.host_fault is None and _KINDS[fault.kind][1] == kind)

    def over(self, attempt_ids: Iterable[int]) -> None:
        """Note that attempts have ended without a failure, or were recalled. Their faults come in other attempts."""
        for attempt_id in attempt_ids:
            if attempt_id in self._attempts:
                self._ended(attempt_id, False)

    def _ended(self, attempt_id: int, came: bool) -> None:
        fault = self._attempts.pop(attempt_id).fault
        fault.under.discard(attempt_id)
        fault.came += came

    # ---- hosts -----------------------------------------------------------------------------------------------

    def _begin(self, fault: HostFault) -> None:
        fault.begun = True
        agent = self._agents.get(fault.host)
        if fault.for_s is None:
            self._no_starts[fault.host] = f"handout.testing.Faults has lost it ({fault.call})"
            if agent is None:
                fault.came = True  # no agent can start there any more; `joined` kills one that is starting now
            else:
                _kill(agent)
            return
        self._no_connections[fault.host] = f"handout.testing.Faults has cut its link ({fault.call})"
        earlier, loop = self._timers.get(fault.host), asyncio.get_running_loop()
        if earlier is None or earlier.when() < loop.time() + fault.for_s:
            if earlier is not None:
                earlier.cancel()
            self._timers[fault.host] = loop.call_later(fault.for_s, self._end_cut, fault.host)
        if agent is not None:
            fault.came = True
            agent.link.drop()

    def _end_cut(self, host: str) -> None:
        del self._timers[host]
        self._no_connections.pop(host, None)

    def joined(self, agent: AgentProxy) -> None:
        """Bring about the faults of a host whose agent was starting when they were planned."""
        for fault in self._hosts:
            if fault.host != agent.name or not fault.begun:
                continue
            if fault.for_s is None:
                _kill(agent)
            elif not fault.came and fault.host in self._no_connections:
                fault.came = True
                agent.link.drop()

    def left(self, host: str) -> None:
        """Note that a host is lost."""
        for fault in self._hosts:
            if fault.host == host and fault.begun and fault.for_s is None:
                fault.came = True
        self.over([attempt_id for attempt_id, under in self._attempts.items() if under.host == host])


def _kind_during(fault: HostFault) -> str:
    """Return how an attempt goes on during which a fault of its host begins."""
    return "hold" if fault.for_s is None else "linger"


def _kill(agent: AgentProxy) -> None:
    agent.run_program(_KILL_AGENT, _KILL_S, lambda status, output: None)


def _states_memory(run: RunState, task: int) -> bool:
    requirements = run.spec.profiles[run.spec.profile[task]].requirements
    return all(requirement.consumed.get("memory") for requirement in requirements)


def _is_which(which: Which, run: RunState, task: int) -> bool:
    if isinstance(which, str):
        return run.ids[task] == which
    if isinstance(which, Output):
        return isinstance(run, GraphRun) and _makes(run, task, which)
    profile, which = run.spec.profiles[run.spec.profile[task]], innermost(which)
    if isinstance(run, GraphRun):
        own = innermost(run.plan.fns[task])
        return own == which or _code(own) is _code(which) is not None
    return profile.fn_name == qualified_name(which)


def _makes(run: GraphRun, task: int, output: Output[Any]) -> bool:
    try:
        number, _ = run.plan.locate(output)
    except GraphError:
        return False  # the output is of another graph
    return run.spec.producer[number] == task


def _code(fn: Any) -> Any:
    return getattr(fn, "__code__", None)


def pickled_error(error: Exception) -> bytes:
    """Return an exception as bytes.

    Raises:
        Exception: The exception cannot be pickled.
    """
    return b"".join(dumps(error, Snapshot()))
