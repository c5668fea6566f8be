"""The rules by which the core decides which ready task goes to which host, and which tasks wait instead."""
