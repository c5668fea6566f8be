"""Turns values, functions, classes, calls and exceptions into bytes and back.

The controller and the hosts both use this package, so the controller sends it to each host. The package needs only the
standard library, and runs on Python 3.9 or newer. It also uses dill and numpy where they are installed.
"""
