"""Decide which ready task goes to which host, and which tasks wait instead."""
