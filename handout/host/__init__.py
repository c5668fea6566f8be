"""The code that runs on hosts. The controller sends it there with ``protocol`` and ``serialization``.

It imports only these two packages and the standard library, and runs on Python 3.9 or newer. The controller itself
imports only `handout_stub` and `task_context`.
"""
