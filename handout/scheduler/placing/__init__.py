"""Which ready task goes to which host, and what waits instead."""
