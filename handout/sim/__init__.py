"""The simulated cluster. It runs the controller's real code in virtual time, with faults at any message.

The real code is the core, which makes the decisions, and the driver, which performs the core's commands. A seed
determines all that happens. `python -m handout.sim --seed 1234 --verbose` prints the story of a seed: a sentence for
every event, command and fault.
"""

from __future__ import annotations

from handout.sim.faults import Fault, Weather
from handout.sim.scenario import Scenario
from handout.sim.shrink import shrink
from handout.sim.simulation import SimulationError, SimulationReport, simulate

__all__ = ["Fault", "Scenario", "SimulationError", "SimulationReport", "Weather", "shrink", "simulate"]
