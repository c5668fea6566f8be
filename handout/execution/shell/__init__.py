"""The asyncio shell around the core, the part of the scheduler that makes all decisions and does no I/O.

The shell performs the core's commands, and reports to the core what happened.
"""
