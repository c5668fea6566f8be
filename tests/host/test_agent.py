"""Real supervisors, agents and workers on this machine run tasks."""

from __future__ import annotations

from tests.host.rig import Rig


def test_a_function_runs_and_its_result_comes_back(rig: Rig) -> None:
    rig.run(lambda a, b: a + b, 1, 2)
    assert rig.result(1) == 3


def test_an_exception_comes_back_with_its_traceback(rig: Rig) -> None:
    failed = rig.run(lambda: 1 / 0).fields
    assert (failed["name"], failed["kind"], failed["type"]) == ("failed", "raised", "ZeroDivisionError")
    assert "1 / 0" in failed["text"]


def test_many_short_tasks_all_end(rig: Rig) -> None:
    fn = rig.function(lambda x: x * 2)
    rig.submit(range(1, 1001), fn, [rig.call(i) for i in range(1, 1001)])
    rig.wait_for(*range(1, 1001))
    assert [rig.result(i) for i in range(1, 1001)] == [i * 2 for i in range(1, 1001)]


def test_a_chain_flows_through(rig: Rig) -> None:
    rig.submit([1], rig.function(lambda: 0), rig.call())
    rig.submit(range(2, 301), rig.function(lambda x: x + 1), rig.call(inputs=1), inputs=[[k] for k in range(1, 300)])
    rig.wait_for(*range(1, 301))
    assert rig.result(300) == 299
