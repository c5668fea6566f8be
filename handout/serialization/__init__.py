"""Turns values, functions, classes, calls and exceptions into bytes and back.

The controller and the hosts both use this package, so it travels to hosts. It needs the standard library alone, and
runs on Python 3.9 or newer. If dill or numpy is installed, the package uses it as well.
"""
