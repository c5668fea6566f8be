"""Turns values, functions, classes, calls and exceptions into bytes and back. Both ends use it, so it travels to hosts.

It uses the standard library only (dill and numpy where they are installed), and runs on Python 3.9 or newer.
"""
