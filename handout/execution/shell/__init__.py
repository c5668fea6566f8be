"""The asyncio shell around the core: performs its commands, and feeds back what happened."""
