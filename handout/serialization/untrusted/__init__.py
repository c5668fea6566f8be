"""Reads the bytes that a host with ``trust="data"`` sent. Only data is made from them, and no code in them runs."""
