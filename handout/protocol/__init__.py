"""Code that the controller and the processes on hosts share: frames, sessions, messages, ids and the ledger.

The controller sends this package to the hosts.
"""
