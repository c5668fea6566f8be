"""The simulated cluster. It runs the real driver and core in virtual time, with faults at any message.

A seed determines all that happens. `python -m handout.sim --seed 1234 --verbose` prints the story of a seed.
"""

from __future__ import annotations

from handout.sim.faults import Fault, Weather
from handout.sim.scenario import Scenario
from handout.sim.shrink import shrink
from handout.sim.simulation import SimulationError, SimulationReport, simulate

__all__ = ["Fault", "Scenario", "SimulationError", "SimulationReport", "Weather", "shrink", "simulate"]
