"""Reads the bytes of a host with ``trust="data"``. Only data is made from them, and nothing in them can run."""
