"""Reads what a host with ``trust="data"`` sent: data only, so that nothing in it can run."""
