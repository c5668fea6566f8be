"""Brings the checkpoints of tasks to the controller, and to the hosts of the next attempts.

The core knows nothing of checkpoints. An agent tells the controller of the newest checkpoint of an attempt. The
controller fetches it, one from each host at a time, so that checkpoints leave room on the link for results. If an
attempt is handed over while its task's newest checkpoint is still on the way, the attempt is held back for that time.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from handout.errors import DamagedFileError, JournalError
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.shell.object_streams import CheckedSource, Gathered
from handout.execution.shell.run_checkpoints import TaskCheckpoint
from handout.execution.shell.run_objects import SpillFile
from handout.execution.shell.run_state import RunState
from handout.journal.object_files import ObjectFile
from handout.protocol import numbering
from handout.protocol.frames import Buffer
from handout.scheduler.commands import CancelTasks, RecallTasks, StartTasks

__all__ = ["CheckpointTraffic"]

logger = logging.getLogger("handout")


class _AwaitingAttempt(NamedTuple):
    """An attempt that is handed over once this checkpoint, or a newer one, has arrived or is lost."""

    order: int
    start: Callable[[], None]


class CheckpointTraffic:
    """Moves the checkpoints of all runs of a cluster.

    Args:
        runs: The cluster's runs by number, as the driver keeps them.
        agents: The cluster's agents by the names of their hosts, as the driver keeps them.
    """

    def __init__(self, runs: Mapping[int, RunState], agents: Mapping[str, AgentProxy]) -> None:
        self._runs = runs
        self._agents = agents
        #: For each host, the tasks whose checkpoints the controller has to fetch from it, in order. A task is named by
        #: the numbers of its run and of itself.
        self._queues: dict[str, dict[tuple[int, int], None]] = {}
        #: The agents from which a checkpoint is arriving.
        self._busy: set[AgentProxy] = set()
        #: The attempts of each task that wait for a checkpoint.
        self._waiting: dict[tuple[int, int], list[_AwaitingAttempt]] = {}
        self._orders = itertools.count(1)

    # ---- from hosts to the controller ------------------------------------------------------------------------

    def announced(self, run: RunState, task: int, agent: AgentProxy, key: int, nbytes: int) -> None:
        """Handle the message that an agent has a new checkpoint of a task."""
        if run.outcomes[task] is not None:
            agent.drop_keys([key])
            return
        known = run.checkpoints
        old, host = known.newest.get(task), known.on_hosts.get(task)
        known.newest[task] = new = TaskCheckpoint(key, agent.name, nbytes, not agent.trusted, next(self._orders))
        known.on_hosts[task] = agent.name
        if old is not None and host is not None and (host, old.attempt) != (agent.name, new.attempt):
            self._drop_on_host(host, old.key)  # an agent drops the older checkpoints of the same attempt itself
        self._fetch_soon(run, task)

    def submitted(self, run: RunState) -> None:
        """Fetch the checkpoints that agents have from an earlier controller."""
        for task, host in list(run.checkpoints.on_hosts.items()):
            found, agent = run.checkpoints.newest[task], self._agents.get(host)
            if agent is None:
                run.checkpoints.lose(task)
            else:
                run.checkpoints.newest[task] = found._replace(data_only=not agent.trusted)
                self._fetch_soon(run, task)

    def _fetch_soon(self, run: RunState, task: int) -> None:
        host = run.checkpoints.on_hosts[task]
        self._queues.setdefault(host, {})[run.number, task] = None
        self._fetch_next(host)

    def _fetch_next(self, host: str) -> None:
        queue, agent = self._queues.get(host), self._agents.get(host)
        if agent in self._busy:
            return
        while queue and agent is not None:
            number, task = next(iter(queue))
            del queue[number, task]
            run = self._runs.get(number)
            if run is None:
                continue
            newest = run.checkpoints.newest.get(task)
            if newest is not None and run.checkpoints.on_hosts.get(task) == host and not run.checkpoints.is_here(task):
                self._fetch(run, task, newest, agent)
                return
        if not queue:
            self._queues.pop(host, None)

    def _fetch(self, run: RunState, task: int, wanted: TaskCheckpoint, agent: AgentProxy) -> None:
        def done(data: Buffer | SpillFile, nbytes: int) -> None:
            run.objects.put(wanted.key, data, nbytes)
            if self._runs.get(run.number) is run and _is_wanted(run, task, wanted):
                self._arrived(run, task, wanted)
            else:
                run.objects.drop([wanted.key])
            ended()

        def failed(missing: bool) -> None:
            if missing or self._agents.get(agent.name) is not agent:
                self._lost(run, task, wanted)
            elif run.checkpoints.newest.get(task) == wanted:
                # The controller had no room for it. The host still has it, so the task may go on there.
                self._call_waiting(run, task)
            ended()

        def ended() -> None:
            self._busy.discard(agent)
            self._fetch_next(agent.name)

        self._busy.add(agent)
        agent.fetch(wanted.key, Gathered(done, failed, run.objects))

    def _arrived(self, run: RunState, task: int, checkpoint: TaskCheckpoint) -> None:
        known = run.checkpoints
        old = known.here.get(task)
        known.here[task] = checkpoint
        if old is not None:
            run.objects.drop([old.key])
        if run.recorder is not None:
            run.recorder.checkpoint(run, task, checkpoint)
        # An attempt that waits for a newer one goes on waiting: the fetch of that one is next.
        self._call_waiting(run, task, checkpoint.order)

    def _lost(self, run: RunState, task: int, wanted: TaskCheckpoint) -> None:
        if run.checkpoints.newest.get(task) == wanted:
            run.checkpoints.lose(task)
            self._call_waiting(run, task)

    def host_lost(self, host: str) -> None:
        """Go back to the checkpoints that the controller has, where a lost host had the newest ones."""
        self._queues.pop(host, None)
        for run in list(self._runs.values()):
            for task in [task for task, name in run.checkpoints.on_hosts.items() if name == host]:
                self._lost(run, task, run.checkpoints.newest[task])

    def vanished(self, agent: AgentProxy, key: int) -> None:
        """Note that another program has removed the file of a checkpoint from a host."""
        number, task, _ = numbering.checkpoint_parts(key)
        run = self._runs.get(number)
        if run is not None:
            newest = run.checkpoints.newest.get(task)
            if newest is not None and newest.key == key:
                self._lost(run, task, newest)

    # ---- from the controller to hosts ------------------------------------------------------------------------

    def hold(self, run: RunState, host: str, command: StartTasks, start: Callable[[StartTasks], None]) -> StartTasks:
        """Hold back the attempts whose checkpoints are still on the way to the controller.

        Args:
            run: The run.
            host: The host that gets the attempts.
            command: The attempts.
            start: Called later with each attempt that was held back and that was not given up meanwhile.

        Returns:
            The attempts that can start now.
        """
        ready: list[int] = []
        for i, (task, attempt) in enumerate(zip(command.tasks, command.attempts, strict=True)):
            known = run.checkpoints
            newest, maker = known.newest.get(task), known.on_hosts.get(task)
            if newest is None or maker is None or maker == host or newest.data_only or known.is_here(task):
                ready.append(i)
                continue
            run.checkpoints.held[task, attempt] = host
            held = partial(self._start_held, run, command.only([i]), start)
            self._waiting.setdefault((run.number, task), []).append(_AwaitingAttempt(newest.order, held))
            self._fetch_first(maker, (run.number, task))
        return command.only(ready)

    def _fetch_first(self, host: str, task: tuple[int, int]) -> None:
        """Fetch the checkpoint of a task before the others of its host, because an attempt waits for it.

        The controller may have tried to fetch it before, when it had no room.
        """
        others = self._queues.get(host, {})
        self._queues[host] = {task: None, **others}
        self._fetch_next(host)

    def _start_held(self, run: RunState, command: StartTasks, start: Callable[[StartTasks], None]) -> None:
        if run.checkpoints.held.pop((command.tasks[0], command.attempts[0]), None) is not None:
            start(command)

    def _call_waiting(self, run: RunState, task: int, order: float = math.inf) -> None:
        """Start the attempts that wait for the checkpoint with this order, or for an older one. Default: for any."""
        waiting = self._waiting.pop((run.number, task), [])
        later = [each for each in waiting if each.order > order]
        if later:
            self._waiting[run.number, task] = later
        for each in waiting:
            if each.order <= order:
                each.start()

    def give_back(self, run: RunState, command: CancelTasks | RecallTasks) -> tuple[list[int], list[int]]:
        """Stop holding back the attempts of a command. Return those that were held back: tasks and attempts."""
        pairs = zip(command.tasks, command.attempts, strict=True)
        held = [pair for pair in pairs if run.checkpoints.held.pop(pair, None) is not None]
        return [task for task, _ in held], [attempt for _, attempt in held]

    def send(self, run: RunState, agent: AgentProxy, tasks: Sequence[int]) -> list[int] | None:
        """Send the newest checkpoints of tasks to the host of their next attempts, where it does not have them.

        Returns:
            The key of the checkpoint of each task, or 0. None if no task has one.
        """
        keys = [self._send(run, task, agent) for task in tasks]
        return keys if any(keys) else None

    def _send(self, run: RunState, task: int, agent: AgentProxy) -> int:
        known = run.checkpoints
        on_host = known.on_hosts.get(task) == agent.name
        newest = known.newest.get(task)
        checkpoint = newest if on_host else known.here.get(task)
        for each in (newest, checkpoint):
            if each is not None and each.data_only and each.host != agent.name:
                logger.warning(
                    "Task %r begins anew on host %s: only data is accepted from host %s, so a checkpoint of that host "
                    "is restored only there.",
                    *(run.ids[task], agent.name, each.host),
                )
                return 0
        if checkpoint is None:
            if newest is not None:
                logger.warning(
                    "Task %r begins anew on host %s, because its checkpoint of %d bytes could not be copied from host "
                    "%s to the controller.",
                    *(run.ids[task], agent.name, newest.nbytes, newest.host),
                )
            return 0
        if checkpoint.data_only:
            agent.distrust([checkpoint.key])
        if not on_host and not self._send_bytes(run, task, checkpoint, agent):
            return 0
        return checkpoint.key

    def _send_bytes(self, run: RunState, task: int, checkpoint: TaskCheckpoint, agent: AgentProxy) -> bool:
        try:
            segments = run.objects.segments(checkpoint.key)
        except (OSError, DamagedFileError, JournalError) as error:
            _warn_unreadable(run, task, error)
            return False
        if segments is None:
            return False
        if isinstance(segments, ObjectFile):
            self._stream(run, task, segments, checkpoint.key, agent)
        else:
            agent.put(checkpoint.key, segments, sum(memoryview(segment).nbytes for segment in segments))
        return True

    def _stream(self, run: RunState, task: int, file: ObjectFile, key: int, agent: AgentProxy) -> None:
        def failed(error: DamagedFileError | OSError) -> None:
            _warn_unreadable(run, task, error)
            agent.conversation.stop_object(stream)
            # The attempt waits for the checkpoint, and begins anew with one that cannot be read.
            agent.put(key, [b""], 0)

        stream = agent.conversation.send_object(key, CheckedSource(file, failed))

    # ---- the ends of tasks and runs --------------------------------------------------------------------------

    def task_ended(self, run: RunState, task: int, well: bool) -> None:
        """Drop the checkpoints of a task that has ended. If it has not ended well, the journal keeps the newest."""
        if run.recorder is not None:
            run.recorder.checkpoints_over(task, well)
        self._drop(run, task)

    def run_left(self, run: RunState) -> None:
        """Drop all checkpoints of a run."""
        for task in list(run.checkpoints.newest):
            self._drop(run, task)
        for queue in self._queues.values():
            for each in [each for each in queue if each[0] == run.number]:
                del queue[each]

    def _drop(self, run: RunState, task: int) -> None:
        known = run.checkpoints
        newest = known.newest.pop(task, None)
        host = known.on_hosts.pop(task, None)
        here = known.here.pop(task, None)
        if newest is not None and host is not None:
            self._drop_on_host(host, newest.key)
        if here is not None:
            run.objects.drop([here.key])
        self._call_waiting(run, task)

    def _drop_on_host(self, host: str, key: int) -> None:
        agent = self._agents.get(host)
        if agent is not None:
            agent.drop_keys([key])


def _is_wanted(run: RunState, task: int, checkpoint: TaskCheckpoint) -> bool:
    """Return True if a task has not ended, and the controller has no newer checkpoint of it."""
    here = run.checkpoints.here.get(task)
    return task in run.checkpoints.newest and (here is None or here.order <= checkpoint.order)


def _warn_unreadable(run: RunState, task: int, error: Exception) -> None:
    logger.warning("Task %r begins anew, because its checkpoint cannot be read: %s", run.ids[task], error)
