"""Moves objects between the controller and hosts, and from host to host by way of the controller.

The core, the part of the scheduler that makes all decisions, commands these moves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from handout.errors import DamagedFileError, JournalError
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.shell.object_streams import CheckedSource, Gathered, Relay
from handout.execution.shell.run_objects import SpillFile
from handout.execution.shell.run_state import RunState
from handout.journal.object_files import ObjectFile
from handout.protocol.frames import Buffer
from handout.protocol.messages import INLINE
from handout.scheduler import commands as do
from handout.scheduler import events as ev
from handout.scheduler.core import Core
from handout.scheduler.run_spec import CONTROLLER
from handout.serialization.pickling import Segment

__all__ = ["ObjectTraffic"]

logger = logging.getLogger("handout")


class ObjectTraffic:
    """Performs the core's commands about objects.

    Args:
        runs: The cluster's runs by number, as the driver keeps them.
        agents: The cluster's agents by the names of their hosts, as the driver keeps them.
        core: Knows the number of the last attempt of each task.
        post: Reports the outcome of a command to the core.
    """

    def __init__(
        self,
        runs: Mapping[int, RunState],
        agents: Mapping[str, AgentProxy],
        core: Core,
        post: Callable[[ev.Event], None],
    ) -> None:
        self._runs = runs
        self._agents = agents
        self._core = core
        self._post = post

    def copy(self, command: do.CopyObjects) -> None:
        """Send objects to a host, from the controller or from another host."""
        run, agent = self._runs.get(command.run), self._agents.get(command.host)
        if run is None or agent is None:
            return
        for number, source in zip(command.objects, command.sources, strict=True):
            self._note_source(run, number, source)
        suspects = [run.base | number for number in command.objects if number in run.suspects]
        if suspects:
            agent.distrust(suspects)
        keys: list[int] = []
        blobs: list[bytes] = []
        numbers: list[int] = []
        for number, source in zip(command.objects, command.sources, strict=True):
            if source != CONTROLLER:
                self._relay(run, number, source, agent)
                continue
            segments = self._segments(run, number)
            if isinstance(segments, ObjectFile):
                self._stream(run, number, segments, agent)
            elif segments is None:
                missing = number not in run.objects
                self._post(ev.CopyFailed(agent.name, run.number, number, CONTROLLER, missing))
            elif run.objects.size(number) > INLINE:
                agent.put(run.base | number, segments, run.objects.size(number))
            else:
                keys.append(run.base | number)
                blobs.append(b"".join(segments))
                numbers.append(number)
        if keys:
            agent.put_many(keys, blobs)
            self._post(ev.ObjectsStored(command.host, run.number, numbers, [len(b) for b in blobs]))

    def _stream(self, run: RunState, number: int, file: ObjectFile, agent: AgentProxy) -> None:
        """Send an object from a file of the controller to a host. Read and check the bytes meanwhile."""

        def failed(error: DamagedFileError | OSError) -> None:
            agent.conversation.stop_object(stream)
            if isinstance(error, DamagedFileError) and run.objects.file(number) is file:
                self._forget(run, number, error)
            # The object may have been made again since this stream began.
            missing = number not in run.objects
            self._post(ev.CopyFailed(agent.name, run.number, number, CONTROLLER, missing))

        def waits(error: OSError) -> None:
            if not run.has_waited_for_files:
                run.has_waited_for_files = True
                logger.warning(
                    "Objects wait in the controller, because this program has too many open files (%s). "
                    "Close files, or raise the limit that `ulimit -n` shows.",
                    error.strerror,
                )

        stream = agent.conversation.send_object(run.base | number, CheckedSource(file, failed, waits))

    def _segments(self, run: RunState, number: int) -> Sequence[Segment] | None:
        """Return the bytes of an object, or its file if it is large. None if the controller cannot read the object."""
        try:
            return run.objects.segments(number)
        except OSError:
            # The file is small, but cannot be read now. A stream reads it again, as long as too many files are open.
            return run.objects.file(number)
        except (DamagedFileError, JournalError) as error:
            self._forget(run, number, error)
            return None

    def _forget(self, run: RunState, number: int, error: DamagedFileError | JournalError) -> None:
        """Forget a result that cannot be read any more. The caller reports this to the core, which has it made again.

        Only results are in files or in a journal. The values that the caller gave are in memory.
        """
        producer = run.spec.producer[number]
        if producer >= 0:
            what = f"The result of task {run.ids[producer]!r} is made again, because it cannot be read."
        else:
            what = "A value that was put on the cluster cannot be read any more, and is not sent to further hosts."
        logger.warning("%s %s", what, error.problem)
        run.objects.drop([number])

    def _note_source(self, run: RunState, number: int, source: str) -> None:
        """If an object comes from a host with ``trust="data"``, note that its bytes are untrusted."""
        giver = self._agents.get(source)
        if giver is not None and not giver.trusted:
            run.suspects.setdefault(number, source)

    def _relay(self, run: RunState, number: int, source: str, target: AgentProxy) -> None:
        """Receive an object from one host, and send its first bytes to another host before the last bytes arrive."""
        giver = self._agents.get(source)
        host = target.name

        def failed(missing: bool) -> None:
            self._post(ev.CopyFailed(host, run.number, number, source, missing))

        if giver is None:
            failed(True)
            return
        key, conversation = run.base | number, target.conversation

        def start(relay: Relay) -> Callable[[], None]:
            stream = conversation.send_object(key, relay)
            return lambda: conversation.stop_object(stream)

        giver.fetch(key, Relay(start, failed))

    def fetch(self, command: do.FetchObjects) -> None:
        """Fetch objects from hosts."""
        run = self._runs.get(command.run)
        if run is None:
            return
        for number, source in zip(command.objects, command.sources, strict=True):
            self._note_source(run, number, source)
            self._fetch(run, number, source)

    def _fetch(self, run: RunState, number: int, source: str) -> None:
        def done(data: Buffer | SpillFile, nbytes: int) -> None:
            run.objects.put(number, data, nbytes)
            if self._runs.get(run.number) is not run:
                return  # the caller has left the run, so the core does not know the run any more
            if run.recorder is not None:
                shown = self._core.shown_attempt(run.number, run.spec.producer[number])
                run.recorder.arrived(run, number, shown)
            run.arrived(number)
            self._post(ev.ObjectsStored(CONTROLLER, run.number, [number], [nbytes]))

        def failed(missing: bool) -> None:
            self._post(ev.CopyFailed(CONTROLLER, run.number, number, source, missing))

        giver = self._agents.get(source)
        if giver is None:
            failed(True)
            return
        giver.fetch(run.base | number, Gathered(done, failed, run.objects))

    def drop(self, command: do.DropObjects) -> None:
        """Delete objects on a host, or at the controller."""
        run = self._runs.get(command.run)
        if command.host == CONTROLLER:
            if run is not None:
                run.objects.drop(command.objects)
            return
        agent = self._agents.get(command.host)
        if agent is not None:
            agent.drop(command.run, command.objects)
