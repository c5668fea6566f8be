"""Reads the bytes that a host with ``trust="data"`` sent. It makes only data from them, and runs nothing in them."""
