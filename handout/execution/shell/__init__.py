"""The asyncio shell around the core. It performs the core's commands, and reports to the core what happened."""
