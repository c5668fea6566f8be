"""Faults on demand, for tests of your own graphs: on named local hosts, or as a rehearsal on real ones."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from handout.errors import HandoutError, InventoryError
from handout.execution.cluster import Cluster
from handout.execution.planned_faults import HostFault, PlannedFaults, TaskFault, Which, pickled_error
from handout.graph.naming import innermost
from handout.graph.output import Output
from handout.resources.did_you_mean import suggestion
from handout.resources.numbers import is_finite_number, is_whole
from handout.serialization.user_objects import brief, qualified_name

__all__ = ["Faults", "Which"]


class Faults:
    """Brings about faults in the tasks and hosts of an open cluster. They are real: SIGKILL, and closed connections.

    Faults happen while the ``with`` block runs. A fault that has not come to pass as often as it was planned fails the
    block with an `AssertionError`, so that a test cannot pass for want of trouble. If the block raises an exception
    itself, that exception counts.

    The faults of a task count the attempts of all tasks of a `Which` in the order in which they are handed to hosts. A
    `Which` is the id of a task, an output of a graph, or a function, which stands for all its tasks. An attempt with a
    fault gets a worker for itself. All methods can be called from any thread, on a cluster that was opened by
    ``async with`` or by a plain ``with``.

    Args:
        cluster: An open cluster.

    Example:
        ```python
        async def test_training_survives_a_lost_host(graph: handout.Graph) -> None:
            hosts = [handout.Host.local("gpu1", {"gpu": 1}), handout.Host.local("gpu2", {"gpu": 1})]
            async with handout.Cluster(hosts) as cluster:
                with Faults(cluster) as faults:
                    faults.lose("gpu1", during="train")
                    results = await cluster.execute(graph)
                assert results.allocations["train"] == "gpu2"
        ```
    """

    def __init__(self, cluster: Cluster, /) -> None:
        if not isinstance(cluster, Cluster):
            raise TypeError(f"{brief(cluster)} is not a Cluster. Write: with Faults(cluster) as faults.")
        self._cluster = cluster
        self._planned: PlannedFaults | None = None

    def __enter__(self) -> Self:
        runtime = self._cluster._runtime

        def begin() -> PlannedFaults:
            driver = runtime.driver
            if driver.faults is not None:
                raise HandoutError(
                    "This cluster has faults already.", remedy="Leave the block of the first Faults before."
                )
            driver.faults = PlannedFaults(driver.agents, runtime.no_starts, runtime.no_connections)
            return driver.faults

        self._planned = runtime.open_loop.ask(begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        planned, self._planned = self._planned, None
        assert planned is not None
        runtime = self._cluster._runtime

        def end() -> list[str]:
            planned.end()
            for host in planned.begun_on:
                runtime.retry(host)  # the pauses after failed starts are for hosts in trouble that nothing will end
            if runtime._driver is not None and runtime._driver.faults is planned:
                runtime._driver.faults = None
            return planned.missed()

        missed = end() if runtime.is_closed else runtime.open_loop.ask(end)
        if kind is None and missed:
            raise AssertionError(
                f"Not all faults came to pass: {'; '.join(missed)}. The tasks and hosts that they name must be used "
                "inside the block."
            )

    def fail(self, task: Which, error: Exception | None = None, /, *, times: int = 1) -> None:
        """Have attempts raise an exception at their start. The task's function is not called.

        Args:
            task: The tasks.
            error: The exception. Default: a `RuntimeError`.
            times: The number of attempts.

        Example:
            ```python
            async def fails_twice(cluster: handout.Cluster, graph: handout.Graph) -> None:
                with Faults(cluster) as faults:
                    faults.fail("load", OSError("the disk is away"), times=2)
                    await cluster.execute(graph, retries=2)
            ```
        """
        raised = error if error is not None else RuntimeError("a fault of handout.testing")
        if not isinstance(raised, Exception):
            raise TypeError(f"{brief(raised)} is not an exception. Give an instance, such as OSError('no disk').")
        self._plan("fail", task, times, pickled_error(raised))

    def kill(self, task: Which, /, *, times: int = 1) -> None:
        """Have the workers of attempts die under them: SIGKILL when the function returns, or after 0.2 s.

        Args:
            task: The tasks.
            times: The number of attempts. A task fails for good with the third death of a worker.

        Example:
            ```python
            async def dies_once(cluster: handout.Cluster, graph: handout.Graph) -> None:
                with Faults(cluster) as faults:
                    faults.kill("train")
                    await cluster.execute(graph)
            ```
        """
        self._plan("kill", task, times)

    def starve(self, task: Which, /, *, times: int = 1) -> None:
        """Have the agent take attempts for ones that exceed the memory that their cost states. Nothing is allocated.

        Args:
            task: The tasks. A task whose cost states no memory has no limit, and so does not get this fault.
            times: The number of attempts.

        Example:
            ```python
            async def starves_once(cluster: handout.Cluster, graph: handout.Graph) -> None:
                with Faults(cluster) as faults:
                    faults.starve("train")
                    await cluster.execute(graph, retries=1)
            ```
        """
        self._plan("starve", task, times)

    def lose(self, host: str, /, *, during: Which | None = None) -> None:
        """Lose a host: its agent is killed with SIGKILL, and cannot start again before the block is left.

        Args:
            host: The name of the host.
            during: The host is lost when an attempt of one of these tasks runs there. The attempt does not return
                before. Default: the host is lost at once.

        Example:
            ```python
            async def loses_a_host(cluster: handout.Cluster, graph: handout.Graph) -> None:
                with Faults(cluster) as faults:
                    faults.lose("gpu1", during="train")
                    await cluster.execute(graph)
            ```
        """
        self._plan_host(HostFault(f"lose({host!r})", host), during)

    def cut(self, host: str, /, *, for_s: float, during: Which | None = None) -> None:
        """Cut the link to a host: the connection is closed, and no new one is made.

        If the link is cut for longer than the host may be silent (``Timings.host_timeout_s``), the host is lost.

        Args:
            host: The name of the host.
            for_s: Seconds for which no new connection is made. The end of the block ends the cut as well.
            during: The link is cut when an attempt of one of these tasks runs there. The attempt takes at least a
                second. Default: the link is cut at once.

        Example:
            ```python
            async def cuts_a_link(cluster: handout.Cluster, graph: handout.Graph) -> None:
                with Faults(cluster) as faults:
                    faults.cut("gpu1", for_s=2.0, during="train")
                    await cluster.execute(graph)
            ```
        """
        if not (is_finite_number(for_s) and for_s > 0):
            raise ValueError(f"for_s={for_s!r} is not a positive number of seconds.")
        self._plan_host(HostFault(f"cut({host!r}, for_s={for_s:g})", host, for_s), during)

    def _plan(self, kind: str, which: Which, times: int, error: bytes = b"") -> None:
        if not (is_whole(times) and times >= 1):
            raise ValueError(f"times={times!r} is not a whole number of attempts from 1 up.")
        fault = TaskFault(f"{kind}({_name(which)})", kind, _checked(which), times, error)
        planned = self._open()
        self._cluster._runtime.open_loop.ask(lambda: planned.plan_task(fault))

    def _plan_host(self, fault: HostFault, during: Which | None) -> None:
        runtime, planned = self._cluster._runtime, self._open()
        if fault.host not in runtime.inventory:
            raise InventoryError(
                f"The cluster has no host {fault.host!r}.",
                remedy=suggestion(fault.host, runtime.inventory),
                host=fault.host,
            )
        if during is not None:
            fault.call = f"{fault.call[:-1]}, during={_name(_checked(during))})"
        runtime.open_loop.ask(lambda: planned.plan_host(fault, during))

    def _open(self) -> PlannedFaults:
        if self._planned is None:
            raise HandoutError(
                "These faults are not in use.", remedy="Plan faults inside the block: with Faults(cluster) as faults:"
            )
        return self._planned


def _checked(which: Which) -> Which:
    if not isinstance(which, str | Output) and not callable(which):
        raise TypeError(f"{brief(which)} is neither the id of a task, nor an output, nor a function.")
    return which


def _name(which: Which) -> str:
    if isinstance(which, str):
        return repr(which)
    return which.id if isinstance(which, Output) else qualified_name(innermost(which))
