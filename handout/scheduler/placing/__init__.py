"""Which ready task goes to which host, and which task waits instead."""
