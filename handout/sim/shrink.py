"""Shrinks the scenario of a failing seed, to find a shorter story that breaks the same rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from handout.sim.faults import Script
from handout.sim.scenario import Scenario
from handout.sim.simulation import SimulationError, play

__all__ = ["shrink"]

#: The largest number of scenarios that `shrink` tries. Trying this many takes some seconds.
_MAX_TRIES = 500
#: `shrink` multiplies the numbers of the messages at which faults happen by each of these factors. A scenario with
#: fewer runs, hosts or tasks sends fewer messages, so its faults may have to happen at earlier messages.
_FACTORS = (1.0, 0.5, 0.2, 0.05)


def shrink(seed: int) -> SimulationError | None:
    """Shrink the scenario of a seed, and return the error with the shortest story found.

    Return None if the seed's scenario breaks no rule. A smaller scenario counts only if it breaks the same rule.

    Each try leaves out a run, a host, faults or a `Whim`, or cuts a graph. It may also move faults to earlier messages.
    If the smaller scenario still breaks the rule and has a shorter story, the next tries start from that scenario.
    """
    scenario = Scenario.draw(seed)
    error = _error_of(scenario)
    if error is None:
        return None
    tries = 0
    candidates = _smaller(scenario, error.script)
    while tries < _MAX_TRIES and (smaller := next(candidates, None)) is not None:
        tries += 1
        found = _error_of(smaller)
        if found is not None and found.rule == error.rule and len(found.story) < len(error.story):
            error = found
            candidates = _smaller(smaller, found.script)
    return error


def _error_of(scenario: Scenario) -> SimulationError | None:
    try:
        play(scenario)
    except SimulationError as error:
        return error
    return None


def _smaller(scenario: Scenario, script: Script) -> Iterator[Scenario]:
    """Yield smaller scenarios. Each leaves out or cuts one part of the given scenario, the largest parts first."""
    for factor in _FACTORS:
        earlier = script.earlier(factor)
        for run in scenario.runs if len(scenario.runs) > 1 else ():
            yield replace(scenario, runs=[each for each in scenario.runs if each is not run], script=earlier)
        for host in scenario.hosts if len(scenario.hosts) > 1 else ():
            yield replace(scenario, hosts=[each for each in scenario.hosts if each is not host], script=earlier)
        for run in scenario.runs:
            for count in sorted({1, len(run) // 2, len(run) - 1} - {0, len(run)}):
                cut = [run.first(count) if each is run else each for each in scenario.runs]
                yield replace(scenario, runs=cut, script=earlier)
    for whim in scenario.whims:
        yield replace(scenario, whims=[each for each in scenario.whims if each is not whim], script=script)
    messages = sorted({*script.faults, *script.echoes})
    if len(messages) > 1:
        middle = messages[len(messages) // 2]
        yield replace(scenario, script=script.within(0, middle))
        yield replace(scenario, script=script.within(middle, messages[-1] + 1))
    for message in messages:
        yield replace(scenario, script=script.without(message))
