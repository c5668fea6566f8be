"""The core of the controller: a state machine that takes events and returns commands.

The core decides everything itself: its modules use no asyncio, clock, I/O, logging, configuration or randomness.
"""

from __future__ import annotations

from handout.scheduler.core import Core
from handout.scheduler.explain import Explanation
from handout.scheduler.run_spec import CONTROLLER, Profile, RunSpec
from handout.scheduler.task_states import TRANSITIONS, Outcome, State

__all__ = ["CONTROLLER", "TRANSITIONS", "Core", "Explanation", "Outcome", "Profile", "RunSpec", "State"]
